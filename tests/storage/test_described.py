"""Shards that no manifest names are described by another process, whatever is in them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from actstore.errors import CorruptStoreError
from actstore.storage.described import Describer
from actstore.storage.manifest import ShardEntry
from actstore.storage.snapshot import open_snapshot
from tests.storage.stores import batch, write


@pytest.fixture
def shards(tmp_path: Path) -> tuple[ShardEntry, ...]:
    for layer in range(4):
        write(tmp_path, batch(0, 3, layer=layer))
    return open_snapshot(tmp_path).shards


def test_all_are_described_as_the_manifest_has_them_by_one_process(
    tmp_path: Path, shards: tuple[ShardEntry, ...]
) -> None:
    with Describer(tmp_path) as describer:
        found, processes = [], []
        for entry in shards:
            found.append(describer.describe(entry.path))
            assert describer._process is not None
            processes.append(describer._process.pid)
    assert [(one.path, one.sha256, one.tail, one.pages, one.pools) for one in found] == [
        (one.path, one.sha256, one.tail, one.pages, one.pools) for one in shards
    ]
    assert len(set(processes)) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(processes[0], 0)


@pytest.mark.parametrize("how", ["cut", "overwritten", "missing", "killed"])
def test_what_is_behind_a_damaged_one_is_described_all_the_same(
    tmp_path: Path, shards: tuple[ShardEntry, ...], how: str
) -> None:
    file = tmp_path / shards[1].path
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
    elif how == "cut":
        file.write_bytes(content[:-9])
    elif how == "overwritten":
        file.write_bytes(b"x" * len(content))
    with Describer(tmp_path) as describer:
        assert describer.describe(shards[0].path).sha256 == shards[0].sha256
        if how == "killed":  # as a footer may do to whoever reads it
            assert describer._process is not None
            os.kill(describer._process.pid, signal.SIGKILL)
        with pytest.raises(CorruptStoreError) as raised:
            describer.describe(shards[1].path)
        assert (str(raised.value) == "it ends whatever reads it") == (how == "killed")
        for entry in shards[2:]:
            assert describer.describe(entry.path).sha256 == entry.sha256
