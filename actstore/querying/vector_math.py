"""Dot, cosine, distance and mean of stored vectors, block by block on the memory map."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np

from actstore.errors import UsageError
from actstore.querying import integer_scores
from actstore.storage import floats

if TYPE_CHECKING:
    import pyarrow as pa

    from actstore.storage.snapshot import Snapshot

Metric = Literal["cosine", "dot", "l2"]
METRICS: tuple[str, ...] = get_args(Metric)

# Float32 values per block: one MiB, so that widening, product and sum meet in the cache.
_BLOCK = 1 << 18
# Shorter runs than this are gathered together instead of one by one.
_RUN = 8


class RowBlock(NamedTuple):
    """Vectors of some consecutive entries of a list of rows."""

    start: int
    stop: int
    vectors: np.ndarray
    """As stored, ``[stop - start, width]``; a view of the map where rows are consecutive."""


def blocks(snapshot: Snapshot, rows: np.ndarray, most: int) -> Iterator[RowBlock]:
    """Yield the vectors of ``rows`` (int64, all of one width) in blocks of at most ``most``."""
    for start, stop in snapshot.portions(rows):
        for block in _blocks(snapshot, rows[start:stop], most):
            yield RowBlock(start + block.start, start + block.stop, block.vectors)


def _blocks(snapshot: Snapshot, rows: np.ndarray, most: int) -> Iterator[RowBlock]:
    if not len(rows):
        return
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    if (len(breaks) + 1) * _RUN > len(rows):
        for start in range(0, len(rows), most):
            stop = min(start + most, len(rows))
            yield RowBlock(start, stop, snapshot.gather(rows[start:stop]))
        return
    bounds = [0, *breaks.tolist(), len(rows)]
    for first, last in itertools.pairwise(bounds):
        for start in range(first, last, most):
            stop = min(start + most, last)
            row = int(rows[start])
            view = snapshot.view(row, row + stop - start)
            vectors = snapshot.gather(rows[start:stop]) if view is None else view
            yield RowBlock(start, stop, vectors)


def scores(
    snapshot: Snapshot,
    rows: np.ndarray,
    query: np.ndarray,
    metric: Metric,
    norms: np.ndarray | None = None,
) -> np.ndarray:
    """Return dot product, cosine or L2 distance of each row's vector with ``query``.

    Computed in float32, in blocks, so memory stays bounded however many rows there are.
    A cosine with a zero vector is NaN.

    Args:
        snapshot: where the vectors are.
        rows: int64 ``[n]``, all of the query's width.
        query: float32 ``[width]``.
        metric: ``cosine``, ``dot`` or ``l2``.
        norms: stored norms of the rows, float32 ``[n]``; computed when missing.

    Returns:
        float32 ``[n]``.
    """
    whole = integer_scores.scores(snapshot, rows, query, metric, norms)
    if whole is not None:
        return whole
    result = np.empty(len(rows), np.float32)
    # One thread: the products are BLAS calls with threads of their own, and widening is
    # many short NumPy calls, which threads of ours only made slower.
    most = max(1, _BLOCK // len(query))
    buffer = np.empty((min(most, len(rows)), len(query)), np.float32)
    size = np.float32(np.linalg.norm(query))
    with np.errstate(all="ignore"):  # overflow and 0/0 show as infinity and NaN in the result
        for start, stop, stored in blocks(snapshot, rows, most):
            vectors = single(stored, buffer)
            target = result[start:stop]
            if metric == "l2":
                difference = np.subtract(vectors, query, out=buffer[: len(vectors)])
                np.sqrt(np.vecdot(difference, difference), out=target)
                continue
            np.matmul(vectors, query, out=target)
            if metric == "cosine":
                if norms is None:
                    lengths = np.sqrt(np.vecdot(vectors, vectors))
                else:
                    lengths = norms[start:stop]
                target /= lengths * size
                np.clip(target, -1, 1, out=target)
    return result


def single(stored: np.ndarray, buffer: np.ndarray) -> np.ndarray:
    """Return ``stored`` as float32, widened into ``buffer`` if it is float16."""
    if stored.dtype == np.float32:
        return stored
    return floats.widen(stored, buffer[: len(stored)])


def mean(snapshot: Snapshot, rows: np.ndarray, width: int) -> np.ndarray:
    """Return the mean vector of ``rows`` (int64 ``[n]``, n > 0), float32 ``[width]``.

    Blocks are summed in float32 and their sums in float64.
    """
    most = max(1, _BLOCK // max(1, width))
    buffer = np.empty((min(most, len(rows)), width), np.float32)
    total = np.zeros(width)
    for _, _, stored in blocks(snapshot, rows, most):
        total += single(stored, buffer).sum(axis=0)
    return (total / len(rows)).astype(np.float32)


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
    if hasattr(values, "detach"):  # a torch tensor, perhaps bfloat16 or on another device
        values = values.detach().cpu().float().numpy()
    try:
        query = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise UsageError(f"a query vector must be numbers, got {type(values).__name__}") from error
    if query.ndim == 2 and query.shape[0] == 1:
        query = query[0]
    if query.ndim != 1 or not len(query):
        raise UsageError(f"a query vector must have shape [width], got {list(query.shape)}")
    return np.ascontiguousarray(query)
