"""Columns as codes: each value once, and per row the number of its value. For groups and joins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actstore.querying.metadata import check_columns

if TYPE_CHECKING:
    from actstore.querying.chosen import ChosenRows

OF_SHARD = ("model", "site", "layer")
"""Columns with one value per shard: the manifest alone tells them."""
_MOST = 1 << 62


class CodedColumn(NamedTuple):
    """A column of some rows."""

    values: list[Any]
    """Each value once, ascending, null last."""
    codes: np.ndarray
    """Index of each row's value, int64 ``[rows]``."""


def encode(selection: ChosenRows, names: Sequence[str]) -> list[CodedColumn]:
    """Return columns of a selection's rows, in the order of ``names``.

    Nothing is read for model, site and layer; columns of few values are kept once they were
    read, the others are read together.

    Raises:
        NotInStoreError: there is no such column.
    """
    check_columns(names)
    known = {name: selection.codes_of(name) for name in names if name not in OF_SHARD}
    others = [name for name, codes in known.items() if codes is None]
    table = selection.table(others)
    found = []
    for name in names:
        if name in OF_SHARD:
            found.append(_of_shards(selection, name))
            continue
        coded = known[name]
        if coded is not None:  # null, which is -1, becomes the last value
            values: list[Any] = [*coded.values, None]
            codes = coded.codes[selection.rows].astype(np.int64)
            found.append(_sorted(values, np.where(codes < 0, len(values) - 1, codes)))
            continue
        encoded = table[name].combine_chunks().dictionary_encode(null_encoding="encode")
        codes = encoded.indices.to_numpy().astype(np.int64)
        found.append(_sorted(encoded.dictionary.to_pylist(), codes))
    return found


def combine(parts: Iterable[tuple[np.ndarray, int]]) -> np.ndarray:
    """Return a number for each row, equal where all its codes are: int64 ``[rows]``, no hash.

    The numbers ascend as the codes do, the first part first.

    Args:
        parts: codes, int64 ``[rows]`` from 0 on, and how many different ones there may be.
    """
    numbers: np.ndarray | None = None
    different = 1
    for codes, values in parts:
        if numbers is None:
            numbers = np.zeros(len(codes), np.int64)
        if values <= 1:
            continue
        if different * values >= _MOST:
            _, numbers = np.unique(numbers, return_inverse=True)
            different = int(numbers.max(initial=0)) + 1
        numbers = numbers * values + codes
        different *= values
    assert numbers is not None
    return np.asarray(numbers, np.int64)


def ranked(value: Any) -> tuple[bool, bool, Any]:
    """Return what sorts values: NaN after the numbers, null after everything."""
    missing = value is None
    strange = not missing and value != value
    return missing, strange, 0 if missing or strange else value


def _of_shards(selection: ChosenRows, name: str) -> CodedColumn:
    snapshot = selection.snapshot
    shards = np.searchsorted(snapshot.offsets, selection.rows, "right") - 1
    values = [getattr(shard, name) for shard in snapshot.shards]
    present = list(dict.fromkeys(getattr(shard, name) for shard in selection.shards))
    numbers = {value: number for number, value in enumerate(present)}
    of_shard = np.array([numbers.get(value, -1) for value in values], np.int64)
    return _sorted(present, of_shard[shards])


def _sorted(values: list[Any], codes: np.ndarray) -> CodedColumn:
    """Return a column of these values, but for those that no row has."""
    present = np.flatnonzero(np.bincount(codes, minlength=1)).tolist() if len(codes) else []
    order = sorted(present, key=lambda at: ranked(values[at]))
    rank = np.empty(len(values), np.int64)
    rank[order] = np.arange(len(order))
    return CodedColumn([values[at] for at in order], rank[codes])
