"""The derived metadata file: right whatever it was made from, and made again when damaged."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actstore import schema
from actstore.errors import CorruptStoreError, DamageError, StoreError
from actstore.storage import layout, metadata_cache, older_metadata, row_groups, shard_columns
from actstore.storage.compaction import compact
from actstore.storage.files import temporary_folder
from actstore.storage.labels import set_labels
from actstore.storage.snapshot import open_snapshot
from actstore.storage.writer import StoreWriter
from tests.storage.stores import RUN, batch, content, expected, live_files, without_seals, write
from tests.torture.effort import examples


@pytest.fixture
def store(tmp_path: Path) -> Path:
    root = tmp_path / "s"
    write(root, batch(0, 5), batch(0, 3, layer=None))
    return root


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the folder for read-only stores into the test's own."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_it_has_every_column_in_row_order(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(older_metadata, "GROUP_ROWS", 3)
    snapshot = open_snapshot(store)
    path = snapshot.metadata_file()
    assert path.parent == store / ".cache"
    with pq.ParquetFile(path) as file:
        groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        table = file.read()
    assert groups == [3, 3, 2]
    assert table.column_names == list(schema.metadata_names())
    assert snapshot.shard_numbers().tolist() == [0] * 5 + [1] * 3
    assert table["layer"].to_pylist() == [3] * 5 + [None] * 3
    assert table["run_id"].to_pylist() == ["run"] * 8
    norms = np.linalg.norm(batch(0, 5).vectors.astype(np.float64), axis=1)
    assert table["norm"].to_pylist()[:5] == pytest.approx(norms, rel=1e-6)
    assert snapshot.metadata_file() == path


Step = tuple[str, int]


@settings(deadline=None, max_examples=examples(15))
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["write", "label", "compact", "fold", "read"]), st.integers(0, 9)
        ),
        max_size=9,
    ),
    st.sampled_from([1, 4, 1000]),
)
def test_any_history_gives_what_is_made_from_nothing(steps: list[Step], group: int) -> None:
    """The file is made from an older one where that helps, whichever is there."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        patch.setattr(older_metadata, "GROUP_ROWS", group)
        root = Path(folder) / "s"
        write(root, batch(0, 4, layer=5))
        known = expected(batch(0, 4, layer=5))
        for serial, (action, number) in enumerate(steps):
            if action == "write":
                more = batch(10 * serial + 10, 3, layer=number)
                write(root, more)
                known |= expected(more)
            elif action == "label":
                snapshot = open_snapshot(root)
                rows = np.arange(number % snapshot.rows, snapshot.rows, 2)
                words = [None if row % 3 == 0 else f"{serial}" for row in rows.tolist()]
                keys = list(content(snapshot))
                set_labels(snapshot, rows, words, message="")
                for row, word in zip(rows.tolist(), words, strict=True):
                    known[keys[row]] = (*known[keys[row]][:2], word)
            elif action in ("compact", "fold"):
                compact(root, join=action == "compact")
            else:
                assert content(root) == known
        assert content(root) == known
        cached = open_snapshot(root).metadata_file()
        table = pq.read_table(cached)
        for old in (root / ".cache").iterdir():
            old.unlink()
        assert pq.read_table(open_snapshot(root).metadata_file()).equals(table)


def test_few_are_kept(store: Path) -> None:
    for first in range(10, 60, 10):
        content(store)
        write(store, batch(first, 2))
    files = sorted((store / ".cache").iterdir())
    assert len(files) == 3
    assert not any(path.name.startswith(".") for path in files)


@pytest.mark.parametrize("size", [0, 3, 100])
def test_a_file_that_was_cut_short_is_made_again(store: Path, size: int) -> None:
    """A machine that goes down may leave a name without its content."""
    path = open_snapshot(store).metadata_file()
    os.truncate(path, size)
    assert content(store) == expected(batch(0, 5), batch(0, 3, layer=None))


