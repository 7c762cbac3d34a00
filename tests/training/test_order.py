"""Orders: every number once, alike for the same key, the same wherever they are entered."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actstore.errors import UsageError
from actstore.training.order import Blocks, Ordering, Permutation
from tests.torture.effort import examples


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100, 16_384, 16_385, 40_001])
def test_a_permutation_has_every_number_once(count: int) -> None:
    found = Permutation(count, "key")(np.arange(count))
    assert found.dtype == np.int64
    assert np.array_equal(np.sort(found), np.arange(count))
    assert np.array_equal(found, Permutation(count, "key")(np.arange(count)))
    if count > 3:
        assert not np.array_equal(found, Permutation(count, "other")(np.arange(count)))


@pytest.mark.parametrize("count", [1000, 50_000, 10**12])
def test_a_part_is_computed_without_the_rest(count: int) -> None:
    permutation = Permutation(count, "key")
    places = np.array([count - 1, 0, 17, 500, 17])
    one_by_one = [int(permutation(np.array([place]))[0]) for place in places]
    assert permutation(places).tolist() == one_by_one
    assert len(set(one_by_one)) == 4
    assert all(0 <= number < count for number in one_by_one)


def test_the_order_of_many_is_pinned() -> None:
    # Saved states rely on it: a change here needs a new version of the state.
    assert Permutation(10, "pinned")(np.arange(10)).tolist() == [0, 2, 9, 5, 3, 6, 8, 1, 4, 7]
    assert Permutation(10**9, "pinned")(np.arange(4)).tolist() == [
        172322311,
        569039678,
        211432495,
        368326018,
    ]


@pytest.mark.parametrize("count", [40, 20_000])
def test_every_place_is_as_likely(count: int) -> None:
    """Which tenth a number comes to, over many keys: chi-squared with 90 degrees of freedom."""
    keys = 400 if count == 40 else 40
    tenths = np.zeros((10, 10))
    for key in range(keys):
        found = Permutation(count, f"key {key}")(np.arange(count))
        np.add.at(tenths, (np.arange(count) * 10 // count, found * 10 // count), 1)
    expected = keys * count / 100
    assert ((tenths - expected) ** 2 / expected).sum() < 150  # beyond it: 1 in 10,000


def test_neighbours_do_not_stay_together() -> None:
    found = Permutation(100_000, "key")(np.arange(100_000))
    assert (np.abs(np.diff(found)) == 1).sum() < 20  # two on average
    assert abs(np.corrcoef(np.arange(100_000), found)[0, 1]) < 0.02


@given(
    rows=st.integers(1, 300),
    block=st.integers(1, 40),
    blocks=st.integers(1, 5),
    epoch=st.integers(0, 3),
    step=st.integers(1, 50),
)
@settings(max_examples=examples(60), deadline=None)
def test_blocks_have_every_row_once(
    rows: int, block: int, blocks: int, epoch: int, step: int
) -> None:
    order = Ordering(shuffle="blocks", seed=5, block=block, window=block * blocks).of(rows, epoch)
    found = order.at(0, rows)
    assert sorted(found.tolist()) == list(range(rows))
    parts = [order.at(start, min(rows, start + step)) for start in range(0, rows, step)]
    assert np.array_equal(np.concatenate(parts), found)


def test_a_window_is_made_of_whole_blocks() -> None:
    order = Ordering(shuffle="blocks", seed=1, block=10, window=45).of(1000, 0)
    assert isinstance(order, Blocks)
    assert order.window == 40
    members = order.members(3)
    assert sorted(members.tolist()) == sorted(order.at(120, 160).tolist())
    starts = np.flatnonzero(np.diff(members) % 1000 != 1) + 1
    assert set(starts.tolist()) <= {10, 20, 30}
    assert order.at(120, 160).tolist() != members.tolist()


def test_passes_differ_and_blocks_are_cut_elsewhere() -> None:
    ordering = Ordering(shuffle="blocks", seed=1, block=10, window=20)
    first, second = (ordering.of(1000, epoch).at(0, 1000) for epoch in (0, 1))
    assert not np.array_equal(first, second)
    firsts = [ordering.of(1000, epoch).at(0, 20).min() % 10 for epoch in range(8)]
    assert len(set(firsts)) > 1
    exact = Ordering(shuffle="exact", seed=1)
    assert not np.array_equal(exact.of(50, 0).at(0, 50), exact.of(50, 1).at(0, 50))


def test_an_ordering_says_what_it_depends_on() -> None:
    assert Ordering().as_dict() == {"shuffle": "none"}
    assert Ordering(shuffle="exact", seed=4).as_dict() == {"shuffle": "exact", "seed": 4}
    assert Ordering(shuffle="blocks", block=2, window=6).as_dict() == {
        "shuffle": "blocks",
        "seed": 0,
        "block": 2,
        "window": 6,
    }
    with pytest.raises(UsageError, match="a block holds at least one row"):
        Ordering(shuffle="blocks", block=0, window=6)
