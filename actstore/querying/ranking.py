"""The best rows for one query or many: rough scores of all rows, float64 for the best of them."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore.querying import scoring, vector_math
from actstore.querying.scoring import Query
from actstore.querying.vector_math import Metric
from actstore.storage import floats
from actstore.storage.threads import share

if TYPE_CHECKING:
    from actstore.storage.snapshot import Snapshot

TOLERANCE = 4e-6
"""Error of rough scores, in lengths of row times query: twenty times what random rows show."""
_ONE_BY_ONE = 3
"""As many queries are scored one after the other: the kernels read rows at memory's speed, while
a product of matrices first makes them float32."""
_WIDENED = 1 << 20
_SCORES = 1 << 20
"""Rough scores that a thread holds at a time, of all queries together: 8 MiB."""
_READ = 1 << 22
"""Values that a thread reads at a time, for all queries."""
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
    # One infinite value makes a distance infinity less infinity where products are of matrices.
    together = np.isfinite(queries).all(axis=1)
    if np.count_nonzero(together) <= _ONE_BY_ONE:
        together[:] = False
    found: dict[int, np.ndarray] = {}
    for number in np.flatnonzero(~together).tolist():
        left = int(left_out[number])
        found[number] = _alone(snapshot, rows, made[number], k, metric, left, norms)
    if together.any():
        numbers = np.flatnonzero(together).tolist()
        several = [made[number] for number in numbers]
        places = _at_once(snapshot, rows, several, k, metric, left_out[together], norms)
        found.update(zip(numbers, places, strict=True))
    places = [found[number] for number in range(len(made))]
    read = _reader(snapshot, rows, places)
    return [
        exact(read, chosen, query.vector, k, metric)
        for query, chosen in zip(made, places, strict=True)
    ]


def _alone(
    snapshot: Snapshot,
    rows: np.ndarray,
    query: Query,
    k: int,
    metric: Metric,
    left_out: int,
    norms: np.ndarray | None,
) -> np.ndarray:
    """Return one query's candidates among all rows."""
    found = scoring.scores(snapshot, rows, query, metric, norms, shared=True)
    keys = found.astype(np.float64)
    keys = keys**2 if metric == "l2" else -keys
    keys[rows == left_out] = np.nan
    mine = _Candidates(1, k)
    mine.margins[:] = _margin_of(snapshot, rows, query, metric, keys, k)
    mine.add(np.arange(len(rows)), keys[None])
    return mine.places()[0]


def _reader(
    snapshot: Snapshot, rows: np.ndarray, places: list[np.ndarray]
) -> Callable[[np.ndarray], np.ndarray]:
    """Return what reads the vectors of some places, of all queries' at once if they are few."""
    together = np.unique(np.concatenate(places))
    if len(places) > 1 and len(together):
        width, _ = snapshot.shape(rows[together])
        if len(together) * width <= _READ:
            held = snapshot.gather(rows[together])
            return lambda some: held[np.searchsorted(together, some)]
    return lambda some: snapshot.gather(rows[some])


