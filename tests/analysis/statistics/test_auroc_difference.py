"""Intervals of differences hold what they say, of few groups too."""

from typing import NamedTuple

import numpy as np
import pytest

from actstore.analysis.probes import p_values
from actstore.analysis.statistics import folds
from actstore.analysis.statistics.auroc_difference import (
    auroc_difference,
    macro_auroc_difference,
)
from actstore.analysis.statistics.folds import Fold
from actstore.analysis.statistics.paired import PairedDifference

RUNS = 200
LEAST = 0.91 * RUNS
"""Of intervals that hold the truth in 95 %: two and a half standard errors less."""


def whole(count: int) -> list[Fold]:
    return [Fold(np.empty(0, np.int64), np.arange(count))]


class Drawn(NamedTuple):
    """Scores of two probes that are as good as one another."""

    one: np.ndarray
    two: np.ndarray
    positive: np.ndarray
    groups: np.ndarray


def draw(run: int, count: int, size: int, within: bool, alike: float = 0.5) -> Drawn:
    """Draw groups that shift all their scores, and show the classes more or less.

    Args:
        run: where the numbers come from.
        count: of groups.
        size: of each.
        within: whether each group has rows of both classes.
        alike: part of the variance that the rows of a group have in common.
    """
    random = np.random.default_rng([run, count, size, within])
    groups = np.repeat(np.arange(count), size)
    rows = np.arange(count * size)
    positive = (rows if within else groups) % 2 == 0
    scores = []
    for _ in range(2):
        level, slope = np.sqrt(alike) * random.standard_normal((2, count))
        own = np.sqrt(1 - alike) * random.standard_normal(len(rows))
        scores.append(own + level[groups] + (1 + within * slope[groups]) * positive)
    return Drawn(scores[0], scores[1], positive, groups)


@pytest.mark.parametrize(
    ("count", "size", "within", "alike"),
    [
        *((2, 4, True, 0.0), (2, 20, True, 0.5), (3, 20, True, 0.0), (5, 20, True, 0.5)),
        *((8, 4, True, 0.5), (4, 20, False, 0.0), (6, 4, False, 0.5), (12, 20, False, 0.0)),
    ],
)
def test_a_difference_of_nothing_is_within_its_interval(
    count: int, size: int, within: bool, alike: float
) -> None:
    held = 0
    for run in range(RUNS):
        data = draw(run, count, size, within, alike)
        found = auroc_difference(*data, whole(len(data.one)))
        held += found.low <= 0 <= found.high
        assert -1 <= found.low <= found.value <= found.high <= 1
    assert held >= LEAST


def test_a_difference_that_there_is_is_found_and_measured() -> None:
    found = {5: 0, 12: 0}
    truth = 0.9214 - 0.7602  # two and one deviations apart
    for count in found:
        held = 0
        for run in range(RUNS):
            one, two, positive, groups = draw(run, count, 20, True, 0.0)
            told = auroc_difference(one + positive, two, positive, groups, whole(len(one)))
            held += told.low <= truth <= told.high
            found[count] += told.low > 0
        assert held >= LEAST
    assert found[5] > 0.5 * RUNS
    assert found[12] > 0.95 * RUNS


def crossed(run: int, count: int, size: int, width: int) -> PairedDifference:
    """Return the difference of two trained probes: each fold tests a few groups."""
    random = np.random.default_rng([run, count, size, width])
    groups = np.repeat(np.arange(count), size)
    positive = groups % 2 == 0
    divisions = folds.grouped(positive, groups, min(5, count // 2), run)
    scores = np.empty((2, len(groups)))
    for own in scores:
        vectors = random.standard_normal((len(groups), width))
        vectors += random.standard_normal((count, width))[groups]
        vectors[:, 0] += np.where(positive, 0.5, -0.5)
        for train, test in divisions:
            rows, side = vectors[train], positive[train]
            own[test] = vectors[test] @ (rows[side].mean(0) - rows[~side].mean(0))
    return auroc_difference(scores[0], scores[1], positive, groups, divisions, width)


def test_trained_probes_that_are_as_good_as_one_another_are_not_told_apart() -> None:
    for count, size, width in ((20, 4, 60), (10, 4, 10), (6, 10, 10)):
        found = [crossed(run, count, size, width) for run in range(RUNS)]
        assert sum(each.low <= 0 <= each.high for each in found) >= LEAST


def test_p_values_of_differences_are_no_surer_than_their_intervals() -> None:
    small = 0
    for run in range(RUNS):
        places = [auroc_difference(*data, whole(100)) for data in _places(run, 5, 20)]
        shares = np.column_stack([each.shares for each in places])
        chances = p_values.differences(
            np.array([each.value for each in places]),
            shares,
            np.array([each.error for each in places]),
            min(each.freedom for each in places),
            run,
        )
        small += float(chances.min()) <= 0.05
    assert small <= 0.08 * RUNS


def _places(run: int, count: int, size: int) -> list[Drawn]:
    drawn = [draw(10 * run + place, count, size, True) for place in range(4)]
    return [each._replace(two=drawn[0].two) for each in drawn]


def test_several_classes_in_few_groups() -> None:
    held = 0
    codes = np.tile(np.arange(3), 24)
    groups = np.repeat(np.arange(4), 18)
    for run in range(RUNS):
        random = np.random.default_rng(run)
        scores = random.standard_normal((2, 72, 3)) + (codes[:, None] == np.arange(3))
        scores += random.standard_normal((2, 4, 3))[:, groups] * (codes[:, None] == np.arange(3))
        found = macro_auroc_difference(scores[0], scores[1], codes, groups, whole(72))
        held += found.low <= 0 <= found.high
    assert held >= LEAST


def test_differences_are_paired() -> None:
    random = np.random.default_rng(5)
    positive = np.arange(80) % 2 == 0
    scores = random.standard_normal(80) + positive
    groups = np.arange(80)
    near = auroc_difference(
        scores, scores + 0.05 * random.standard_normal(80), positive, groups, whole(80)
    )
    far = auroc_difference(
        scores, random.standard_normal(80) + positive, positive, groups, whole(80)
    )
    assert near.low < 0 < near.high
    assert near.high - near.low < 0.3 * (far.high - far.low)
    assert 70 < near.freedom < 79
    # Whole separation is not certain, and no words have no error.
    sure = auroc_difference(positive.astype(float), np.zeros(80), positive, groups, whole(80))
    assert sure.value == 0.5
    assert 0.35 < sure.low < 0.5


def test_nothing_is_told_by_the_only_row_of_a_class() -> None:
    random = np.random.default_rng(7)
    positive = np.arange(50) == 0
    for _ in range(20):
        one, two = random.standard_normal((2, 50))
        found = auroc_difference(one, two, positive, np.arange(50), whole(50))
        assert found.low < 0 < found.high


@pytest.mark.parametrize(("positives", "others", "parts"), [(5, 95, 5), (8, 92, 5), (3, 60, 3)])
def test_what_is_the_only_one_of_its_class_in_a_fold(
    positives: int, others: int, parts: int
) -> None:
    random = np.random.default_rng(6)
    positive = np.arange(positives + others) < positives
    every = np.arange(len(positive))
    held = 0
    for run in range(RUNS):
        one, two = random.standard_normal((2, len(positive))) + positive
        found = auroc_difference(
            one, two, positive, every, folds.grouped(positive, every, parts, run), 1
        )
        held += found.low <= 0 <= found.high
    assert held >= LEAST
