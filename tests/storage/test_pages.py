"""Which files can be mapped, and that a file which lies about itself is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actstore import schema
from actstore.storage import pages, thrift
from tests.storage.stores import vectors, write_shard

ROWS, WIDTH = 40, 6
PLAIN: dict[str, Any] = {
    "compression": "none",
    "use_dictionary": False,
    "data_page_size": 1 << 30,
    "max_rows_per_page": 1 << 30,
}


def foreign(path: Path, matrix: np.ndarray, *, nullable: bool = False, **options: Any) -> Path:
    """Let pyarrow write a file with a vector column between two others."""
    values = pa.array(matrix.reshape(-1))
    field = pa.field(
        schema.VECTOR,
        pa.list_(pa.field("element", values.type, nullable=nullable), matrix.shape[1]),
        nullable=nullable,
    )
    column = pa.FixedSizeListArray.from_arrays(values, type=field.type)
    names = pa.array([f"r{row}" for row in range(len(matrix))])
    after = pa.array(np.arange(len(matrix)))
    table = pa.Table.from_arrays(
        [names, column, after],
        schema=pa.schema([pa.field("name", pa.string()), field, pa.field("after", pa.int64())]),
    )
    pq.write_table(table, path, **{**PLAIN, **options})
    return path


def mapped(path: Path) -> list[tuple[int, int]] | None:
    with pq.ParquetFile(path) as file, path.open("rb") as raw:
        return pages.mapped_pages(file.metadata, raw)


def mapped_matrix(path: Path, dtype: str) -> np.ndarray:
    found = mapped(path)
    assert found is not None
    data = path.read_bytes()
    parts = [np.frombuffer(data, dtype, rows * WIDTH, offset) for offset, rows in found]
    return np.concatenate(parts).reshape(-1, WIDTH)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"row_group_size": 7},
        {"data_page_version": "2.0"},
        {"write_page_checksum": True, "write_page_index": True},
        {"nullable": True},
        {"write_statistics": False},
        {"store_schema": True, "version": "2.4"},
    ],
    ids=str,
)
def test_plain_single_pages_of_pyarrow_map(
    tmp_path: Path, dtype: str, options: dict[str, Any]
) -> None:
    matrix = vectors(ROWS, WIDTH, dtype)
    path = foreign(tmp_path / "f.parquet", matrix, **options)
    assert mapped_matrix(path, dtype).tobytes() == matrix.tobytes()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    "options",
    [
        {"max_rows_per_page": 9},
        {"compression": "zstd"},
        {"compression": "snappy", "data_page_version": "2.0"},
        {"use_dictionary": True},
        {"column_encoding": {f"{schema.VECTOR}.list.element": "BYTE_STREAM_SPLIT"}},
    ],
    ids=str,
)
def test_what_is_not_plain_in_one_page_does_not_map(
    tmp_path: Path, dtype: str, options: dict[str, Any]
) -> None:
    assert mapped(foreign(tmp_path / "f.parquet", vectors(ROWS, WIDTH, dtype), **options)) is None


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("nulls", [1, 3, 200])
def test_nulls_leave_values_out_and_do_not_map(tmp_path: Path, version: str, nulls: int) -> None:
    """Their levels can be longer than the values they replace: sizes alone would deceive."""
    mask = np.zeros(ROWS * WIDTH, bool)
    mask[np.random.default_rng(0).choice(ROWS * WIDTH, nulls, replace=False)] = True
    values = pa.array(vectors(1, ROWS * WIDTH)[0], mask=mask)
    column = pa.FixedSizeListArray.from_arrays(values, WIDTH)
    path = tmp_path / "f.parquet"
    pq.write_table(pa.table({schema.VECTOR: column}), path, data_page_version=version, **PLAIN)
    assert mapped(path) is None


def test_null_vectors_do_not_map(tmp_path: Path) -> None:
    rows: list[Any] = [[1.0, 2.0], None, [3.0, 4.0]]
    column = pa.array(rows, pa.list_(pa.float32(), 2))
    path = tmp_path / "f.parquet"
    pq.write_table(pa.table({schema.VECTOR: column}), path, **PLAIN)
    assert mapped(path) is None


@pytest.mark.parametrize("type_", [pa.float64(), pa.int32(), pa.uint8()])
def test_other_types_do_not_map(tmp_path: Path, type_: pa.DataType) -> None:
    column = pa.array([[1, 2], [3, 4]], pa.list_(type_, 2))
    path = tmp_path / "f.parquet"
    pq.write_table(pa.table({schema.VECTOR: column}), path, **PLAIN)
    assert mapped(path) is None


def test_lists_of_varying_length_and_other_columns_do_not_map(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    for name, type_ in ((schema.VECTOR, pa.list_(pa.float32())), ("x", pa.list_(pa.float32(), 2))):
        pq.write_table(pa.table({name: pa.array([[1, 2], [3, 4]], type_)}), path, **PLAIN)
        assert mapped(path) is None


Footer = dict[int, thrift.Field]


def lie(path: Path, change: Callable[[Footer], None]) -> None:
    """Change the details of the vector's column chunk in the footer."""
    data = path.read_bytes()
    size = int.from_bytes(data[-8:-4], "little")
    footer = thrift.decode(data[-8 - size : -8])
    for group in footer[4].value.items:
        for chunk in group[1].value.items:
            if chunk[3].value[3].value.items[0] == schema.VECTOR.encode():
                change(chunk[3].value)
    encoded = thrift.encode(footer)
    tail = encoded + len(encoded).to_bytes(4, "little") + pages.MAGIC
    path.write_bytes(data[: -8 - size] + tail)


