"""Selected rows in portions, and as the frames that are made of them."""

from __future__ import annotations

import secrets
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import actstore
from actstore.errors import MissingExtraError, MixedVectorsError, NotInStoreError
from actstore.querying import portions
from actstore.remote.syncing import sync
from actstore.storage import manifest as manifests
from actstore.storage.manifest import Run
from actstore.storage.writer import StoreWriter
from tests.storage.stores import batch
from tests.storage.undoing import flip


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with StoreWriter(tmp_path / "s", run=Run(run_id="r", kind="ingest", started_at="")) as writer:
        for layer in range(3):
            writer.add(batch(0, 40, layer=layer))
            writer.commit(operation="ingest", message="")
    return tmp_path / "s"


def test_portions_are_the_rows_in_their_order(store: Path) -> None:
    chosen = actstore.open(store).select(layer=[0, 2]).take(slice(None, None, -1))
    width = chosen.shape[1] * np.dtype(chosen.dtype).itemsize
    found = portions.portions(chosen, ["layer"], size=30 * width)
    assert [len(part.rows) for part in found] == [30, 30, 20]
    assert sum(part.size for part in found) == 80 * width
    tables = pa.concat_tables([part.table() for part in found])
    assert tables.equals(chosen.to_arrow(["layer"]))
    (whole,) = portions.portions(chosen, None)
    assert whole.table().equals(chosen.to_arrow())


def test_a_portion_reads_its_commit_wherever_it_is_read(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = actstore.open("s").select(layer=1)
    (part,) = portions.portions(chosen, ["layer"])
    expected = chosen.to_arrow(["layer"])
    with StoreWriter(store, run=Run(run_id="q", kind="ingest", started_at="")) as writer:
        writer.add(batch(40, 40, layer=0))
        writer.commit(operation="ingest", message="")
    monkeypatch.chdir("/")
    assert part.table().equals(expected)


def test_a_portion_leaves_out_the_damaged_shards_that_its_selection_does(store: Path) -> None:
    first = manifests.latest(store).shards[0]
    flip(store / first.path, first.pages[0][0] + 21)
    chosen = actstore.open(store, skip_damaged=True).select(layer=2)
    (part,) = portions.portions(chosen, ["layer", "row_id"])
    assert part.table().equals(chosen.to_arrow(["layer", "row_id"]))
    assert part.table()["layer"].to_pylist() == [2] * 40


def test_a_portion_of_a_store_in_a_bucket_is_read_there(store: Path) -> None:
    place = f"memory://{secrets.token_hex(6)}"
    sync(store, place)
    chosen = actstore.open(place).select(layer=1)
    (part,) = portions.portions(chosen, ["layer"])
    assert part.table().equals(chosen.to_arrow(["layer"]))


def test_portions_of_two_types_are_all_of_the_wider(store: Path) -> None:
    with StoreWriter(store, run=Run(run_id="q", kind="ingest", started_at="")) as writer:
        writer.add(batch(0, 10, layer=7, dtype="float32"))
        writer.commit(operation="ingest", message="")
    chosen = actstore.open(store).select(layer=[1, 7])
    found = portions.portions(chosen, ["row_id"], size=300)
    assert len(found) > 2
    assert pa.concat_tables([part.table() for part in found]).equals(chosen.to_arrow(["row_id"]))


def test_no_rows_are_one_empty_portion(store: Path) -> None:
    (part,) = portions.portions(actstore.open(store).select(layer=1).head(0), None)
    assert part.table().num_rows == 0


def test_what_cannot_be_read_is_said_at_once(store: Path) -> None:
    with pytest.raises(NotInStoreError):
        portions.portions(actstore.open(store).select(), ["no such column"])
    with StoreWriter(store, run=Run(run_id="q", kind="ingest", started_at="")) as writer:
        writer.add(batch(0, 4, layer=7, width=12))
        writer.commit(operation="ingest", message="")
    with pytest.raises(MixedVectorsError):
        portions.portions(actstore.open(store).select(layer=[1, 7]), None)


def test_a_daft_frame_has_the_rows_and_reads_what_is_asked(store: Path) -> None:
    pytest.importorskip("daft")
    chosen = actstore.open(store).select(layer=[0, 2])
    frame = chosen.to_daft(["layer", "row_id"])
    assert frame.column_names == ["layer", "row_id", "activation"]
    found = frame.sort("row_id").to_arrow()
    assert found["row_id"].to_pylist() == chosen.rows.tolist()
    matrix = np.stack([np.asarray(vector) for vector in found["activation"].to_pylist()])
    assert np.array_equal(matrix, chosen.tensor("float32").numpy())
    assert frame.where("layer = 2").count_rows() == 40


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray sets what it has deprecated
def test_tasks_of_ray_say_how_much_they_read(store: Path) -> None:
    pytest.importorskip("ray")
    from actstore.querying.ray_dataset import _Selected

    chosen = actstore.open(store).select(layer=[0, 2])
    width = chosen.shape[1] * np.dtype(chosen.dtype).itemsize
    source = _Selected(portions.portions(chosen, ["row_id"], size=30 * width))
    tasks = source.get_read_tasks(2)
    assert [task.metadata.num_rows for task in tasks] == [30, 30, 20]
    assert [task.metadata.size_bytes for task in tasks] == [30 * width, 30 * width, 20 * width]
    assert source.estimate_inmemory_data_size() == 80 * width
    blocks = [block for task in tasks for block in task()]
    assert [block.num_rows for block in blocks] == [30, 30, 20]
    assert pa.concat_tables(blocks)["row_id"].to_pylist() == chosen.rows.tolist()
    vectors = [vector for block in blocks for vector in block["activation"].to_numpy()]
    assert np.array_equal(np.stack(vectors), chosen.numpy())


@pytest.mark.parametrize(("name", "module"), [("ray", "ray_dataset"), ("daft", "daft_frame")])
def test_a_missing_extra_is_named(
    store: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, f"actstore.querying.{module}", None)
    monkeypatch.delattr(f"actstore.querying.{module}", raising=False)
    chosen = actstore.open(store).select(layer=1)
    with pytest.raises(MissingExtraError, match=rf"pip install 'actstore\[{name}\]'"):
        getattr(chosen, f"to_{name}")()
