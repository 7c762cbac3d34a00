"""How well predicted numbers agree with true ones: R² and Spearman's rho, with intervals.

R² is that of all tested rows together, as scikit-learn's ``r2_score`` of its
``cross_val_predict``: one less the squared errors in parts of those of the mean. Rho is the mean
over the folds of the correlation of ranks within each: the mean of a fold's training rows is the
lower, the higher those that it tests, which orders rows of different folds the wrong way round.

Both variances come from what each row adds to the error (for rho that of ranks which are
estimated too, Croux and Dehon 2010), rows of a group added up first. The folds of a
cross-validation share training rows, and the variance is multiplied as that of an AUROC is
(:mod:`actstore.analysis.statistics.metrics`), with ``1 - R²`` and ``1 - |rho|`` in the place of
``2 * min(a, 1 - a)``. Intervals are Student's with as many degrees of freedom as there are groups
less one, on the scales of ``log(1 - R²)`` and of Fisher's z. Of few groups that is too narrow for
R², whose interval is at least the jackknife's, groups being left out one by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from actstore.analysis.statistics import metrics
from actstore.analysis.statistics.folds import Fold
from actstore.analysis.statistics.metrics import LEVEL, Dependence, IntervalEstimate
from actstore.analysis.statistics.paired import PairedDifference

_LEARNT = 2.0
"""How much more training adds to the variance of R² than to that of an order: with a signal, far
from the best weights, what a row teaches adds to what it tests."""
_CHOICE = 12.0
"""Over the number of groups, what R² varies at least by the choice of penalties: where folds choose
the largest, each number is predicted to be the mean, and its error says nothing of that."""
_FAR = 50.0
"""Beyond any end of an interval, on either scale."""


def r2(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return R² of each column; 0 where the truth does not vary.

    Args:
        predicted: ``[rows, columns]``.
        truth: of the same shape.
    """
    errors = np.square(predicted - truth).sum(0)
    total = np.square(truth - truth.mean(0)).sum(0)
    found: np.ndarray = np.where(total > 0, 1 - errors / np.where(total > 0, total, 1), 0.0)
    return found


