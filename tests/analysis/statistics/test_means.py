"""Intervals of a mean: Student's, over groups, right where there is nothing and where there is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from actstore.analysis.statistics.means import mean_interval, student


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 24, 131])
def test_quantiles_are_scipys(freedom: int) -> None:
    assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)
    assert student(freedom, 0.5) == pytest.approx(stats.t.ppf(0.75, freedom), rel=1e-9)


def test_each_row_for_itself_is_scipys_interval() -> None:
    values = np.random.default_rng(0).standard_normal(12)
    found = mean_interval(values, np.arange(12))
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert found == pytest.approx((values.mean(), expected.low, expected.high))


@pytest.mark.parametrize("effect", [0.0, 0.7])
@pytest.mark.parametrize("groups", [6, 20])
def test_it_holds_the_mean_as_often_as_it_says(effect: float, groups: int) -> None:
    """Three rows of a group have half of their noise in common."""
    draw = np.random.default_rng(7)
    codes = np.repeat(np.arange(groups), 3)
    held, naive = 0, 0
    for _ in range(1000):
        common = draw.standard_normal(groups)[codes]
        values = effect + common + draw.standard_normal(len(codes))
        found = mean_interval(values, codes)
        held += found.low <= effect <= found.high
        alone = mean_interval(values, np.arange(len(codes)))
        naive += alone.low <= effect <= alone.high
    # 1,000 draws of 95 % have a deviation of 0.7 points.
    assert 0.93 < held / 1000 < 0.97
    assert naive / 1000 < 0.9


def test_one_group_tells_nothing_of_how_groups_vary() -> None:
    found = mean_interval(np.array([1.0, 2.0]), np.array([4, 4]))
    assert found == (1.5, -math.inf, math.inf)
