"""Ridge regressions tested on folds, their penalties chosen without the fold that tests.

For each fold, regressions without it and without one more are tried on that one with every
penalty, and the penalty with the smallest squared error is that of the regression which the
fold tests. The one to keep takes the penalty that did best on all folds. Shuffled columns go
the same way, each with penalties of its own. By the same errors a layer is chosen for each fold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from actstore.analysis.solvers.ridge_paths import Parts, Path
from actstore.analysis.statistics import folds
from actstore.analysis.statistics.folds import Fold

_BLOCK = 4096
Held = frozenset[int]
"""Numbers of the parts that are left out together."""


class Division(NamedTuple):
    """Rows in parts, and which of these are tested together."""

    part: np.ndarray
    """Number of each row's part, int64 ``[rows]``; -1 of rows that are neither trained on nor
    tested."""
    tested: list[Held]
    """The parts of each fold's tested rows."""
    inner: bool
    """Whether there are parts enough to choose by."""


class Found(NamedTuple):
    """What came of the regressions of one place."""

    predicted: np.ndarray
    """Of each row and column, by a regression that did not see it; NaN where there is none.
    Float64 ``[rows, columns]``."""
    kept: Path
    """The regression of all rows, or of the training rows of one division."""
    penalty: float
    """The kept one's."""
    penalties: list[float]
    """Those of the first column for each fold."""
    chosen: bool
    """Whether penalties were chosen among several."""
    choosing: np.ndarray | None
    """R² within each fold's training rows, by which its layer is chosen; float64 ``[folds]``."""


def divide(
    divisions: Sequence[Fold], groups: np.ndarray, setting_folds: int, seed: int
) -> Division:
    """Return parts that make up the folds, and parts of their training rows to choose by.

    Args:
        divisions: the folds, or one training and test part.
        groups: int64 ``[rows]``; none is in two parts.
        setting_folds: into how many parts the training rows of one division are dealt.
        seed: of the order in which groups are dealt.
    """
    part = np.full(len(groups), -1)
    if len(divisions) > 2:
        for number, division in enumerate(divisions):
            part[division.test] = number
        return Division(part, [frozenset({number}) for number in range(len(divisions))], True)
    if len(divisions) == 2:
        inner = True
        for number, division in enumerate(divisions):
            own = _dealt(groups[division.test], 2, seed)
            inner = inner and bool(own.any())
            part[division.test] = 2 * number + own
        return Division(part, [frozenset({0, 1}), frozenset({2, 3})], inner)
    (division,) = divisions
    own = _dealt(groups[division.train], setting_folds, seed)
    part[division.train], last = own, int(own.max()) + 1
    part[division.test] = last
    return Division(part, [frozenset({last})], last > 1)


def _dealt(groups: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the part of each row, int64 ``[rows]``: fewer parts where groups are fewer."""
    _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    dealt: np.ndarray = folds.dealt(sizes[:, None], min(count, len(sizes)), seed)[numbers]
    return dealt


def run(
    vectors: np.ndarray,
    targets: np.ndarray,
    division: Division,
    penalties: np.ndarray,
    check: Callable[[], None],
    *,
    choose: bool,
) -> Found:
    """Return the predictions of all folds, and the regression to keep.

    Args:
        vectors: float32 ``[rows, width]``, not standardised.
        targets: float64 ``[rows, columns]``, the real numbers first.
        division: the parts.
        penalties: among which each is chosen; where there are too few parts it is 1.
        check: is called between regressions, to end work that nobody waits for.
        choose: whether this place is one of several among which folds choose.
    """
    part, tested, inner = division
    if len(penalties) > 1 and not inner:
        penalties = np.ones(1)
    inner = inner and (choose or len(penalties) > 1)
    numbers = frozenset(part[part >= 0].tolist())
    outer: list[Held] = [*tested] if len(tested) == 1 else [*tested, frozenset()]
    # Errors of each penalty and column, for each set of parts whose regression is tested.
    errors = {out: np.zeros((len(penalties), targets.shape[1])) for out in outer}
    # The one of all rows goes by the folds' own regressions.
    pairs = {out | {one} for out in tested for one in numbers - out} if inner else set()
    places = {number: np.flatnonzero(part == number) for number in numbers}
    parts = Parts(vectors, targets, part, [*pairs, *outer])
    for held in sorted(pairs, key=sorted):
        check()
        path = parts.path(held)
        for out in tested:
            rest = held - out
            if out < held and len(rest) == 1:
                rows = places[next(iter(rest))]
                for some in _blocks(rows):
                    projected = path.projected(vectors[some])
                    errors[out] += path.errors(projected, targets[some], penalties)
    predicted = np.full(targets.shape, np.nan)
    own_penalties = []
    kept: Path | None = None
    for out in tested:
        check()
        kept = path = parts.path(out)
        rows = np.concatenate([places[number] for number in sorted(out)])
        best = penalties[errors[out].argmin(0)]
        own_penalties.append(float(best[0]))
        for some in _blocks(rows):
            projected = path.projected(vectors[some])
            predicted[some] = path.predicted(projected, best)
            if len(tested) > 1:
                errors[frozenset()] += path.errors(projected, targets[some], penalties)
    if len(tested) > 1:
        check()
        kept = parts.path(outer[-1])
    assert kept is not None
    choosing = None
    if inner:
        trained = [targets[(part >= 0) & ~np.isin(part, list(out)), 0] for out in tested]
        choosing = np.array(
            [
                1 - errors[out][:, 0].min() / np.square(y - y.mean()).sum()
                for out, y in zip(tested, trained, strict=True)
            ]
        )
    penalty = float(penalties[errors[outer[-1]][:, 0].argmin()])
    return Found(predicted, kept, penalty, own_penalties, len(penalties) > 1, choosing)


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    """Return the rows, a number of them at a time that fits into memory with their axes."""
    return np.array_split(rows, 1 + len(rows) // _BLOCK)
