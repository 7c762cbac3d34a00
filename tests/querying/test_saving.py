"""A selection as a file: what each format holds, and that it appears whole or not at all."""

import json
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from actstore import schema
from actstore.api.selection import Selection
from actstore.api.store import open as open_store
from actstore.errors import MixedVectorsError, UsageError
from actstore.querying import saving
from tests.querying import stores


@pytest.fixture
def selection(tmp_path: Path) -> Iterator[Selection]:
    stores.layered(tmp_path / "store")
    with open_store(tmp_path / "store") as store:
        yield store.select(layer=[0, 2])[::-1]


def test_parquet_is_a_file_in_the_full_schema(tmp_path: Path, selection: Selection) -> None:
    path = selection.save(tmp_path / "x.parquet")
    table = pq.read_table(path, page_checksum_verification=True)
    table.validate(full=True)
    assert table.schema.equals(schema.arrow_schema(8, "float16"))
    values = table["activation"].combine_chunks().flatten().to_numpy().reshape(-1, 8)
    assert np.array_equal(values, selection.numpy())
    names = list(schema.metadata_names())
    assert table.select(names).equals(selection.table(names).cast(schema.metadata_schema()))
    with duckdb.connect() as other:
        counted = other.execute(f"SELECT count(*), sum(layer) FROM '{path}'").fetchall()
    assert counted == [(24, 24)]
    assert sorted(child.name for child in tmp_path.iterdir()) == ["store", "x.parquet"]
    with pytest.raises(UsageError, match="all columns"):
        selection.save(path, ["label"])


def test_safetensors(tmp_path: Path, selection: Selection) -> None:
    from safetensors import safe_open

    with safe_open(selection.save(tmp_path / "x.safetensors"), "np") as file:
        assert np.array_equal(file.get_tensor("activation"), selection.numpy())
        assert file.get_tensor("layer").tolist() == [2] * 12 + [0] * 12
        assert file.get_tensor("row_id").tolist() == selection.rows.tolist()
        columns = json.loads(file.metadata()["columns"])
    assert columns["label"] == selection.table(["label"])["label"].to_pylist()
    assert "question" not in columns  # null throughout


def test_npz_opens_without_pickle(tmp_path: Path, selection: Selection) -> None:
    with np.load(selection.save(tmp_path / "x.npz"), allow_pickle=False) as file:
        assert np.array_equal(file["activation"], selection.numpy())
        assert file["layer"].dtype == np.int32
        labels = file["label"].astype(object)
        labels[file["label_null"]] = None
        assert labels.tolist() == selection.table(["label"])["label"].to_pylist()
        assert "task_null" not in file
        assert file["task"][0] == "grid"


def test_a_text_that_numpy_would_cut_is_refused(tmp_path: Path) -> None:
    questions = ["what", "what\0"]
    stores.add(tmp_path / "store", np.ones((2, 4), np.float32), question=questions)
    with open_store(tmp_path / "store") as store:
        rows = store.select()
        with pytest.raises(UsageError, match="a text of question ends with a zero character"):
            rows.save(tmp_path / "x.npz")
        assert not (tmp_path / "x.npz").exists()
        path = rows.save(tmp_path / "x.parquet")
    assert pq.read_table(path)["question"].to_pylist() == questions


def test_truths_of_an_npz_are_truths(tmp_path: Path) -> None:
    extra = ['{"sure": true, "known": false}', '{"known": true}', '{"sure": false, "known": false}']
    stores.add(tmp_path / "s", stores.vectors(3, 2, "float32", 0), extra=extra)
    columns = ["extra.known", "extra.sure"]
    with (
        open_store(tmp_path / "s") as store,
        np.load(store.select().save(tmp_path / "x.npz", columns)) as file,
    ):
        assert file["extra.known"].tolist() == [False, True, False]
        assert file["extra.sure"].tolist() == [True, False, False]
        assert file["extra.sure_null"].tolist() == [False, True, False]


def test_torch_opens_with_weights_only(tmp_path: Path, selection: Selection) -> None:
    import torch

    found = torch.load(selection.save(tmp_path / "x.pt"), weights_only=True)
    assert torch.equal(found["activation"], selection.tensor())
    assert found["metadata"]["label"] == selection.table(["label"])["label"].to_pylist()


def test_only_the_columns_asked_for(tmp_path: Path, selection: Selection) -> None:
    with np.load(selection.save(tmp_path / "x.npz", ["label", "question"])) as file:
        assert set(file) == {"activation", "label", "label_null", "question", "question_null"}
        assert file["question_null"].all()


def test_a_failure_leaves_what_was_there(
    tmp_path: Path, selection: Selection, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_text("precious")
    monkeypatch.setattr(saving, "_HEADER_BYTES", 100)
    with pytest.raises(UsageError, match=r"too large for a \.safetensors header.*columns="):
        selection.save(path)
    assert path.read_text() == "precious"
    assert sorted(child.name for child in tmp_path.iterdir()) == ["store", "x.safetensors"]


@pytest.mark.parametrize("name", ["x.csv", "x", "x.pth", ".npz"])
def test_other_endings_are_refused(tmp_path: Path, selection: Selection, name: str) -> None:
    with pytest.raises(UsageError, match=r"\.parquet, \.safetensors, \.npz, \.pt"):
        selection.save(tmp_path / name)


def test_nothing_mixed_and_nowhere_are_refused(tmp_path: Path, selection: Selection) -> None:
    with pytest.raises(UsageError, match="nothing is selected"):
        selection[:0].save(tmp_path / "x.npz")
    with pytest.raises(UsageError, match="no folder"):
        selection.save(tmp_path / "missing" / "x.npz")
    stores.mixed(tmp_path / "mixed")
    with open_store(tmp_path / "mixed") as store, pytest.raises(MixedVectorsError):
        store.select().save(tmp_path / "x.parquet")
    stores.add(tmp_path / "store", stores.vectors(4, 8, "float16", 9), site="mlp_out")
    with open_store(tmp_path / "store") as store, pytest.raises(MixedVectorsError, match="sites"):
        store.select().save(tmp_path / "x.npz")
    assert sorted(child.name for child in tmp_path.iterdir()) == ["mixed", "store"]
