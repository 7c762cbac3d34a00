"""Compressed shards: the same rows bit for bit, for us and for readers that never heard of us."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from actstore.errors import CorruptStoreError
from actstore.storage import manifest as manifests
from actstore.storage.archive import write_archived
from actstore.storage.mapping import open_shard
from tests.storage.stores import batch, write


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_an_archived_shard_holds_the_same_rows(tmp_path: Path, dtype: str) -> None:
    store = tmp_path / "store"
    write(store, batch(0, 900, width=48, dtype=dtype, label="a|b"))
    (entry,) = manifests.load(store).shards
    target = tmp_path / "out" / entry.path
    target.parent.mkdir(parents=True)
    made = write_archived(store, entry, target)
    assert made.bytes == target.stat().st_size < entry.bytes
    assert not made.pages
    rows = np.arange(entry.rows)
    before = open_shard(store, entry).take(rows)
    after = open_shard(tmp_path / "out", made).take(rows)
    assert before.dtype == after.dtype
    assert before.tobytes() == after.tobytes()
    assert pq.read_table(target).equals(pq.read_table(store / entry.path))
    assert pq.read_schema(target).equals(pq.read_schema(store / entry.path))
    query = "SELECT count(*), sum(norm), min(activation[48]), max(label) FROM read_parquet(?)"
    found = [duckdb.execute(query, [str(p)]).fetchall() for p in (target, store / entry.path)]
    assert found[0] == found[1]


def test_a_damaged_shard_is_not_archived(tmp_path: Path) -> None:
    write(tmp_path, batch(0, 50, width=48))
    (entry,) = manifests.load(tmp_path).shards
    path = tmp_path / entry.path
    data = bytearray(path.read_bytes())
    data[entry.pages[0][0] + 7] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptStoreError, match="damaged"):
        write_archived(tmp_path, entry, tmp_path / "out.parquet")
    path.unlink()
    with pytest.raises(CorruptStoreError, match="missing"):
        write_archived(tmp_path, entry, tmp_path / "out.parquet")
