"""AUROC and accuracy with confidence intervals that know about groups and folds.

What an interval is for is the mean AUROC (or accuracy) on new data of probes that are trained
on as many rows as those of the folds were. The AUROC is the mean over the folds' own, as
scikit-learn's ``cross_val_score`` has it. Its variance is DeLong's, the contributions of a
group's rows added up before they are squared (Obuchowski 1997), so that many rows of one
question do not count as many questions.

The folds of a cross-validation share training rows, and their results vary together. Without
signal what row i teaches about row j is what j teaches about i, so each product is counted
twice: the variance is twice DeLong's, however many folds there are. With signal less of what
varies comes from training, the less so the fewer dimensions there are to be misled by. The
factor is ``1 + (2 * min(a, 1 - a)) ** p`` with ``p`` a fifth of the training groups for each
dimension, 1 at most: simulations gave the power (``benchmarks/coverage.py``); Nadeau and
Bengio's (2003) would be 2.25 for five folds whatever the AUROC. Since it depends on the AUROC,
each end of the interval is where the value just lies within its own reach, on the logit scale,
as in Wilson's interval for a share.

Where the classes are separated wholly and DeLong's variance is zero, the interval is Newcombe's
(2006, method 5), and it is at least that where a class has fewer than ten groups. Accuracies have
Wilson intervals with the number of rows that the same variance amounts to. A few groups of many
rows say little about how groups vary (of one group, the contributions add up to nothing): the
interval is then at least as wide as that of one row for each group. Where groups have several rows
it is Student's, with as many degrees of freedom as groups leave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from actstore.analysis.statistics.folds import Fold

LEVEL = 0.95
NORMAL = NormalDist().inv_cdf(0.5 + LEVEL / 2)
"""Standard errors that an interval reaches where these are known well."""
_FEW_IN_FOLD, FEW = 3, 10
"""Groups of a class in one fold, and in all, below which their variance is not relied on."""
_PLENTY = 5
"""Groups for each dimension from which on training is no longer misled much."""
_LINE = 0.8
"""Part of what training adds to the variance of an AUROC that it adds to an accuracy's."""
NOTHING = 1e-20
"""Variances below it are what rounding leaves of zero."""


class IntervalEstimate(NamedTuple):
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


class Influence(NamedTuple):
    """An AUROC and what each row adds to its error."""

    area: float
    rows: np.ndarray
    """Float64 ``[rows]``, 0 of rows that are not tested."""


def influence(
    scores: np.ndarray, positive: np.ndarray, groups: np.ndarray, folds: Sequence[Fold]
) -> Influence:
    """Return the mean AUROC of the folds, and each row's part in its error (DeLong's).

    Args:
        scores: float ``[rows]``; of each row, by the probe that did not see it.
        positive: bool ``[rows]``.
        groups: int64 ``[rows]``.
        folds: each with both classes among its tested rows.
    """
    rows = np.zeros(len(scores))
    areas = []
    for fold in folds:
        value, share = _placements(scores[fold.test], positive[fold.test], groups[fold.test])
        areas.append(value)
        rows[fold.test] += share / len(folds)
    area, count = float(np.mean(areas)), len(folds)
    for fold, value in zip(folds, areas, strict=True):
        sides = [fold.test[positive[fold.test] == side] for side in (True, False)]
        lone = [own for own in sides if len(np.unique(groups[own])) == 1]
        if not lone:
            continue
        # A class's only group is its own mean: how groups of it vary shows between folds. Of one
        # in all nothing shows, and it may be as far from the truth as it is from chance.
        apart = (value - area) / math.sqrt(count * (count - 1)) if count > 1 else value - 0.5
        own = np.concatenate(lone)
        _, codes, sizes = np.unique(groups[own], return_inverse=True, return_counts=True)
        rows[own] += apart / math.sqrt(len(sizes)) / sizes[codes]
    return Influence(area, rows)


