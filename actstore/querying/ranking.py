"""The best rows for one query or many: rough scores of all rows, float64 for the best of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore.querying import rough_scores, scoring, vector_math
from actstore.querying.rough_scores import Care, Keys
from actstore.querying.scoring import Query
from actstore.querying.vector_math import Metric
from actstore.storage import floats
from actstore.storage.threads import share

if TYPE_CHECKING:
    from actstore.storage.snapshot import Snapshot

_READ = 1 << 22
"""Values that are read at a time, for all queries."""
_GATHERED = 1 << 20
"""Float64 values at a time."""
_NORMED = 1 << 21
_KEYS = 1 << 17
"""Keys that a thread looks at a time: a MiB of them."""
_SAMPLE = 2_048
"""Rows that the first limit is taken from: nearly as good a one as all rows give."""


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

    All rows are scored roughly, those that may be among the best again in float64. The result is
    that of float64 for all rows, scores rounded to float32 and equal ones in the order of rows, as
    long as products in float32 err by no more than :data:`rough_scores.TOLERANCE`.

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
    if not len(rows):
        return [Best(rows, np.empty(0, np.float32)) for _ in made]
    if norms is None:
        norms = _norms(snapshot, rows)
    asked = _Asked(snapshot, k, metric)
    everything = np.arange(len(rows))
    places = [everything] * len(made)
    finite = np.isfinite(queries).all(axis=1)
    hopeless = np.isnan(queries).any(axis=1)
    if metric == "cosine":
        hopeless |= ~finite | ~queries.any(axis=1)
    for number in np.flatnonzero(hopeless).tolist():
        places[number] = everything[:0]
    finite &= ~hopeless
    numbers = np.flatnonzero(finite).tolist()
    if numbers:
        found = asked.candidates(rows, [made[n] for n in numbers], left_out[finite], norms)
        for number, some in zip(numbers, found, strict=True):
            places[number] = some
    cares: tuple[Care, ...] = ("segments", "double")
    for care in cares:
        unsure = [number for number, some in enumerate(places) if len(some) > _enough(k)]
        many = [number for number in unsure if finite[number] or care == "double"]
        if not many:
            continue
        together = np.unique(np.concatenate([places[number] for number in many]))
        several = [made[number] for number in many]
        found = asked.candidates(rows[together], several, left_out[many], norms[together], care)
        for number, some in zip(many, found, strict=True):
            places[number] = together[some]
    read = _reader(snapshot, rows, places)
    return [
        exact(read, some[rows[some] != left], query, k, metric)
        for some, left, query in zip(places, left_out.tolist(), queries, strict=True)
    ]


class _Asked(NamedTuple):
    """What is asked of all queries alike."""

    snapshot: Snapshot
    k: int
    metric: Metric

    def candidates(
        self,
        rows: np.ndarray,
        queries: Sequence[Query],
        left_out: np.ndarray,
        norms: np.ndarray,
        care: Care = "rough",
    ) -> list[np.ndarray]:
        """Return, for each query, the positions of rows that may be among its best, ascending."""
        omitted = [
            (number, place)
            for number, row in enumerate(left_out.tolist())
            if row >= 0
            for place in np.flatnonzero(rows == row).tolist()
        ]
        most = float(np.finfo(np.float32).max)
        mine = _Candidates(len(queries), self.k, most**2 if self.metric == "l2" else most)
        step = max(1, _KEYS // len(queries))
        for part in rough_scores.scan(self.snapshot, rows, queries, self.metric, norms, care):

            def offer(start: int, part: rough_scores.Part = part) -> None:
                stop = min(start + step, part.stop)
                found = part.of(slice(start - part.start, stop - part.start))
                for number, place in omitted:
                    if start <= place < stop:
                        found.keys[number, place - start] = np.nan
                mine.add(start, found)

            offer(part.start)  # which tells the others how good a row must be
            share(offer, range(part.start + step, part.stop, step))
            mine.prune()
        return mine.places()


def _enough(k: int) -> int:
    """Return how many candidates are read without asking again which of them are needed."""
    return 4 * k + 64


def _norms(snapshot: Snapshot, rows: np.ndarray) -> np.ndarray:
    width, _ = snapshot.shape(rows)
    found = np.empty(len(rows), np.float32)
    for start, stop, vectors in vector_math.blocks(snapshot, rows, max(1, _NORMED // width)):
        floats.norms(vectors, out=found[start:stop])
    return found


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
    asked = Query(query)
    scores = np.empty(len(places), np.float32)
    step = max(1, _GATHERED // len(query))
    with np.errstate(all="ignore"):  # overflow and 0/0 show as infinity and NaN
        for start in range(0, len(places), step):
            vectors = read(places[start : start + step])
            scores[start : start + step] = scoring.in_double(vectors, asked, metric)
    usable = np.flatnonzero(~np.isnan(scores))
    keys = scores[usable] if metric == "l2" else -scores[usable]
    order = usable[np.argsort(keys, kind="stable")[:k]]
    return Best(places[order], scores[order])


class _Candidates:
    """Rows that may be among the ``k`` with the smallest keys, for each of several queries.

    Args:
        queries: how many.
        k: how many rows.
        most: key beyond which scores are the same infinity once they are float32.
    """

    def __init__(self, queries: int, k: int, most: float) -> None:
        self._k = k
        self._most = most * (1 - 1e-6)
        self._limits = np.full(queries, np.inf)
        nothing = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0)
        self._held = [nothing]

    def add(self, start: int, found: Keys) -> None:
        """Take in consecutive rows: the position of the first, and the keys of all.

        For several threads once one has been through.
        """
        keys, errors = found
        if keys.shape[1] > self._k and (self._limits == np.inf).any():
            # The k-th best of some is no better than that of all.
            some = slice(max(_SAMPLE, 2 * self._k))
            highest = keys[:, some] + np.broadcast_to(errors, keys.shape)[:, some]
            self._lower(np.partition(highest, self._k - 1, axis=1)[:, self._k - 1])
        lowest = keys - errors
        numbers, at = np.nonzero(lowest <= self._limits[:, None])
        low = lowest[numbers, at]
        high = keys[numbers, at] + np.broadcast_to(errors, keys.shape)[numbers, at]
        self._held.append((numbers, start + at, low, high))

    def prune(self) -> None:
        """Let go of rows that others have outdone; by one thread."""
        numbers, places, lowest, highest = map(np.concatenate, zip(*self._held, strict=True))
        order = np.lexsort((highest, numbers))
        starts = np.searchsorted(numbers[order], np.arange(len(self._limits) + 1))
        enough = np.diff(starts) >= self._k
        limits = np.full(len(self._limits), np.inf)
        limits[enough] = highest[order[starts[:-1][enough] + self._k - 1]]
        self._lower(limits)
        keep = lowest <= self._limits[numbers]
        self._held = [(numbers[keep], places[keep], lowest[keep], highest[keep])]

    def places(self) -> list[np.ndarray]:
        """Return the positions of the rows that are left for each query, ascending."""
        numbers, places, *_ = self._held[0]
        order = np.lexsort((places, numbers))
        ends = np.searchsorted(numbers[order], np.arange(1, len(self._limits)))
        return np.split(places[order], ends)

    def _lower(self, limits: np.ndarray) -> None:
        """Learn that each query has ``k`` rows of keys no larger; NaN and infinity say nothing."""
        known = limits < self._most
        self._limits[known] = np.minimum(self._limits, np.maximum(limits, -self._most))[known]