def _shift(field: int, by: int) -> Callable[[Footer], None]:
    def change(details: Footer) -> None:
        details[field] = thrift.i64(details[field].value + by)

    return change


@pytest.mark.parametrize(
    "change",
    [
        _shift(9, 1),
        _shift(9, -1),
        _shift(9, 1 << 40),
        _shift(9, -(1 << 40)),
        _shift(7, 1),
        _shift(7, -1),
        _shift(7, 1 << 40),
        _shift(5, -WIDTH),
        lambda details: details.update({4: thrift.i32(6)}),
        lambda details: details.update({2: thrift.list_of(thrift.I32, [9, 3])}),
        lambda details: details.update({11: thrift.i64(4)}),
    ],
    ids=[
        "offset+1",
        "offset-1",
        "offset+huge",
        "offset negative",
        "size+1",
        "size-1",
        "size+huge",
        "values",
        "codec",
        "encodings",
        "dictionary",
    ],
)
def test_a_footer_that_lies_does_not_map(tmp_path: Path, change: Callable[[Footer], None]) -> None:
    path = tmp_path / "f.parquet"
    write_shard(path, vectors(ROWS, WIDTH))
    assert mapped(path) is not None
    lie(path, change)
    assert mapped(path) is None


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_page_header_that_says_another_encoding_does_not_map(tmp_path: Path, dtype: str) -> None:
    """The footer's list of encodings can leave out what the page says of itself."""
    encoding = {f"{schema.VECTOR}.list.element": "BYTE_STREAM_SPLIT"}
    path = foreign(tmp_path / "f.parquet", vectors(ROWS, WIDTH, dtype), column_encoding=encoding)
    lie(path, lambda details: details.update({2: thrift.list_of(thrift.I32, [0, 3])}))
    assert mapped(path) is None


def test_any_damage_to_the_page_head_maps_right_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    matrix = vectors(ROWS, WIDTH)
    written = write_shard(path, matrix)
    sound = path.read_bytes()
    with pq.ParquetFile(path) as file:
        start = file.metadata.row_group(0).column(schema.vector_index()).data_page_offset
    first = written.pages[0][0]
    seen = set()
    for at in range(start, first):
        for bit in range(8):
            damaged = bytearray(sound)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            found = mapped(path)
            seen.add(found is None)
            assert found in (None, [(first, ROWS)])
    assert seen == {True, False}  # a flipped bit of the checksum or of a level moves nothing


def test_level_bytes_of_small_pages() -> None:
    # Two rows of three values: levels 0 1 1 0 1 1, then six times 1, as runs.
    assert pages.levels(2, 3) == (
        (8).to_bytes(4, "little")
        + b"\x02\x00\x04\x01" * 2
        + (2).to_bytes(4, "little")
        + b"\x0c\x01"
    )
    assert pages.levels(300, 1) == (
        (3).to_bytes(4, "little") + b"\xd8\x04\x00" + (3).to_bytes(4, "little") + b"\xd8\x04\x01"
    )


@pytest.mark.parametrize("width", [1, 2, 3, 63, 64, 65, 8192, 8193, 1 << 20])
@pytest.mark.parametrize("rows", [1, 2, 63, 64, 65, 8191, 8192])
def test_the_space_before_the_values_suffices(rows: int, width: int) -> None:
    level_bytes = pages.levels(rows, width)
    largest = pages.page_header(rows, width, (1 << 31) - 1, (1 << 32) - 1)
    space = pages.prefix_space(rows, width, "float16")
    assert len(level_bytes) + len(largest) <= space
    assert space % pages.ALIGNMENT == 0
