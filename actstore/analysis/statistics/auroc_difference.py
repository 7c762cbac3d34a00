"""How much larger one AUROC is than another of the same rows, with an interval.

What each row adds to the error of one is taken off what it adds to that of the other, and
added up within its group (DeLong, Obuchowski 1997): the two are paired. How much groups vary is
known from as many as there are, so the interval is Student's. Its degrees of freedom are those of
Welch and Satterthwaite: each class of each fold varies about a mean of its own and has its groups
less one, or, where groups have rows of several classes, no more than all groups of a fold less one
(Bell and McCaffrey 2002 say why a normal distribution is too sure of few clusters). With the
normal distribution's 1.96, intervals of one test part with two to five groups left out the truth in
9 to 33 % of simulations; with Student's it is 2 to 6 %.

Where a class has fewer than ten groups, their sums may cancel by chance: the interval is then at
least as wide as if each row were its own group. Where a fold tests one group only of a class,
nothing shows how groups vary within it, and the interval is at least the one that the two AUROCs'
own make (Zou and Donner 2008).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from actstore.analysis.statistics import metrics
from actstore.analysis.statistics.folds import Fold
from actstore.analysis.statistics.metrics import (
    FEW,
    NORMAL,
    NOTHING,
    Dependence,
    Influence,
    IntervalEstimate,
)
from actstore.analysis.statistics.paired import PairedDifference


def auroc_difference(
    scores: np.ndarray,
    other: np.ndarray,
    positive: np.ndarray,
    groups: np.ndarray,
    folds: Sequence[Fold],
    width: int | None = None,
) -> PairedDifference:
    """Return the difference of two AUROCs with its interval, paired by row and group.

    Args:
        scores: float ``[rows]``; of each row, by the probe that did not see it.
        other: those that they are compared with.
        positive: bool ``[rows]``.
        groups: int64 ``[rows]``.
        folds: of both.
        width: dimensions that the probes had.
    """
    one = metrics.influence(scores, positive, groups, folds)
    two = metrics.influence(other, positive, groups, folds)
    return _difference(one, two, positive, groups, folds, width)


def macro_auroc_difference(
    scores: np.ndarray,
    other: np.ndarray,
    codes: np.ndarray,
    groups: np.ndarray,
    folds: Sequence[Fold],
    width: int | None = None,
) -> PairedDifference:
    """Return the difference of two macro AUROCs, as :func:`auroc_difference` does.

    Args:
        scores: float ``[rows, classes]``; of each row, by probes that did not see it.
        other: those that they are compared with.
        codes: class of each row, int64 ``[rows]``.
        groups: int64 ``[rows]``.
        folds: of both.
        width: dimensions that the probes had.
    """
    one = metrics.macro_influence(scores, codes, groups, folds)
    two = metrics.macro_influence(other, codes, groups, folds)
    return _difference(one, two, codes, groups, folds, width)


def _difference(
    one: Influence,
    two: Influence,
    classes: np.ndarray,
    groups: np.ndarray,
    folds: Sequence[Fold],
    width: int | None,
) -> PairedDifference:
    rare = classes if classes.dtype == bool else metrics.rarest(classes)
    factor = Dependence.of(folds, groups, width, rare)
    # Of two factors the larger one: what both have in common is not known.
    root = max(factor.root(one.area), factor.root(two.area))
    apart = (one.rows - two.rows) * root
    shares = np.bincount(groups, apart)
    parts = [fold.test for fold in folds]
    freedom = metrics.freedom(apart, classes, groups, parts)
    multiple = metrics.multiple(freedom)
    value = one.area - two.area
    reach = multiple * math.sqrt(float(np.square(shares).sum()))
    tested = np.concatenate(parts)
    if min(metrics.group_count(groups, rare == side, tested) for side in (True, False)) < FEW:
        reach = max(reach, NORMAL * math.sqrt(float(np.square(apart).sum())))
    low, high = value - reach, value + reach
    first = metrics.interval_of(one, rare, groups, folds, factor)
    second = metrics.interval_of(two, rare, groups, folds, factor)
    if any(metrics.lone(groups, classes, part) for part in parts):
        # Zou and Donner's, as if the two had nothing in common.
        low = min(low, value - math.hypot(one.area - first.low, second.high - two.area))
        high = max(high, value + math.hypot(first.high - one.area, two.area - second.low))
    certain = [float(np.square(each.rows).sum()) <= NOTHING for each in (one, two)]
    if any(certain):
        # Wholly separated classes are not certain, and scores that are all one have no error.
        if two.area == 0.5 and certain[1]:
            second = IntervalEstimate(0.5, 0.5, 0.5)
        low, high = min(low, first.low - second.high), max(high, first.high - second.low)
    error = max(value - low, high - value) / multiple
    return PairedDifference(value, max(low, -1.0), min(high, 1.0), shares, error, freedom)
