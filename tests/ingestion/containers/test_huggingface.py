"""Hugging Face data sets: what save_to_disk and the Hub's Parquet folders hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actstore.errors import LayoutError, UnreadableFileError
from actstore.ingestion.containers import huggingface, read

VECTORS = np.arange(40, dtype=np.float32).reshape(10, 1, 4)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders written by datasets itself."""
    from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, List, Value

    root = tmp_path_factory.mktemp("saved")
    features = Features(
        {
            "id": Value("string"),
            "grid": Array2D((1, 4), "float32"),
            "fixed": List(Value("float16"), length=4),
            "lists": List(Value("float32")),
            "label": ClassLabel(names=["bad", "good"]),
        }
    )
    content = {
        "id": [str(index) for index in range(10)],
        "grid": VECTORS,
        "fixed": VECTORS[:, 0].astype(np.float16),
        "lists": VECTORS[:, 0],
        "label": [0, 1] * 5,
    }
    whole = Dataset.from_dict(content, features=features)
    whole.save_to_disk(root / "one", num_shards=2)
    whole.select([7, 2]).save_to_disk(root / "selected")
    DatasetDict(train=whole, test=whole.select([0])).save_to_disk(root / "dict")
    whole.to_parquet(root / "whole.parquet")
    return root


def load(path: Path) -> Any:
    return read("huggingface", path)


def rows(source: Any, column: str) -> list[Any]:
    return [value for batch in source.batches([column], 3) for value in batch[column].to_pylist()]


def test_dataset_in_two_shards(saved: Path) -> None:
    source = load(saved / "one")
    assert len(source.files) == 2
    assert rows(source, "id") == [str(index) for index in range(10)]
    assert rows(source, "grid") == VECTORS.tolist()
    assert rows(source, "fixed") == VECTORS[:, 0].tolist()
    assert rows(source, "lists") == VECTORS[:, 0].tolist()
    assert source.features["label"]["names"] == ["bad", "good"]
    assert source.schema.field("grid").type == pa.list_(pa.list_(pa.float32()))


def test_selected_rows_keep_their_order(saved: Path) -> None:
    assert rows(load(saved / "selected"), "id") == ["7", "2"]


def test_dataset_dict_gives_its_splits(saved: Path) -> None:
    splits = load(saved / "dict")
    assert list(splits) == ["train", "test"]
    assert rows(splits["test"], "grid") == VECTORS[:1].tolist()
    with pytest.raises(LayoutError, match="splits train, test"):
        huggingface.schema(saved / "dict")


def test_single_files(saved: Path) -> None:
    assert rows(load(saved / "whole.parquet"), "grid") == VECTORS.tolist()
    (shard, _) = sorted((saved / "one").glob("*.arrow"))
    assert rows(load(shard), "id") == ["0", "1", "2", "3", "4"]
    assert "grid" in huggingface.schema(saved / "one").names
    assert sum(batch.num_rows for batch in huggingface.batches(saved / "one", ["id"])) == 10


def test_reading_does_not_import_datasets(saved: Path) -> None:
    code = (
        "import sys, pathlib; from actstore.ingestion.containers import read;"
        "source = read('huggingface', pathlib.Path(sys.argv[1]));"
        "assert sum(batch.num_rows for batch in source.batches()) == 10;"
        "sys.exit('datasets' in sys.modules or 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(saved / "one")]
    assert subprocess.run(command, check=False).returncode == 0


def test_parquet_folder_with_splits(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name, values in (
        ("train-00001-of-00002", [2]),
        ("train-00000-of-00002", [1]),
        ("test-00000-of-00001", [3]),
    ):
        pq.write_table(pa.table({"a": values}), tmp_path / "data" / f"{name}.parquet")
    splits = load(tmp_path)
    assert rows(splits["train"], "a") == [1, 2]
    assert rows(splits["test"], "a") == [3]
    (tmp_path / "data" / "test-00000-of-00001.parquet").unlink()
    assert rows(load(tmp_path), "a") == [1, 2]


def test_arrow_file_format(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    table = pa.table({"a": list(range(5))})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    assert rows(load(path), "a") == [0, 1, 2, 3, 4]
    assert rows(load(tmp_path), "a") == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ("{", UnreadableFileError, "is not JSON"),
        ("[]", UnreadableFileError, "is not a JSON object"),
        ("{}", UnreadableFileError, "names no data files"),
        ({"_data_files": [{"filename": "../../etc/passwd"}]}, UnreadableFileError, "no name"),
        ({"_data_files": [5]}, UnreadableFileError, "no name inside"),
        ({"_data_files": [{"filename": "gone.arrow"}]}, UnreadableFileError, "gone.arrow"),
        (
            {"_data_files": [{"filename": "a"}], "_indices_data_files": [{"filename": "b"}]},
            LayoutError,
            "flatten_indices",
        ),
    ],
)
def test_broken_folders(tmp_path: Path, state: Any, error: type[Exception], message: str) -> None:
    text = state if isinstance(state, str) else json.dumps(state)
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(error, match=message):
        load(tmp_path)


def test_other_folders_and_files(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match="holds no data set"):
        load(tmp_path)
    (tmp_path / "x.arrow").write_bytes(b"hello")
    with pytest.raises(UnreadableFileError, match="of no format known"):
        load(tmp_path / "x.arrow")
