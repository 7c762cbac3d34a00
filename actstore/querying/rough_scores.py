"""Scores of all rows for one query or many, fast: each with what it may be wrong by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np

from actstore.querying import blas, scoring, vector_math
from actstore.querying.scoring import Query
from actstore.querying.vector_math import Metric
from actstore.storage import floats, kernels
from actstore.storage.threads import share

if TYPE_CHECKING:
    from actstore.storage.snapshot import Snapshot

_ONE_BY_ONE = 3
"""As many queries are scored one after the other where products need float32: rows are read at
memory's speed then, while a product of matrices first makes them wide."""
_SCORES = 1 << 20
"""Scores held at a time, of all queries together."""
_READ = 1 << 22
"""Values that a thread reads at a time: 8 MiB of halves, in a time beside which what Python does
in between is nothing."""
_WIDENED = 1 << 20
"""Values that a thread makes wider at a time: 4 MiB, which stay in a cache until their product."""
_DOUBLES = 1 << 18
_ROUNDING = 2.0**-24
"""By how much a float32 is rounded at most, of its own size."""
_LAST_DIGIT = 2 * _ROUNDING
"""What scores may differ by that are equal once they are rounded."""
TOLERANCE = 4e-6
"""Error of products in float32, in lengths of row times query: twenty times what random rows show.
What it could be at worst, did all sums err in one direction, is fifty times as much at a width of
4,096, and leaves all rows of a layer in doubt that nearly agree."""
_NORM = 1e-6
"""By how much a norm that we have stored may be wrong, of its own size."""
_LEAST = 2.0**-148
"""Twice the smallest float32, by which a sum near it may be wrong."""


class Keys(NamedTuple):
    """What some rows are ranked by."""

    keys: np.ndarray
    """The smaller the better, a distance squared; NaN is no score. Float64 ``[queries, rows]``."""
    errors: np.ndarray
    """By how much they may be wrong, what rounding a score to float32 changes included: float64
    ``[queries, rows]``, or 1 for either."""


Care = Literal["rough", "segments", "double"]
"""How sure keys are, and how slow: at memory's speed, where products of matrices are not needed; by
short sums of float16, some times slower; in float64, ten times."""
KeysOf = Callable[[slice], Keys]
"""Gives the keys of some of the rows; for several threads."""


class Part(NamedTuple):
    """Consecutive entries of the list of rows."""

    start: int
    stop: int
    of: KeysOf


