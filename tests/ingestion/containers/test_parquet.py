"""Parquet tables: streaming, columns, extension types, damage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actstore.errors import LayoutError, UnreadableFileError, UnsafeFileError
from actstore.ingestion.containers import parquet, read


def write(path: Path, rows: int = 10, width: int = 4) -> pa.Table:
    values = np.arange(rows * width, dtype=np.float16)
    table = pa.table(
        {
            "id": [str(index) for index in range(rows)],
            "fixed": pa.FixedSizeListArray.from_arrays(pa.array(values), width),
            "lists": pa.array(values.astype(np.float32).reshape(rows, width).tolist()),
            "large": pa.array(
                values.astype(np.float32).reshape(rows, width).tolist(),
                pa.large_list(pa.float32()),
            ),
        }
    )
    pq.write_table(table, path, row_group_size=4)
    return table


def test_streams_in_order_with_columns(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = write(path)
    source = read("parquet", path)
    assert (source.rows, source.files, source.path) == (10, (path,), path)
    assert source.schema.equals(table.schema)
    batches = list(source.batches(batch_rows=3))
    assert max(batch.num_rows for batch in batches) == 3
    assert pa.Table.from_batches(batches).equals(table)
    two = pa.Table.from_batches(source.batches(["fixed", "id"]))
    assert two.select(["id", "fixed"]).equals(table.select(["id", "fixed"]))
    assert parquet.schema(path).equals(table.schema)
    assert pa.Table.from_batches(parquet.batches(path, ["id"])).column_names == ["id"]


def test_missing_column_names_those_there(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write(path)
    with pytest.raises(LayoutError, match=r"x\.parquet: has no column 'v'; it has id, fixed"):
        read("parquet", path).batches(["v"])


def test_extension_types_come_as_their_storage(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(
        np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    )
    pq.write_table(pa.table({"v": tensors}), path)
    source = read("parquet", path)
    assert source.schema.field("v").type == pa.list_(pa.float32(), 6)
    (batch,) = source.batches()
    assert batch.column("v").to_pylist() == [list(range(6)), list(range(6, 12))]


def test_features_of_hugging_face(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    features = {"y": {"names": ["a", "b"], "_type": "ClassLabel"}}
    for raw, expected in (
        (json.dumps({"info": {"features": features}}), features),
        ("not json", {}),
        ("[]", {}),
    ):
        table = pa.table({"y": [0]}).replace_schema_metadata({"huggingface": raw})
        pq.write_table(table, path)
        assert read("parquet", path).features == expected


def test_files_of_one_table_must_agree(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1], "b": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"a": [1.0], "b": [1]}), tmp_path / "b.parquet")
    with pytest.raises(LayoutError, match=r"b\.parquet: .*a\.parquet: they differ in a;"):
        read("huggingface", tmp_path)


def test_run_length_bomb(tmp_path: Path) -> None:
    """A million equal values take a few bytes."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": pa.repeat(pa.scalar(1), 1 << 20)}), path)
    assert sum(batch.num_rows for batch in read("parquet", path).batches()) == 1 << 20
    with pytest.raises(UnsafeFileError, match="row group 0 unfolds to 1,048,576 rows"):
        read("parquet", path, memory_limit=1 << 19)


def test_a_file_of_nothing_but_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1" + bytes(50))
    with pytest.raises(UnreadableFileError, match=r"x\.parquet: .*a Parquet file \(54 bytes\)"):
        read("parquet", path)
