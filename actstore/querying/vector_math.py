"""Stored vectors block by block, as views of the map where that can be; their mean, their lists."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np

from actstore.errors import UsageError
from actstore.storage import floats

if TYPE_CHECKING:
    import pyarrow as pa

    from actstore.storage.snapshot import Snapshot

Metric = Literal["cosine", "dot", "l2"]
METRICS: tuple[str, ...] = get_args(Metric)

# Float32 values per block: one MiB, so that widening, product and sum meet in the cache.
_BLOCK = 1 << 18
_FEW_ROWS = 32
"""Rows that are added up in float32: in float64 all of them would take three times as long."""
_NO_NUMBERS = "a query vector must be numbers, got {}"
# Shorter runs than this are gathered together instead of one by one.
_RUN = 8


class RowBlock(NamedTuple):
    """Vectors of some consecutive entries of a list of rows."""

    start: int
    stop: int
    vectors: np.ndarray
    """As stored, ``[stop - start, width]``; a view of the map where rows are consecutive."""


def blocks(snapshot: Snapshot, rows: np.ndarray, most: int) -> Iterator[RowBlock]:
    """Yield the vectors of ``rows`` (int64, all of one width) in blocks of at most ``most``.

    Where they are cut does not depend on the shards they lie in, so that sums over blocks are
    the same to the last bit after a compaction.
    """
    for first, last in snapshot.portions(rows):
        for start, stop in spans(snapshot, rows[first:last], most, seams=False):
            start, stop = first + start, first + stop
            yield RowBlock(start, stop, read(snapshot, rows[start:stop]))


def spans(
    snapshot: Snapshot, rows: np.ndarray, most: int, *, seams: bool = True
) -> list[tuple[int, int]]:
    """Return places to cut a list of rows at, into parts of at most ``most`` to read at once.

    Where rows are consecutive the parts are too, and with ``seams`` lie in one row group each:
    such a part is a view of the map.
    """
    if not len(rows):
        return []
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    if (len(breaks) + 1) * _RUN > len(rows):
        return _cut([0, len(rows)], most)
    bounds: list[int] = []
    for first, last in itertools.pairwise([0, *breaks.tolist(), len(rows)]):
        row = int(rows[first])
        bounds.append(first)
        if seams:
            cuts = _seams(snapshot, row, row + last - first)
            bounds += [seam - row + first for seam in cuts]
    return _cut([*bounds, len(rows)], most)


def _cut(bounds: list[int], most: int) -> list[tuple[int, int]]:
    return [
        (start, min(start + most, last))
        for first, last in itertools.pairwise(bounds)
        for start in range(first, last, most)
    ]


def _seams(snapshot: Snapshot, start: int, stop: int) -> list[int]:
    """Return the numbers of the rows after ``start`` and before ``stop`` that begin a row group."""
    first, last = np.searchsorted(snapshot.offsets, (start, stop - 1), "right").tolist()
    found: list[int] = []
    for number in range(first - 1, last):
        row = int(snapshot.offsets[number])
        for _, count in snapshot.shards[number].pages or ((0, 0),):
            if start < row < stop:
                found.append(row)
            row += count
    return found


def ascend(rows: np.ndarray) -> bool:
    """Say whether each row number is larger than the one before."""
    return bool((rows[1:] > rows[:-1]).all())


def read(snapshot: Snapshot, rows: np.ndarray, *, ascending: bool = False) -> np.ndarray:
    """Return the vectors of some rows as stored, a view of the map where they are one run.

    Args:
        snapshot: where the vectors are.
        rows: int64, at least one.
        ascending: whether it is known that they ascend: where many threads read, each look at all
            numbers would make the others wait for the interpreter.
    """
    first, last = int(rows[0]), int(rows[-1])
    view = None
    if last - first == len(rows) - 1 and (ascending or ascend(rows)):
        view = snapshot.view(first, last + 1)
    return snapshot.gather(rows) if view is None else view


def single(stored: np.ndarray, buffer: np.ndarray) -> np.ndarray:
    """Return ``stored`` as float32 to reckon with, widened into ``buffer`` if it is float16."""
    if stored.dtype == np.float32:
        return stored
    return floats.widen(stored, buffer[: len(stored)], quiet=True)


def mean(snapshot: Snapshot, rows: np.ndarray, width: int) -> np.ndarray:
    """Return the mean vector of ``rows`` (int64 ``[n]``, n > 0), float32 ``[width]``.

    Sums are in float64, but for those of a few rows: thousands of narrow rows make a block, and
    in float32 their sum would lose what a group's mean differs by.
    """
    most = max(1, _BLOCK // max(1, width))
    buffer = np.empty((min(most, len(rows)), width), np.float32)
    total = np.zeros(width)
    for _, _, stored in blocks(snapshot, rows, most):
        total += _sum(single(stored, buffer))
    return (total / len(rows)).astype(np.float32)


def _sum(rows: np.ndarray) -> np.ndarray:
    """Return the sum of float32 rows, float64 ``[width]``."""
    whole = len(rows) // _FEW_ROWS * _FEW_ROWS
    with np.errstate(over="ignore", invalid="ignore"):
        few = rows[:whole].reshape(-1, _FEW_ROWS, rows.shape[1]).sum(axis=1)
        total: np.ndarray = few.sum(axis=0, dtype=np.float64)
        total += rows[whole:].sum(axis=0, dtype=np.float64)
    # Where a few rows exceed float32, all of them together need not.
    if not np.isfinite(total).all():
        rows.sum(axis=0, dtype=np.float64, out=total)
    return total


def lists(snapshot: Snapshot, rows: np.ndarray) -> pa.ListArray:
    """Return the vectors of ``rows`` (int64 ``[n]``, of any widths) as float32 Arrow lists."""
    import pyarrow as pa

    shards = np.searchsorted(snapshot.offsets, rows, "right") - 1
    widths = np.array([shard.width for shard in snapshot.shards], np.int64)[shards]
    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(widths, out=offsets[1:])
    values = np.empty(int(offsets[-1]), np.float32)
    for width in np.unique(widths).tolist():
        chosen = np.flatnonzero(widths == width)
        places = offsets[chosen][:, None] + np.arange(width)
        values[places] = snapshot.gather(rows[chosen])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def as_query(values: object) -> np.ndarray:
    """Return a vector of any kind (list, NumPy, torch) as float32 ``[width]``.

    Raises:
        UsageError: it is not one-dimensional, empty, or no numbers.
    """
    query = _numbers(values)
    if query.ndim == 2 and query.shape[0] == 1:
        query = query[0]
    if query.ndim != 1 or not len(query):
        raise UsageError(f"a query vector must have shape [width], got {list(query.shape)}")
    return np.ascontiguousarray(query)


def as_queries(values: object) -> np.ndarray:
    """Return one vector as float32 ``[width]``, or several as ``[queries, width]``.

    Raises:
        UsageError: it is neither, empty, or no numbers.
    """
    queries = _numbers(values)
    if queries.ndim not in (1, 2) or not queries.size:
        raise UsageError(
            f"a query must have shape [width], several [queries, width], got {list(queries.shape)}"
        )
    return np.ascontiguousarray(queries)


def _numbers(values: object) -> np.ndarray:
    if hasattr(values, "detach"):  # a torch tensor, perhaps bfloat16 or on another device
        values = values.detach().cpu().float().numpy()
    # As they are first: float32 would make NaN of None, and drop imaginary parts and masks.
    try:
        given = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise UsageError(_NO_NUMBERS.format(type(values).__name__)) from error
    missing = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
    if given.dtype == object:
        missing = np.frompyfunc(_is_missing, 1, 1)(given).astype(bool)
    if missing is not None and missing.any():
        raise UsageError("a query vector has a NULL among its values: give it numbers")
    try:
        wide = given.astype(np.float64) if given.dtype.kind in "Obiuf" else None
    except (TypeError, ValueError):
        wide = None
    if wide is None:
        raise UsageError(_NO_NUMBERS.format(type(values).__name__))
    with np.errstate(over="ignore"):
        numbers: np.ndarray = wide.astype(np.float32)
    lost = np.isinf(numbers) & np.isfinite(wide)
    if lost.any():
        raise UsageError(
            f"a query vector has the value {wide[lost][0]:g}, float32 holds at most 3.4e38: "
            "divide it by a number, which changes no cosine"
        )
    return numbers


def _is_missing(value: object) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType")
