"""Selections: which rows, in what order, as what."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from actstore import schema
from actstore.api.store import Store
from actstore.api.store import open as open_store
from actstore.errors import MixedVectorsError, NotInStoreError, UsageError
from actstore.querying import portions
from tests.querying import stores


@pytest.fixture
def matrices(tmp_path: Path) -> list[np.ndarray]:
    return stores.layered(tmp_path / "store")


@pytest.fixture
def store(tmp_path: Path, matrices: list[np.ndarray]) -> Iterator[Store]:
    with open_store(tmp_path / "store") as found:
        yield found


def test_a_layer_is_its_matrix(store: Store, matrices: list[np.ndarray]) -> None:
    selection = store.select(layer=1)
    assert (len(selection), selection.shape, selection.dtype) == (12, (12, 8), "float16")
    found = selection.numpy()
    assert found.dtype == np.float16
    assert np.array_equal(found, matrices[1])
    assert found.flags.writeable
    assert selection.rows.tolist() == list(range(12, 24))
    assert "12 rows x 8, layer=1" in repr(selection)


def test_labels_and_conditions_keep_row_order(store: Store, matrices: list[np.ndarray]) -> None:
    selection = store.select("row_id % 2 = 0", layer=[0, 2], label=["yes", "no"])
    expected = [row for row in (*range(12), *range(24, 36)) if row % 3 != 2 and row % 2 == 0]
    assert selection.rows.tolist() == expected
    everything = np.concatenate(matrices)
    assert np.array_equal(selection.numpy(), everything[expected])
    assert selection.table(["row_id", "layer"]).to_pylist() == [
        {"row_id": row, "layer": row // 12} for row in expected
    ]


def test_a_view_shares_memory_and_cannot_be_written(store: Store) -> None:
    selection = store.select(layer=1)
    view = selection.numpy(copy=False)
    assert np.shares_memory(view, selection[3:7].numpy(copy=False))
    assert not view.flags.writeable
    assert np.array_equal(view, selection.numpy())
    scattered = selection[[0, 2, 3]]
    with pytest.raises(UsageError, match="3 rows are not one run"):
        scattered.numpy(copy=False)
    assert np.array_equal(scattered.numpy(copy=None), view[[0, 2, 3]])
    assert np.shares_memory(selection.numpy(copy=None), view)
    assert not np.shares_memory(selection.numpy(), view)
    with pytest.raises(UsageError, match="not one run"):
        store.select(layer=[0, 1]).numpy(copy=False)


def test_out_is_filled_in_either_type(store: Store, matrices: list[np.ndarray]) -> None:
    selection = store.select(layer=2)
    for dtype in (np.float16, np.float32):
        out = np.full((12, 8), 9, dtype)
        assert selection.numpy(out=out) is out
        assert np.array_equal(out, matrices[2].astype(dtype))
    with pytest.raises(UsageError, match=r"\(11, 8\)"):
        selection.numpy(out=np.empty((11, 8), np.float32))
    with pytest.raises(UsageError, match="copy"):
        selection.numpy(copy=False, out=np.empty((12, 8), np.float16))


def test_tensors(store: Store, matrices: list[np.ndarray]) -> None:
    import torch

    selection = store.select(layer=0)
    assert torch.equal(selection.tensor(), torch.from_numpy(matrices[0]))
    single = selection.tensor("float32", "cpu")
    assert single.dtype is torch.float32
    assert torch.equal(single, torch.from_numpy(matrices[0]).float())
    assert selection.tensor(torch.bfloat16).dtype is torch.bfloat16
    assert selection.tensor(copy=False).data_ptr() == selection.numpy(copy=False).ctypes.data
    with pytest.raises(UsageError, match="no dtype 'float17'"):
        selection.tensor("float17")


def test_batches_cover_everything_once_in_a_repeatable_order(
    store: Store, matrices: list[np.ndarray]
) -> None:
    everything = np.concatenate(matrices)
    selection = store.select()
    plain = list(selection.batches(10, columns=["row_id"], mixed=True))
    assert [len(batch.vectors) for batch in plain] == [10, 10, 10, 6]
    assert np.array_equal(np.concatenate([batch.vectors for batch in plain]), everything)
    orders = []
    for seed in (0, 0, 1):
        order: list[int] = []
        batches = selection.batches(10, shuffle=True, seed=seed, columns=["row_id"], mixed=True)
        for vectors, table in batches:
            order += table["row_id"].to_pylist()
            assert np.array_equal(vectors, everything[order[-len(vectors) :]])
        assert sorted(order) == list(range(36))
        orders.append(order)
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != list(range(36))
    full = next(selection.batches(2, mixed=True)).table
    assert full.column_names == [*schema.metadata_names(), "row_id"]
    with pytest.raises(UsageError, match="size=0"):
        selection.batches(0, mixed=True)


def test_parts(store: Store) -> None:
    selection = store.select(layer=[1, 2])
    assert selection[2:9:3].rows.tolist() == [14, 17, 20]
    assert selection[::-1].rows.tolist() == list(range(35, 11, -1))
    assert selection.take([3, 3, -1]).rows.tolist() == [15, 15, 35]
    mask = np.arange(24) % 5 == 0
    assert selection[mask].rows.tolist() == [12, 17, 22, 27, 32]
    assert len(selection[[]]) == 0
    reversed_labels = selection[::-1].table(["label"])["label"].to_pylist()
    assert reversed_labels == selection.table(["label"])["label"].to_pylist()[::-1]
    for bad in ([24], np.ones(3, bool), np.array([0.5])):
        with pytest.raises(UsageError, match="selection has 24 rows"):
            selection.take(bad)
    with pytest.raises(UsageError, match="batches"):
        selection[0]  # type: ignore[index]  # which is also what iterating would ask for


def test_metadata(store: Store) -> None:
    table = store.select(layer=1).table()
    assert table.column_names == [*schema.metadata_names(), "row_id"]
    assert table.select(list(schema.metadata_names())).schema.types == (
        schema.metadata_schema().types
    )
    with pytest.raises(NotInStoreError, match="did you mean label"):
        store.select(layer=1).table(["lable"])
    with pytest.raises(NotInStoreError, match=r"use \.numpy"):
        store.select(layer=1).table(["activation"])


def test_an_empty_selection_knows_its_width(store: Store) -> None:
    selection = store.select("norm < 0", layer=1)
    assert (len(selection), selection.shape, selection.dtype) == (0, (0, 8), "float16")
    assert selection.numpy().shape == (0, 8)
    assert selection.numpy(copy=False).dtype == np.float16
    assert selection.tensor("float32").shape == (0, 8)
    assert selection.table().num_rows == 0
    assert list(selection.batches(4)) == []


def test_nothing_of_some_rows_has_their_width_and_type(tmp_path: Path) -> None:
    stores.add(tmp_path / "s", stores.vectors(3, 4, "float16", 0), model="a")
    stores.add(tmp_path / "s", stores.vectors(3, 4, "float32", 0), model="b")
    stores.add(tmp_path / "s", stores.vectors(3, 6, "float16", 0), model="c")
    with open_store(tmp_path / "s") as store:
        rows = store.select("model = 'a'")
        assert rows.head(0).shape == (0, 4)
        assert rows.head(0).dtype == "float16"
        assert rows.schema == rows.to_arrow().schema
        assert len(portions.portions(rows, None)) == 1


def test_mixed_widths_are_no_matrix(tmp_path: Path) -> None:
    matrices = stores.mixed(tmp_path / "s")
    with open_store(tmp_path / "s") as store:
        everything = store.select()
        assert len(everything) == 8
        assert "8 rows x 4 or 6" in repr(everything)
        assert everything.table(["model"]).num_rows == 8
        for mixed in (False, True):
            for use in (everything.numpy, everything.tensor, partial(everything.batches, 2)):
                with pytest.raises(MixedVectorsError, match=r"widths:? 4.*6"):
                    use(mixed=mixed)
        assert np.array_equal(store.select(layer=7).numpy(), matrices[6])


def test_two_types_of_one_width_become_float32_throughout(tmp_path: Path) -> None:
    half, single = stores.vectors(4, 3, "float16", 0), stores.vectors(4, 3, "float32", 1)
    stores.add(tmp_path / "s", half, layer=0)
    stores.add(tmp_path / "s", single, layer=1)
    with open_store(tmp_path / "s") as store:
        selection = store.select(layer=[0, 1])
        expected = np.concatenate([half.astype(np.float32), single])
        assert selection.dtype == "float32"
        assert np.array_equal(selection.numpy(), expected)
        batches = [batch.vectors for batch in selection.batches(3)]
        assert {batch.dtype for batch in batches} == {np.dtype(np.float32)}
        assert np.array_equal(np.concatenate(batches), expected)
        out = selection.numpy(out=np.empty((8, 3), np.float32))
        assert np.array_equal(out, expected)


def test_a_selection_stays_at_its_commit(tmp_path: Path, store: Store) -> None:
    before = store.select(layer=0)
    stores.add(tmp_path / "store", stores.vectors(4, 8, "float16", 9), layer=-1)
    store.refresh()
    assert store.rows == 40
    assert before.table(["layer"])["layer"].to_pylist() == [0] * 12
    assert before.numpy().shape == (12, 8)
