"""AUROC as scikit-learn has it, and intervals that hold what they say."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t
from sklearn.metrics import roc_auc_score

from actstore.analysis.statistics import folds, metrics
from actstore.analysis.statistics.folds import Fold
from tests.torture.effort import examples


def whole(count: int) -> list[Fold]:
    return [Fold(np.empty(0, np.int64), np.arange(count))]


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=40))
def test_auroc_is_scikit_learns_ties_too(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([float(score) for score, _ in pairs])
    positive = np.array([side for _, side in pairs])
    found = metrics.auroc(scores, positive)
    if positive.all() or not positive.any():
        assert np.isnan(found)
        return
    assert found == pytest.approx(roc_auc_score(positive, scores))
    columns = metrics.auroc(np.stack([scores, -scores], 1), positive)
    np.testing.assert_allclose(columns, [found, 1 - found])
    estimate = metrics.auroc_interval(scores, positive, np.arange(len(scores)), whole(len(scores)))
    assert estimate.value == pytest.approx(float(found))
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_the_interval_is_delongs() -> None:
    draw = np.random.default_rng(0)
    positive = draw.random(80) < 0.4
    scores = draw.standard_normal(80) + positive
    up, down = scores[positive], scores[~positive]
    above = (up[:, None] > down).mean(1)
    below = (up[:, None] > down).mean(0)
    area = above.mean()
    error = np.sqrt(above.var(ddof=1) / len(up) + below.var(ddof=1) / len(down))
    found = metrics.auroc_interval(scores, positive, np.arange(80), whole(80))
    logit = np.log(area / (1 - area))
    reach = 1.959964 * error / (area * (1 - area))
    assert found.low == pytest.approx(1 / (1 + np.exp(-(logit - reach))), rel=1e-5)
    assert found.high == pytest.approx(1 / (1 + np.exp(-(logit + reach))), rel=1e-5)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    draw = np.random.default_rng(1)
    positive = np.arange(60) < 25
    truth = 0.7602  # of two normal distributions one deviation apart
    held = 0
    for _ in range(400):
        scores = draw.standard_normal(60) + positive
        found = metrics.auroc_interval(scores, positive, np.arange(60), whole(60))
        held += found.low <= truth <= found.high
    assert 0.92 <= held / 400 <= 0.985


def test_rows_of_one_group_count_as_one() -> None:
    draw = np.random.default_rng(2)
    positive = np.arange(40) < 20
    scores = draw.standard_normal(40) + positive
    single = metrics.auroc_interval(scores, positive, np.arange(40), whole(40))
    many, sides = np.repeat(scores, 4), np.repeat(positive, 4)
    grouped = metrics.auroc_interval(many, sides, np.repeat(np.arange(40), 4), whole(160))
    naive = metrics.auroc_interval(many, sides, np.arange(160), whole(160))
    assert grouped.high - grouped.low == pytest.approx(single.high - single.low, rel=0.05)
    assert naive.high - naive.low < 0.6 * (single.high - single.low)


@pytest.mark.parametrize(
    ("positives", "others", "parts", "shift"),
    [(5, 95, 5, 0.0), (5, 95, 5, 1.0), (8, 92, 5, 1.0), (3, 60, 3, 1.0), (5, 95, 1, 1.0)],
)
def test_intervals_know_of_what_is_the_only_one_of_its_class_in_a_fold(
    positives: int, others: int, parts: int, shift: float
) -> None:
    draw = np.random.default_rng(6)
    positive = np.arange(positives + others) < positives
    every = np.arange(len(positive))
    truth = NormalDist().cdf(shift / np.sqrt(2))
    held = 0
    for run in range(150):
        divided = folds.grouped(positive, every, parts, run) if parts > 1 else whole(len(every))
        scores = draw.standard_normal(len(positive)) + shift * positive
        found = metrics.auroc_interval(scores, positive, every, divided, 1)
        held += found.low <= truth <= found.high
    assert held >= 0.92 * 150


def test_nothing_is_told_by_the_only_row_of_a_class() -> None:
    draw = np.random.default_rng(7)
    positive = np.arange(50) == 0
    for _ in range(20):
        scores = draw.standard_normal(50)
        found = metrics.auroc_interval(scores, positive, np.arange(50), whole(50))
        assert found.low < 0.5 < found.high


def test_whole_separation_is_not_taken_for_certainty() -> None:
    positive = np.arange(20) < 10
    found = metrics.auroc_interval(positive.astype(float), positive, np.arange(20), whole(20))
    assert found.value == found.high == 1
    assert 0.7 < found.low < 0.95
    worst = metrics.auroc_interval(-positive.astype(float), positive, np.arange(20), whole(20))
    assert worst.value == worst.low == 0
    assert worst.high == pytest.approx(1 - found.low, abs=1e-6)


def test_folds_widen_intervals() -> None:
    draw = np.random.default_rng(3)
    positive = np.arange(60) % 2 == 0
    scores = draw.standard_normal(60) + positive
    parts = np.array_split(np.arange(60), 5)
    parted = [Fold(np.setdiff1d(np.arange(60), part), part) for part in parts]
    crossed = metrics.auroc_interval(scores, positive, np.arange(60), parted)
    areas = [roc_auc_score(positive[part], scores[part]) for part in parts]
    assert crossed.value == pytest.approx(np.mean(areas))
    # Probes with many dimensions vary more with their training rows than those with few.
    reaches = [
        found.high - found.low
        for width in (1, 20, 2000)
        for found in [metrics.auroc_interval(scores, positive, np.arange(60), parted, width)]
    ]
    assert reaches == sorted(reaches)
    assert 1.05 < reaches[2] / reaches[0] < 1.42
    assert crossed.high - crossed.low == pytest.approx(reaches[2], rel=0.02)


def test_the_folds_of_noise_vary_together_twice_as_much_as_they_seem_to() -> None:
    # What row i teaches about j is what j teaches about i: two folds are one result.
    draw = np.random.default_rng(4)
    areas, shares = [], []
    positive = np.arange(40) % 2 == 0
    for _ in range(400):
        vectors = draw.standard_normal((40, 60))
        assigned = np.empty(40, np.int64)
        for side in (True, False):
            assigned[positive == side] = draw.permutation(20) % 4
        scores = np.empty(40)
        parts = folds.divisions(assigned, 4)
        for train, test in parts:
            rows, side = vectors[train], positive[train]
            scores[test] = vectors[test] @ (rows[side].mean(0) - rows[~side].mean(0))
        found = metrics.influence(scores, positive, np.arange(40), parts)
        areas.append(found.area)
        shares.append(np.square(found.rows).sum())
    assert 1.6 < np.var(areas, ddof=1) / np.mean(shares) < 2.4


def test_accuracy_has_wilsons_interval() -> None:
    right = np.arange(100) < 80
    found = metrics.accuracy_interval(right, np.arange(100), whole(100))
    assert found.value == 0.8
    assert (found.low, found.high) == pytest.approx((0.7112, 0.8666), abs=1e-3)
    perfect = metrics.accuracy_interval(np.ones(30, bool), np.arange(30), whole(30))
    assert perfect.high == 1
    assert 0.85 < perfect.low < 0.92


def test_training_adds_less_to_an_accuracy_than_to_an_auroc() -> None:
    """Of what it adds to the variance, four fifths: benchmarks/coverage.py has the simulation."""
    right = np.arange(60) % 10 < 6
    parts = np.array_split(np.arange(60), 5)
    parted = [Fold(np.setdiff1d(np.arange(60), part), part) for part in parts]
    found = metrics.accuracy_interval(right, np.arange(60), parted, 1)
    for end in (found.low, found.high):
        alone = 1.959964**2 * end * (1 - end) / 60
        added = (end - found.value) ** 2 / alone - 1
        assert added == pytest.approx(0.8 * 2 * min(end, 1 - end), rel=1e-4)


def test_a_few_groups_of_many_rows_do_not_make_an_interval_narrow() -> None:
    # One group in each fold, of both classes: DeLong's contributions cancel in every group.
    draw = np.random.default_rng(1)
    positive = np.tile([True, False], 20)
    groups = np.repeat(np.arange(4), 10)
    folds = [Fold(np.flatnonzero(groups != g), np.flatnonzero(groups == g)) for g in range(4)]
    for _ in range(20):
        scores = draw.standard_normal(40)
        found = metrics.auroc_interval(scores, positive, groups, folds)
        assert found.low < 0.5 < found.high
        assert found.high - found.low > 0.4
        right = (scores > 0) == positive
        share = metrics.accuracy_interval(right, groups, folds)
        assert share.high - share.low > 0.4
    alone = np.arange(40)
    rows = metrics.auroc_interval(scores, positive, alone, folds)
    assert rows.high - rows.low < found.high - found.low


def test_intervals_know_that_a_dozen_groups_tell_little_of_how_groups_vary() -> None:
    missed = {"auroc": 0, "accuracy": 0}
    truth = {"auroc": 0.7602, "accuracy": 0.6915}  # of two classes one deviation apart
    runs = 0
    for count in (10, 12, 14):
        groups = np.repeat(np.arange(count), 12)
        positive = np.arange(len(groups)) % 2 == 0
        for run in range(300):
            draw = np.random.default_rng([run, count])
            shown = 0.5 + np.sqrt(0.5) * draw.standard_normal(count)
            scores = np.where(positive, 1, -1) * shown[groups]
            scores += np.sqrt(0.5) * draw.standard_normal(len(groups))
            where = groups, whole(len(groups))
            found = metrics.auroc_interval(scores, positive, *where)
            missed["auroc"] += not found.low <= truth["auroc"] <= found.high
            share = metrics.accuracy_interval((scores > 0) == positive, *where, None, positive)
            missed["accuracy"] += not share.low <= truth["accuracy"] <= share.high
            runs += 1
    assert max(missed.values()) <= 0.07 * runs


def delongs(
    scores: np.ndarray, positive: np.ndarray, groups: np.ndarray, folds: list[Fold]
) -> tuple[float, float]:
    """Return DeLong's interval by the book, contributions added up within each group.

    Of groups of several rows it is Student's (Welch and Satterthwaite).
    """
    areas, shares, cells = [], np.zeros(len(scores)), []
    for _, test in folds:
        up, down = test[positive[test]], test[~positive[test]]
        apart = scores[up][:, None] - scores[down]
        wins = (apart > 0) + (apart == 0) / 2
        areas.append(wins.mean())
        for rows, placed in ((up, wins.mean(1)), (down, wins.mean(0))):
            size = len(np.unique(groups[rows]))
            unbiased = np.sqrt(size / (size - 1))
            shares[rows] += (placed - wins.mean()) / len(rows) * unbiased / len(folds)
            own = np.bincount(groups[rows], shares[rows])
            cells.append((np.square(own).sum(), size - 1))
    area = float(np.mean(areas))
    error = np.sqrt(np.square(np.bincount(groups, shares)).sum()) * np.sqrt(min(2, len(folds)))
    variances, sizes = np.array(cells).T
    freedom = variances.sum() ** 2 / (np.square(variances) / sizes).sum()
    times = t.ppf(0.975, freedom) if len(np.unique(groups)) < len(groups) else 1.959964
    logit, reach = np.log(area / (1 - area)), times * error / (area * (1 - area))
    return 1 / (1 + np.exp(-(logit - reach))), 1 / (1 + np.exp(-(logit + reach)))


@pytest.mark.parametrize(
    ("positives", "parted", "copies", "wider"),
    [
        (4, 3, 1, False),
        (4, 3, 3, False),
        (2, 5, 1, False),
        (2, 5, 3, True),
        (2, 4, 1, True),
        (8, 1, 1, True),
    ],
)
def test_few_groups_and_nothing_else_widen_delongs_interval(
    positives: int, parted: int, copies: int, wider: bool
) -> None:
    # The positives tie with half the negatives: DeLong's error is far below the one that two
    # distributions of that AUROC would have.
    size = 6 * positives
    groups = np.repeat(np.arange(parted * size), copies)
    place = groups % size
    positive = place < positives
    scores = np.where(positive | (place % 2 == 0), 1.0, 0.0)
    parts = [groups // size == number for number in range(parted)]
    folds = [Fold(np.flatnonzero(~part), np.flatnonzero(part)) for part in parts]
    found = metrics.auroc_interval(scores, positive, groups, folds)
    low, high = delongs(scores, positive, groups, folds)
    if wider:
        assert found.low < low - 0.05
        assert found.high > high + 0.01
    else:
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)