def exact(
    read: Callable[[np.ndarray], np.ndarray],
    places: np.ndarray,
    query: np.ndarray,
    k: int,
    metric: Metric,
) -> Best:
    """Return the best of some places in a list of rows by float64; rows without a score are none.

    Args:
        read: gives the vectors of places.
        places: positions in the list, int64, ascending.
        query: float32 ``[width]``.
        k: how many.
        metric: of the scores.
    """
    towards = query.astype(np.float64)
    length = np.linalg.norm(towards)
    scores = np.empty(len(places), np.float32)
    step = max(1, _GATHERED // len(query))
    with np.errstate(all="ignore"):  # overflow and 0/0 show as infinity and NaN
        for start in range(0, len(places), step):
            vectors = read(places[start : start + step]).astype(np.float64)
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
    """Rows that may be among the ``k`` with the smallest keys for each of several queries."""

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self._limits = np.full(queries, np.inf)
        self.margins = np.zeros(queries)
        """By how much a key may be larger than its query's k-th best one; they may only grow."""
        nothing = np.empty(0, np.int64)
        self._held = [(nothing, nothing, np.empty(0))]
        self._count = 0
        self._pruned_at = queries * (4 * k + 64)
        self._begun = False

    def add(self, places: np.ndarray, keys: np.ndarray) -> None:
        """Take in rows: their positions, and keys ``[queries, rows]``; NaN is no score."""
        if not self._begun and keys.shape[1] > self._k:
            self._begun = True  # the k-th best of some is no better than that of all
            some = np.partition(keys, self._k - 1, axis=1)[:, self._k - 1]
            self._limits = np.fmin(self._limits, some)
        numbers, at = np.nonzero(keys <= self._bounds()[:, None])
        self._held.append((numbers, places[at], keys[numbers, at]))
        self._count += len(numbers)
        if self._count > self._pruned_at:
            self._prune()

    def places(self) -> list[np.ndarray]:
        """Return the positions of the rows that are left for each query, ascending."""
        self._prune()
        numbers, places, _ = self._held[0]
        order = np.lexsort((places, numbers))
        ends = np.searchsorted(numbers[order], np.arange(1, len(self._limits)))
        return np.split(places[order], ends)

    def _bounds(self) -> np.ndarray:
        """Return up to which key a row may be among each query's best ones."""
        with np.errstate(invalid="ignore"):
            found: np.ndarray = self._limits + self.margins
        # Products with an infinite query are infinite either way, and so is their margin.
        found[np.isnan(found)] = np.inf
        return found

    def _prune(self) -> None:
        numbers, places, keys = map(np.concatenate, zip(*self._held, strict=True))
        order = np.lexsort((keys, numbers))
        starts = np.searchsorted(numbers[order], np.arange(len(self._limits) + 1))
        enough = np.diff(starts) > self._k
        last = starts[:-1][enough] + self._k - 1  # of the k best
        self._limits[enough] = keys[order[last]]
        keep = keys <= self._bounds()[numbers]
        self._held = [(numbers[keep], places[keep], keys[keep])]
        self._count = int(np.count_nonzero(keep))
        self._pruned_at = 2 * self._count + len(self._limits) * (4 * self._k + 64)


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
    k: int,
    metric: Metric,
    left_out: np.ndarray,
    norms: np.ndarray | None,
) -> list[np.ndarray]:
    """Return each query's candidates among all rows, by products of matrices."""
    width = len(queries[0])
    matrix = np.stack([query.unit if metric == "cosine" else query.vector for query in queries])
    sizes = np.array([query.size for query in queries])
    candidates = _Candidates(len(queries), k)
    step = max(1, _WIDENED // width)
    most = max(1, min(_SCORES // len(queries), _READ // width))
    spare: list[np.ndarray] = []
    lock = Lock()
    largest = 0.0

    def offer(span: tuple[int, int]) -> None:
        nonlocal largest
        start, stop = span
        stored = vector_math.read(snapshot, rows[start:stop])
        buffer = spare.pop() if spare else np.empty((step, width), np.float32)
        with np.errstate(all="ignore"):
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
                keys *= -2
                keys += lengths**2 + sizes[:, None] ** 2
                beyond = ~np.isfinite(lengths)
                keys[:, beyond] = lengths[beyond]  # not infinity less infinity
            else:
                np.negative(keys, out=keys)
                if metric == "cosine":
                    keys /= lengths
        spare.append(buffer)
        keys[left_out[:, None] == rows[start:stop]] = np.nan
        with lock:
            largest = max(largest, _largest(lengths))
            candidates.margins = 2 * TOLERANCE * _scale(metric, sizes, largest)
            candidates.add(np.arange(start, stop), keys)

    for first, last in snapshot.portions(rows):
        spans = vector_math.spans(snapshot, rows[first:last], most)
        # While one thread makes halves wider, another's product has the processors.
        share(offer, [(first + start, first + stop) for start, stop in spans])
    return candidates.places()


def _scale(metric: Metric, sizes: np.ndarray, largest: float) -> np.ndarray:
    if metric == "cosine":
        return np.ones(len(sizes))
    with np.errstate(over="ignore"):
        scale: np.ndarray = (sizes + largest) ** 2 if metric == "l2" else sizes * largest
    return scale


def _largest(lengths: np.ndarray) -> float:
    return float(lengths[np.isfinite(lengths)].max(initial=0))
