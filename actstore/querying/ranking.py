"""The best rows for one query or many: rough scores of all rows, float64 for the best of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore.querying import scoring, vector_math
from actstore.querying.scoring import Query
from actstore.querying.vector_math import Metric
from actstore.storage import floats

if TYPE_CHECKING:
    from actstore.storage.snapshot import Snapshot

TOLERANCE = 4e-6
"""Error of rough scores, in lengths of row times query: twenty times what random rows show."""
_ONE_BY_ONE = 3
"""As many queries are scored one after the other: the kernels read rows at memory's speed, while
a product of matrices first makes them float32."""
_WIDENED = 1 << 20
_SCORES = 1 << 22
"""Rough scores held at a time, of all queries together: 32 MiB."""
_READ = 1 << 24
"""Values read at a time, for all queries."""
_GATHERED = 1 << 20
"""Float64 values at a time."""


class Best(NamedTuple):
    """The best rows for one query, best first."""

    places: np.ndarray
    """Positions in the list of rows, int64."""
    scores: np.ndarray
    """Float32."""


def search(
    snapshot: Snapshot,
    rows: np.ndarray,
    queries: np.ndarray,
    k: int,
    metric: Metric,
    left_out: np.ndarray,
    norms: np.ndarray | None = None,
) -> list[Best]:
    """Return the ``k`` best of some rows for each query.

    All rows are scored in float32 or better, those that may be among the best again in
    float64. The result is that of float64 for all rows, scores rounded to float32 and equal
    ones in the order of rows, as long as rough scores err by no more than ``TOLERANCE``.

    Args:
        snapshot: where the vectors are.
        rows: int64 ``[n]``, all of the queries' width.
        queries: float32 ``[q, width]``.
        k: how many.
        metric: ``cosine`` or ``dot``, the largest first, or ``l2``, the smallest first.
        left_out: for each query the number of a row that it must not find, or -1; int64 ``[q]``.
        norms: stored norms of the rows, float32 ``[n]``; computed when missing.
    """
    made = [Query(query) for query in queries]
    candidates = [_Candidates(k) for _ in made]
    if len(made) <= _ONE_BY_ONE:
        for query, mine, row in zip(made, candidates, left_out.tolist(), strict=True):
            found = scoring.scores(snapshot, rows, query, metric, norms, shared=True)
            keys = found.astype(np.float64)
            keys = keys**2 if metric == "l2" else -keys
            keys[rows == row] = np.nan
            mine.margin = _margin_of(snapshot, rows, query, metric, keys, k)
            mine.add(np.arange(len(rows)), keys)
    else:
        _at_once(snapshot, rows, made, candidates, metric, left_out, norms)
    return [
        exact(snapshot, rows, mine.places(), query.vector, k, metric)
        for query, mine in zip(made, candidates, strict=True)
    ]


def exact(
    snapshot: Snapshot,
    rows: np.ndarray,
    places: np.ndarray,
    query: np.ndarray,
    k: int,
    metric: Metric,
) -> Best:
    """Return the best of some places in a list of rows by float64; rows without a score are none.

    Args:
        places: positions in ``rows``, int64, ascending.
    """
    towards = query.astype(np.float64)
    length = np.linalg.norm(towards)
    scores = np.empty(len(places), np.float32)
    step = max(1, _GATHERED // len(query))
    with np.errstate(all="ignore"):  # overflow and 0/0 show as infinity and NaN
        for start in range(0, len(places), step):
            vectors = snapshot.gather(rows[places[start : start + step]]).astype(np.float64)
            part = scores[start : start + step]
            if metric == "l2":
                vectors -= towards
                part[:] = np.sqrt(np.vecdot(vectors, vectors))
                continue
            found = np.vecdot(vectors, towards)
            if metric == "cosine":
                found = np.clip(found / (np.linalg.norm(vectors, axis=1) * length), -1, 1)
            part[:] = found
    usable = np.flatnonzero(~np.isnan(scores))
    keys = scores[usable] if metric == "l2" else -scores[usable]
    order = usable[np.argsort(keys, kind="stable")[:k]]
    return Best(places[order], scores[order])


class _Candidates:
    """Rows that may be among the ``k`` with the smallest keys, as far as rows were seen."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._places: list[np.ndarray] = []
        self._keys: list[np.ndarray] = []
        self._limit = np.inf
        self._held = 0
        self._pruned_at = 4 * k + 1_024
        self.margin = 0.0
        """By how much a key may be larger than the k-th best one; it may only grow."""

    def add(self, places: np.ndarray, keys: np.ndarray) -> None:
        """Take in rows, in order; keys that are NaN have no score."""
        keep = np.flatnonzero(keys <= self._limit + self.margin)
        self._places.append(places[keep])
        self._keys.append(keys[keep])
        self._held += len(keep)
        if self._held > self._pruned_at:
            self._prune()

    def places(self) -> np.ndarray:
        """Return the positions of the rows that are left, ascending."""
        self._prune()
        return self._places[0]

    def _prune(self) -> None:
        places, keys = np.concatenate(self._places), np.concatenate(self._keys)
        if len(keys) > self._k:
            self._limit = float(np.partition(keys, self._k - 1)[self._k - 1])
            keep = keys <= self._limit + self.margin
            places, keys = places[keep], keys[keep]
        self._places, self._keys, self._held = [places], [keys], len(keys)
        self._pruned_at = 2 * len(keys) + 4 * self._k + 1_024