def test_a_damaged_older_file_is_not_built_upon(store: Path) -> None:
    path = open_snapshot(store).metadata_file()
    data = bytearray(path.read_bytes())
    with pq.ParquetFile(path) as file:
        for number in range(file.metadata.num_columns):
            chunk = file.metadata.row_group(0).column(number)
            start = chunk.dictionary_page_offset or chunk.data_page_offset
            data[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    path.write_bytes(data)
    write(store, batch(5, 2))
    assert content(store) == expected(batch(0, 7), batch(0, 3, layer=None))


def test_a_read_only_store_is_served_from_the_temporary_folder(
    store: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Path.mkdir

    def refuse(path: Path, *arguments: Any, **options: Any) -> None:
        if store in path.parents:  # root may write everywhere, so the mode does not do
            raise OSError(errno.EROFS, "Read-only file system")
        make(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    path = open_snapshot(store).metadata_file()
    assert temporary in path.parents
    assert stat.S_IMODE((temporary / f"actstore-{os.getuid()}").stat().st_mode) == 0o700
    assert content(store) == expected(batch(0, 5), batch(0, 3, layer=None))
    assert not (store / ".cache").exists()


def test_a_full_store_is_served_from_the_temporary_folder(
    store: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = layout.sync_file

    def full(path: Path) -> None:
        if store in path.parents:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(path)

    monkeypatch.setattr(layout, "sync_file", full)
    assert temporary in open_snapshot(store).metadata_file().parents
    assert list((store / ".cache").iterdir()) == []


def test_no_room_anywhere_is_one_clear_error(
    store: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(layout, "sync_file", full)
    with pytest.raises(StoreError, match=r"no room for the metadata of .*No space.* set TMPDIR"):
        open_snapshot(store).metadata_file()
    assert [path for path in temporary.rglob("*") if path.is_file()] == []


def _open_to_all(home: Path) -> None:
    home.mkdir()
    home.chmod(0o777)


def _elsewhere(home: Path) -> None:
    (home.parent / "theirs").mkdir()
    home.symlink_to(home.parent / "theirs")


@pytest.mark.parametrize("prepare", [_open_to_all, _elsewhere])
def test_a_temporary_folder_that_others_can_write_to_is_not_used(
    temporary: Path, prepare: Callable[[Path], None]
) -> None:
    home = temporary / f"actstore-{os.getuid()}"
    prepare(home)
    folder = temporary_folder("store")
    assert home not in folder.parents
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_columns_of_a_shard(store: Path) -> None:
    entry = open_snapshot(store).shards[0]
    table = shard_columns.read_columns(store, entry, ["layer", "example_id"])
    assert table.column_names == ["layer", "example_id"]
    assert table["example_id"].to_pylist() == [f"e{row}" for row in range(5)]
    with pytest.raises(CorruptStoreError, match="holds 5 rows of example_id"):
        shard_columns.read_columns(store, entry, ["example_id", "colour"])


@pytest.mark.parametrize(
    "data", [b"", b"PAR1", b"PAR1" + b"\xff" * 90 + b"PAR1", b"x" * 200], ids=len
)
def test_a_damaged_shard_is_named(store: Path, data: bytes) -> None:
    (store / live_files(store)[0]).write_bytes(data)
    with pytest.raises(
        CorruptStoreError, match=r"layer_003/f16x8-\w+-00000\.parquet of .* damaged"
    ):
        open_snapshot(store).metadata_file()
    (store / live_files(store)[0]).unlink()
    with pytest.raises(CorruptStoreError, match=r"layer_003/.* is missing from"):
        open_snapshot(store).metadata_file()


def test_a_shard_of_other_rows_is_named(store: Path) -> None:
    other = store.parent / "t"
    write(other, batch(0, 9))
    (store / live_files(store)[0]).write_bytes((other / live_files(other)[0]).read_bytes())
    with pytest.raises(DamageError, match=r"metadata and footer are not what the manifest says"):
        open_snapshot(store).metadata_file()


def test_a_shard_of_other_rows_is_named_without_a_hash_of_its_metadata(store: Path) -> None:
    without_seals(store)
    other = store.parent / "t"
    write(other, batch(0, 9))
    (store / live_files(store)[0]).write_bytes((other / live_files(other)[0]).read_bytes())
    with pytest.raises(DamageError, match=r"its SHA-256 is not what the manifest says"):
        open_snapshot(store).metadata_file()


def test_a_damaged_label_file_is_named(store: Path) -> None:
    set_labels(open_snapshot(store), np.array([1]), ["x"], message="")
    (overlay,) = (store / "labels").iterdir()
    overlay.write_bytes(b"PAR1")
    with pytest.raises(CorruptStoreError, match=rf"labels/{overlay.name} .*damaged"):
        open_snapshot(store).metadata_file()
    overlay.unlink()
    with pytest.raises(CorruptStoreError, match=rf"labels/{overlay.name} .*missing"):
        open_snapshot(store).metadata_file()


def test_a_writer_of_many_shards_leaves_their_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first query then reads no footer; what it finds is what the footers say."""
    monkeypatch.setattr(metadata_cache, "_MANY", 3)
    root = tmp_path / "s"
    write(root, *(batch(number, 2, layer=number % 4) for number in range(8)))
    write(root, *(batch(number, 1, layer=number, dtype="float32") for number in range(20, 24)))
    left = pq.read_table(open_snapshot(root).metadata_file())
    shutil.rmtree(root / layout.CACHE)
    read = pq.read_table(open_snapshot(root).metadata_file())
    assert left.equals(read, check_metadata=True)
    shutil.rmtree(root / layout.CACHE)
    write(root, batch(30, 1))
    assert not (root / layout.CACHE).exists()  # of one it is no matter


def test_rows_that_another_writer_has_brought_are_not_left_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata_cache, "_MANY", 1)
    root = tmp_path / "s"
    with StoreWriter(root, run=RUN) as slow:
        slow.add(batch(0, 3, layer=0))
        slow.add(batch(0, 3, layer=1))
        write(root, batch(1, 1, layer=1))
        slow.commit(operation="o", message="m")
    left = pq.read_table(open_snapshot(root).metadata_file())
    shutil.rmtree(root / layout.CACHE)
    assert left.equals(pq.read_table(open_snapshot(root).metadata_file()), check_metadata=True)


def _groups(root: Path) -> list[int]:
    with pq.ParquetFile(open_snapshot(root).metadata_file()) as file:
        return [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)]


def _encoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return what will hold the rows and columns of each table that is encoded from now on."""
    found: list[tuple[int, int]] = []
    encode = row_groups._encoded

    def counted(table: pa.Table, options: Mapping[str, Any]) -> memoryview:
        if table.num_rows:
            found.append((table.num_rows, table.num_columns))
        return encode(table, options)

    monkeypatch.setattr(row_groups, "_encoded", counted)
    return found


def test_a_change_costs_what_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only row groups that have other rows are written again; of other labels, one column."""
    monkeypatch.setattr(older_metadata, "GROUP_ROWS", 10)
    root = tmp_path / "s"
    write(root, batch(0, 100, layer=1), batch(0, 60, layer=2))
    assert _groups(root) == [10] * 16
    encoded = _encoded(monkeypatch)
    columns = len(schema.metadata_names())
    write(root, batch(500, 1, layer=1))
    assert _groups(root) == [10] * 10 + [11] + [10] * 5
    assert encoded == [(11, columns)]
    encoded.clear()
    set_labels(open_snapshot(root), np.array([3, 25, 26]), ["x", None, "y"], message="")
    assert _groups(root) == [10] * 10 + [11] + [10] * 5
    assert encoded == [(10, 1), (10, 1)]
    encoded.clear()
    write(root, batch(500, 2, layer=2))
    write(root, batch(600, 2, layer=2))
    assert _groups(root) == [10] * 10 + [11] + [10] * 5 + [4]
    assert encoded == [(4, columns)]
    found = content(root)
    shutil.rmtree(root / layout.CACHE)
    assert content(root) == found


def test_what_is_dead_does_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(older_metadata, "GROUP_ROWS", 10)
    root = tmp_path / "s"
    write(root, batch(0, 100, layer=1))
    sizes = []
    for step in range(60):
        set_labels(open_snapshot(root), np.arange(0, 100, 3), [f"{step}"] * 34, message="")
        sizes.append(open_snapshot(root).metadata_file().stat().st_size)
    assert max(sizes) < 4 * sizes[0]
    assert sorted(sizes) != sizes  # it was written anew, and once again shorter
    labels = [f"{label}" for _, _, label in content(root).values()]
    assert labels[::3] == ["59"] * 34
