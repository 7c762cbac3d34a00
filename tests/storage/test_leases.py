"""Readers keep what they read from being pruned, until they end, however they end."""

from __future__ import annotations

import fcntl
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from actstore.errors import SnapshotNotFoundError
from actstore.storage import derived
from actstore.storage import manifest as manifests
from actstore.storage.compaction import compact
from actstore.storage.lease import Lease, alone
from actstore.storage.pruning import erase
from actstore.storage.snapshot import Snapshot, open_snapshot
from tests.children import children
from tests.storage.stores import assert_sound, batch, content, expected, write

ROWS = (batch(0, 3, layer=0), batch(3, 2, layer=0))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a store of three commits: two shards, then one in their place."""
    for one in ROWS:
        write(tmp_path / "s", one)
    compact(tmp_path / "s")
    return tmp_path / "s"


def test_a_commit_that_is_read_stays_with_its_files(root: Path) -> None:
    reader = open_snapshot(root, 2)  # nothing of it is mapped yet
    gone = erase(root)
    assert (gone.commits, gone.held) == ((1,), (2,))
    assert content(reader) == expected(*ROWS)
    assert_sound(root)
    reader.close()
    gone = erase(root)
    assert (gone.commits, gone.held) == ((2,), ())
    assert manifests.numbers(root) == [3]
    assert len(list((root / "activations").rglob("*.parquet"))) == 1
    with pytest.raises(SnapshotNotFoundError):
        open_snapshot(root, 2)


def _read(root: Path, line: Connection) -> None:
    reader = open_snapshot(root, 2)
    line.send("open")
    line.recv()
    line.send(content(reader) == expected(*ROWS))


@pytest.mark.parametrize("killed", [False, True])
def test_a_reader_in_another_process(root: Path, killed: bool) -> None:
    here, there = children.Pipe()
    child = children.Process(target=_read, args=(root, there))
    child.start()
    assert here.recv() == "open"
    assert erase(root).held == (2,)
    if killed:
        child.kill()
    else:
        here.send("go on")
        assert here.recv()
    child.join()
    assert erase(root).commits == (2,)


def test_a_reader_that_comes_while_commits_go(root: Path) -> None:
    """Between looking who reads and removing, another one may have begun."""
    from actstore.storage import soundness

    readers: list[Snapshot] = []
    check = soundness.check

    def late(*given: object, **more: object) -> None:
        readers.append(open_snapshot(root, 1))
        check(*given, **more)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soundness, "check", late)
        gone = erase(root)
    assert (gone.commits, gone.held) == ((2,), (1,))
    assert content(readers[0]) == expected(ROWS[0])


def test_nobody_takes_a_lease_of_what_is_being_removed(root: Path) -> None:
    path = root / "manifests" / "0000000001.json"
    lease = Lease(path)
    with alone(path) as nobody:
        assert not nobody
    lease.release()
    with alone(path) as nobody:
        assert nobody
        path.unlink()
    with pytest.raises(FileNotFoundError):
        Lease(path)
    with alone(path) as nobody:
        assert nobody


@pytest.mark.parametrize("remade", [True, False])
def test_a_file_that_was_made_again_while_one_asked_who_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remade: bool
) -> None:
    """Of two that tidy up, the second one has opened what the first one then removes."""
    path = tmp_path / "derived"
    path.write_bytes(b"old")
    lock = fcntl.flock
    readers: list[Lease] = []

    def late(descriptor: int, kind: int) -> None:
        if kind & fcntl.LOCK_EX and not readers:
            path.unlink()
            path.with_name("draft").write_bytes(b"new")
            readers.append(Lease(path.with_name("draft")))
            if remade:
                path.with_name("draft").rename(path)
        lock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", late)
    assert derived.discard(path) is not remade
    assert path.exists() is remade
    for reader in readers:
        reader.release()
    assert derived.discard(path)
    assert not path.exists()


def test_one_that_goes_after_the_modules_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m").write_text("")
    lease = Lease(tmp_path / "m")
    with monkeypatch.context() as ending:
        ending.setattr("actstore.storage.lease.os", None)  # as Python does while it ends
        lease.__del__(lambda: True)
    lease.release()


def test_one_whose_making_was_interrupted_goes_in_silence() -> None:
    Lease.__new__(Lease).release()
