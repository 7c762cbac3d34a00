"""Vectors of one shard: mapped or decoded, the same rows; damaged ones are named."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actstore import schema
from actstore.errors import CorruptStoreError, DamageError, TransferError
from actstore.storage import checks, mapping, shard
from actstore.storage.checksums import Check
from actstore.storage.decoded_shard import DecodedShard
from actstore.storage.file_hashes import sha256_of
from actstore.storage.manifest import ShardEntry
from actstore.storage.mapping import MappedShard, ShardReader, open_shard
from actstore.storage.remembered import Remembered
from actstore.storage.snapshot import open_snapshot
from tests.storage.stores import batch, vectors, write, write_shard
from tests.storage.test_pages import foreign
from tests.storage.test_pages import mapped as mapped_pages
from tests.storage.undoing import flip

ROWS, WIDTH = 40, 6
Open = Callable[[np.ndarray], ShardReader]


def entry_of(path: Path, matrix: np.ndarray, **changes: Any) -> ShardEntry:
    digest, size = sha256_of(path)
    values: dict[str, Any] = {
        "path": path.name,
        "model": "org/model",
        "site": "resid_post",
        "layer": 3,
        "width": matrix.shape[1],
        "dtype": str(matrix.dtype),
        "rows": len(matrix),
        "bytes": size,
        "sha256": digest,
        "pages": tuple(mapped_pages(path) or ()),
    }
    return ShardEntry(**{**values, **changes})


def _own(path: Path, matrix: np.ndarray) -> None:
    write_shard(path, matrix, [3, 9])


def _foreign(**options: Any) -> Callable[[Path, np.ndarray], None]:
    def make(path: Path, matrix: np.ndarray) -> None:
        foreign(path, matrix, **options)

    return make


def _lists(path: Path, matrix: np.ndarray) -> None:
    """Write lists that do not say how long they are, as DuckDB does."""
    values = pa.array(matrix.reshape(-1))
    offsets = pa.array(np.arange(0, matrix.size + 1, matrix.shape[1]), pa.int32())
    column = pa.ListArray.from_arrays(offsets, values)
    pq.write_table(pa.table({schema.VECTOR: column}), path, row_group_size=17)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (_own, MappedShard),
        (_foreign(), MappedShard),
        (_foreign(row_group_size=9), MappedShard),
        (_foreign(row_group_size=9, max_rows_per_page=4), DecodedShard),
        (_foreign(row_group_size=9, compression="zstd"), DecodedShard),
        (_foreign(use_dictionary=True), DecodedShard),
        (
            _foreign(column_encoding={f"{schema.VECTOR}.list.element": "BYTE_STREAM_SPLIT"}),
            DecodedShard,
        ),
        (_lists, DecodedShard),
    ],
    ids=["own", "foreign", "groups", "pages", "zstd", "dictionary", "split", "lists"],
)
def test_every_kind_of_file_gives_the_same_rows(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path, np.ndarray], None],
    kind: type,
    dtype: str,
) -> None:
    monkeypatch.setattr(shard, "GROUP_BYTES", 100)
    matrix = vectors(ROWS, WIDTH, dtype)
    path = tmp_path / "s.parquet"
    make(path, matrix)
    reader = open_shard(tmp_path, entry_of(path, matrix))
    assert type(reader) is kind
    picks = np.random.default_rng(0)
    for _ in range(30):
        rows = picks.integers(0, ROWS, picks.integers(0, 9))
        taken = reader.take(rows)
        assert taken.dtype == matrix.dtype
        assert taken.tobytes() == matrix[rows].tobytes()
        start, stop = sorted(picks.integers(0, ROWS + 1, 2).tolist())
        same, wide = (np.full((stop - start, WIDTH), 7, type_) for type_ in (dtype, np.float32))
        reader.run(start, same)
        reader.run(start, wide)
        assert same.tobytes() == matrix[start:stop].tobytes()
        assert wide.tobytes() == matrix[start:stop].astype(np.float32).tobytes()
        seen = reader.view(start, stop)
        if seen is not None:
            assert seen.tobytes() == matrix[start:stop].tobytes()
            assert not seen.flags.writeable
    every_other = np.zeros((ROWS, 2 * WIDTH), dtype)
    reader.run(0, every_other[:, ::2])
    assert every_other[:, ::2].tobytes() == matrix.tobytes()
    reader.close()


def test_large_runs_are_copied_by_several_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "_PIECE", 1000)
    monkeypatch.setattr(mapping, "_BLOCK", 700)
    matrix = vectors(500, 33)
    write_shard(tmp_path / "s.parquet", matrix)
    reader = open_shard(tmp_path, entry_of(tmp_path / "s.parquet", matrix))
    for dtype in (np.float16, np.float32):
        out = np.zeros((490, 33), dtype)
        reader.run(7, out)
        assert out.tobytes() == matrix[7:497].astype(dtype).tobytes()
    rows = np.random.default_rng(0).integers(0, 500, 2000)
    assert reader.take(rows).tobytes() == matrix[rows].tobytes()


@pytest.fixture
def rows_of_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A store of 44 rows, four in each block, in row groups of ten; all are read past the map."""
    monkeypatch.setattr(mapping, "_PAST_THE_MAP", 1)
    monkeypatch.setattr(mapping, "_SPAN", 9_000)
    monkeypatch.setattr(mapping, "_FIRST_PIECES", (100, 5_000))
    monkeypatch.setattr(shard, "GROUP_BYTES", 10 * 4096)
    batches = [batch(0, 23, width=2048), batch(0, 21, width=2048, layer=4)]
    write(tmp_path / "s", *batches)
    return np.concatenate([each.vectors for each in batches])


