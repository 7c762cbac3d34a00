"""Shard files grow row by row, take rows back, and end as if nothing had been taken back."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actstore import schema
from actstore.errors import CommitError
from actstore.storage import file_hashes, floats, pages, shard
from actstore.storage.file_hashes import sha256_of
from actstore.storage.metadata_table import Fragment
from actstore.storage.shard import ShardWriter
from actstore.storage.shard_tail import write_at
from tests.storage.stores import fragment, vectors, write_shard
from tests.torture.effort import examples


def assert_holds(path: Path, matrix: np.ndarray, ids: list[str]) -> None:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        table = file.read()
        with path.open("rb") as raw:
            assert pages.mapped_pages(file.metadata, raw) is not None
    table.validate(full=True)
    assert table["example_id"].to_pylist() == ids
    values = table["activation"].combine_chunks().flatten().to_numpy()
    assert values.tobytes() == matrix.tobytes()
    assert table["norm"].to_numpy() == pytest.approx(floats.norms(matrix), rel=1e-6, abs=1e-30)


def test_what_is_written_is_what_is_said(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    written = write_shard(path, vectors(9, 5), [2, 3])
    assert (written.sha256, written.bytes) == sha256_of(path)
    assert written.rows == 9
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_rows_make_the_same_file_however_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "GROUP_BYTES", 400)
    matrix = vectors(50, 10)
    sums = {
        write_shard(tmp_path / f"{size}.parquet", matrix, [size] * (49 // size)).sha256
        for size in (1, 7, 20, 49)
    }
    assert len(sums) == 1


@pytest.mark.parametrize("width", [1, 3, 16, 64])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_narrow_vectors_that_left_memory_early_take_no_more_room(
    tmp_path: Path, width: int, dtype: schema.StoredType
) -> None:
    matrix = vectors(3000, width).astype(dtype)
    sizes = []
    for name, stops in (("kept", ()), ("placed", (700, 2500))):
        writer = ShardWriter(tmp_path / name, width=width, dtype=dtype)
        for start, stop in pairwise([0, *stops, 3000]):
            writer.append(matrix[start:stop], fragment(start, stop - start))
            if stop != 3000:
                writer.place()
        writer.finish()
        ids = [f"e{row}" for row in range(3000)]
        assert_holds(tmp_path / name, matrix, ids)
        sizes.append((tmp_path / name).stat().st_size)
    kept, placed = sizes
    assert kept <= placed <= kept + matrix.nbytes // shard._WORTH


def placed_early(path: Path, matrix: np.ndarray) -> ShardWriter:
    """Return a writer whose vectors are in the file, behind more room than they need."""
    writer = ShardWriter(path, width=matrix.shape[1], dtype="float16")
    writer.append(matrix, fragment(0, len(matrix)))
    writer.place()
    return writer


def test_a_file_that_is_cut_short_is_no_shard(tmp_path: Path) -> None:
    writer = placed_early(tmp_path / "s", vectors(3000, 16))
    os.truncate(tmp_path / "s", 5000)
    with pytest.raises(OSError, match="not there any more"):
        writer.complete()
    writer.abort()


def test_a_move_that_was_interrupted_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "_CHUNK", 1 << 12)
    matrix = vectors(3000, 16)
    writer = placed_early(tmp_path / "s", matrix)
    write, left = write_at, 0

    def failing(descriptor: int, data: memoryview, offset: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            write(descriptor, data[: len(data) // 2], offset)
            raise KeyboardInterrupt
        write(descriptor, data, offset)

    monkeypatch.setattr(shard, "write_at", failing)
    interrupted = 0
    for stop in (1, 7, 15, 5, 0):
        left = stop
        try:
            writer.complete()
        except KeyboardInterrupt:
            interrupted += 1
    assert interrupted == 4
    writer.sync()
    assert_holds(tmp_path / "s", matrix, [f"e{row}" for row in range(3000)])


@settings(deadline=None, max_examples=examples(50))
@given(data=st.data())
def test_any_sequence_of_appends_and_rollbacks(data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 40), "width")
    dtype: schema.VectorType = data.draw(st.sampled_from(["float16", "float32"]), "dtype")
    group_rows = data.draw(st.integers(1, 9), "rows per group")
    chunk = data.draw(st.sampled_from([1, 64, 1 << 20]), "chunk")
    size = width * np.dtype(dtype).itemsize
    matrix = np.empty((0, width), dtype)
    ids: list[str] = []
    with TemporaryDirectory() as folder, sizes(group_rows * size, chunk):
        writer = ShardWriter(Path(folder) / "s.parquet", width=width, dtype=dtype)
        serial = 0
        for _ in range(data.draw(st.integers(1, 8), "files")):
            mark = len(ids)
            for _ in range(data.draw(st.integers(1, 4), "batches")):
                rows = data.draw(st.integers(0, 12), "rows")
                added = vectors(rows, width, dtype, serial)
                writer.append(added, fragment(serial, rows))
                matrix = np.concatenate([matrix, added])
                ids += [f"e{number}" for number in range(serial, serial + rows)]
                serial += rows
                if data.draw(st.booleans(), "place"):
                    writer.place(keep=data.draw(st.booleans(), "keep"))
            if data.draw(st.booleans(), "roll back"):
                writer.truncate(mark)
                matrix, ids = matrix[:mark], ids[:mark]
            else:
                writer.settle()
            assert writer.rows == len(ids)
            some = data.draw(st.lists(st.integers(0, len(ids) - 1), max_size=3)) if ids else []
            assert writer.vectors(some).tobytes() == matrix[some].tobytes()
            for row in some:
                found = writer.fragment(row)
                if found is not None:
                    assert found[0].columns["example_id"][found[1]] == ids[row]
        if not ids:
            writer.abort()
            assert list(Path(folder).iterdir()) == []
            return
        written = writer.finish()
        assert (written.sha256, written.bytes) == sha256_of(writer.path)
        assert_holds(writer.path, matrix, ids)
        assert list(Path(folder).iterdir()) == [writer.path]


@contextmanager
def sizes(group: int, chunk: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard, "GROUP_BYTES", group)
        patch.setattr(shard, "_CHUNK", max(chunk, group // 9))
        yield


def test_rows_of_a_batch_are_chosen_in_any_order(tmp_path: Path) -> None:
    whole = fragment(0, 6)
    chosen = Fragment(whole.constants, whole.columns, [4, 1])
    matrix = vectors(2, 3)
    writer = ShardWriter(tmp_path / "s.parquet", width=3, dtype="float16")
    writer.append(matrix, chosen)
    writer.finish()
    assert_holds(writer.path, matrix, ["e4", "e1"])


def test_a_large_batch_is_copied_out_of_a_larger_tensor(tmp_path: Path) -> None:
    """Strided rows, more than a chunk at once: written by several threads."""
    wide = vectors(600, 2000, "float32")
    matrix = wide[::2, 100:1900]
    writer = ShardWriter(tmp_path / "s.parquet", width=1800, dtype="float32")
    writer.append(vectors(1, 1800, "float32"), fragment(0, 1))
    writer.append(matrix, fragment(1, 300))
    wide[:] = 0
    writer.finish()
    first = vectors(1, 1800, "float32")
    again = vectors(600, 2000, "float32")[::2, 100:1900]
    ids = [f"e{row}" for row in range(301)]
    assert_holds(writer.path, np.concatenate([first, again]), ids)


def test_memory_holds_the_buffer_and_not_the_batches(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "s.parquet", width=1024, dtype="float32")
    for first in range(0, 2000, 100):
        writer.append(vectors(100, 1024, "float32"), fragment(first, 100))
        assert writer.waiting * writer.row_bytes <= 1 << 20
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_rows_without_metadata_are_never_completed(tmp_path: Path) -> None:
    """Ctrl-C can come between any two steps of an append."""
    writer = ShardWriter(tmp_path / "s.parquet", width=3, dtype="float16")
    writer.append(vectors(4, 3), fragment(0, 4))
    writer.rows += 2
    with pytest.raises(CommitError, match="interrupted; nothing was committed, run it again"):
        writer.finish()
    writer.abort()


def test_long_texts_are_left_out_of_the_footers_statistics(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    write_shard(path, vectors(4, 3))
    with pq.ParquetFile(path) as file:
        group = file.metadata.row_group(0)
        columns = {
            group.column(number).path_in_schema: group.column(number)
            for number in range(group.num_columns)
        }
    assert columns["question"].statistics is None
    assert columns["layer"].statistics.min == 3
    assert columns["example_id"].compression == "ZSTD"
    assert columns["activation.list.element"].compression == "UNCOMPRESSED"


def test_columns_of_one_value_are_not_compressed(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    write_shard(path, vectors(4, 3))
    with pq.ParquetFile(path) as file:
        group = file.metadata.row_group(0)
        table = file.read(schema.metadata_names())
        for number in range(group.num_columns):
            column = group.column(number)
            if column.path_in_schema in table.column_names:
                values = table[column.path_in_schema].to_pylist()
                constant = len(set(values)) == 1 and values[0] is not None
                expected = "UNCOMPRESSED" if constant else "ZSTD"
                assert column.compression == expected, column.path_in_schema
    assert table["split"].null_count == 4


def test_a_completed_file_is_hashed_whole_and_its_tail_alone(tmp_path: Path) -> None:
    """However many windows the hashes go through, and wherever the tail begins in one."""
    for window, few in ((mmap.ALLOCATIONGRANULARITY, 0), (8 << 20, 0), (8 << 20, 1 << 20)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(file_hashes, "_WINDOW", window)
            patch.setattr(file_hashes, "_FEW_BYTES", few)
            path = tmp_path / f"{window}-{few}.parquet"
            written = write_shard(path, vectors(300, 40))
        data = path.read_bytes()
        offset, rows = written.pages[-1]
        assert written.sha256 == hashlib.sha256(data).hexdigest()
        assert written.tail == hashlib.sha256(data[offset + rows * 80 :]).hexdigest()
        assert written.bytes == len(data) > mmap.ALLOCATIONGRANULARITY


def test_an_empty_file_has_the_hash_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    digest, size = sha256_of(tmp_path / "empty")
    assert size == 0
    assert digest.startswith("e3b0c44298fc1c14")