def spearman(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the correlation of ranks in each column; 0 where one side does not vary.

    Args:
        predicted: ``[rows, columns]``.
        truth: of the same shape.
    """
    one, other = (metrics.ranks(each) - (len(each) + 1) / 2 for each in (predicted, truth))
    spread = np.sqrt(np.square(one).sum(0) * np.square(other).sum(0))
    found: np.ndarray = np.where(
        spread > 0, (one * other).sum(0) / np.where(spread > 0, spread, 1), 0.0
    )
    return found


def mean_spearman(predicted: np.ndarray, truth: np.ndarray, folds: Sequence[Fold]) -> np.ndarray:
    """Return the mean of the folds' correlations of ranks in each column."""
    found: np.ndarray = np.mean(
        [spearman(predicted[fold.test], truth[fold.test]) for fold in folds], axis=0
    )
    return found


def r2_interval(
    predicted: np.ndarray,
    truth: np.ndarray,
    groups: np.ndarray,
    folds: Sequence[Fold],
    width: int | None = None,
) -> IntervalEstimate:
    """Return R² of the tested rows with its interval.

    Args:
        predicted: float ``[rows]``; of each row, by the probe that did not see it.
        truth: float ``[rows]``.
        groups: int64 ``[rows]``.
        folds: which of them were tested.
        width: dimensions that the probes had; where it is missing, the interval is that of
            probes with many more dimensions than rows.
    """
    found = _r2(predicted, truth, folds)
    left = 1 - found.value
    tested = np.concatenate([fold.test for fold in folds])
    if left <= 0 or np.ptp(truth[tested]) == 0:  # all is told, or there is nothing to tell
        return IntervalEstimate(found.value, found.value, found.value)
    factor = Dependence.of(folds, groups, width, None)
    reach = _reach(found.rows, groups, folds) / left
    number = _count(groups, folds)
    reach = max(reach, _without_each(predicted[tested], truth[tested], groups[tested]))
    # The tested rows are nearer to their own mean than to that of all there are.
    at = math.log(left * (number - 1) / number)
    least = _CHOICE / number if len(folds) > 1 else 0.0

    def near(other: float) -> bool:
        root = _root(factor, 1 - math.exp(other), _LEARNT)
        return abs(at - other) < max(least, reach * root)

    high, low = (1 - math.exp(metrics.bound(at, at + sign * _FAR, near)) for sign in (-1, 1))
    return IntervalEstimate(found.value, low, high)


def spearman_interval(
    predicted: np.ndarray,
    truth: np.ndarray,
    groups: np.ndarray,
    folds: Sequence[Fold],
    width: int | None = None,
) -> IntervalEstimate:
    """Return the folds' mean rho with its interval; arguments as :func:`r2_interval` has them."""
    value = 0.0
    rows = np.zeros(len(truth))
    for fold in folds:
        rho, share = _rho(predicted[fold.test], truth[fold.test], groups[fold.test])
        value += rho / len(folds)
        rows[fold.test] += share / len(folds)
    factor = Dependence.of(folds, groups, width, None)
    if abs(value) >= 1 - 1e-12:
        end = _least(groups, folds, factor)
        ends = (end, 1.0) if value > 0 else (-1.0, -end)
        return IntervalEstimate(value, *ends)
    reach = _reach(rows, groups, folds) / (1 - value**2)
    at = math.atanh(value)

    def near(other: float) -> bool:
        return abs(at - other) < reach * _root(factor, abs(math.tanh(other)))

    low, high = (math.tanh(metrics.bound(at, at + sign * _FAR, near)) for sign in (-1, 1))
    return IntervalEstimate(value, low, high)


def r2_difference(
    predicted: np.ndarray,
    other: np.ndarray,
    truth: np.ndarray,
    groups: np.ndarray,
    folds: Sequence[Fold],
    width: int | None = None,
) -> PairedDifference:
    """Return the difference of two R² with its interval, paired by row and group.

    Args:
        predicted: float ``[rows]``; of each row, by the probe that did not see it.
        other: those that they are compared with.
        truth: float ``[rows]``.
        groups: int64 ``[rows]``.
        folds: of both.
        width: dimensions that the probes had.
    """
    one, two = _r2(predicted, truth, folds), _r2(other, truth, folds)
    factor = Dependence.of(folds, groups, width, None)
    root = max(_root(factor, each.value, _LEARNT) for each in (one, two))
    apart = (one.rows - two.rows) * root
    value, reach = one.value - two.value, _reach(apart, groups, folds)
    freedom = _count(groups, folds) - 1
    shares, error = np.bincount(groups, apart), reach / _multiple(freedom)
    return PairedDifference(value, value - reach, value + reach, shares, error, freedom)


class _Influence(NamedTuple):
    value: float
    rows: np.ndarray
    """What each row adds to its error, 0 of rows that are not tested."""


def _r2(predicted: np.ndarray, truth: np.ndarray, folds: Sequence[Fold]) -> _Influence:
    tested = np.concatenate([fold.test for fold in folds])
    errors = np.square(predicted[tested] - truth[tested])
    apart = np.square(truth[tested] - truth[tested].mean())
    rows = np.zeros(len(truth))
    if apart.sum() == 0:
        return _Influence(0.0, rows)
    left = errors.sum() / apart.sum()
    rows[tested] = (left * apart - errors) / apart.sum()
    return _Influence(float(1 - left), rows)


def _rho(predicted: np.ndarray, truth: np.ndarray, groups: np.ndarray) -> tuple[float, np.ndarray]:
    """Return one fold's correlation of ranks, and what each row adds to its error."""
    count = len(truth)
    one, other = (
        (metrics.ranks(each[:, None])[:, 0] - 0.5) / count - 0.5 for each in (predicted, truth)
    )
    spreads = float(np.square(one).mean()), float(np.square(other).mean())
    if not min(spreads) > 0:
        return 0.0, np.zeros(count)
    both = one * other + _above(other, predicted) + _above(one, truth)
    alone = [
        np.square(own) + 2 * _above(own, values)
        for own, values in ((one, predicted), (other, truth))
    ]
    joint = math.sqrt(spreads[0] * spreads[1])
    rho = float((one * other).mean()) / joint
    share = (both - both.mean()) / joint
    for own, spread in zip(alone, spreads, strict=True):
        share -= rho / 2 * (own - own.mean()) / spread
    size = len(np.unique(groups))
    return rho, share / count * math.sqrt(size / max(size - 1, 1))


def _above(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the sum of the weights of rows with larger values, equal ones half, over all rows."""
    _, codes = np.unique(values, return_inverse=True)
    each = np.bincount(codes, weights)
    found: np.ndarray = (each[::-1].cumsum()[::-1] - each / 2)[codes] / len(values)
    return found


def _reach(rows: np.ndarray, groups: np.ndarray, folds: Sequence[Fold]) -> float:
    tested = np.concatenate([fold.test for fold in folds])
    _, codes = np.unique(groups[tested], return_inverse=True)
    sums = np.bincount(codes, rows[tested])
    number = len(sums)
    variance = float(np.square(sums).sum()) * number / (number - 1)
    return _multiple(number - 1) * math.sqrt(variance)


def _without_each(predicted: np.ndarray, truth: np.ndarray, groups: np.ndarray) -> float:
    """Return how far ``log(1 - R²)`` reaches by the jackknife, groups being left out one by one.

    What rows add to the error is too little of few groups, where the variance of the truth is
    hardly known. 0 where the rest without a group tells nothing.
    """
    _, codes = np.unique(groups, return_inverse=True)
    count = int(codes.max()) + 1
    apart = truth - truth.mean()
    sizes = np.bincount(codes)
    errors, sums, squares = (
        np.bincount(codes, each) for each in (np.square(predicted - truth), apart, np.square(apart))
    )
    rest = (
        squares.sum() - squares - np.square(sums.sum() - sums) / np.maximum(sizes.sum() - sizes, 1)
    )
    left = errors.sum() - errors
    if not (rest > 1e-12 * squares.sum()).all() or not (left > 1e-12 * errors.sum()).all():
        return 0.0
    each = np.log(left / rest)
    variance = (count - 1) / count * float(np.square(each - each.mean()).sum())
    return _multiple(count - 1) * math.sqrt(variance)


def _least(groups: np.ndarray, folds: Sequence[Fold], factor: Dependence) -> float:
    """Return the lower end of rho where every fold's order is right, which has no error to see.

    On Fisher's scale from half the way to the next smaller value that there is, with the variance
    of a correlation (Bonett and Wright 2000) of as many groups as folds have, less one for each.
    """
    counts = [len(np.unique(groups[fold.test])) for fold in folds]
    size = min(counts)
    near = 1 - 6 / (size * (size**2 - 1)) / len(folds)
    free = sum(count - 1 for count in counts) - 3
    if free <= 0:
        return -1.0
    error = math.sqrt((1 + near**2 / 2) / free) * _root(factor, near)
    return math.tanh(math.atanh(near) - metrics.NORMAL * error)


def _multiple(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.5 + LEVEL / 2, freedom))


def _count(groups: np.ndarray, folds: Sequence[Fold]) -> int:
    return len(np.unique(groups[np.concatenate([fold.test for fold in folds])]))


def _root(factor: Dependence, value: float, part: float = 1.0) -> float:
    return factor.root((1 + min(max(value, 0.0), 1.0)) / 2, part)
