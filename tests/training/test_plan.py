"""Plans: every row to one rank, in steps that can be entered anywhere."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actstore.errors import TooFewRowsError, UsageError
from actstore.training.order import Ordering
from actstore.training.plan import Place, Plan, Step
from tests.torture.effort import examples

EXACT = Ordering(shuffle="exact")
BLOCKS = Ordering(shuffle="blocks", block=2, window=4)


def _steps(plan: Plan, place: Place | None = None) -> list[Step]:
    return list(plan.steps(place or plan.start))


def _ranks(rows: int, size: int, world: int, **more: Any) -> list[list[Step]]:
    ordering = more.pop("ordering", EXACT)
    return [
        _steps(Plan(rows=rows, size=size, ordering=ordering, rank=rank, world_size=world, **more))
        for rank in range(world)
    ]


@given(
    rows=st.integers(1, 200),
    size=st.integers(1, 30),
    world=st.integers(1, 7),
    blocks=st.booleans(),
)
@settings(max_examples=examples(150), deadline=None)
def test_every_row_goes_to_one_rank(rows: int, size: int, world: int, blocks: bool) -> None:
    ranks = _ranks(rows, size, world, ordering=BLOCKS if blocks else EXACT)
    given_out = [row for steps in ranks for step in steps for row in range(step.start, step.stop)]
    assert sorted(given_out) == list(range(rows))
    totals = [sum(step.stop - step.start for step in steps) for steps in ranks]
    assert max(totals) - min(totals) <= 1
    assert max(map(len, ranks)) - min(map(len, ranks)) <= 1
    assert all(0 < step.stop - step.start <= size for steps in ranks for step in steps)


@given(
    rows=st.integers(1, 200),
    size=st.integers(1, 30),
    world=st.integers(1, 7),
    blocks=st.booleans(),
)
@settings(max_examples=examples(100), deadline=None)
def test_drop_last_gives_all_ranks_as_many_full_batches(
    rows: int, size: int, world: int, blocks: bool
) -> None:
    if rows < size * world:
        return
    ranks = _ranks(rows, size, world, drop_last=True, ordering=BLOCKS if blocks else EXACT)
    assert {len(steps) for steps in ranks} == {rows // world // size}
    assert all(step.stop - step.start == size for steps in ranks for step in steps)
    given_out = [row for steps in ranks for step in steps for row in range(step.start, step.stop)]
    assert len(set(given_out)) == len(given_out)


def test_a_step_of_all_ranks_is_one_of_a_single_process() -> None:
    ranks = _ranks(100, 8, 3)
    alone = _ranks(100, 24, 1)[0]
    for number, whole in enumerate(alone):
        parts = [steps[number] for steps in ranks]
        assert (parts[0].start, parts[-1].stop) == (whole.start, whole.stop)
        assert [part.stop for part in parts[:-1]] == [part.start for part in parts[1:]]


@given(
    rows=st.integers(1, 60),
    size=st.integers(1, 20),
    world=st.integers(1, 4),
    epochs=st.integers(1, 3),
    drop_last=st.booleans(),
    blocks=st.booleans(),
)
@settings(max_examples=examples(100), deadline=None)
def test_going_on_anywhere_gives_the_rest(
    rows: int, size: int, world: int, epochs: int, drop_last: bool, blocks: bool
) -> None:
    if drop_last and rows < size * world:
        return
    for rank in range(world):
        plan = Plan(
            rows=rows,
            size=size,
            ordering=BLOCKS if blocks else EXACT,
            rank=rank,
            world_size=world,
            drop_last=drop_last,
            epochs=epochs,
        )
        steps = _steps(plan)
        assert plan.left(plan.start) == len(steps)
        for number, step in enumerate(steps):
            rest = _steps(plan, step.after)
            assert rest == steps[number + 1 :]
            assert plan.left(step.after) == len(rest)


@given(
    rows=st.integers(1, 60),
    size=st.integers(1, 20),
    world=st.integers(2, 4),
    drop_last=st.booleans(),
    blocks=st.booleans(),
)
@settings(max_examples=examples(100), deadline=None)
def test_any_rank_says_where_all_of_them_go_on(
    rows: int, size: int, world: int, drop_last: bool, blocks: bool
) -> None:
    if drop_last and rows < size * world:
        return
    ordering = BLOCKS if blocks else EXACT
    ranks = _ranks(rows, size, world, drop_last=drop_last, ordering=ordering)
    for number in range(min(map(len, ranks))):
        for steps in ranks:
            rest = [
                list(
                    Plan(
                        rows=rows,
                        size=size,
                        ordering=ordering,
                        rank=rank,
                        world_size=world,
                        drop_last=drop_last,
                    ).steps(steps[number].after)
                )
                for rank in range(world)
            ]
            assert rest == [each[number + 1 :] for each in ranks]


def test_more_or_fewer_ranks_may_go_on() -> None:
    first = [steps[:2] for steps in _ranks(100, 8, 3)]
    place = first[0][1].after
    done = [row for steps in first for step in steps for row in range(step.start, step.stop)]
    for world in (1, 2, 5):
        rest = [
            row
            for rank in range(world)
            for step in Plan(rows=100, size=6, ordering=EXACT, rank=rank, world_size=world).steps(
                place
            )
            for row in range(step.start, step.stop)
        ]
        assert sorted(done + rest) == list(range(100))


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize(("size", "world"), [(5, 1), (7, 2), (10, 3), (29, 1)])
def test_full_batches_only_where_the_size_is_another_now(
    size: int, world: int, blocks: bool
) -> None:
    """As many for each rank, or ranks that wait for one another would wait for ever."""
    begun = Place(0, 32)
    counts = set()
    for rank in range(world):
        plan = Plan(
            rows=90 * world if blocks else 90,
            size=size,
            ordering=BLOCKS if blocks else EXACT,
            rank=rank,
            world_size=world,
            drop_last=True,
            epochs=2,
        )
        steps = _steps(plan, begun)
        assert {step.stop - step.start for step in steps} == {size}
        assert plan.left(begun) == len(steps)
        counts.add(len(steps))
    assert len(counts) == 1


def test_workers_take_turns_over_several_passes() -> None:
    plan = Plan(rows=50, size=8, ordering=EXACT, epochs=2)
    steps = _steps(plan)
    assert [step.epoch for step in steps] == [0] * 7 + [1] * 7
    for lanes in (2, 3):
        for lane in range(lanes):
            assert list(plan.steps(plan.start, lane, lanes)) == steps[lane::lanes]


def test_passes_without_end() -> None:
    plan = Plan(rows=5, size=4, ordering=EXACT, epochs=None)
    assert plan.left(plan.start) is None
    steps = plan.steps(plan.start)
    assert [next(steps).epoch for _ in range(6)] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 0}, "size=0"),
        ({"rank": 2, "world_size": 2}, "rank=2"),
        ({"rank": -1}, "rank=-1"),
        ({"world_size": 0}, "world_size=0"),
        ({"epochs": -1}, "epochs=-1"),
        ({"first_epoch": -1}, "epoch=-1"),
    ],
)
def test_what_cannot_work_is_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Plan(**{"rows": 10, "size": 2, "ordering": EXACT, **wrong})  # type: ignore[arg-type]


def test_no_batches_at_all_are_refused_where_training_was_asked_for() -> None:
    assert _steps(Plan(rows=0, size=4, ordering=Ordering())) == []
    with pytest.raises(TooFewRowsError, match="nothing was selected"):
        Plan(rows=0, size=4, ordering=EXACT)
    with pytest.raises(TooFewRowsError, match="nothing was selected"):
        Plan(rows=0, size=4, ordering=Ordering(), epochs=None)
    with pytest.raises(TooFewRowsError, match=r"10 rows make no full batch of 6 .* at most 5"):
        Plan(rows=10, size=6, ordering=EXACT, world_size=2, drop_last=True)
    with pytest.raises(TooFewRowsError, match="give rank 0 of 3 nothing"):
        Plan(rows=2, size=6, ordering=EXACT, world_size=3, epochs=None)
    assert _steps(Plan(rows=2, size=6, ordering=EXACT, world_size=3)) == []
