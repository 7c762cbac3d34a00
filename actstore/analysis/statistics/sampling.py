"""Fewer rows where all would be too many for a picture, and words that say so."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore.errors import MixedVectorsError, TooFewRowsError
from actstore.querying import mixture
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.querying.selected import SelectedRows


class Sample(NamedTuple):
    """Rows drawn from a selection, in its order."""

    selection: SelectedRows
    note: str
    """Such as ``2,000 of 31,124 rows, drawn with seed 0``; ``31,124 rows`` when that is all."""
    places: np.ndarray
    """Where they stand in the selection that they were drawn from, int64, ascending."""


def draw(selection: SelectedRows, most: int, *, seed: int = 0) -> Sample:
    """Return at most ``most`` rows, all equally likely to be among them."""
    total = len(selection)
    if total <= most:
        return Sample(selection, counted(total), np.arange(total))
    places = np.sort(np.random.default_rng(seed).choice(total, most, replace=False))
    note = f"{most:,} of {total:,} rows, drawn with seed {seed}"
    return Sample(selection.take(places), note, places)


def layers_of(selection: SelectedRows) -> np.ndarray:
    """Return the layer of each row as an index into :func:`layer_values`, int64 ``[rows]``."""
    snapshot = selection.snapshot
    values = layer_values(selection)
    numbers = np.searchsorted(snapshot.offsets, selection.rows, "right") - 1
    of_shard = np.array(
        [values.index(s.layer) if s.layer in values else -1 for s in snapshot.shards], np.int64
    )
    return np.asarray(of_shard[numbers])


def layer_values(selection: SelectedRows) -> list[int | None]:
    """Return the layers of a selection's rows, ascending; None (not recorded) last."""
    snapshot = selection.snapshot
    numbers = np.unique(np.searchsorted(snapshot.offsets, selection.rows, "right") - 1)
    found = {snapshot.shards[number].layer for number in numbers.tolist()}
    return sorted(found, key=lambda layer: (layer is None, layer or 0))


def require_one_place(selection: SelectedRows) -> dict[str, str | None]:
    """Return model, site, pooling and region of a selection, of each of which it has one.

    The embeddings, which are layer -1, go with the residual stream that they begin.
    Vectors of two regions are as far apart as those of two poolings: a picture of both
    would show the prompt against the response, whatever its title said.

    Raises:
        TooFewRowsError: it has no rows.
        MixedVectorsError: it has several; vectors of different places do not belong in one
            picture, whether they were listed or not.
    """
    if not len(selection):
        raise TooFewRowsError("there are no rows to show: loosen the condition")
    several = mixture.differing(selection, ("model", "site", "pooling", "region"))
    sites = several.get("site", ())
    if mixture.one_stream(sites):
        del several["site"]
    for name, values in several.items():
        raise MixedVectorsError(
            f"the rows have {len(values)} {name}s ({mixture.listing(values)}), and one picture "
            f"shows one: choose with --{name}, or select({name}=…)",
            several,
        )
    first = selection[:1]
    (place,) = first.table(["model", "site", "pooling", "region"]).to_pylist()
    site = next((site for site in sites if site != "embeddings"), place["site"])
    return {**place, "site": site}
