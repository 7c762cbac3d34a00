"""Shards are ordinary Parquet: readers that share no code with the writer see the same bits."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actstore import schema
from actstore.storage import pages, shard
from tests.storage.stores import vectors, write_shard

WIDTHS = (1, 2, 3, 7, 64, 1537, 4096, 16384)
DTYPES = ("float16", "float32")
GROUP_ROWS = 5
COUNTS = (1, GROUP_ROWS, 13)  # one row; one full row group; three, the last one partial

every_shape = pytest.mark.parametrize(
    ("width", "dtype"),
    [(width, dtype) for width in WIDTHS for dtype in DTYPES],
    ids=[f"{dtype}x{width}" for width in WIDTHS for dtype in DTYPES],
)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int, str], Path]:
    """Return a function that writes a shard of so many rows, in row groups of five."""

    def write(rows: int, width: int, dtype: str) -> Path:
        path = tmp_path / f"{dtype}x{width}-{rows}.parquet"
        monkeypatch.setattr(shard, "GROUP_BYTES", GROUP_ROWS * width * np.dtype(dtype).itemsize)
        written = write_shard(path, vectors(rows, width, dtype), pieces=[min(rows, 3)])
        assert len(written.pages) == math.ceil(rows / GROUP_ROWS)
        assert written.rows == rows
        assert written.bytes == path.stat().st_size
        return path

    return write


Make = Callable[[int, int, str], Path]


def assert_metadata(rows: int, table: dict[str, list[Any]]) -> None:
    """Check one constant, one varying and one partly null text column."""
    assert table["example_id"] == [f"e{row}" for row in range(rows)]
    assert table["label"] == [("a", None, "b")[row % 3] for row in range(rows)]
    assert table["question"] == ["Què és això?" * 9] * rows


def assert_bits(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    unsigned = np.uint16 if wanted.dtype == np.float16 else np.uint32
    assert np.array_equal(
        np.ascontiguousarray(found).view(unsigned), np.ascontiguousarray(wanted).view(unsigned)
    )


@every_shape
def test_pyarrow_checks_every_page_and_agrees_with_the_map(
    make: Make, width: int, dtype: str
) -> None:
    for rows in COUNTS:
        path = make(rows, width, dtype)
        wanted = vectors(rows, width, dtype)
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
            assert file.schema_arrow.equals(schema.arrow_schema(width, dtype))  # type: ignore[arg-type]
            with path.open("rb") as raw:
                mapped = pages.mapped_pages(file.metadata, raw)
        table.validate(full=True)
        assert_metadata(rows, table.to_pydict())
        column = table["activation"].combine_chunks()
        assert_bits(column.flatten().to_numpy().reshape(rows, width), wanted)
        assert mapped is not None
        data = np.memmap(path, np.uint8, "r")
        size = width * wanted.itemsize
        parts = [data[offset : offset + count * size] for offset, count in mapped]
        assert all(offset % pages.ALIGNMENT == 0 for offset, _ in mapped)
        assert_bits(np.concatenate(parts).view(wanted.dtype).reshape(rows, width), wanted)


@every_shape
def test_pyarrow_finds_a_flipped_bit_in_any_row_group(make: Make, width: int, dtype: str) -> None:
    path = make(13, width, dtype)
    with pq.ParquetFile(path) as file, path.open("rb") as raw:
        mapped = pages.mapped_pages(file.metadata, raw)
    assert mapped is not None
    sound = path.read_bytes()
    for group, (offset, _) in enumerate(mapped):
        damaged = bytearray(sound)
        damaged[offset] ^= 1
        path.write_bytes(damaged)
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            with pytest.raises(OSError, match="CRC"):
                file.read_row_group(group)
            others = set(range(len(mapped))) - {group}
            assert file.read_row_groups(sorted(others)).num_rows == 13 - mapped[group][1]


@every_shape
def test_duckdb(make: Make, width: int, dtype: str) -> None:
    for rows in COUNTS:
        path = make(rows, width, dtype)
        with duckdb.connect() as connection:
            found = connection.sql(f"SELECT * FROM '{path}'")
            assert str(found.types[found.columns.index("activation")]) == "FLOAT[]"
            table = found.to_arrow_table()
            assert_metadata(rows, table.to_pydict())
            column = table["activation"].combine_chunks()
            assert pa.compute.unique(pa.compute.list_value_length(column)).to_pylist() == [width]
            values = column.flatten().to_numpy().reshape(rows, width)
            assert_bits(values, vectors(rows, width, dtype).astype(np.float32))
            one = connection.sql(f"SELECT example_id FROM '{path}' WHERE example_id = 'e0'")
            assert one.fetchall() == [("e0",)]


@every_shape
def test_polars(make: Make, width: int, dtype: str) -> None:
    for rows in COUNTS:
        frame = pl.read_parquet(make(rows, width, dtype))
        inner = {"float16": pl.Float16, "float32": pl.Float32}[dtype]
        assert frame.schema["activation"] == pl.Array(inner, width)
        assert_metadata(rows, frame.to_dict(as_series=False))
        values = frame["activation"].to_arrow()
        assert isinstance(values, pa.FixedSizeListArray)
        assert_bits(values.flatten().to_numpy().reshape(rows, width), vectors(rows, width, dtype))


@every_shape
def test_arrow_rs(make: Make, width: int, dtype: str) -> None:
    import arro3.io

    for rows in COUNTS:
        table = pa.table(arro3.io.read_parquet(make(rows, width, dtype)))
        table.validate(full=True)
        assert_metadata(rows, table.to_pydict())
        column = table["activation"].combine_chunks()
        assert column.type.list_size == width
        assert_bits(column.flatten().to_numpy().reshape(rows, width), vectors(rows, width, dtype))


# It leaves its files to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@every_shape
def test_fastparquet(make: Make, width: int, dtype: str) -> None:
    import fastparquet

    for rows in COUNTS:
        frame = fastparquet.ParquetFile(str(make(rows, width, dtype))).to_pandas()
        ids = frame["example_id"].tolist()
        assert ids == [f"e{row}" for row in range(rows)]
        wanted = vectors(rows, width, dtype)
        lists = frame["activation"].tolist()
        if dtype == "float32":
            assert_bits(np.array(lists, np.float32).reshape(rows, width), wanted)
        else:  # it does not know the annotation FLOAT16 and gives two bytes, less trailing zeros
            halves = b"".join(bytes(half).ljust(2, b"\0") for row in lists for half in row)
            assert_bits(np.frombuffer(halves, np.float16).reshape(rows, width), wanted)


@every_shape
def test_load_dataset(make: Make, tmp_path: Path, width: int, dtype: str) -> None:
    import datasets

    rows = COUNTS[-1]
    path = make(rows, width, dtype)
    data = datasets.load_dataset(
        "parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert data.features["activation"] == datasets.List(datasets.Value(dtype), length=width)
    assert_metadata(rows, data.to_dict())
    column = data.data.column("activation").combine_chunks()
    assert_bits(column.flatten().to_numpy().reshape(rows, width), vectors(rows, width, dtype))


HYPARQUET = """
import { readFileSync, writeFileSync } from 'node:fs'
const [modules, jobs, output] = process.argv.slice(2)
const load = async name => (await import(`file://${modules}/${name}/src/index.js`))
const { parquetReadObjects, parquetMetadata } = await load('hyparquet')
const { compressors } = await load('hyparquet-compressors')
const found = []
for (const path of JSON.parse(readFileSync(jobs))) {
  const bytes = readFileSync(path)
  const file = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength)
  const rows = await parquetReadObjects({ file, compressors })
  const values = Float32Array.from(rows.flatMap(row => Array.from(row.activation)))
  writeFileSync(`${path}.values`, new Uint8Array(values.buffer))
  for (const row of rows) { delete row.activation }
  found.push(rows.map(({ example_id, label, question }) => ({ example_id, label, question })))
}
writeFileSync(output, JSON.stringify(found))
"""


def test_hyparquet(make: Make, tmp_path: Path) -> None:
    modules = Path(sys.prefix) / "node_modules"
    node = shutil.which("node")
    if node is None or not (modules / "hyparquet-compressors").is_dir():
        pytest.skip("node or its package hyparquet is not installed: `make` installs it")
    shapes = [(rows, width, dtype) for rows in COUNTS for width in WIDTHS for dtype in DTYPES]
    files = [make(*shape) for shape in shapes]
    script, jobs, output = (tmp_path / name for name in ("read.mjs", "jobs.json", "found.json"))
    script.write_text(HYPARQUET)
    jobs.write_text(json.dumps([str(file) for file in files]))
    subprocess.run([node, script, modules, jobs, output], check=True)
    metadata = json.loads(output.read_text())
    for shape, file, rows in zip(shapes, files, metadata, strict=True):
        names = ("example_id", "label", "question")
        assert_metadata(shape[0], {name: [row[name] for row in rows] for name in names})
        values = np.fromfile(f"{file}.values", np.float32).reshape(shape[:2])
        assert_bits(values, vectors(*shape).astype(np.float32))
