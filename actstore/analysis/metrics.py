"""AUROC and accuracy with confidence intervals that know about groups and folds.

The AUROC is the mean over the folds' own, as scikit-learn's ``cross_val_score`` has it.
Its variance is DeLong's, the contributions of a group's rows added up before they are
squared (so that many rows of one question do not count as many questions). The folds of a
cross-validation share training rows, and their results vary together; the variance is
multiplied by ``1 + tested rows / training rows * folds`` as Nadeau and Bengio (2003) do.
The interval is symmetric on the logit scale; where the classes are separated wholly and
DeLong's variance is zero, it is Newcombe's (2006, method 5). Accuracies have Wilson
intervals with the number of rows that the same variance amounts to. A few groups of many
rows say little about how groups vary (of one group, the contributions add up to nothing):
the interval is then at least as wide as that of one row for each group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from actstore.analysis.folds import Fold

LEVEL = 0.95
_Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
_FEW_IN_FOLD, _FEW = 3, 10
"""Groups of a class in one fold, and in all, below which their variance is not relied on."""
_NOTHING = 1e-20
"""Variances below it are what rounding leaves of zero."""


class Estimate(NamedTuple):
    """A number between 0 and 1, and its 95 % confidence interval."""

    value: float
    low: float
    high: float


def ranks(scores: np.ndarray) -> np.ndarray:
    """Return each score's rank in its column from 1, ties sharing their mean; float64.

    Args:
        scores: ``[rows, columns]``.
    """
    order = np.argsort(scores, axis=0, kind="stable")
    ascending = np.take_along_axis(scores, order, axis=0)
    rows = np.arange(len(scores))[:, None]
    fresh = np.ones(scores.shape, bool)
    fresh[1:] = ascending[1:] != ascending[:-1]
    last = np.ones(scores.shape, bool)
    last[:-1] = fresh[1:]
    first = np.maximum.accumulate(np.where(fresh, rows, 0), axis=0)
    final = np.minimum.accumulate(np.where(last, rows, len(scores))[::-1], axis=0)[::-1]
    found = np.empty(scores.shape)
    np.put_along_axis(found, order, (first + final) / 2 + 1, axis=0)
    return found


def auroc(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve of each column; NaN where a class is missing.

    Args:
        scores: ``[rows]`` or ``[rows, columns]``.
        positive: bool of the same shape, or ``[rows]``.

    Returns:
        float64 ``[columns]``; of ``[rows]`` a scalar array.
    """
    matrix = scores[:, None] if scores.ndim == 1 else scores
    labels = positive[:, None] if positive.ndim == 1 else positive
    labels = np.broadcast_to(labels, matrix.shape)
    count = labels.sum(0)
    others = len(matrix) - count
    total = np.where(labels, ranks(matrix), 0).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        area = (total - count * (count + 1) / 2) / (count * others)
    found: np.ndarray = area[0] if scores.ndim == 1 else area
    return found


def auroc_interval(
    scores: np.ndarray, positive: np.ndarray, groups: np.ndarray, folds: Sequence[Fold]
) -> Estimate:
    """Return the mean AUROC of the folds with its interval.

    Args:
        scores: float ``[rows]``; of each row, by the probe that did not see it.
        positive: bool ``[rows]``.
        groups: int64 ``[rows]``.
        folds: each with both classes among its tested rows.
    """
    influence = np.zeros(len(scores))
    areas = []
    for fold in folds:
        value, share = _placements(scores[fold.test], positive[fold.test])
        areas.append(value)
        influence[fold.test] += share / len(folds)
    area = float(np.mean(areas))
    tested = np.concatenate([fold.test for fold in folds])
    factor = _dependence(folds)
    variance = _clustered(influence[tested], groups[tested]) * factor
    sides = [_groups(groups, positive == side, tested) for side in (True, False)]
    widest = _newcombe(area, sides[0] / factor, sides[1] / factor)
    if area in (0.0, 1.0) or variance <= _NOTHING:
        return Estimate(area, *widest)
    logit = math.log(area / (1 - area))
    reach = _Z * math.sqrt(variance) / (area * (1 - area))
    low, high = _expit(logit - reach), _expit(logit + reach)
    if _repeated(groups, tested) and any(
        _groups(groups, positive == side, fold.test) < _FEW_IN_FOLD
        for fold in folds
        for side in (True, False)
    ):
        low, high = min(low, widest[0]), max(high, widest[1])
    return Estimate(area, low, high)


