"""The mean of some examples with its interval, where examples may belong together.

Student's interval of the mean. What rows of one group add to its error is added up before it is
squared, so that two statements on one city do not count as two cities; the freedom is that of the
groups.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from actstore.analysis.statistics.metrics import LEVEL

_NORMAL = 2000
"""Degrees of freedom from which on Student's quantiles are the normal ones to three digits."""


class MeanEstimate(NamedTuple):
    """A mean, and its 95 % confidence interval."""

    value: float
    low: float
    high: float


def mean_interval(values: np.ndarray, groups: np.ndarray) -> MeanEstimate:
    """Return the mean of values with its interval; of a single group the interval is infinite.

    Args:
        values: ``[rows]``, all finite.
        groups: ``[rows]``: rows of one number belong together.
    """
    own = values.astype(np.float64)
    mean = float(own.mean())
    _, codes = np.unique(groups, return_inverse=True)
    sums = np.bincount(codes, own - mean)
    count = len(sums)
    if count < 2:
        return MeanEstimate(mean, -math.inf, math.inf)
    error = math.sqrt(count / (count - 1) * float(np.square(sums).sum())) / len(own)
    reach = student(count - 1) * error
    return MeanEstimate(mean, mean - reach, mean + reach)


def student(freedom: int, level: float = LEVEL) -> float:
    """Return what Student's t of so many degrees of freedom stays within, at that level."""
    if freedom >= _NORMAL:
        return NormalDist().inv_cdf(0.5 + level / 2)
    low, high = 0.0, 1.0
    while _within(high, freedom) < level:
        low, high = high, 2 * high
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """Return how likely it is that t lies between -t and t (Abramowitz and Stegun 26.7.3-4)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(angle)
    odd = freedom % 2
    if freedom == 1:
        return 2 * angle / math.pi
    term = cosine if odd else 1.0
    total = term
    for step in range(2 + odd, freedom, 2):
        term *= (step - 1) / step * cosine**2
        total += term
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total