def auroc_interval(
    scores: np.ndarray,
    positive: np.ndarray,
    groups: np.ndarray,
    folds: Sequence[Fold],
    width: int | None = None,
) -> IntervalEstimate:
    """Return the mean AUROC of the folds with its interval.

    Args:
        scores: float ``[rows]``; of each row, by the probe that did not see it.
        positive: bool ``[rows]``.
        groups: int64 ``[rows]``.
        folds: each with both classes among its tested rows.
        width: dimensions that the probes had; where it is missing, the interval is that of
            probes with many more dimensions than rows.
    """
    found = influence(scores, positive, groups, folds)
    factor = Dependence.of(folds, groups, width, positive)
    return interval_of(found, positive, groups, folds, factor)


def macro_influence(
    scores: np.ndarray, codes: np.ndarray, groups: np.ndarray, folds: Sequence[Fold]
) -> Influence:
    """Return the mean over classes of one class's AUROC against the rest, and rows' parts in it.

    Args:
        scores: float ``[rows, classes]``; of each row, by probes that did not see it.
        codes: class of each row, int64 ``[rows]``.
        groups: int64 ``[rows]``.
        folds: each with all classes among its tested rows.
    """
    each = [
        influence(scores[:, code], codes == code, groups, folds) for code in range(scores.shape[1])
    ]
    return Influence(
        float(np.mean([one.area for one in each])), np.mean([one.rows for one in each], axis=0)
    )


def macro_auroc_interval(
    scores: np.ndarray,
    codes: np.ndarray,
    groups: np.ndarray,
    folds: Sequence[Fold],
    width: int | None = None,
) -> IntervalEstimate:
    """Return the macro AUROC of several classes with its interval, as :func:`auroc_interval` does.

    What depends on the size of a class goes by the rarest one. Where that has a dozen rows the
    interval is somewhat too narrow all the same (``docs/numbers.md``).

    Args:
        scores: float ``[rows, classes]``; of each row, by probes that did not see it.
        codes: class of each row, int64 ``[rows]``.
        groups: int64 ``[rows]``.
        folds: each with all classes among its tested rows.
        width: dimensions that the probes had.
    """
    found, rare = macro_influence(scores, codes, groups, folds), rarest(codes)
    factor = Dependence.of(folds, groups, width, rare)
    return interval_of(found, rare, groups, folds, factor)


def interval_of(
    found: Influence,
    positive: np.ndarray,
    groups: np.ndarray,
    folds: Sequence[Fold],
    factor: Dependence,
) -> IntervalEstimate:
    """Return the interval of an AUROC whose rows' parts in its error are known.

    Args:
        found: both.
        positive: bool ``[rows]``; of several classes which rows are of the rarest.
        groups: int64 ``[rows]``.
        folds: as :func:`influence` had them.
        factor: how much more the folds vary together.
    """
    area, shares = found
    tested = np.concatenate([fold.test for fold in folds])
    variance = _clustered(shares[tested], groups[tested])
    sides = [group_count(groups, positive == side, tested) for side in (True, False)]
    widest = _newcombe(area, sides[0], sides[1], factor)
    if area in (0.0, 1.0) or variance <= NOTHING:
        return IntervalEstimate(area, *widest)
    logit = math.log(area / (1 - area))
    times = NORMAL
    if _repeated(groups, tested):
        times = multiple(freedom(shares, positive, groups, [fold.test for fold in folds]))
    reach = times * math.sqrt(variance) / (area * (1 - area))
    low, high = (
        bound(area, outer, lambda value: abs(logit - _logit(value)) < reach * factor.root(value))
        for outer in (0.0, 1.0)
    )
    if min(sides) < FEW or (
        _repeated(groups, tested)
        and any(
            group_count(groups, positive == side, fold.test) < _FEW_IN_FOLD
            for fold in folds
            for side in (True, False)
        )
    ):
        low, high = min(low, widest[0]), max(high, widest[1])
    return IntervalEstimate(area, low, high)


