"""Archived shards: compressed, read by everyone, the same rows bit for bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from actstore.errors import CorruptStoreError
from actstore.storage import shard
from actstore.storage.archive import write_archived
from actstore.storage.mapping import DecodedShard, open_shard
from actstore.storage.rows import RowBatch
from actstore.storage.snapshot import open_snapshot
from tests.storage.stores import batch, write


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One float16 and one float32 shard of several row groups; values that compress."""
    monkeypatch.setattr(shard, "GROUP_BYTES", 1 << 14)
    root = tmp_path / "s"
    for dtype in ("float16", "float32"):
        one = batch(0, 200, layer=len(dtype) + int(dtype[-2:]), dtype=dtype)
        values = np.random.default_rng(0).standard_normal((200, 64)).astype(np.float16)
        write(
            root,
            RowBatch(vectors=values.astype(dtype), constants=one.constants, columns=one.columns),
        )
    return root


@pytest.mark.parametrize("number", [0, 1])
def test_the_same_rows_in_fewer_bytes(store: Path, number: int) -> None:
    entry = open_snapshot(store).shards[number]
    archived = write_archived(store, entry, store / "a.parquet")
    assert archived.pages == ()
    assert archived.bytes == (store / "a.parquet").stat().st_size
    assert archived.bytes < (1.0 if entry.dtype == "float16" else 0.75) * entry.bytes
    assert (
        dataclasses.replace(archived, bytes=entry.bytes, sha256=entry.sha256, pages=entry.pages)
        == entry
    )
    with (
        pq.ParquetFile(store / "a.parquet", page_checksum_verification=True) as ours,
        pq.ParquetFile(store / entry.path) as theirs,
    ):
        assert ours.read().equals(theirs.read())
        assert ours.num_row_groups == theirs.num_row_groups > 1
        assert ours.schema_arrow.equals(theirs.schema_arrow)
    reader = open_shard(store, dataclasses.replace(archived, path="a.parquet"))
    assert isinstance(reader, DecodedShard)
    mapped = open_shard(store, entry)
    rows = np.random.default_rng(1).integers(0, 200, 500)
    assert reader.take(rows).tobytes() == mapped.take(rows).tobytes()


def test_a_damaged_or_missing_shard_is_not_archived(store: Path) -> None:
    entry = open_snapshot(store).shards[0]
    path = store / entry.path
    sound = path.read_bytes()
    path.write_bytes(sound[:100])
    with pytest.raises((CorruptStoreError, OSError)):
        write_archived(store, entry, store / "a.parquet")
    path.unlink()
    with pytest.raises(CorruptStoreError, match="is missing from"):
        write_archived(store, entry, store / "a.parquet")
    path.write_bytes(sound)
    with pytest.raises(CorruptStoreError, match="holds 200 rows, the manifest says 7"):
        write_archived(store, dataclasses.replace(entry, rows=7), store / "a.parquet")
