"""On a file system without hard links nothing is written, and what was copied there is read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from actstore.errors import CommitError
from actstore.storage.compaction import compact
from actstore.storage.labels import set_labels
from actstore.storage.snapshot import open_snapshot
from tests.storage.stores import assert_sound, batch, content, expected, write


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Return a folder of such a file system."""
    below, at = tmp_path / "below", tmp_path / "at"
    below.mkdir()
    at.mkdir()
    words = [sys.executable, "-m", "tests.torture.no_links", str(below), str(at)]
    server = subprocess.Popen(words, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE)
    assert server.stdout is not None
    with server, server.stdout:
        if not server.stdout.readline():
            pytest.skip("such a file system can be mounted by root on Linux only")
        yield at
        subprocess.run(["umount", "--lazy", at], check=True)
        server.kill()  # or it would wait for a file that a failed test has open


def test_it_has_no_links_and_is_a_file_system_otherwise(place: Path) -> None:
    (place / "a").write_bytes(b"x" * 100_000)
    (place / "a").rename(place / "b")
    assert (place / "b").read_bytes() == b"x" * 100_000
    with pytest.raises(PermissionError):
        os.link(place / "b", place / "c")
    assert os.listdir(place) == ["b"]


def test_nothing_is_written(place: Path) -> None:
    with pytest.raises(CommitError, match="has no hard links"):
        write(place / "s", batch(0, 3))
    assert not (place / "s" / "manifests").exists() or not os.listdir(place / "s" / "manifests")
    assert not list(place.rglob("*.parquet"))


def test_a_copy_is_read_and_not_changed(place: Path, tmp_path: Path) -> None:
    write(tmp_path / "s", batch(0, 3))
    write(tmp_path / "s", batch(3, 2))
    root = shutil.copytree(tmp_path / "s", place / "s")
    before = sorted(path for path in root.rglob("*") if ".cache" not in path.parts)
    snapshot = open_snapshot(root)
    for change in (
        lambda: write(root, batch(5, 1)),
        lambda: set_labels(snapshot, np.array([0]), ["x"], message=""),
        lambda: compact(root),
    ):
        with pytest.raises(CommitError, match="has no hard links"):
            change()
    snapshot.close()
    assert content(root) == expected(batch(0, 5))
    assert_sound(root)
    assert sorted(path for path in root.rglob("*") if ".cache" not in path.parts) == before