def accuracy_interval(
    right: np.ndarray,
    groups: np.ndarray,
    folds: Sequence[Fold],
    width: int | None = None,
    labels: np.ndarray | None = None,
) -> IntervalEstimate:
    """Return the share of rows that were classified rightly with its interval.

    Args:
        right: bool ``[rows]``.
        groups: int64 ``[rows]``.
        folds: which of them were tested.
        width: dimensions that the probes had.
        labels: class of each row, bool or int64 ``[rows]``; the interval is then for new data
            with as large a part of each class, as the accuracy of naming the most frequent
            class is.
    """
    tested = np.concatenate([fold.test for fold in folds])
    hits = right[tested].astype(float)
    share = float(hits.mean())
    rare = None if labels is None else labels if labels.dtype == bool else rarest(labels)
    factor = Dependence.of(folds, groups, width, rare)
    apart = hits - share
    if labels is not None:
        for label in np.unique(labels):
            side = labels == label
            own = side[tested]
            size = group_count(groups, side, tested)
            if size > 1:
                apart[own] = (hits[own] - hits[own].mean()) * math.sqrt(size / (size - 1))
    variance = _clustered(apart / len(hits), groups[tested])
    there = len(np.unique(groups[tested]))
    number, times = float(there), NORMAL
    if variance > NOTHING:
        number = share * (1 - share) / variance
        if _repeated(groups, tested):
            classes = np.zeros(len(right), bool) if labels is None else labels
            shares = np.zeros(len(right))
            shares[tested] = apart
            times = multiple(freedom(shares, classes, groups, [tested]))
    if there < FEW and _repeated(groups, tested):
        number = min(number, there)

    def near(value: float) -> bool:
        error = times * factor.root(value, _LINE) * math.sqrt(value * (1 - value) / number)
        return abs(value - share) < error

    # Wilson's interval, whose ends are where a value's own error just reaches the share.
    return IntervalEstimate(share, bound(share, 0.0, near), bound(share, 1.0, near))


def freedom(
    shares: np.ndarray, classes: np.ndarray, groups: np.ndarray, parts: Sequence[np.ndarray]
) -> float:
    """Return the degrees of freedom of the variance of groups' sums, 1 at least.

    Welch's and Satterthwaite's: each class of each part varies about a mean of its own, and has
    its groups less one. Where groups have rows of several classes, there are no more than a part's
    groups less one. What is the only group of its class in a part varies about the mean of parts.

    Args:
        shares: what each row adds to the error, float ``[rows]``.
        classes: class of each row, bool or int64 ``[rows]``.
        groups: int64 ``[rows]``.
        parts: positions of the rows of each part.
    """
    variance = spread = alone = 0.0
    most = single = 0
    for part in parts:
        most += max(len(np.unique(groups[part])) - 1, 1)
        single += lone(groups, classes, part)
        for label in np.unique(classes[part]):
            rows = part[classes[part] == label]
            names, codes = np.unique(groups[rows], return_inverse=True)
            own = float(np.square(np.bincount(codes, shares[rows])).sum())
            variance += own
            if len(names) > 1:
                spread += own**2 / (len(names) - 1)
            else:
                alone += own
    spread += alone**2 / max(single - 1, 1)
    found = variance**2 / spread if spread > 0 else most
    return min(max(found, 1.0), float(most))


def lone(groups: np.ndarray, classes: np.ndarray, rows: np.ndarray) -> bool:
    """Return whether some class has one group only among some rows."""
    return any(
        group_count(groups, classes == label, rows) == 1 for label in np.unique(classes[rows])
    )


def multiple(freedom: float) -> float:
    """Return how many standard errors an interval reaches: Student's, as they are estimated."""
    from scipy.stats import t

    return float(t.ppf(0.5 + LEVEL / 2, freedom))


