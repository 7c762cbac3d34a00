"""Metadata of many shards read at once: what each of them holds, whatever they are like."""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actstore import schema
from actstore.errors import CorruptStoreError, DamageError
from actstore.storage import checks, older_metadata, shard_columns, small_shards
from actstore.storage import manifest as manifests
from actstore.storage.manifest import ShardEntry
from actstore.storage.remembered import Remembered
from tests.storage.stores import batch, write

NAMES = list(schema.metadata_names())


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_shards, "_MANY", 3)
    monkeypatch.setattr(small_shards, "_FEW", 3)
    monkeypatch.setattr(checks, "_sound", Remembered(1_000))


def shards(root: Path) -> tuple[ShardEntry, ...]:
    return manifests.latest(root).shards


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of many kinds of shards, at a path full of what others read as patterns."""
    root = tmp_path / "a=1" / "[s]*?{x}"
    root.parent.mkdir()
    write(
        root,
        batch(0, 3, layer=0),
        batch(0, 1, layer=1, width=5),
        batch(0, 4, layer=None, dtype="float32", label="ja", extra='{"é": "\\ud83d\\ude00"}'),
        batch(5, 1, layer=2, model="x=y/%20 z", example_index=7, position=-1),
    )
    return root


def test_they_are_what_each_holds_alone(store: Path) -> None:
    found = small_shards._together(store, shards(store), NAMES)
    alone = pa.concat_tables(
        [shard_columns.read_columns(store, entry, NAMES) for entry in shards(store)]
    )
    assert found == alone
    assert found.schema == alone.schema
    some = small_shards.read_columns(store, shards(store), ["layer", "norm"])
    assert some == alone.select(["layer", "norm"])


def test_damage_is_named_as_it_is_alone(store: Path) -> None:
    entry = shards(store)[2]
    path = store / entry.path
    sound = path.read_bytes()
    data = bytearray(sound)
    data[-40] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamageError, match=entry.path.rpartition("/")[2]):
        small_shards.read_columns(store, shards(store), NAMES)
    path.unlink()
    with pytest.raises(CorruptStoreError, match=f"{entry.path} is missing"):
        small_shards.read_columns(store, shards(store), NAMES)
    path.write_bytes(sound)
    other = dataclasses.replace(shards(store)[0], rows=2)
    with pytest.raises(CorruptStoreError, match="the manifest says 2 rows"):
        small_shards.read_columns(store, [other, *shards(store)[1:]], NAMES)


def test_a_missing_column_is_no_column_of_nulls(store: Path) -> None:
    first, *others = shards(store)
    path = store / first.path
    table = shard_columns.read_columns(store, first, NAMES)
    pq.write_table(table.drop_columns("extra").append_column("pad", [["x" * 999] * 3]), path)
    tail = hashlib.sha256(path.read_bytes()[first.vectors_end :]).hexdigest()
    entries = [dataclasses.replace(first, tail=tail), *others]
    with pytest.raises(CorruptStoreError, match="holds 3 rows"):
        small_shards.read_columns(store, entries, NAMES)


def test_one_without_a_hash_of_its_metadata_is_checked_as_a_whole(store: Path) -> None:
    old, *others = shards(store)
    entries = [dataclasses.replace(old, tail=None), *others]
    whole = small_shards.read_columns(store, entries, NAMES)
    assert whole == small_shards.read_columns(store, shards(store), NAMES)
    path = store / old.path
    data = bytearray(path.read_bytes())
    data[old.pages[0][0]] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamageError, match="SHA-256"):
        small_shards.read_columns(store, entries, NAMES)


def _rows_in_child(root: Path) -> int:
    return int(small_shards.read_columns(root, shards(root), NAMES).num_rows)


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_forked_process_waits_for_no_threads_of_its_parent(store: Path) -> None:
    assert small_shards._together(store, shards(store), NAMES) is not None
    reading, writing = os.pipe()
    child = multiprocessing.get_context("fork").Process(
        target=lambda: os.write(writing, b"%d" % _rows_in_child(store))
    )
    child.start()
    child.join(30)
    hangs = child.is_alive()
    child.kill()
    assert not hangs
    assert os.read(reading, 9) == b"9"


def test_runs_follow_an_older_file_and_stay_short(store: Path) -> None:
    entries = [dataclasses.replace(shards(store)[0], sha256=f"{n:064}") for n in range(9)]
    names = [older_metadata.identity(entry) for entry in entries]
    rows = entries[0].rows
    places = {names[at]: rows * place for at, place in ((0, 0), (1, 1), (2, 3), (5, 4), (8, 5))}
    found = older_metadata._stretches(entries, places, near=True)
    old, new = older_metadata.Old, older_metadata.New
    assert list(found) == [
        old(0, 2 * rows),
        old(3 * rows, 4 * rows),
        new(entries[3:5]),
        old(4 * rows, 5 * rows),
        new(entries[6:8]),
        old(5 * rows, 6 * rows),
    ]
    alone = older_metadata._stretches(entries, {}, near=False)
    assert list(alone) == [new([entry]) for entry in entries]
    large = [dataclasses.replace(each, rows=2_000) for each in entries]
    assert list(older_metadata._stretches(large, {}, near=True)) == [
        new([entry]) for entry in large
    ]
