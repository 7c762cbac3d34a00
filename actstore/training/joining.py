"""Joins rows of several sites and layers by token: which row of each belongs to which token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore import schema
from actstore.errors import NotInStoreError, TooFewRowsError, UsageError
from actstore.querying.value_codes import combine

if TYPE_CHECKING:
    import pyarrow as pa

    from actstore.querying.selected import SelectedRows


class JoinedSite(NamedTuple):
    """One site of one layer."""

    site: str
    layer: int

    def __str__(self) -> str:
        return f"{self.site} of layer {self.layer}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The row of each token in one part: a run of the store, or a list where it is none."""

    start: int = 0
    rows: np.ndarray | None = None

    def of(self, tokens: np.ndarray) -> np.ndarray:
        """Return the row numbers of tokens, int64."""
        return np.asarray(tokens + self.start if self.rows is None else self.rows[tokens])


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Tokens that every part has."""

    tokens: int
    places: Mapping[JoinedSite, Places]
    unused: Mapping[JoinedSite, int] = field(default_factory=dict)
    """Rows of each part whose token another part lacks; parts without any are left out."""

    def explain(self) -> str:
        """Return in a sentence how many tokens were joined, and why not all."""
        if not self.unused:
            return f"{self.tokens} tokens are in all {len(self.places)} parts"
        most = sorted(self.unused.items(), key=lambda item: (-item[1], item[0]))
        shown = ", ".join(f"{count} rows of {part}" for part, count in most[:4])
        more = ", …" if len(most) > 4 else ""
        return (
            f"{self.tokens} tokens are in all {len(self.places)} parts; left out, because another "
            f"part lacks their token: {shown}{more}"
        )


def token_columns() -> list[str]:
    """Return the columns that name a token: a row's key without site and layer."""
    return [name for name in schema.key_names() if name not in ("site", "layer")]


def split(selection: SelectedRows) -> dict[JoinedSite, np.ndarray]:
    """Return a selection's rows by site and layer: int64 row numbers each.

    Raises:
        UsageError: rows are of several models, or of unknown layers.
    """
    snapshot = selection.snapshot
    rows = np.sort(selection.rows)
    numbers = np.searchsorted(snapshot.offsets, rows, "right") - 1
    touched, firsts = np.unique(numbers, return_index=True)
    models = sorted({snapshot.shards[number].model for number in touched.tolist()})
    if len(models) > 1:
        raise UsageError(
            f"tokens of different models cannot be joined: choose one by model=, of "
            f"{', '.join(models)}"
        )
    found: dict[JoinedSite, list[np.ndarray]] = {}
    for number, piece in zip(touched.tolist(), np.split(rows, firsts[1:]), strict=True):
        shard = snapshot.shards[number]
        if shard.layer is None:
            raise UsageError(
                f"{len(piece)} rows of {shard.site} do not say which layer they are of: leave them "
                'out with the condition "layer IS NOT NULL"'
            )
        found.setdefault(JoinedSite(shard.site, shard.layer), []).append(piece)
    return {part: np.concatenate(pieces) for part, pieces in found.items()}


def join(
    selection: SelectedRows, rows: Mapping[JoinedSite, np.ndarray], wanted: Sequence[JoinedSite]
) -> Joined:
    """Join parts by token, in the order that the first of them has.

    Where parts hold the same tokens in the same order, as a capture writes them, nothing is
    kept but where each begins. Otherwise it takes eight bytes a token for each part.

    Args:
        selection: what the rows are from.
        rows: rows by part, ascending: int64.
        wanted: parts to join, at least one.

    Raises:
        NotInStoreError: a part is not there.
        TooFewRowsError: no token is in all of them.
    """
    absent = [part for part in wanted if part not in rows]
    if absent:
        raise NotInStoreError(
            f"there is no {' and no '.join(map(str, absent))} among the rows: choose layers= "
            "whose targets are all there, or ingest what is missing"
        )
    columns = token_columns()
    first = wanted[0]
    reference = selection._metadata.read(rows[first], columns)
    # Of each part, where in it the reference's tokens are, -1 for none; None: at the same place.
    matches: dict[JoinedSite, np.ndarray | None] = {}
    kept = np.ones(len(reference), bool)
    for part in wanted:
        table = reference if part == first else selection._metadata.read(rows[part], columns)
        if table.equals(reference):
            matches[part] = None
            continue
        found = _match(reference, table)
        matches[part] = found
        kept &= found >= 0
    tokens = int(kept.sum())
    if not tokens:
        raise TooFewRowsError(
            f"no token is in all of {', '.join(map(str, wanted[:4]))}"
            f"{', …' if len(wanted) > 4 else ''}: rows belong together that agree in "
            f"{', '.join(columns)}"
        )
    chosen = np.flatnonzero(kept)
    places = {}
    for part, match in matches.items():
        places[part] = _places(rows[part][chosen if match is None else match[chosen]])
    unused = {part: len(rows[part]) - tokens for part in wanted if len(rows[part]) > tokens}
    return Joined(tokens=tokens, places=places, unused=unused)


def _places(rows: np.ndarray) -> Places:
    run = bool((np.diff(rows) == 1).all())
    return Places(start=int(rows[0])) if run else Places(rows=rows)


def _match(reference: pa.Table, table: pa.Table) -> np.ndarray:
    """Return the place in ``table`` of each row of ``reference``, -1 where there is none."""
    import pyarrow as pa

    both = _identities(pa.concat_tables([reference, table]))
    wanted, there = both[: len(reference)], both[len(reference) :]
    order = np.argsort(there, kind="stable")
    at = np.searchsorted(there, wanted, sorter=order)
    place = order[np.minimum(at, len(order) - 1)]
    return np.where(there[place] == wanted, place, -1)


def _identities(table: pa.Table) -> np.ndarray:
    """Return a number for each row, equal for rows that are equal: int64, no hash."""
    encoded = (
        column.combine_chunks().dictionary_encode(null_encoding="encode")
        for column in table.columns
    )
    return combine((each.indices.to_numpy(), len(each.dictionary)) for each in encoded)