def accuracy_interval(right: np.ndarray, groups: np.ndarray, folds: Sequence[Fold]) -> Estimate:
    """Return the share of rows that were classified rightly with its interval.

    Args:
        right: bool ``[rows]``.
        groups: int64 ``[rows]``.
        folds: which of them were tested.
    """
    tested = np.concatenate([fold.test for fold in folds])
    hits = right[tested].astype(float)
    share = float(hits.mean())
    factor = _dependence(folds)
    variance = _clustered((hits - share) / len(hits), groups[tested]) * factor
    there = len(np.unique(groups[tested]))
    number = most = there / factor
    if variance > _NOTHING:
        number = share * (1 - share) / variance
    if there < _FEW and _repeated(groups, tested):
        number = min(number, most)
    return Estimate(share, *wilson(share, number))


def wilson(share: float, number: float) -> tuple[float, float]:
    """Return Wilson's interval of a share among ``number`` rows."""
    square = _Z * _Z / number
    middle = (share + square / 2) / (1 + square)
    reach = math.sqrt(share * (1 - share) / number * _Z * _Z + square * square / 4) / (1 + square)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def _placements(scores: np.ndarray, positive: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the AUROC and what each row adds to its error (DeLong's placements)."""
    count = int(positive.sum())
    others = len(positive) - count
    overall = ranks(scores[:, None])[:, 0]
    inside = np.empty(len(scores))
    for side in (True, False):
        inside[positive == side] = ranks(scores[positive == side][:, None])[:, 0]
    # Of a positive row: the share of negatives below it. Of a negative one: of positives above.
    below = overall - inside
    value = float(below[positive].mean() / others)
    share = np.where(
        positive, (below / others - value) / count, (1 - below / count - value) / others
    )
    # Placements are compared with their own mean; n / (n - 1) makes the variance unbiased.
    for side, size in ((True, count), (False, others)):
        if size > 1:
            share[positive == side] *= math.sqrt(size / (size - 1))
    return value, share


def _groups(groups: np.ndarray, side: np.ndarray, rows: np.ndarray) -> int:
    return len(np.unique(groups[rows][side[rows]]))


def _repeated(groups: np.ndarray, rows: np.ndarray) -> bool:
    return len(np.unique(groups[rows])) < len(rows)


def _clustered(influence: np.ndarray, groups: np.ndarray) -> float:
    _, codes = np.unique(groups, return_inverse=True)
    return float(np.square(np.bincount(codes, influence)).sum())


def _dependence(folds: Sequence[Fold]) -> float:
    if len(folds) == 1:
        return 1.0
    tested = sum(len(fold.test) for fold in folds)
    trained = sum(len(fold.train) for fold in folds)
    return 1 + len(folds) * tested / trained


def _newcombe(area: float, positives: float, negatives: float) -> tuple[float, float]:
    """Return the values whose Hanley-McNeil error just reaches from ``area``, by bisection."""
    positives, negatives = max(positives, 1.0), max(negatives, 1.0)
    steady = (positives + negatives) / 2 - 1

    def error(value: float) -> float:
        spread = value * (1 - value) / (positives * negatives)
        bracket = 1 + steady * (1 - value) / (2 - value) + steady * value / (1 + value)
        return _Z * math.sqrt(max(spread * bracket, 0.0))

    def bound(outer: float) -> float:
        inside, outside = area, outer
        for _ in range(60):
            middle = (inside + outside) / 2
            if abs(middle - area) < error(middle):
                inside = middle
            else:
                outside = middle
        return (inside + outside) / 2

    return bound(0.0), bound(1.0)


def _expit(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0
