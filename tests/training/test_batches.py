"""Batches: all rows once, broken off and taken up again, over ranks, in every order."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actstore
from actstore.api.selection import Selection
from actstore.errors import MismatchError, MixedVectorsError, TooFewRowsError, UsageError
from actstore.storage.snapshot import Snapshot
from actstore.training import reading
from actstore.training.batches import Batch, Batches
from actstore.training.state import Lane
from tests.querying import stores

ROWS = 3 * 101


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("original") / "s"
    stores.layered(root, rows=101)
    return root


@pytest.fixture
def selection(tmp_path: Path, original: Path) -> Iterator[Selection]:
    shutil.copytree(original, tmp_path / "s")
    with actstore.open(tmp_path / "s") as store:
        yield store.select(layer=[0, 1, 2])


def _ids(batches: Iterable[Batch]) -> list[list[int]]:
    return [batch.table["row_id"].to_pylist() for batch in batches]


def _flat(parts: Iterable[list[int]]) -> list[int]:
    return [row for part in parts for row in part]


def _make(selection: Selection, **more: Any) -> Batches:
    return selection.batches(16, columns=["row_id"], **more)


ORDERS: list[dict[str, Any]] = [
    {},
    {"shuffle": True, "seed": 3},
    {"shuffle": "blocks", "seed": 3, "block": 7},
    {"shuffle": True, "seed": 3, "prefetch": 0},
    {"shuffle": True, "seed": 3, "prefetch": 4, "normalise": "norm"},
    {"prefetch": 2},
]


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_vectors_and_metadata_belong_together(selection: Selection, order: dict[str, Any]) -> None:
    order.pop("normalise", None)
    everything = selection.numpy()
    table = selection.table(["example_id", "layer"]).to_pylist()
    seen = []
    for vectors, found in selection.batches(16, columns=["row_id", "layer", "example_id"], **order):
        rows = found["row_id"].to_pylist()
        assert np.array_equal(vectors, everything[rows])
        assert found.select(["example_id", "layer"]).to_pylist() == [table[row] for row in rows]
        seen += rows
    assert sorted(seen) == list(range(ROWS))
    assert (seen == list(range(ROWS))) is ("shuffle" not in order)


def test_a_batch_that_is_gathered_in_pieces_is_whole(
    selection: Selection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_PIECE_BYTES", 64)  # four rows
    everything = selection.numpy()
    for vectors, found in _make(selection, shuffle=True):
        assert np.array_equal(vectors, everything[found["row_id"].to_pylist()])


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_a_resumed_pass_equals_an_unbroken_one(selection: Selection, order: dict[str, Any]) -> None:
    whole = [batch.vectors.copy() for batch in _make(selection, **order, epochs=2)]
    assert len(whole) == 38
    for taken in (0, 1, 7, 18, 19, 20, 37, 38):
        batches = _make(selection, **order, epochs=2)
        for _ in range(taken):
            next(batches)
        state = json.loads(json.dumps(batches.state()))
        assert state == batches.state_dict()
        again = _make(selection, **order, epochs=2, state=state)
        assert len(again) == 38 - taken
        rest = [batch.vectors for batch in again]
        assert len(rest) == 38 - taken
        assert all(map(np.array_equal, rest, whole[taken:]))


def test_a_state_may_be_loaded_later_and_more_than_once(selection: Selection) -> None:
    batches = _make(selection, shuffle=True)
    first, second = next(batches), next(batches)
    state = batches.state()
    following = next(batches)
    for _ in range(2):
        batches.load_state_dict(state)
        assert np.array_equal(next(batches).vectors, following.vectors)
    assert not np.array_equal(first.vectors, second.vectors)


def test_passes_are_in_different_orders_and_can_be_named(selection: Selection) -> None:
    both = _ids(_make(selection, shuffle=True, epochs=2))
    first, second = both[:19], both[19:]
    assert first != second
    assert sorted(_flat(first)) == sorted(_flat(second))
    assert _ids(_make(selection, shuffle=True, epoch=1)) == second
    assert _ids(_make(selection, shuffle=True, seed=1)) != first
    endless = _make(selection, shuffle=True, epochs=None)
    assert [next(endless).table["row_id"].to_pylist() for _ in range(38)] == both
    with pytest.raises(TypeError, match="no length"):
        len(endless)


@pytest.mark.parametrize("order", ORDERS[:3], ids=str)
@pytest.mark.parametrize("world", [2, 3, 5])
def test_ranks_share_all_rows(selection: Selection, order: dict[str, Any], world: int) -> None:
    ranks = [_ids(_make(selection, **order, rank=rank, world_size=world)) for rank in range(world)]
    assert sorted(_flat(part for rank in ranks for part in rank)) == list(range(ROWS))
    full = [
        _ids(_make(selection, **order, rank=rank, world_size=world, drop_last=True))
        for rank in range(world)
    ]
    assert {len(rank) for rank in full} == {ROWS // world // 16}
    assert {len(part) for rank in full for part in rank} == {16}
    assert [rank[: len(mine)] for rank, mine in zip(ranks, full, strict=True)] == full


def test_another_number_of_ranks_goes_on(selection: Selection) -> None:
    two = [_make(selection, shuffle=True, rank=rank, world_size=2) for rank in range(2)]
    done = _flat(next(batches).table["row_id"].to_pylist() for batches in two for _ in range(3))
    state = two[1].state()
    assert state == two[0].state()
    rest = [
        _ids(_make(selection, shuffle=True, rank=rank, world_size=3, state=state))
        for rank in range(3)
    ]
    assert sorted(done + _flat(part for rank in rest for part in rank)) == list(range(ROWS))


def test_workers_take_turns_and_each_can_go_on(selection: Selection) -> None:
    settings = _make(selection, shuffle=True)._settings
    whole = _ids(_make(selection, shuffle=True))
    for worker in range(2):
        lane = Lane(worker, 2, worker)
        mine = Batches(selection, settings, lane=lane)
        assert len(mine) == len(whole[worker::2])
        begun = [next(mine).table["row_id"].to_pylist() for _ in range(3)]
        assert begun == whole[worker::2][:3]
        state = mine.state()
        assert _ids(Batches(selection, settings, state, lane)) == whole[worker::2][3:]
        with pytest.raises(MismatchError, match=rf"worker {worker} of 2, this is worker 0 of 1"):
            _make(selection, shuffle=True, state=state)
    unbegun = Batches(selection, settings, lane=Lane(1, 2, 1)).state()
    assert _ids(Batches(selection, settings, unbegun, Lane(1, 2, 1))) == whole[1::2]


def test_a_store_that_grew_is_opened_where_the_state_is_from(
    tmp_path: Path, selection: Selection
) -> None:
    batches = _make(selection, shuffle=True)
    next(batches)
    state = batches.state()
    rest = _ids(batches)
    names = [f"new{number}" for number in range(4)]
    stores.add(tmp_path / "s", stores.vectors(4, 8, "float16", 9), layer=1, example_id=names)
    with actstore.open(tmp_path / "s") as store:
        with pytest.raises(MismatchError, match=r"\(303 rows at commit 3\).*307.*at=3"):
            _make(store.select(layer=[0, 1, 2]), shuffle=True, state=state)
        assert len(_make(store.select(layer=0), shuffle=True)) == 7
    with actstore.open(tmp_path / "s", at=3) as store:
        same = store.select(layer=[0, 1, 2])
        assert _ids(_make(same, shuffle=True, state=state)) == rest


def test_rows_that_others_add_elsewhere_do_not_matter(tmp_path: Path, selection: Selection) -> None:
    batches = _make(selection[101:202], shuffle=True)
    next(batches)
    state = batches.state()
    rest = [batch.vectors for batch in batches]
    stores.add(tmp_path / "s", stores.vectors(4, 8, "float16", 9), layer=-1)
    with actstore.open(tmp_path / "s") as store:
        again = _make(store.select(layer=1), shuffle=True, state=state)
        assert all(map(np.array_equal, (batch.vectors for batch in again), rest))


def test_a_state_of_another_selection_or_seed_is_refused(selection: Selection) -> None:
    state = _make(selection, shuffle=True, seed=1).state()
    with pytest.raises(MismatchError, match="other rows"):
        _make(selection[:-1], shuffle=True, seed=1, state=state)
    with pytest.raises(MismatchError, match="seed=1"):
        _make(selection, shuffle=True, seed=2, state=state)
    with pytest.raises(MismatchError, match="'none'"):
        _make(selection, state=state)
    with pytest.raises(UsageError, match="no state"):
        _make(selection, state={"step": 3})


def test_a_state_of_an_earlier_pass_than_the_one_asked_for_is_refused(
    selection: Selection,
) -> None:
    batches = _make(selection, shuffle=True, epochs=5)
    for _ in range(25):
        next(batches)
    state = batches.state()
    assert state["epoch"] == 1
    with pytest.raises(MismatchError, match=r"pass 1, before .* epoch=2"):
        _make(selection, shuffle=True, epoch=2, state=state)
    assert len(_make(selection, shuffle=True, epoch=1, state=state)) == 13


@pytest.mark.parametrize("order", [{}, {"shuffle": True}, {"shuffle": "blocks", "block": 7}])
@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_after_an_error_the_same_batch_is_next(
    selection: Selection, monkeypatch: pytest.MonkeyPatch, order: dict[str, Any], prefetch: int
) -> None:
    """Ctrl-C or a broken connection that is caught must not look like the end of the pass."""
    monkeypatch.setattr("actstore.training.batches.WINDOW_BYTES", 30 * 16)
    expected = _ids(_make(selection, **order))
    gather = Snapshot.gather
    broken = False

    def reading(self: Snapshot, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        if broken:
            raise KeyboardInterrupt
        return gather(self, rows, out)

    monkeypatch.setattr(Snapshot, "gather", reading)
    batches = _make(selection, **order, prefetch=prefetch)
    found = [next(batches).table["row_id"].to_pylist() for _ in range(3)]
    broken = True
    with pytest.raises(KeyboardInterrupt):
        found.extend(batch.table["row_id"].to_pylist() for batch in batches)
    broken = False
    assert len(batches) == len(expected) - len(found)
    assert found + _ids(batches) == expected


def test_numbers_of_numpy_are_numbers(selection: Selection) -> None:
    """A size or seed out of an array must not spoil the state, which is to be JSON."""
    one = np.int64(1)
    batches = _make(selection, shuffle="blocks", seed=one, block=7 * one, world_size=2 * one)
    next(batches)
    state = json.loads(json.dumps(batches.state()))
    assert len(_make(selection, shuffle="blocks", seed=1, block=7, world_size=2, state=state)) == 9
    for wrong in ({"seed": "x"}, {"rank": 0.5}, {"epochs": 1.5}):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))} is a whole number"):
            _make(selection, **wrong)


def test_types(tmp_path: Path, selection: Selection) -> None:
    wide = next(_make(selection, dtype="float32")).vectors
    assert wide.dtype == np.float32
    assert np.array_equal(wide, selection[:16].numpy().astype(np.float32))
    stores.add(tmp_path / "s", stores.vectors(40, 8, "float32", 5), layer=7)
    with actstore.open(tmp_path / "s") as store:
        both = store.select(layer=store.layers)
        expected = both.numpy()
        assert expected.dtype == np.float32
        for order in ({"shuffle": "exact"}, {"shuffle": "blocks", "block": 3}, {}):
            for vectors, table in _make(both, **order):
                assert vectors.dtype == np.float32
                assert np.array_equal(vectors, expected[table["row_id"].to_pylist()])
        with pytest.raises(UsageError, match="lose bits"):
            _make(both, dtype="float16")
    with pytest.raises(UsageError, match="float64"):
        _make(selection, dtype="float64")


def test_rows_in_any_order_and_more_than_once(selection: Selection) -> None:
    picked = selection.take([5, 5, 300, 2, 2, 2])
    found = _flat(_ids(_make(picked, shuffle=True)))
    assert sorted(found) == [2, 2, 2, 5, 5, 300]
    assert _flat(_ids(_make(picked))) == [5, 5, 300, 2, 2, 2]


def test_one_row_and_batches_larger_than_all(selection: Selection) -> None:
    assert _ids(_make(selection[7:8], shuffle=True)) == [[7]]
    assert [len(part) for part in _ids(selection.batches(1000, shuffle=True))] == [ROWS]
    with pytest.raises(TooFewRowsError, match="303 rows make no full batch of 1000"):
        selection.batches(1000, drop_last=True)
    with pytest.raises(TooFewRowsError, match="nothing was selected"):
        selection[:0].batches(4, shuffle=True)
    assert list(selection[:0].batches(4)) == []


def test_mixed_widths_are_refused_at_once(tmp_path: Path) -> None:
    stores.mixed(tmp_path / "m")
    with (
        actstore.open(tmp_path / "m") as store,
        pytest.raises(MixedVectorsError, match=r"4.*6"),
    ):
        store.select().batches(2, shuffle=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shuffle": "windows"}, "'windows'"),
        ({"block": 4}, "block=4 goes with shuffle='blocks'"),
        ({"shuffle": True, "block": 0}, "block=0"),
        ({"prefetch": -1}, "-1"),
        ({"rank": 1}, "rank=1"),
        ({"seed": None}, "seed is a whole number, got None"),
        ({"pin_memory": True}, "needs a GPU"),
    ],
)
def test_arguments_that_cannot_work(
    selection: Selection, wrong: dict[str, Any], message: str
) -> None:
    if "pin_memory" in wrong:
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
    with pytest.raises(UsageError, match=message):
        _make(selection, **wrong)


def test_a_shuffle_of_blocks_reads_neighbours(selection: Selection) -> None:
    found = _flat(_ids(_make(selection, shuffle=True, seed=1, block=10)))
    assert sorted(found) == list(range(ROWS))
    assert found != _flat(_ids(_make(selection, shuffle="exact", seed=1)))
    order = _make(selection, shuffle="blocks")._plan.ordering
    assert (order.block, order.window) == (1 << 16, 1 << 22)  # 1 and 64 MiB of 16 bytes a row


def test_batches_are_memory_of_their_own(selection: Selection) -> None:
    batches = _make(selection, shuffle=True)
    kept = [batch.vectors for batch in batches]
    rows = _flat(_ids(_make(selection, shuffle=True)))
    assert np.array_equal(np.concatenate(kept), selection.numpy()[rows])
    kept[0][:] = 9
    assert np.array_equal(selection.numpy()[rows[16:32]], kept[1])


def test_an_iterator_left_alone_holds_nothing_back(selection: Selection) -> None:
    batches = _make(selection, shuffle=True, prefetch=3)
    next(batches)
    batches.close()
    assert list(batches) == []
    assert "epoch 0, position 16" in repr(batches)
