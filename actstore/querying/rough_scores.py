"""Scores of all rows for one query or many, fast: each with what it may be wrong by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from actstore.querying import scoring, vector_math
from actstore.querying.scoring import Query
from actstore.querying.vector_math import Metric
from actstore.storage import blas, floats, kernels
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
_PACKED = 24
"""Of more queries, products of matrices take less time than the kernels, though rows must be made
wider for them; where each thread has its own product."""
_DOUBLES = 1 << 18
_ROUNDING = 2.0**-24
"""By how much a float32 is rounded at most, of its own size."""
_LAST_DIGIT = 2 * _ROUNDING
"""What scores may differ by that are equal once they are rounded."""
_NORM = 1e-4
"""By how much a stored norm may be wrong, of its own size: what `verify` lets pass."""
_LEAST = 2.0**-148
"""Twice the smallest float32, by which a sum near it may be wrong."""
_FEW_ROUNDINGS = 8
"""Roundings besides those of the sum."""


class Keys(NamedTuple):
    """What some rows are ranked by."""

    keys: np.ndarray
    """The smaller the better, a distance squared; NaN is no score. Float64 ``[queries, rows]``."""
    errors: np.ndarray
    """By how much they may be wrong, what rounding a score to float32 changes included: float64
    ``[queries, rows]``, or 1 for either."""


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
    *,
    double: bool = False,
) -> Iterator[Part]:
    """Yield all rows, part by part, with their keys.

    Args:
        snapshot: where the vectors are.
        rows: int64 ``[n]``, all of the queries' width.
        queries: at least one; finite ones unless ``double``.
        metric: of the scores.
        norms: stored norms of the rows, float32 ``[n]``.
        double: reckon in float64: a tenth as fast.
    """
    way = _way(snapshot, rows, queries, metric, double=double)
    step = max(1, _SCORES // len(queries))
    for first, last in snapshot.portions(rows):
        for start in range(first, last, step):
            stop = min(start + step, last)
            some, lengths = rows[start:stop], norms[start:stop]
            with np.errstate(all="ignore"):  # overflow and 0/0 show as infinity and NaN
                of = way.keys(some, lengths)
                if not double:
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
    *,
    double: bool,
) -> _Way:
    if double:
        return _Doubles(snapshot, queries, metric)
    halves = snapshot.shape(rows)[1] == "float16" and kernels.library() is not None
    if len(queries) > _PACKED:
        halves &= not blas.is_ours()
    few = len(queries) <= _ONE_BY_ONE
    # A difference of vectors that lie near each other says more than their products do.
    if few and (metric == "l2" or not halves):
        return _OneByOne(snapshot, queries, metric)
    return _Products(snapshot, queries, metric, halves=halves)


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
        lost = _sum_error(width)

        def of(span: slice) -> Keys:
            keys = found[:, span].astype(np.float64)
            if self._metric == "l2":
                # What a point of halves leaves of the query may count as much as the distance.
                np.square(keys, out=keys)
                return Keys(keys, 2.2 * lost * keys + width * _LEAST)
            np.negative(keys, out=keys)
            if self._metric == "cosine":
                return Keys(keys, np.array([[lost + _NORM]]))
            return Keys(keys, lost * sizes * _lengths(norms[span]) + width * _LEAST)

        return of


class _Products:
    """Products of all rows with all queries: by the kernels of rounded queries, or of matrices."""

    def __init__(
        self, snapshot: Snapshot, queries: Sequence[Query], metric: Metric, *, halves: bool
    ) -> None:
        self._snapshot = snapshot
        self._queries = queries
        self._metric = metric
        vectors = np.stack([query.vector for query in queries])
        self._halves = kernels.halves_of_many(vectors) if halves else None
        if self._halves is None:
            # By powers of two: a product of a large row with a large query must not overflow.
            self._weights = np.ldexp(1.0, np.frexp(np.abs(vectors).max(axis=1))[1])
        else:
            self._weights = self._halves.weights
        lost = _sum_error(len(queries[0])) * np.array([query.size for query in queries])
        self._errors = lost if self._halves is None else self._halves.errors
        self._errors_of_matrices = lost
        self._spare: list[np.ndarray] = []

    def keys(self, rows: np.ndarray, norms: np.ndarray) -> KeysOf:
        products = np.empty((len(self._queries), len(rows)), np.float32)
        ascending = vector_math.ascend(rows)

        def multiply(span: tuple[int, int]) -> None:
            start, stop = span
            stored = vector_math.read(self._snapshot, rows[start:stop], ascending=ascending)
            out = products[:, start:stop]
            if self._halves is None or not kernels.products_with_many(stored, self._halves, out):
                self._errors = np.maximum(self._errors, self._errors_of_matrices)
                with np.errstate(all="ignore"):
                    self._by_matrices(stored, out)

        most = max(1, _READ // len(self._queries[0]))
        spans = vector_math.spans(self._snapshot, rows, most)
        if self._halves is None:
            with blas.one_thread():
                share(multiply, spans)
        else:
            share(multiply, spans)
        sizes = np.array([[query.size] for query in self._queries])
        weights, errors = self._weights[:, None], self._errors[:, None]

        def of(span: slice) -> Keys:
            keys = products[:, span].astype(np.float64)
            if self._metric == "cosine":
                keys *= -weights / sizes
                keys /= norms[span].astype(np.float64)
                return Keys(keys, errors / sizes + 1.01 * _NORM)
            longest = _lengths(norms[span])
            if self._metric == "dot":
                keys *= -weights
                return Keys(keys, errors * longest + _LEAST)
            keys *= -2 * weights
            keys += norms[span].astype(np.float64) ** 2
            keys += sizes**2
            # The norm's own error counts twice in its square.
            lost = 2 * errors * longest + 2.1 * _NORM * longest**2
            return Keys(keys, lost + 8 * _ROUNDING * sizes**2 + _LEAST * sizes)

        return of

    @cached_property
    def _matrix(self) -> np.ndarray:
        vectors = np.stack([query.vector for query in self._queries])
        exponents = 1 - np.frexp(self._weights)[1]
        return np.ascontiguousarray(np.ldexp(vectors, exponents[:, None]).T)

    def _by_matrices(self, stored: np.ndarray, out: np.ndarray) -> None:
        width = stored.shape[1]
        step = max(1, _WIDENED // width)
        buffer = self._spare.pop() if self._spare else np.empty((step, width), np.float32)
        for start in range(0, len(stored), step):
            part = vector_math.single(stored[start : start + step], buffer)
            out[:, start : start + step] = (part @ self._matrix).T
        self._spare.append(buffer)


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
                vectors = floats.widen(stored, quiet=True).astype(np.float64)
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


def _sum_error(width: int) -> float:
    """Return what a product in float32 may be wrong by, in lengths of the one times the other.

    Sums may be rounded in one direction at every step, whatever the order.
    """
    return (width + _FEW_ROUNDINGS) * _ROUNDING * 1.01


def _lengths(norms: np.ndarray) -> np.ndarray:
    """Return lengths that the rows do not exceed, float64."""
    lengths: np.ndarray = norms.astype(np.float64) * (1 + 2 * _NORM)
    return lengths
