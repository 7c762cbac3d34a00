"""Shards of int8: read by everybody, changed without being rounded again, refused by the past."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from actstore.errors import CorruptStoreError
from actstore.storage import compaction, quantised, shard, shard_columns
from actstore.storage import manifest as manifests
from actstore.storage.archive import write_archived
from actstore.storage.described import Describer
from actstore.storage.dropping import drop_rows
from actstore.storage.files import LocalFiles
from actstore.storage.labels import set_labels
from actstore.storage.manifest import ShardEntry
from actstore.storage.mapping import open_shard
from actstore.storage.quantised_shard import QuantisedShard
from actstore.storage.snapshot import open_snapshot
from actstore.storage.verification import verify
from tests.storage.stores import assert_sound, batch, write


def stored(root: Path, entry: ShardEntry) -> tuple[bytes, bytes]:
    """Return the whole numbers and scales of a shard as they lie."""
    reader = open_shard(root, entry)
    assert isinstance(reader, QuantisedShard)
    numbers, scales = reader.stored(0, entry.rows)
    return numbers.tobytes(), scales.tobytes()


@pytest.fixture(params=[1, 7, 64])
def store(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows of several widths in several row groups, which begin and end within a group of 8."""
    monkeypatch.setattr(shard, "GROUP_BYTES", 11 * request.param)
    write(tmp_path / "s", batch(0, 25, width=request.param, dtype="float32"), narrow="int8")
    return tmp_path / "s"


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of fastparquet
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_reader_sees_whole_numbers_and_scales(store: Path) -> None:
    import arro3.io
    import duckdb
    import fastparquet
    import polars as pl

    snapshot = open_snapshot(store)
    entry = snapshot.shards[0]
    assert len(entry.pages) == 3
    path = store / entry.path
    numbers, scales = (
        np.frombuffer(data, kind)
        for data, kind in zip(stored(store, entry), ("i1", "f4"), strict=True)
    )
    numbers = numbers.reshape(25, entry.width)
    assert np.array_equal(snapshot.gather(np.arange(25)), quantised.restore(numbers, scales))

    table = pq.read_table(path, columns=["activation", "scale"])
    assert str(table["activation"].type.value_type) == "int8"
    assert table["activation"].to_pylist() == numbers.tolist()
    assert np.array_equal(table["scale"].to_numpy(), scales)
    rows = duckdb.execute(f"SELECT activation, scale FROM '{path}'").fetchall()
    assert [list(row[0]) for row in rows] == numbers.tolist()
    frame = pl.read_parquet(path)
    assert frame["activation"].dtype == pl.Array(pl.Int8, entry.width)
    assert frame["activation"].to_list() == numbers.tolist()
    batches = arro3.io.read_parquet(str(path)).read_all()
    assert batches["activation"].to_pylist() == numbers.tolist()
    fast = fastparquet.ParquetFile(str(path)).to_pandas()
    assert np.array_equal(fast["scale"].to_numpy(), scales)
    assert np.array_equal(np.array(fast["activation"].tolist()), numbers)


def test_rows_are_read_in_any_order_and_type(store: Path) -> None:
    snapshot = open_snapshot(store)
    whole = snapshot.gather(np.arange(25))
    assert whole.dtype == np.float32
    order = np.random.default_rng(0).permutation(25)
    assert np.array_equal(snapshot.gather(order), whole[order])
    assert snapshot.view(0, 5) is None
    half = snapshot.gather(np.arange(25), np.empty(whole.shape, np.float16))
    with np.errstate(over="ignore"):
        assert np.array_equal(half, whole.astype(np.float16))
    assert verify(snapshot) == []


def test_changes_leave_the_numbers_as_they_are(store: Path) -> None:
    before = stored(store, open_snapshot(store).shards[0])
    set_labels(open_snapshot(store), np.array([3]), ["x"], message="one")
    compaction.compact(store)
    assert stored(store, open_snapshot(store).shards[0]) == before
    width = open_snapshot(store).shards[0].width
    write(store, batch(25, 6, width=width, dtype="float32"), narrow="int8")
    compaction.compact(store)
    entry = open_snapshot(store).shards[0]
    assert (entry.rows, len(open_snapshot(store).shards)) == (31, 1)
    numbers, scales = stored(store, entry)
    assert (numbers[: 25 * width], scales[:100]) == before
    drop_rows(open_snapshot(store), np.array([1, 30]))
    numbers, scales = stored(store, open_snapshot(store).shards[0])
    assert numbers[width:] == before[0][2 * width :] + numbers[24 * width :]
    assert_sound(store)
    assert verify(open_snapshot(store)) == []


def test_a_store_holds_all_types_side_by_side(store: Path) -> None:
    width = open_snapshot(store).shards[0].width
    write(store, batch(25, 4, width=width, dtype="float16"))
    write(store, batch(29, 4, width=width, dtype="float32"))
    compaction.compact(store)
    snapshot = open_snapshot(store)
    assert [entry.dtype for entry in snapshot.shards] == ["int8", "float16", "float32"]
    read = snapshot.gather(np.arange(33))
    assert read.dtype == np.float32
    assert np.array_equal(read[25:29], batch(25, 4, width=width).vectors.astype(np.float32))
    assert snapshot.stored(np.arange(3))[0].dtype == np.int8
    assert snapshot.stored(np.array([26, 25]))[1] is None
    assert snapshot.stored_run(24, 26) is None


def test_an_archived_shard_reads_the_same(store: Path, tmp_path: Path) -> None:
    entry = open_snapshot(store).shards[0]
    before = stored(store, entry)
    archived = write_archived(store, entry, store / "a.parquet")
    (store / "a.parquet").replace(store / entry.path)
    assert archived.pages == ()
    assert stored(store, archived) == before


def test_a_shard_describes_itself(store: Path) -> None:
    entry = open_snapshot(store).shards[0]
    with Describer(store) as describer:
        found = describer.describe(entry.path)
    assert (found.dtype, found.pages, found.tail) == ("int8", entry.pages, entry.tail)


def test_only_stores_of_int8_are_of_the_newer_version(store: Path, tmp_path: Path) -> None:
    """The version before says `upgrade actstore` to the one, and reads the other as ever."""

    def head(root: Path) -> tuple[int, str]:
        text = sorted((root / "manifests").iterdir())[-1].read_bytes()
        assert manifests.decode(text, "x").encode() == text
        document = json.loads(text)
        return document["version"], document["schema"]

    assert head(store) == (2, "activations/v2")
    write(tmp_path / "t", batch(0, 3, dtype="float32"), narrow="compact16")
    assert head(tmp_path / "t") == (1, "activations/v1")


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0])
def test_scales_that_are_none_are_refused(store: Path, wrong: float) -> None:
    entry = open_snapshot(store).shards[0]
    inner = LocalFiles(store).open_shard(entry)
    scales = shard_columns.read_columns(store, entry, ["scale"])["scale"].to_numpy().copy()
    scales[3] = wrong
    broken = QuantisedShard(inner, lambda: scales, entry.path)
    with pytest.raises(CorruptStoreError, match="scales that are negative or no numbers"):
        broken.take(np.array([0]))
