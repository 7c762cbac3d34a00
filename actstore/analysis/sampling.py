"""Fewer rows where all would be too many for a picture, and words that say so."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore.errors import TooFewRowsError, UsageError
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.querying.selection import Selection

_LISTED = 6
_STREAM = ("resid_post", "resid_pre")


class Sample(NamedTuple):
    """Rows drawn from a selection, in its order."""

    selection: Selection
    note: str
    """Such as ``2,000 of 31,124 rows, drawn with seed 0``; ``31,124 rows`` when that is all."""


def draw(selection: Selection, most: int, *, seed: int = 0) -> Sample:
    """Return at most ``most`` rows, all equally likely to be among them."""
    total = len(selection)
    if total <= most:
        return Sample(selection, counted(total))
    places = np.sort(np.random.default_rng(seed).choice(total, most, replace=False))
    return Sample(selection.take(places), f"{most:,} of {total:,} rows, drawn with seed {seed}")


def layers_of(selection: Selection) -> np.ndarray:
    """Return the layer of each row as an index into :func:`layer_values`, int64 ``[rows]``."""
    snapshot = selection.snapshot
    values = layer_values(selection)
    numbers = np.searchsorted(snapshot.offsets, selection.rows, "right") - 1
    of_shard = np.array(
        [values.index(s.layer) if s.layer in values else -1 for s in snapshot.shards], np.int64
    )
    return np.asarray(of_shard[numbers])


def layer_values(selection: Selection) -> list[int | None]:
    """Return the layers of a selection's rows, ascending; None (not recorded) last."""
    snapshot = selection.snapshot
    numbers = np.unique(np.searchsorted(snapshot.offsets, selection.rows, "right") - 1)
    found = {snapshot.shards[number].layer for number in numbers.tolist()}
    return sorted(found, key=lambda layer: (layer is None, layer or 0))


def require_one_place(selection: Selection) -> dict[str, str | None]:
    """Return model, site, pooling and region of a selection, of each of which it has one.

    The embeddings, which are layer -1, go with the residual stream that they begin.
    Vectors of two regions are as far apart as those of two poolings: a picture of both
    would show the prompt against the response, whatever its title said.

    Raises:
        TooFewRowsError: it has no rows.
        UsageError: it has several; vectors of different places do not belong in one picture.
    """
    if not len(selection):
        raise TooFewRowsError("there are no rows to show: loosen the condition")
    found: dict[str, str | None] = {}
    snapshot = selection.snapshot
    numbers = np.unique(np.searchsorted(snapshot.offsets, selection.rows, "right") - 1)
    shards = [snapshot.shards[number] for number in numbers.tolist()]
    table = selection.table(["pooling", "region"])
    values: dict[str, list[str | None]] = {
        "model": sorted({shard.model for shard in shards}),
        "site": sorted({shard.site for shard in shards}),
        "pooling": sorted(table["pooling"].unique().to_pylist()),
        "region": sorted(table["region"].unique().to_pylist(), key=lambda name: name or ""),
    }
    if len(values["site"]) == 2 and values["site"][0] == "embeddings":
        values["site"] = values["site"][1:] if values["site"][1] in _STREAM else values["site"]
    for name, several in values.items():
        if len(several) > 1:
            told = [name or "not recorded" for name in several[:_LISTED]]
            listed = ", ".join(told) + (", …" if len(several) > _LISTED else "")
            raise UsageError(
                f"the rows have {len(several)} {name}s ({listed}), and one picture shows one: "
                f"choose with --{name}, or select({name}=…)"
            )
        found[name] = several[0]
    return found