def scan(
    snapshot: Snapshot,
    rows: np.ndarray,
    queries: Sequence[Query],
    metric: Metric,
    norms: np.ndarray,
    care: Care,
) -> Iterator[Part]:
    """Yield all rows, part by part, with their keys.

    Args:
        snapshot: where the vectors are.
        rows: int64 ``[n]``, all of the queries' width.
        queries: at least one; finite ones unless ``care`` is ``double``.
        metric: of the scores.
        norms: stored norms of the rows, float32 ``[n]``.
        care: with which to reckon.
    """
    way = _way(snapshot, rows, queries, metric, care)
    step = max(1, _SCORES // len(queries))
    for first, last in snapshot.portions(rows):
        for start in range(first, last, step):
            stop = min(start + step, last)
            some, lengths = rows[start:stop], norms[start:stop]
            with np.errstate(all="ignore"):  # overflow and 0/0 show as infinity and NaN
                of = way.keys(some, lengths)
                if care != "double":
                    of = _corrected(snapshot, some, lengths, queries, metric, of)
            yield Part(start, stop, of)


class _Way(Protocol):
    def keys(self, rows: np.ndarray, norms: np.ndarray) -> KeysOf:
        """Score some rows, which lie near now."""


def _way(
    snapshot: Snapshot,
    rows: np.ndarray,
    queries: Sequence[Query],
    metric: Metric,
    care: Care,
) -> _Way:
    if care == "double":
        return _Doubles(snapshot, queries, metric)
    halves = snapshot.shape(rows)[1] == "float16" and kernels.library() is not None
    if care == "segments":
        if halves and metric != "l2":
            return _BySegment(snapshot, queries, metric)
        return _Doubles(snapshot, queries, metric)
    if len(queries) <= _ONE_BY_ONE:
        return _OneByOne(snapshot, queries, metric)
    return _Products(snapshot, queries, metric)


def _corrected(
    snapshot: Snapshot,
    rows: np.ndarray,
    norms: np.ndarray,
    queries: Sequence[Query],
    metric: Metric,
    of: KeysOf,
) -> KeysOf:
    """Return what gives the keys, of rows too that float32 cannot reckon with."""
    doubtful = ~np.isfinite(norms) | ((norms < floats.SHORT) & (norms > 0))

    def corrected(span: slice) -> Keys:
        with np.errstate(all="ignore"):  # not inherited by threads
            found = of(span)
            # Products may overflow on the way to their sum.
            unsure = doubtful[span] | ~np.isfinite(found.keys.sum(axis=0))
            if metric == "cosine":
                unsure &= norms[span] != 0  # of zeros there is none
            at = np.flatnonzero(unsure)
            if not len(at):
                return found
            again = _Doubles(snapshot, queries, metric).keys(rows[span][at], norms[span][at])
            errors = np.broadcast_to(found.errors, found.keys.shape).copy()
            found.keys[:, at], errors[:, at] = again(slice(None))
            return Keys(found.keys, errors)

    return corrected


class _OneByOne:
    """Scores of one query after the other, as :mod:`scoring` computes them."""

    def __init__(self, snapshot: Snapshot, queries: Sequence[Query], metric: Metric) -> None:
        self._snapshot = snapshot
        self._queries = queries
        self._metric: Metric = metric

    def keys(self, rows: np.ndarray, norms: np.ndarray) -> KeysOf:
        scores = [
            scoring.scores(self._snapshot, rows, query, self._metric, norms, shared=True)
            for query in self._queries
        ]

        found = np.stack(scores)
        sizes = np.array([[query.size] for query in self._queries])
        width = len(self._queries[0])

        def of(span: slice) -> Keys:
            keys = found[:, span].astype(np.float64)
            if self._metric == "l2":
                # What a point of halves leaves of the query may count as much as the distance.
                np.square(keys, out=keys)
                return Keys(keys, 2.2 * TOLERANCE * keys + width * _LEAST)
            np.negative(keys, out=keys)
            if self._metric == "cosine":
                return Keys(keys, np.array([[TOLERANCE + _NORM]]))
            return Keys(keys, TOLERANCE * sizes * _lengths(norms[span]) + width * _LEAST)

        return of


class _Products:
    """Products of all rows with all queries, by products of matrices."""

    def __init__(self, snapshot: Snapshot, queries: Sequence[Query], metric: Metric) -> None:
        self._snapshot = snapshot
        self._queries = queries
        self._metric = metric
        vectors = np.stack([query.vector for query in queries])
        # By powers of two: a product of a large row with a large query must not overflow.
        exponents = np.frexp(np.abs(vectors).max(axis=1))[1]
        self._weights = np.ldexp(1.0, exponents)
        self._matrix = np.ascontiguousarray(np.ldexp(vectors, -exponents[:, None]).T)
        self._spare: list[np.ndarray] = []

    def keys(self, rows: np.ndarray, norms: np.ndarray) -> KeysOf:
        products = np.empty((len(self._queries), len(rows)), np.float32)
        ascending = vector_math.ascend(rows)

        def multiply(span: tuple[int, int]) -> None:
            start, stop = span
            stored = vector_math.read(self._snapshot, rows[start:stop], ascending=ascending)
            with np.errstate(all="ignore"):
                self._fill(stored, products[:, start:stop])

        most = max(1, _READ // len(self._queries[0]))
        spans = vector_math.spans(self._snapshot, rows, most)
        with blas.one_thread():
            share(multiply, spans)
        sizes = np.array([[query.size] for query in self._queries])
        weights = self._weights[:, None]

        def of(span: slice) -> Keys:
            keys = products[:, span].astype(np.float64)
            if self._metric == "cosine":
                keys *= -weights / sizes
                keys /= norms[span].astype(np.float64)
                return Keys(keys, np.array([[TOLERANCE + _NORM]]))
            longest = _lengths(norms[span])
            if self._metric == "dot":
                keys *= -weights
                return Keys(keys, TOLERANCE * sizes * longest + _LEAST)
            keys *= -2 * weights
            keys += norms[span].astype(np.float64) ** 2
            keys += sizes**2
            # The norm's own error counts twice in its square.
            lost = 2 * TOLERANCE * sizes * longest + 2.1 * _NORM * longest**2
            return Keys(keys, lost + 8 * _ROUNDING * sizes**2 + _LEAST * sizes)

        return of

    def _fill(self, stored: np.ndarray, out: np.ndarray) -> None:
        width = stored.shape[1]
        step = max(1, _WIDENED // width)
        buffer = self._spare.pop() if self._spare else np.empty((step, width), np.float32)
        for start in range(0, len(stored), step):
            part = vector_math.single(stored[start : start + step], buffer)
            out[:, start : start + step] = (part @ self._matrix).T
        self._spare.append(buffer)


class _BySegment:
    """Products of float16 rows with each query by the kernels, segment by segment."""

    def __init__(self, snapshot: Snapshot, queries: Sequence[Query], metric: Metric) -> None:
        self._snapshot = snapshot
        self._queries = [kernels.halves_by_segment(query.vector) for query in queries]
        self._metric = metric
        self._sizes = np.array([[query.size] for query in queries])

    def keys(self, rows: np.ndarray, norms: np.ndarray) -> KeysOf:
        found = np.full((len(self._queries), len(rows)), np.nan)  # to be reckoned in float64
        lengths = np.full(len(rows), np.nan)

        def multiply(span: tuple[int, int]) -> None:
            start, stop = span
            stored = vector_math.read(self._snapshot, rows[start:stop])
            with np.errstate(all="ignore"):
                squares = kernels.squares(stored)
                if squares is not None:
                    lengths[start:stop] = np.sqrt(squares)
                for query, part in zip(self._queries, found[:, start:stop], strict=True):
                    products = None
                    if query is not None:
                        products = kernels.products_by_segment(stored, query)
                    if products is not None:
                        part[:] = products

        width = self._snapshot.shape(rows)[0]
        share(multiply, vector_math.spans(self._snapshot, rows, max(1, _WIDENED // width)))
        lost = max((query.error for query in self._queries if query is not None), default=0.0)

        def of(span: slice) -> Keys:
            keys, longest = -found[:, span], lengths[span]
            if self._metric == "cosine":
                return Keys(keys / (longest * self._sizes), np.array([[2 * lost + _LAST_DIGIT]]))
            rounded = _LAST_DIGIT * np.abs(keys)
            return Keys(keys, 1.01 * lost * longest * self._sizes + rounded + _LEAST)

        return of


class _Doubles:
    """Scores in float64, whatever the rows and the queries are."""

    def __init__(self, snapshot: Snapshot, queries: Sequence[Query], metric: Metric) -> None:
        self._snapshot = snapshot
        self._metric = metric
        self._towards = np.stack([query.vector for query in queries]).astype(np.float64)
        self._sizes = np.array([query.size for query in queries])

    def keys(self, rows: np.ndarray, norms: np.ndarray) -> KeysOf:
        found = np.empty((len(self._towards), len(rows)))
        lengths = np.empty(len(rows))

        def score(span: tuple[int, int]) -> None:
            start, stop = span
            stored = vector_math.read(self._snapshot, rows[start:stop])
            with np.errstate(all="ignore"):
                vectors = scoring.double(stored)
                lengths[start:stop] = np.linalg.norm(vectors, axis=1)
                self._fill(vectors, found[:, start:stop])

        width = self._towards.shape[1]
        with blas.one_thread():
            share(score, vector_math.spans(self._snapshot, rows, max(1, _DOUBLES // width)))
        lost = width * 2.0**-51

        def of(span: slice) -> Keys:
            with np.errstate(all="ignore"):
                keys, sizes = found[:, span], self._sizes[:, None]
                if self._metric == "cosine":
                    return Keys(-keys / (lengths[span] * sizes), np.array([[lost + _LAST_DIGIT]]))
                if self._metric == "l2":
                    errors = (lost + 2 * _LAST_DIGIT) * keys + _LEAST * (np.sqrt(keys) + _LEAST)
                else:
                    errors = lost * sizes * lengths[span] + _LAST_DIGIT * np.abs(keys) + _LEAST
                    keys = -keys
                # What is infinite is so in any case.
                return Keys(keys, np.where(np.isfinite(keys), errors, 0))

        return of

    def _fill(self, vectors: np.ndarray, out: np.ndarray) -> None:
        if self._metric == "l2":
            for towards, part in zip(self._towards, out, strict=True):
                difference = vectors - towards
                np.vecdot(difference, difference, out=part)
            return
        out[:] = (vectors @ self._towards.T).T
        if not np.isfinite(out).all():  # matrices may be filled up with zeros
            for towards, part in zip(self._towards, out, strict=True):
                np.vecdot(vectors, towards, out=part)


def _lengths(norms: np.ndarray) -> np.ndarray:
    """Return lengths that the rows do not exceed, float64."""
    lengths: np.ndarray = norms.astype(np.float64) * (1 + 2 * _NORM)
    return lengths
