"""Dot product, cosine and distance of stored vectors with a query, block by block on the map."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from actstore.querying import integer_scores, vector_math
from actstore.querying.vector_math import Metric
from actstore.storage import floats, kernels
from actstore.storage.threads import share

if TYPE_CHECKING:
    from actstore.storage.kernels import Halves
    from actstore.storage.snapshot import Snapshot

_BLOCK = 1 << 22
"""Values per block: 8 MiB of halves, in the time of which a few dozen calls are nothing."""
_WIDENED = 1 << 18
"""Float32 values at a time: one MiB, so that widening, product and sum meet in the cache."""
_CLOSE = 1e-15
"""Distance below which squares of float32 lose digits."""
_NEAR = 1e-3
"""Squared distance, in squared lengths of the query, below which it is taken from the
difference itself."""


class Query:
    """A query vector, and what its products with stored vectors need: made once, used often.

    Args:
        vector: float32 ``[width]``.
    """

    def __init__(self, vector: np.ndarray) -> None:
        self.vector = vector
        self.size = float(np.linalg.norm(vector.astype(np.float64)))

    def __len__(self) -> int:
        return len(self.vector)

    @cached_property
    def unit(self) -> np.ndarray:
        """The vector at length one, so that no product of a cosine overflows; NaN of zeros."""
        with np.errstate(invalid="ignore"):
            return (self.vector / np.float64(self.size)).astype(np.float32)

    @cached_property
    def halves(self) -> Halves | None:
        """The vector as the kernels take it; None where they do not."""
        return kernels.halves(self.vector)

    @cached_property
    def point(self) -> np.ndarray | None:
        """The nearest vector of halves, for distances; None where there are no kernels for it."""
        if self.halves is None or np.abs(self.vector).max() > floats.LARGEST_HALF:
            return None
        nearest: np.ndarray = self.vector.astype(np.float16)
        return nearest

    @cached_property
    def beside(self) -> tuple[Halves, float] | None:
        """What the point leaves of the vector, and twice its product with both; None: nothing.

        For a row ``a``, point ``p`` and rest ``e``: |a-p-e|² = |a-p|² - 2ae + (2p+e)e.
        """
        if self.point is None:
            return None
        near = self.point.astype(np.float64)
        rest = self.vector.astype(np.float64) - near
        parts = kernels.halves(rest) if rest.any() else None
        return None if parts is None else (parts, float((2 * near + rest) @ rest))


def scores(
    snapshot: Snapshot,
    rows: np.ndarray,
    query: Query,
    metric: Metric,
    norms: np.ndarray | None = None,
    *,
    shared: bool = False,
) -> np.ndarray:
    """Return dot product, cosine or L2 distance of each row's vector with ``query``.

    Computed in blocks, so memory stays bounded however many rows there are, with sums in
    float32 or better: in float64 where float32 cannot hold a sum or a norm. A cosine with a zero
    vector is NaN.

    Args:
        snapshot: where the vectors are.
        rows: int64 ``[n]``, all of the query's width.
        query: the query.
        metric: ``cosine``, ``dot`` or ``l2``.
        norms: stored norms of the rows, float32 ``[n]``; computed when missing.
        shared: whether several threads may work: not where as many call at a time.

    Returns:
        float32 ``[n]``.
    """
    whole = integer_scores.scores(snapshot, rows, query.vector, metric, norms)
    if whole is not None:
        return whole
    result = np.empty(len(rows), np.float32)
    most = max(1, _BLOCK // len(query))

    def score(span: tuple[int, int]) -> None:
        start, stop = span
        stored = vector_math.read(snapshot, rows[start:stop])
        with np.errstate(all="ignore"):  # overflow and 0/0 show as infinity and NaN in the result
            lengths = None if norms is None else norms[start:stop]
            if lengths is None and metric == "cosine":
                lengths = floats.norms(stored)
            _score(stored, query, metric, lengths, result[start:stop])
            _beyond_float32(stored, query, metric, lengths, result[start:stop])

    for first, last in snapshot.portions(rows):
        spans = vector_math.spans(snapshot, rows[first:last], most)
        places = [(first + start, first + stop) for start, stop in spans]
        # Products of float32 are BLAS calls with threads of their own.
        halves = query.halves is not None and snapshot.shape(rows[:1])[1] == "float16"
        if shared and halves and len(places) > 1:
            share(score, places)
        else:
            for place in places:
                score(place)
    return result


def _score(
    stored: np.ndarray,
    query: Query,
    metric: Metric,
    lengths: np.ndarray | None,
    target: np.ndarray,
) -> None:
    found = _by_kernels(stored, query, metric, lengths)
    if found is None:
        _widened(stored, query, metric, lengths, target)
        return
    np.copyto(target, found, casting="same_kind")
    if metric != "l2" or query.beside is None:
        return
    near = found < np.sqrt(_NEAR) * query.size
    if near.any():
        again = np.empty(np.count_nonzero(near), np.float32)
        _widened(stored[near], query, metric, None, again)
        target[near] = again


def _beyond_float32(
    stored: np.ndarray,
    query: Query,
    metric: Metric,
    lengths: np.ndarray | None,
    target: np.ndarray,
) -> None:
    """Replace scores that float32 cannot compute: of sums that overflow, of norms that it loses."""
    doubtful = ~np.isfinite(target)
    if metric == "l2":
        doubtful |= target < _CLOSE
    elif metric == "cosine" and lengths is not None:
        doubtful |= ~np.isfinite(lengths) | (lengths < floats.SHORT)
        doubtful &= lengths != 0  # of zeros there is none
    if np.isnan(query.size) or (metric == "cosine" and query.size in (0, np.inf)):
        return  # nothing but NaN comes of it
    places = np.flatnonzero(doubtful)
    step = max(1, _WIDENED // len(query))
    for start in range(0, len(places), step):
        at = places[start : start + step]
        target[at] = in_double(stored[at], query, metric)


def double(vectors: np.ndarray) -> np.ndarray:
    """Return float16 or float32 vectors as float64, a copy."""
    if vectors.dtype == np.float16:
        vectors = floats.widen(vectors, quiet=True)
    wide: np.ndarray = vectors.astype(np.float64)
    return wide


def in_double(rows: np.ndarray, query: Query, metric: Metric) -> np.ndarray:
    """Return the scores of some rows, computed in float64: float64 ``[rows]``.

    Overflow and 0/0 show as infinity and NaN, of which NumPy warns unless it is told not to.
    """
    vectors, towards = double(rows), query.vector.astype(np.float64)
    found: np.ndarray
    if metric == "l2":
        vectors -= towards
        found = np.sqrt(np.vecdot(vectors, vectors))
        return found
    found = np.vecdot(vectors, towards)
    if metric == "cosine":
        found = np.clip(found / (np.linalg.norm(vectors, axis=1) * query.size), -1, 1)
    return found


def _by_kernels(
    stored: np.ndarray, query: Query, metric: Metric, lengths: np.ndarray | None
) -> np.ndarray | None:
    """Return scores in float64; None where kernels do not take the rows or the query."""
    if query.halves is None:
        return None
    if metric == "l2":
        return _distances(stored, query)
    found = kernels.products(stored, query.halves)
    if found is not None and lengths is not None and metric == "cosine":
        found /= lengths.astype(np.float64) * query.size
        np.clip(found, -1, 1, out=found)
    return found


def _distances(stored: np.ndarray, query: Query) -> np.ndarray | None:
    squares = None if query.point is None else kernels.distances(stored, query.point)
    if squares is not None and query.beside is not None:
        rest, constant = query.beside
        products = kernels.products(stored, rest)
        if products is None:
            return None
        squares += constant - 2 * products
    if squares is None:
        return None
    distances: np.ndarray = np.sqrt(np.maximum(squares, 0))
    return distances


def _widened(
    stored: np.ndarray,
    query: Query,
    metric: Metric,
    lengths: np.ndarray | None,
    target: np.ndarray,
) -> None:
    """Fill ``target`` with scores in float32, of float32 rows or of halves made wider."""
    step = max(1, _WIDENED // len(query))
    buffer = np.empty((min(step, len(stored)), len(query)), np.float32)
    for start in range(0, len(stored), step):
        vectors = vector_math.single(stored[start : start + step], buffer)
        part = target[start : start + step]
        if metric == "l2":
            difference = np.subtract(vectors, query.vector, out=buffer[: len(vectors)])
            np.sqrt(np.vecdot(difference, difference), out=part)
            continue
        np.matmul(vectors, query.vector if metric == "dot" else query.unit, out=part)
        if metric == "cosine" and lengths is not None:
            part /= lengths[start : start + step]
            np.clip(part, -1, 1, out=part)
