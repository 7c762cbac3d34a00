"""Batches: every example once, deterministic, within the budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actstore.capturing.run.batching import BatchSize, form, parse_batch_size
from actstore.errors import UsageError

LENGTHS = st.lists(st.integers(1, 300), max_size=60)


def padding(lengths: list[int], batches: list[list[int]]) -> int:
    """Return how many positions of the batches are padding."""
    return sum(
        max(lengths[each] for each in batch) - lengths[at] for batch in batches for at in batch
    )


@given(LENGTHS, st.sampled_from([1, 3, 8, "auto"]))
def test_each_example_runs_once(lengths: list[int], size: BatchSize) -> None:
    batches = form(lengths, batch_size=size, tokens=512, most=10)
    assert sorted(at for batch in batches for at in batch) == list(range(len(lengths)))
    assert batches == form(lengths, batch_size=size, tokens=512, most=10)


@given(LENGTHS)
def test_auto_keeps_to_the_budget_and_never_stops_at_a_long_one(lengths: list[int]) -> None:
    for batch in form(lengths, batch_size="auto", tokens=400, most=5):
        longest = max(lengths[at] for at in batch)
        assert len(batch) <= 5
        assert len(batch) == 1 or longest * len(batch) <= 400


@given(LENGTHS, st.integers(1, 9))
def test_sorting_never_pads_more_than_the_source_order(lengths: list[int], size: int) -> None:
    lengths = lengths[: len(lengths) // size * size]  # full batches: sorted ones are the best
    in_order = [list(range(len(lengths)))[at : at + size] for at in range(0, len(lengths), size)]
    assert padding(lengths, form(lengths, batch_size=size)) <= padding(lengths, in_order)


def test_the_longest_come_first_and_ties_keep_their_order() -> None:
    assert form([2, 5, 2, 9, 5], batch_size=2) == [[3, 1], [4, 0], [2]]


def test_kinds_do_not_mix() -> None:
    batches = form([4, 4, 4, 4], batch_size=4, kinds=[True, False, True, False])
    assert batches == [[0, 2], [1, 3]]


@pytest.mark.parametrize(("text", "size"), [("auto", "auto"), ("12", 12), (3, 3)])
def test_a_batch_size_is_a_number_or_auto(text: str | int, size: BatchSize) -> None:
    assert parse_batch_size(text) == size


@pytest.mark.parametrize("text", ["0", "-1", "many", 0])
def test_other_batch_sizes_are_refused(text: str | int) -> None:
    with pytest.raises(UsageError, match="'auto' or a number"):
        parse_batch_size(text)
