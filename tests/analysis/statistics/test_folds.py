"""Folds keep groups whole and classes even."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actstore.analysis.statistics import folds
from actstore.errors import TooFewRowsError, UsageError
from tests.torture.effort import examples


@st.composite
def rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    count = draw(st.integers(4, 60))
    groups = draw(st.lists(st.integers(0, 25), min_size=count, max_size=count))
    positive = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return np.array(positive), np.array(groups)


@settings(max_examples=examples(150), deadline=None)
@given(rows(), st.integers(2, 5), st.integers(0, 3))
def test_no_group_is_ever_on_both_sides(
    data: tuple[np.ndarray, np.ndarray], count: int, seed: int
) -> None:
    positive, groups = data
    enough = all(len(np.unique(groups[positive == side])) >= count for side in (True, False))
    if not enough:
        with pytest.raises(TooFewRowsError, match="group"):
            folds.grouped(positive, groups, count, seed)
        return
    found = folds.grouped(positive, groups, count, seed)
    assert len(found) == count
    for fold in found:
        assert not set(groups[fold.train]) & set(groups[fold.test])
        both = np.sort(np.concatenate([fold.train, fold.test]))
        np.testing.assert_array_equal(both, np.arange(len(groups)))
    tested = np.sort(np.concatenate([fold.test for fold in found]))
    np.testing.assert_array_equal(tested, np.arange(len(groups)))


def test_classes_are_spread_as_evenly_as_rows_allow() -> None:
    positive = np.arange(103) < 30
    found = folds.grouped(positive, np.arange(103), 5, 0)
    assert {int(positive[fold.test].sum()) for fold in found} == {6}
    assert {len(fold.test) for fold in found} <= {20, 21}


def test_the_seed_decides() -> None:
    positive, groups = np.arange(40) % 2 == 0, np.arange(40)
    one, again, other = (folds.grouped(positive, groups, 4, seed)[0].test for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    with pytest.raises(UsageError, match="two folds"):
        folds.grouped(positive, groups, 1, 0)
    with pytest.raises(UsageError, match="a seed cannot be negative, got -1"):
        folds.grouped(positive, groups, 2, -1)


def test_training_rows_of_tested_groups_are_left_out() -> None:
    train = np.array([True, True, True, False])
    groups = np.array([1, 2, 3, 2])
    division, dropped = folds.divided(train, ~train, groups)
    assert division.train.tolist() == [0, 2]
    assert division.test.tolist() == [3]
    assert dropped == 1
