"""Row keys as 64-bit hashes: says fast which rows a store already holds.

The hashes live in memory only and differ from process to process. A stored row with the
same hash and the same vector is the same row; where the vectors differ, the keys' values
decide between a conflict and a mere collision of hashes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from actstore import schema

if TYPE_CHECKING:
    import pyarrow as pa

_NULL = 0x5BD1E995_97F4A7C1
_ODD = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_GOLDEN = np.uint64(_ODD)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def hash_rows(
    rows: int, constants: Mapping[str, Any], columns: Mapping[str, Sequence[Any]]
) -> np.ndarray:
    """Return the key hash of each row of a batch: uint64 ``[rows]``."""
    result = np.zeros(rows, np.uint64)
    with np.errstate(over="ignore"):
        for name in schema.key_names():
            cells = columns.get(name)
            if cells is None:
                result = _mix(result, np.uint64(_hash(constants.get(name))))
            else:
                hashed = np.fromiter(map(_hash, cells), np.uint64, rows)
                result = _mix(result, hashed)
    return result


def hash_table(table: pa.Table) -> np.ndarray:
    """Return the key hash of each row of an Arrow table: uint64 ``[rows]``."""
    result = np.zeros(table.num_rows, np.uint64)
    with np.errstate(over="ignore"):
        for name in schema.key_names():
            result = _mix(result, hash_column(table[name]))
    return result


def hash_column(column: pa.ChunkedArray) -> np.ndarray:
    """Return the hash of each value of a column: uint64 ``[rows]``."""
    encoded = column.combine_chunks().dictionary_encode()
    values = np.fromiter(map(_hash, encoded.dictionary.to_pylist()), np.uint64)
    codes = encoded.indices
    if codes.null_count == len(codes):
        return np.full(len(codes), _NULL, np.uint64)
    hashed = values[codes.fill_null(0).to_numpy(zero_copy_only=False)]
    if codes.null_count:
        hashed[codes.is_null().to_numpy(zero_copy_only=False)] = _NULL
    return np.asarray(hashed, np.uint64)


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


def describe_partition(partition: tuple[str, str, int | None]) -> str:
    """Return model, site and layer as readable text."""
    model, site, layer = partition
    return f"{model}, {site}, layer {'unknown' if layer is None else layer}"


def hash_value(value: Any) -> int:
    """Return one value's hash, as :func:`hash_column` gives it."""
    return _hash(value)


def _hash(value: Any) -> int:
    if value is None:
        return _NULL
    # Python gives -1 and -2 the same hash.
    return (value * _ODD if isinstance(value, int) else hash(value)) & _MASK


def _mix(state: np.ndarray, value: np.ndarray | np.uint64) -> np.ndarray:
    """Fold ``value`` into ``state`` (the finalizer of SplitMix64 over their sum)."""
    mixed = state * _GOLDEN + value + _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))