class Dependence(NamedTuple):
    """By how much more the result of all folds varies than folds without common rows would."""

    folds: int
    power: float
    """A fifth of the training groups for each dimension, 1 at most; less with fewer than four
    folds."""

    @classmethod
    def of(
        cls,
        folds: Sequence[Fold],
        groups: np.ndarray,
        width: int | None,
        positive: np.ndarray | None,
    ) -> Dependence:
        """Return it for these folds, and probes with ``width`` dimensions.

        Of unequal classes the groups count as many as two equal ones of the same error.
        """
        if len(folds) < 3 or not width:
            return cls(len(folds), 0.0)
        trained = float(np.mean([len(np.unique(groups[fold.train])) for fold in folds]))
        if positive is not None:
            one, other = (
                float(
                    np.mean([group_count(groups, positive == side, fold.train) for fold in folds])
                )
                for side in (True, False)
            )
            trained = min(trained, 4 * one * other / max(one + other, 1))
        # Of two folds each probe has its own rows: what varies with them is not averaged out.
        most = min(1.0, (len(folds) - 2) / 2)
        return cls(len(folds), most * min(1.0, trained / width / _PLENTY))

    def root(self, value: float, part: float = 1.0) -> float:
        """Return the factor of a standard deviation where the true AUROC or accuracy is this.

        Args:
            value: the AUROC or accuracy.
            part: of what training adds to the variance, how much there is.
        """
        if self.folds == 1:
            return 1.0
        return math.sqrt(1 + part * (2 * min(value, 1 - value)) ** self.power)


def _placements(
    scores: np.ndarray, positive: np.ndarray, groups: np.ndarray
) -> tuple[float, np.ndarray]:
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
    # Placements are compared with their own mean: n / (n - 1) of groups makes the variance
    # unbiased.
    for side in (True, False):
        size = len(np.unique(groups[positive == side]))
        if size > 1:
            share[positive == side] *= math.sqrt(size / (size - 1))
    return value, share


def rarest(codes: np.ndarray) -> np.ndarray:
    """Return which rows are of the class that has the fewest."""
    names, counts = np.unique(codes, return_counts=True)
    found: np.ndarray = codes == names[counts.argmin()]
    return found


def group_count(groups: np.ndarray, side: np.ndarray, rows: np.ndarray) -> int:
    """Return how many groups some rows of one class are of.

    Args:
        groups: int64 ``[rows]``.
        side: which rows are of the class, bool ``[rows]``.
        rows: positions of those that are meant.
    """
    return len(np.unique(groups[rows][side[rows]]))


def _repeated(groups: np.ndarray, rows: np.ndarray) -> bool:
    return len(np.unique(groups[rows])) < len(rows)


def _clustered(influence: np.ndarray, groups: np.ndarray) -> float:
    _, codes = np.unique(groups, return_inverse=True)
    return float(np.square(np.bincount(codes, influence)).sum())


def _newcombe(
    area: float, positives: float, negatives: float, factor: Dependence
) -> tuple[float, float]:
    """Return the values whose Hanley-McNeil error just reaches from ``area``."""
    positives, negatives = max(positives, 1.0), max(negatives, 1.0)
    steady = (positives + negatives) / 2 - 1

    def near(value: float) -> bool:
        spread = value * (1 - value) / (positives * negatives)
        bracket = 1 + steady * (1 - value) / (2 - value) + steady * value / (1 + value)
        return abs(area - value) < NORMAL * factor.root(value) * math.sqrt(
            max(spread * bracket, 0.0)
        )

    return bound(area, 0.0, near), bound(area, 1.0, near)


def bound(inside: float, outside: float, near: Callable[[float], bool]) -> float:
    """Return where values stop being near on the way from one to the other, by bisection."""
    for _ in range(60):
        middle = (inside + outside) / 2
        if near(middle):
            inside = middle
        else:
            outside = middle
    return (inside + outside) / 2


def _logit(value: float) -> float:
    if value <= 0 or value >= 1:
        return math.copysign(math.inf, value - 0.5)
    return math.log(value / (1 - value))
