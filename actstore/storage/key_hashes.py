"""Row keys as 64-bit hashes: find the rows that a store already holds.

The hashes live in memory only and differ from process to process. A stored row with the
same hash and the same vector is the same row; where the vectors differ, the keys' values
decide between a conflict and a mere collision of hashes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from actstore import schema

if TYPE_CHECKING:
    import pyarrow as pa

_NULL = 0x5BD1E995_97F4A7C1
_ODD = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MANY = 64
"""Rows from which on NumPy scatters their numbers faster than Python."""
_FEW = 1 << 16
"""Rows of which a column's values are kept for the next batch, at most."""
_INTEGERS = (int, np.integer)
_ALIKE = {str, int, type(None)}
"""Types of values that hash alike wherever they are equal, which 1 and 1.0 do not."""
_before: dict[int, tuple[list[Any], np.ndarray]] = {}
"""By a column's salt, what it held last: the next layer's rows have the same mostly."""


def hash_rows(
    rows: int, constants: Mapping[str, Any], columns: Mapping[str, Sequence[Any]]
) -> np.ndarray:
    """Return the key hash of each row of a batch: uint64 ``[rows]``."""
    same = 0
    total = np.zeros(rows, np.uint64)
    with np.errstate(over="ignore"):
        for name, salt in _salts():
            cells = columns.get(name)
            if cells is None:
                same += _cell(constants.get(name), salt)
            else:
                total += _column(cells, salt)
        return _mix(total + np.uint64(same & _MASK))


def hash_table(table: pa.Table, names: Collection[str] | None = None) -> np.ndarray:
    """Return the key hash of each row of an Arrow table, or that of some of its columns.

    Returns:
        uint64 ``[rows]``.
    """
    total = np.zeros(table.num_rows, np.uint64)
    with np.errstate(over="ignore"):
        for name, salt in _salts():
            if names is not None and name not in names:
                continue
            total += _mix(hash_column(table[name]) + np.uint64(salt))
        return _mix(total)


def hash_column(column: pa.ChunkedArray) -> np.ndarray:
    """Return the hash of each value of a column: uint64 ``[rows]``."""
    values, codes = coded(column)
    hashes = [_NULL if value is None else _hash(value) for value in values]
    return np.array(hashes, np.uint64)[codes] if hashes else np.empty(0, np.uint64)


def coded(column: pa.ChunkedArray) -> tuple[list[Any], np.ndarray]:
    """Return the different values of a column, null among them, and which one each row has.

    Arrow's own ways from nulls and arrays to NumPy import pandas, which takes half a second.
    """
    import pyarrow as pa

    whole = column.combine_chunks()
    if pa.types.is_dictionary(whole.type):
        whole = whole.dictionary_decode()
    encoded = whole.dictionary_encode(null_encoding="encode")
    return encoded.dictionary.to_pylist(), np.from_dlpack(encoded.indices)


def key_of(
    constants: Mapping[str, Any], columns: Mapping[str, Sequence[Any]], row: int
) -> tuple[Any, ...]:
    """Return a row's key as values, in the order of the schema's key."""
    return tuple(
        columns[name][row] if name in columns else constants.get(name)
        for name in schema.key_names()
    )


def describe(key: tuple[Any, ...]) -> str:
    """Return a key as readable text, without the parts that are null."""
    parts = zip(schema.key_names(), key, strict=True)
    return ", ".join(f"{name}={value}" for name, value in parts if value is not None)


def describe_whole(key: tuple[Any, ...]) -> str:
    """Return a key as readable text that says too when it has no layer."""
    layer = key[schema.key_names().index("layer")]
    return describe(key) + ("" if layer is not None else ", no layer")


def describe_partition(partition: tuple[str, str, int | None]) -> str:
    """Return model, site and layer as readable text."""
    model, site, layer = partition
    return f"{model}, {site}, layer {'unknown' if layer is None else layer}"


def hash_value(value: Any) -> int:
    """Return one value's hash, as :func:`hash_column` gives it."""
    return _hash(value)


@cache
def _salts() -> tuple[tuple[str, int], ...]:
    """Return the key's columns, each with a number that sets its values apart from others'."""
    # No multiples of what numbers are multiplied with: two in each other's column would be one.
    return tuple(
        (name, _scatter((number + 1) * _ODD & _MASK))
        for number, name in enumerate(schema.key_names())
    )


def _hash(value: Any) -> int:
    if value is None:
        return _NULL
    # Python gives -1 and -2 the same hash.
    return (int(value) * _ODD if isinstance(value, _INTEGERS) else hash(value)) & _MASK


def _column(cells: Sequence[Any], salt: int) -> np.ndarray:
    """Return what the values of one column add to the sums of their rows."""
    rows = len(cells)
    if rows < _MANY:
        return np.fromiter((_cell(value, salt) for value in cells), np.uint64, rows)
    kinds = set(map(type, cells))
    kept = type(cells) is list and kinds <= _ALIKE
    before = _before.get(salt) if kept else None
    # Most are the very ones, which is found out at once.
    if before is not None and before[0] == cells:
        return before[1]
    if kinds == {str}:
        hashes = np.fromiter(map(hash, cells), np.int64, rows).view(np.uint64)
    else:
        hashes = np.fromiter(map(_hash, cells), np.uint64, rows)
    found = _mix(hashes + np.uint64(salt))
    if kept and rows <= _FEW:
        _before[salt] = [*cells], found  # a copy: the list may be changed meanwhile
    return found


# Model, site, data set and the like come again with every batch.
@lru_cache(maxsize=1 << 14)
def _cell(value: Any, salt: int) -> int:
    """Return what one value of one column adds to a row's sum: `_mix` of one number."""
    return _scatter(_hash(value) + salt & _MASK)


def _scatter(mixed: int) -> int:
    mixed = (mixed ^ mixed >> 30) * _FIRST & _MASK
    mixed = (mixed ^ mixed >> 27) * _SECOND & _MASK
    return mixed ^ mixed >> 31


def _mix(sums: np.ndarray) -> np.ndarray:
    """Scatter 64-bit numbers (the finalizer of SplitMix64), so that their sums do not collide."""
    mixed = (sums ^ (sums >> np.uint64(30))) * np.uint64(_FIRST)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_SECOND)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))
