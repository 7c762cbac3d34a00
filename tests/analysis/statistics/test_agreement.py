"""R² and rank correlation against scikit-learn and SciPy, their intervals against known truths."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import r2_score

from actstore.analysis.statistics import agreement, folds
from actstore.analysis.statistics.folds import Fold


def whole(count: int) -> list[Fold]:
    return [Fold(np.empty(0, np.int64), np.arange(count))]


def test_figures_are_scikit_learns_and_scipys() -> None:
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 5, (60, 3)).astype(float)
    predicted = np.round(truth + draw.standard_normal((60, 3)))
    predicted[:, 2] = 7
    columns = range(3)
    assert agreement.r2(predicted, truth) == pytest.approx(
        [r2_score(truth[:, each], predicted[:, each]) for each in columns]
    )
    assert agreement.spearman(predicted, truth)[:2] == pytest.approx(
        [spearmanr(truth[:, each], predicted[:, each]).statistic for each in range(2)]
    )
    # Where one side does not vary there is no order, and nothing is told.
    assert agreement.spearman(predicted, truth)[2] == 0
    assert agreement.r2(truth, np.full_like(truth, 2.0)).tolist() == [0, 0, 0]
    parts = folds.divisions(np.arange(60) % 3, 3)
    mean = agreement.mean_spearman(predicted, truth, parts)
    own = [spearmanr(truth[fold.test, 0], predicted[fold.test, 0]).statistic for fold in parts]
    assert mean[0] == pytest.approx(np.mean(own))


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_intervals_hold_what_is_known(rho: float, size: int) -> None:
    draw = np.random.default_rng([size, int(10 * rho)])
    # Of two normal variables: Spearman's rho by Pearson's, and R² of the first as it is.
    order = 6 / np.pi * np.arcsin(rho / 2)
    fit = 1 - ((1 - rho) ** 2 + 1 - rho**2)
    groups = np.repeat(np.arange(60), size)
    held = np.zeros((200, 2), bool)
    for run in range(len(held)):
        truth = draw.standard_normal(60)
        predicted = rho * truth + np.sqrt(1 - rho**2) * draw.standard_normal(60)
        given = predicted[groups], truth[groups], groups, whole(len(groups))
        for which, (interval, right) in enumerate(
            ((agreement.r2_interval(*given), fit), (agreement.spearman_interval(*given), order))
        ):
            held[run, which] = interval.low <= right <= interval.high
            assert interval.low <= interval.value <= interval.high
    # Copies of a row in its group are no new rows: as many groups, as wide an interval.
    assert (held.mean(0) >= 0.9).all()
    assert (held.mean(0) <= 0.99).all()


@pytest.mark.parametrize("size", [1, 6])
def test_intervals_of_few_groups_hold_what_is_known(size: int) -> None:
    held = np.zeros((3, 2))
    runs = 200
    for number, count in enumerate((4, 6, 10)):
        groups = np.repeat(np.arange(count), size)
        for run in range(runs):
            draw = np.random.default_rng([run, count])
            shared, own = (
                draw.standard_normal((2, count))[:, groups],
                draw.standard_normal((2, len(groups))),
            )
            truth, noise = np.sqrt(0.8) * shared + np.sqrt(0.2) * own
            given = 0.5 * truth + 0.5 * noise, truth, groups, whole(len(groups))
            # The error has half the variance of the truth, the correlation is the root of a half.
            fit = agreement.r2_interval(*given)
            order = agreement.spearman_interval(*given)
            held[number] += (
                fit.low <= 0.5 <= fit.high,
                order.low <= 6 / np.pi * np.arcsin(np.sqrt(0.5) / 2) <= order.high,
            )
    assert (held >= 0.9 * runs).all()


def test_an_interval_lies_around_errors_in_parts_of_the_unbiased_variance() -> None:
    draw = np.random.default_rng(0)
    truth = draw.standard_normal(12)
    predicted = truth + draw.standard_normal(12)
    found = agreement.r2_interval(predicted, truth, np.arange(12), whole(12))
    midst = np.sqrt((1 - found.low) * (1 - found.high))
    assert midst == pytest.approx(np.square(predicted - truth).mean() / truth.var(ddof=1))


def test_what_folds_chose_widens_the_interval_of_several_alone() -> None:
    draw = np.random.default_rng(0)
    truth = np.tile([-1.0, 1.0], 10)
    predicted = truth + draw.uniform(0.08, 0.12, 20)
    groups = np.arange(20)

    def reach(parts: list[Fold]) -> float:
        found = agreement.r2_interval(predicted, truth, groups, parts)
        assert found.low <= found.value <= found.high
        return float(np.log((1 - found.low) / (1 - found.high)) / 2)

    # All errors are nearly the same size, so little is left to chance in one test part.
    assert reach(whole(20)) < 0.2
    assert reach(folds.divisions(groups // 2 % 5, 5)) >= 12 / 20 - 1e-6


def test_a_difference_is_paired_by_row() -> None:
    draw = np.random.default_rng(0)
    held = []
    for _ in range(150):
        truth, shared = draw.standard_normal((2, 80))
        one, two = (truth + shared + scale * draw.standard_normal(80) for scale in (0.2, 0.5))
        found = agreement.r2_difference(one, two, truth, np.arange(80), whole(80))
        assert found.value == pytest.approx(r2_score(truth, one) - r2_score(truth, two))
        held.append(found.low <= 0.21 <= found.high)
        # What both have in common does not widen it.
        alone = agreement.r2_interval(one, truth, np.arange(80), whole(80))
        assert found.high - found.low < 1.5 * (alone.high - alone.low)
    assert np.mean(held) >= 0.89


def test_perfect_predictions_are_certain_and_constant_ones_are_not() -> None:
    truth = np.arange(12.0)
    exact = agreement.r2_interval(truth, truth, np.arange(12), whole(12))
    assert exact == (1.0, 1.0, 1.0)
    # A right order of a few rows happens by chance, and more of it is needed to be sure.
    ends = [
        agreement.spearman_interval(truth[:count], truth[:count], np.arange(count), whole(count))
        for count in (3, 5, 8, 12)
    ]
    assert [each.value for each in ends] == [each.high for each in ends] == [1.0] * 4
    lows = [each.low for each in ends]
    assert lows == sorted(lows)
    assert lows[0] == -1
    assert lows[1] < 0
    assert 0.9 < lows[3] < 0.999
    turned = agreement.spearman_interval(truth, -truth, np.arange(12), whole(12))
    assert turned == pytest.approx((-1.0, -1.0, -lows[3]))
    # Of several folds, all of which predict the mean, nobody knows what others would choose.
    parts = folds.divisions(np.arange(12) % 3, 3)
    same = agreement.r2_interval(truth, np.full(12, 3.0), np.arange(12), whole(12))
    assert same == (0.0, 0.0, 0.0)
    flat = agreement.r2_interval(np.full(12, 5.5), truth, np.arange(12), parts, 4)
    assert flat.value == pytest.approx(0, abs=1e-12)
    assert flat.low < -0.3
    assert flat.high > 0.3
