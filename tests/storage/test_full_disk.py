"""A disk that is really full, files that may not grow, a store that may only be read."""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from actstore import resources
from actstore.errors import CommitError
from actstore.storage import manifest as manifests
from actstore.storage import unfinished
from actstore.storage.compaction import compact, prune
from actstore.storage.labels import set_labels
from actstore.storage.snapshot import open_snapshot
from actstore.storage.verification import verify
from tests.children import children
from tests.storage import crashing
from tests.storage.stores import (
    assert_sound,
    batch,
    card_commit,
    card_files,
    content,
    expected,
    live_files,
    write,
)

WHOLE = expected(
    *(one for number in range(crashing.BATCHES) for one in crashing.source_file(number))
)


def _mount(folder: Path, *options: str) -> None:
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", folder],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small file system can be mounted by root on Linux only")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Return a function that makes a disk of so many kilobytes, or changes its size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def sized(kilobytes: int) -> Path:
        size = f"size={kilobytes}k"
        _mount(folder, *(["remount", size] if folder.is_mount() else [size]))
        return folder

    yield sized
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", folder], check=True)  # maps may still be open


def assert_stands(root: Path) -> None:
    """Check the latest commit, if there is one yet."""
    if manifests.numbers(root):
        assert content(root).items() <= WHOLE.items()
        assert_sound(root)


@pytest.mark.parametrize("kilobytes", [8, 60, 140, 300])
def test_an_ingest_goes_on_once_there_is_room(disk: Callable[[int], Path], kilobytes: int) -> None:
    root = disk(kilobytes) / "s"
    with pytest.raises(CommitError, match="No space left on device"):
        crashing.ingest_many(root)
    assert_stands(root)
    with pytest.raises(CommitError, match="No space left on device"):
        crashing.ingest_many(root)
    assert_stands(root)
    disk(4000)
    crashing.ingest_many(root)
    assert content(root) == WHOLE
    assert card_commit(root) == manifests.numbers(root)[-1]
    assert list((root / ".staging").iterdir()) == []


def test_a_full_store_can_be_read_and_changed_once_there_is_room(
    disk: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    root = disk(4000) / "s"
    crashing.ingest_many(root)
    filler = root.parent / "filler"
    free = os.statvfs(root)
    filler.write_bytes(bytes(free.f_bavail * free.f_frsize))
    snapshot = open_snapshot(root)
    assert content(snapshot) == WHOLE
    assert verify(snapshot) == []
    for action in (
        lambda: set_labels(snapshot, np.array([0]), ["x"], message=""),
        lambda: compact(root),
        lambda: write(root, batch(900, 1)),
    ):
        with pytest.raises(CommitError, match="No space left on device"):
            action()
        assert content(root) == WHOLE
    filler.unlink()
    compact(root)
    prune(root)
    assert content(root) == WHOLE
    assert card_files(root)["metadata"] == live_files(root)


def _ingest_small_files(root: Path, limit: int) -> None:
    """Ingest in a process whose files may not grow beyond ``limit`` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        crashing.ingest_many(root)
    except CommitError as error:
        raise SystemExit(3 if "File too large" in str(error) else 4) from error


@pytest.mark.parametrize("limit", [100, 3_000, 12_000])
def test_files_that_may_not_grow(tmp_path: Path, limit: int) -> None:
    root = tmp_path / "s"
    child = children.Process(target=_ingest_small_files, args=(root, limit))
    child.start()
    child.join(60)
    assert child.exitcode == 3
    assert_stands(root)
    crashing.ingest_many(root)
    assert content(root) == WHOLE


def _note_a_draft(folder: Path) -> None:
    """Note a draft in a process whose files may hold nothing."""
    os.environ[resources.CACHE] = str(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    with unfinished.noted(folder / "draft", folder / "target"):
        pass


def test_a_note_that_there_is_no_room_for_does_not_stay_empty(tmp_path: Path) -> None:
    child = children.Process(target=_note_a_draft, args=(tmp_path,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert list((tmp_path / "unfinished").iterdir()) == []


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder read-only for everybody, root included."""
    try:
        subprocess.run(["mount", "--bind", folder, folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a folder can be made read-only for root by root on Linux only")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder, folder], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)  # maps may still be open


def test_a_read_only_store_reads_and_says_why_it_does_not_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    root = tmp_path / "s"
    write(root, batch(0, 3))
    write(root, batch(3, 2))
    with read_only(root):
        snapshot = open_snapshot(root)
        assert content(snapshot) == expected(batch(0, 5))
        assert verify(snapshot) == []
        for action in (
            lambda: write(root, batch(5, 1)),
            lambda: set_labels(snapshot, np.array([0]), ["x"], message=""),
            lambda: compact(root),
            lambda: prune(root),
        ):
            with pytest.raises(CommitError, match=r"Read-only file system"):
                action()
    assert write(root, batch(5, 1)) == 3
