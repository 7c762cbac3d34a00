"""Shuffled labels move between things that are alike, and are one and the same in all places."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from actstore.analysis.statistics import shuffling
from actstore.analysis.statistics.shuffling import LabelledRows
from tests.torture.effort import examples


@st.composite
def rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, and parts, groups, examples, versions and tokens."""
    count = draw(st.integers(1, 50))
    columns = [
        draw(st.lists(st.integers(0, most), min_size=count, max_size=count))
        for most in (1, 6, 8, 10)
    ]
    levels = np.column_stack([*columns, np.arange(count)])
    positive = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return np.array(positive), levels


@settings(max_examples=examples(150), deadline=None)
@given(rows(), st.integers(0, 2))
def test_things_of_one_class_stay_so_and_parts_of_mixed_ones_keep_their_counts(
    data: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    positive, levels = data
    found = shuffling.exchanged(positive, levels, 6, seed)
    for part in np.unique(levels[:, 0]):
        inside = levels[:, 0] == part
        sizes = []
        for group in np.unique(levels[inside, 1]):
            own = inside & (levels[:, 1] == group)
            if positive[own].all() or not positive[own].any():
                assert (found[own] == found[own][0]).all()
                sizes.append(own)
            else:
                # A mixed group exchanges within: examples of one class as a whole.
                for example in np.unique(levels[own, 2]):
                    each = own & (levels[:, 2] == example)
                    if positive[each].all() or not positive[each].any():
                        assert (found[each] == found[each][0]).all()
        # As many groups of one class are positive as before.
        before = sum(bool(positive[own].all()) for own in sizes)
        after = np.sum([found[own][0] for own in sizes], axis=0) if sizes else np.zeros(6)
        assert (after == before).all()


@settings(max_examples=examples(50), deadline=None)
@given(rows())
def test_the_seed_decides(data: tuple[np.ndarray, np.ndarray]) -> None:
    positive, levels = data
    one, again = (shuffling.exchanged(positive, levels, 4, 3) for _ in range(2))
    np.testing.assert_array_equal(one, again)


def test_every_order_of_a_pair_and_of_groups_comes_equally_often() -> None:
    # Two groups of one class each, and a pair of both classes.
    positive = np.array([True, True, False, True, False])
    levels = np.array([[0, 0, 0, 0, 0], [0, 0, 1, 2, 2], [0, 0, 1, 2, 2], [0, 1, 2, 3, 4]]).T
    levels = np.column_stack([levels, np.arange(5)])
    found = shuffling.exchanged(positive, levels, 4000, 0)
    assert (found[0] == found[1]).all()
    assert (found[0] != found[2]).all()
    assert (found[3] != found[4]).all()
    assert 0.45 < found[0].mean() < 0.55
    assert 0.45 < found[3].mean() < 0.55
    assert 0.45 < (found[0] == found[3]).mean() < 0.55


def test_tokens_of_the_answers_of_a_pair_exchange_as_wholes() -> None:
    # One example, two versions of five tokens each: two witnesses, not ten.
    positive = np.repeat([True, False], 5)
    levels = np.column_stack([np.zeros((10, 3), int), np.repeat([0, 1], 5), np.arange(10)])
    found = shuffling.exchanged(positive, levels, 50, 0)
    assert {tuple(column) for column in found.T} == {
        tuple(positive.tolist()),
        tuple((~positive).tolist()),
    }


def test_an_example_has_the_same_label_in_all_cells() -> None:
    generator = np.random.default_rng(0)
    count = 60
    positive = generator.random(count) < 0.4
    part, groups = np.arange(count) % 3, np.arange(count) // 2
    units = np.column_stack([np.arange(count)] * 3)
    cells = []
    kept = []
    for _ in range(4):
        rows = np.sort(generator.permutation(count)[: generator.integers(20, count)])
        kept.append(rows)
        cells.append(LabelledRows(positive[rows], part[rows], groups[rows], units[rows]))
    drawn = shuffling.shared([*cells, cells[0]], 20, 1)
    known: dict[int, list[bool]] = {}
    for rows, each in zip([*kept, kept[0]], drawn, strict=True):
        columns = each.columns()
        assert columns.shape == (len(rows), 20)
        for row, labels in zip(rows.tolist(), columns.tolist(), strict=True):
            assert known.setdefault(row, labels) == labels
    assert drawn[0].labels is drawn[3].labels


def test_whole_groups_exchange_several_numbers_with_groups_of_the_same_make() -> None:
    # Two parts; in each three groups of two rows, one of three, and one with one number.
    sizes = [2, 2, 2, 3, 2] * 2
    groups = np.repeat(np.arange(10), sizes)
    part = (groups >= 5).astype(np.int64)
    numbers = np.arange(len(groups), dtype=float)
    numbers[(groups == 4) | (groups == 9)] = -1
    units = np.column_stack([np.arange(len(groups))] * 3)
    rows = shuffling.LabelledRows(numbers, part, groups, units)
    (found,) = shuffling.shared([rows], 200, 0, whole=True)
    columns = found.columns()
    (within,) = shuffling.shared([rows], 200, 0)
    own = [frozenset(numbers[groups == group]) for group in range(10)]
    seen = set()
    for run in columns.T:
        now = [frozenset(run[groups == group]) for group in range(10)]
        assert sorted(run) == sorted(numbers)
        # Numbers stay with those of their group, and groups with those of their make and part.
        for half in (0, 5):
            assert set(now[half : half + 3]) == set(own[half : half + 3])
            assert now[half + 3 : half + 5] == own[half + 3 : half + 5]
        seen.add(tuple(now[:3]))
    assert len(seen) == 6
    for run in within.columns().T:
        assert [frozenset(run[groups == group]) for group in range(10)] == own