def _margin_of(
    snapshot: Snapshot, rows: np.ndarray, query: Query, metric: Metric, keys: np.ndarray, k: int
) -> float:
    """Return by how much the keys of one query's best rows may be wrong."""
    if metric == "cosine":
        return 2 * TOLERANCE
    usable = np.flatnonzero(~np.isnan(keys))
    if len(usable) <= k:
        return 0.0
    best = usable[np.argpartition(keys[usable], k - 1)[:k]]
    if metric == "l2":
        return float(4 * TOLERANCE * keys[best].max())
    lengths = floats.norms(snapshot.gather(rows[best[: _GATHERED // len(query) + 1]]))
    return 2 * TOLERANCE * query.size * _largest(lengths)


def _at_once(
    snapshot: Snapshot,
    rows: np.ndarray,
    queries: list[Query],
    candidates: list[_Candidates],
    metric: Metric,
    left_out: np.ndarray,
    norms: np.ndarray | None,
) -> None:
    """Offer all rows to all queries, by products of matrices."""
    width = len(queries[0])
    matrix = np.stack([query.unit if metric == "cosine" else query.vector for query in queries])
    sizes = np.array([query.size for query in queries])
    largest = 0.0
    step = max(1, _WIDENED // width)
    buffer = np.empty((min(step, len(rows)), width), np.float32)
    most = max(1, min(_SCORES // len(queries), _READ // width))
    with np.errstate(all="ignore"):
        for start, stop, stored in vector_math.blocks(snapshot, rows, most):
            lengths = floats.norms(stored) if norms is None else norms[start:stop]
            lengths = lengths.astype(np.float64)
            keys = np.empty((len(queries), len(stored)))
            for first in range(0, len(stored), step):
                part = stored[first : first + step]
                keys[:, first : first + step] = matrix @ vector_math.single(part, buffer).T
            lost = np.isfinite(lengths) & ~np.isfinite(keys).all(axis=0)
            if lost.any():  # to overflow
                keys[:, lost] = matrix.astype(np.float64) @ stored[lost].astype(np.float64).T
            if metric == "l2":
                keys = lengths**2 + sizes[:, None] ** 2 - 2 * keys
                beyond = ~np.isfinite(lengths)
                keys[:, beyond] = lengths[beyond]  # not infinity less infinity
            else:
                keys = -keys / (lengths if metric == "cosine" else 1)
            largest = max(largest, _largest(lengths))
            places = np.arange(start, stop)
            for query, mine, theirs, row in zip(
                queries, candidates, keys, left_out.tolist(), strict=True
            ):
                theirs[rows[start:stop] == row] = np.nan
                mine.margin = 2 * TOLERANCE * _scale(metric, query.size, largest)
                mine.add(places, theirs)


def _scale(metric: Metric, size: float, largest: float) -> float:
    if metric == "cosine":
        return 1.0
    return (size + largest) ** 2 if metric == "l2" else size * largest


def _largest(lengths: np.ndarray) -> float:
    return float(lengths[np.isfinite(lengths)].max(initial=0))
