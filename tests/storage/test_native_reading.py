"""No thread of Arrow's holds anything of Python's: it could end the process when it exits."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actstore import paths
from actstore.ingestion import sidecar_table
from actstore.storage import manifest as manifests
from actstore.storage import shard_columns
from actstore.storage.archive import write_archived
from actstore.storage.decoded_shard import DecodedShard
from actstore.storage.labels import set_labels
from actstore.storage.snapshot import open_snapshot
from tests.storage.stores import batch, write


class Watched(io.FileIO):
    """A file that remembers which threads have read it."""

    readers: ClassVar[set[str]] = set()

    def read(self, size: int | None = -1) -> bytes:
        self.readers.add(threading.current_thread().name)
        return super().read(-1 if size is None else size)

    def readinto(self, buffer: Any) -> int:
        self.readers.add(threading.current_thread().name)
        return super().readinto(buffer)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Fifty rows, each with a label that came later; one of its sidecars; and it compressed."""
    root = tmp_path / "s"
    write(root, batch(0, 50))
    set_labels(open_snapshot(root), np.arange(50), ["x"] * 50, message="")
    pq.write_table(pa.table({"id": ["a"] * 50, "label": ["b"] * 50}), tmp_path / "t.parquet")
    write_archived(root, manifests.latest(root).shards[0], tmp_path / "a.parquet")
    return root


def columns(root: Path) -> pa.Table:
    return shard_columns.read_columns(root, manifests.latest(root).shards[0], ["example_id"])


def labels(root: Path) -> pa.Table:
    return shard_columns.read_labels(root, manifests.latest(root).labels[0])


def sidecar(root: Path) -> list[Any]:
    return sidecar_table._read_parquet(root.parent / "t.parquet", [root.parent])


def compressed(root: Path) -> np.ndarray:
    """As a compressed shard on the Hub is: a file of Python's."""
    (entry,) = manifests.latest(root).shards
    with Watched(root.parent / "a.parquet") as file:
        return DecodedShard(file, entry).take(np.arange(entry.rows))


@pytest.mark.parametrize("read", [columns, labels, sidecar, compressed])
def test_no_other_thread_reads_from_python(
    store: Path,
    read: Callable[[Path], pa.Table | list[Any] | np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Path, "open", lambda path, mode: Watched(path, mode))
    monkeypatch.setattr(paths, "open_file", lambda path, within: Watched(path))
    Watched.readers.clear()
    assert len(read(store)) == 50
    assert Watched.readers <= {"MainThread"}