@pytest.mark.parametrize("check", ["lazy", "always", "never"])
def test_what_is_read_for_the_first_time_is_what_the_map_holds(
    tmp_path: Path, rows_of_blocks: np.ndarray, check: Check
) -> None:
    picks = np.random.default_rng(0)
    for _ in range(20):
        snapshot = open_snapshot(tmp_path / "s", check=check)
        for _ in range(4):
            start, stop = sorted(picks.integers(0, 45, 2).tolist())
            found = snapshot.gather(np.arange(start, stop))
            assert found.tobytes() == rows_of_blocks[start:stop].tobytes()
        snapshot.close()


def test_what_lies_near_a_files_beginning_is_read_from_its_first_byte_on(
    tmp_path: Path, rows_of_blocks: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the system reads ahead from the start, and not from where it has seen a pattern."""
    places: list[int] = []
    read = os.preadv

    def noted(descriptor: int, buffers: Any, offset: int) -> int:
        places.append(offset)
        return read(descriptor, buffers, offset)

    monkeypatch.setattr("os.preadv", noted)
    monkeypatch.setattr(mapping, "_SPAN", 1 << 24)
    snapshot = open_snapshot(tmp_path / "s")
    (first, _), (second, _), _ = snapshot.shards[0].pages
    assert first <= mapping._BEGINNING < second + 8 * 4096
    for start, stop, expected in ((0, 6, [0, first]), (18, 20, [second + 8 * 4096])):
        places.clear()
        found = snapshot.gather(np.arange(start, stop))
        assert found.tobytes() == rows_of_blocks[start:stop].tobytes()
        assert places[: len(expected)] == expected
    snapshot.close()


def test_a_flipped_bit_is_found_when_it_is_read_for_the_first_time(
    tmp_path: Path, rows_of_blocks: np.ndarray
) -> None:
    root = tmp_path / "s"
    entry = open_snapshot(root).shards[0]
    (first, _), (second, _), _ = entry.pages
    # Of blocks of rows 0-3, 8-9 (the group's last) and 14-17, looked at whole or in part.
    for at, start, stop in ((first, 0, 1), (first + 5_000, 2, 20), (first + 36_864, 8, 9),
                            (second + 17_000, 17, 23), (second + 28_000, 13, 15)):  # fmt: skip
        flip(root / entry.path, at)
        block = 4 * ((at - first) // 4096 // 4) if at < second else 14
        with pytest.raises(DamageError, match=f"rows {block} to "):
            open_snapshot(root).gather(np.arange(start, stop))
        untouched = open_snapshot(root).gather(np.arange(20, 44))
        assert untouched.tobytes() == rows_of_blocks[20:].tobytes()
        flip(root / entry.path, at)
        whole = open_snapshot(root).gather(np.arange(44))
        assert whole.tobytes() == rows_of_blocks.tobytes()


@pytest.mark.parametrize("most", [0, 1 << 20])
def test_what_was_found_sound_is_remembered_while_there_is_room(
    tmp_path: Path, rows_of_blocks: np.ndarray, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(checks, "_pages", Remembered(most, checks._weight))
    root = tmp_path / "s"
    with closing(open_snapshot(root)) as snapshot:
        assert snapshot.gather(np.arange(44)).tobytes() == rows_of_blocks.tobytes()
    path = root / snapshot.shards[0].path
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    flip(path, snapshot.shards[0].pages[0][0])
    os.utime(path, ns=times)  # as if the disk had done it
    with closing(open_snapshot(root)) as snapshot:
        if most:
            assert snapshot.gather(np.arange(44)).tobytes() != rows_of_blocks.tobytes()
        else:
            with pytest.raises(DamageError, match="rows 0 to 3"):
                snapshot.gather(np.arange(44))


def test_memory_of_others_holds_nothing_that_is_damaged(
    tmp_path: Path, rows_of_blocks: np.ndarray
) -> None:
    root = tmp_path / "s"
    entry = open_snapshot(root).shards[0]
    flip(root / entry.path, entry.pages[0][0])
    out = np.zeros((23, 2048), np.float16)
    with pytest.raises(DamageError):
        open_snapshot(root).gather(np.arange(23), out)
    assert not out.any()


def test_a_first_reading_after_the_file_lost_its_name(
    tmp_path: Path, rows_of_blocks: np.ndarray
) -> None:
    snapshot = open_snapshot(tmp_path / "s")
    assert snapshot.view(0, 1) is not None
    path = tmp_path / "s" / snapshot.shards[0].path
    path.unlink()
    assert snapshot.gather(np.arange(23)).tobytes() == rows_of_blocks[:23].tobytes()
    path.write_bytes(b"")
    with pytest.raises(CorruptStoreError, match=r"layer_003.* cannot be read: it ends before"):
        snapshot.gather(np.arange(23))


def test_a_view_lasts_longer_than_its_reader(tmp_path: Path) -> None:
    matrix = vectors(ROWS, WIDTH)
    write_shard(tmp_path / "s.parquet", matrix)
    reader = open_shard(tmp_path, entry_of(tmp_path / "s.parquet", matrix))
    seen = reader.view(3, 8)
    reader.close()
    reader.close()
    (tmp_path / "s.parquet").unlink()
    assert seen is not None
    assert seen.tobytes() == matrix[3:8].tobytes()


def test_a_view_lies_in_one_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "GROUP_BYTES", 10 * WIDTH * 2)
    matrix = vectors(ROWS, WIDTH)
    write_shard(tmp_path / "s.parquet", matrix)
    reader = open_shard(tmp_path, entry_of(tmp_path / "s.parquet", matrix))
    for start in range(ROWS):
        for stop in range(start + 1, ROWS + 1):
            seen = reader.view(start, stop)
            assert (seen is not None) == (start // 10 == (stop - 1) // 10)
            if seen is not None:
                assert np.array_equal(seen.view(np.uint16), matrix[start:stop].view(np.uint16))
    assert reader.view(3, 3) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bytes": 17}, "bytes, the manifest says 17"),
        ({"path": "gone.parquet"}, "is missing from"),
        ({"rows": ROWS + 1}, "outside the file"),
        ({"width": WIDTH + 1}, "outside the file"),
        ({"pages": ((1 << 40, ROWS),)}, "outside the file"),
        ({"pages": ((0, ROWS),)}, "outside the file"),
        ({"pages": ((192, ROWS - 1),)}, "outside the file"),
    ],
)
def test_a_manifest_that_does_not_fit_the_file(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    matrix = vectors(ROWS, WIDTH)
    path = tmp_path / "s.parquet"
    write_shard(path, matrix)
    entry = entry_of(path, matrix)
    if changes.get("width"):  # so many values that they would reach beyond the end
        changes = {"width": path.stat().st_size}
    with pytest.raises(CorruptStoreError, match=reason):
        open_shard(tmp_path, dataclasses.replace(entry, **changes))


def test_a_folder_in_place_of_a_shard(tmp_path: Path) -> None:
    matrix = vectors(ROWS, WIDTH)
    path = tmp_path / "s.parquet"
    write_shard(path, matrix)
    entry = entry_of(path, matrix)
    path.unlink()
    path.mkdir()
    with pytest.raises(CorruptStoreError, match=r"restore it|cannot be read"):
        open_shard(tmp_path, dataclasses.replace(entry, bytes=path.stat().st_size))
    with pytest.raises(CorruptStoreError, match="cannot be read"):
        open_shard(tmp_path, dataclasses.replace(entry, bytes=path.stat().st_size, pages=()))


@pytest.mark.parametrize(
    "rows",
    [
        [[1.0, 2.0], [3.0, None]],
        [[1.0, 2.0], None],
        [[1.0, 2.0, 3.0], [4.0]],
        [[1.0], [2.0]],
        [[], [1.0, 2.0, 3.0, 4.0]],
    ],
    ids=["null value", "null vector", "uneven", "narrow", "empty"],
)
def test_decoded_vectors_must_be_whole(tmp_path: Path, rows: list[Any]) -> None:
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({schema.VECTOR: pa.array(rows, pa.list_(pa.float32()))}), path)
    entry = entry_of(path, np.zeros((2, 2), np.float32))
    reader = open_shard(tmp_path, entry)
    with pytest.raises(CorruptStoreError, match=r"s\.parquet is not what the manifest says"):
        reader.take(np.array([0]))


def test_decoded_vectors_must_be_of_the_type_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    for type_ in (pa.float64(), pa.float32(), pa.int32()):
        column = pa.array([[1, 2], [3, 4]], pa.list_(type_))
        pq.write_table(pa.table({schema.VECTOR: column}), path)
        reader = open_shard(tmp_path, entry_of(path, np.zeros((2, 2), np.float16)))
        with pytest.raises(CorruptStoreError, match="the manifest says float16 x 2"):
            reader.take(np.array([1]))
        reader.close()


def test_a_damaged_file_that_must_be_decoded(tmp_path: Path) -> None:
    matrix = vectors(200, WIDTH)
    path = foreign(tmp_path / "s.parquet", matrix, compression="zstd")
    entry = entry_of(path, matrix)
    sound = path.read_bytes()
    path.write_bytes(sound[:-8] + b"\xff\xff\xff\x7f" + sound[-4:])
    with pytest.raises(CorruptStoreError, match="is not what the manifest says"):
        open_shard(tmp_path, entry)
    with pq.ParquetFile(foreign(path, matrix, compression="zstd")) as file:
        chunk = file.metadata.row_group(0).column(1)
    start, end = chunk.data_page_offset, chunk.data_page_offset + chunk.total_compressed_size
    path.write_bytes(sound[:start] + bytes(end - start) + sound[end:])
    with pytest.raises(CorruptStoreError, match="is not what the manifest says"):
        open_shard(tmp_path, entry).take(np.array([0]))
    other = foreign(tmp_path / "t.parquet", matrix[:9], compression="zstd")
    with pytest.raises(CorruptStoreError, match="9 rows, the manifest says 200"):
        open_shard(tmp_path, entry_of(other, matrix))


def test_a_file_without_vectors(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({"x": [1, 2]}), path)
    reader = open_shard(tmp_path, entry_of(path, np.zeros((2, 2), np.float16)))
    with pytest.raises(CorruptStoreError, match="is not what the manifest says"):
        reader.take(np.array([0]))


class Unplugged(io.FileIO):
    """A file whose line is cut: from then on reading is an error that already says all."""

    cut = False

    def readinto(self, buffer: Any) -> int:
        if self.cut:
            raise TransferError("the line was cut: connect, and run it again")
        return super().readinto(buffer)

    def read(self, size: int | None = -1) -> bytes:
        if self.cut:
            raise TransferError("the line was cut: connect, and run it again")
        return super().read(-1 if size is None else size)


def test_a_line_that_is_cut_is_no_damage(tmp_path: Path) -> None:
    matrix = vectors(200, WIDTH)
    path = foreign(tmp_path / "s.parquet", matrix, compression="zstd", row_group_size=50)
    entry = entry_of(path, matrix)
    with Unplugged(path) as source:
        reader = DecodedShard(source, entry)
        assert reader.take(np.array([3])).tobytes() == matrix[3:4].tobytes()
        source.cut = True
        with pytest.raises(TransferError, match="the line was cut"):
            reader.take(np.array([170]))
        with pytest.raises(TransferError, match="the line was cut"):
            DecodedShard(source, entry)
