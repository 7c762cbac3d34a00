"""Many writers that commit at once all get their turn, and hardly a commit is tried twice."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from actstore.storage import layout, turns
from actstore.storage import manifest as manifests
from actstore.storage.manifest import Manifest, Run
from actstore.storage.writer import StoreWriter
from tests.storage.stores import assert_sound, batch
from tests.torture.effort import TORTURE, attack

children = multiprocessing.get_context("forkserver")
children.set_forkserver_preload(["tests.storage.crashing"])
WRITERS, COMMITS = (64, 4) if TORTURE else (8, 3)
OFTEN = 7


def commit_often(root: Path, number: int, start: float) -> None:
    """Commit as fast as it goes; end with a code of its own where many were tried again."""
    publish, tries = manifests.publish, 0

    def counted(root: Path, manifest: Manifest, staging: Path) -> bool:
        nonlocal tries
        tries += 1
        return publish(root, manifest, staging)

    manifests.publish = counted
    turns.PATIENCE = 3600.0  # on a busy machine all commits take longer than anybody waits
    time.sleep(max(0.0, start - time.time()))
    with StoreWriter(root, run=Run(run_id=f"r{number}", kind="ingest", started_at="")) as writer:
        for commit in range(COMMITS):
            writer.add(batch((number * COMMITS + commit) * 2, 2, layer=0))
            writer.commit(operation="ingest", message="")
    if tries > COMMITS + 2:
        raise SystemExit(OFTEN)


def test_all_writers_make_their_commits_and_none_is_passed_over_again_and_again(
    tmp_path: Path,
) -> None:
    root = tmp_path / "s"
    start = time.time() + 2
    writers = [
        children.Process(target=commit_often, args=(root, number, start))
        for number in range(WRITERS)
    ]
    with attack("several processes", f"commits of {WRITERS} writers at once") as tally:
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert [writer.exitcode for writer in writers] == [0] * WRITERS
        latest = manifests.latest(root)
        tally.tries = latest.number
        assert latest.number == WRITERS * COMMITS
        assert sum(shard.rows for shard in latest.shards) == 2 * WRITERS * COMMITS
        assert_sound(root)


def test_one_writer_at_a_time_has_the_turn(tmp_path: Path) -> None:
    (tmp_path / layout.MANIFESTS).mkdir()
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        with turns.turn(tmp_path):
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (inside, most) == (0, 1)


def test_a_turn_that_does_not_end_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 0.05)
    (tmp_path / layout.MANIFESTS).mkdir()
    stopped = os.open(tmp_path / layout.MANIFESTS, os.O_RDONLY)
    fcntl.flock(stopped, fcntl.LOCK_EX)
    with turns.turn(tmp_path):
        pass
    os.close(stopped)


def test_without_the_folder_nothing_is_waited_for(tmp_path: Path) -> None:
    with turns.turn(tmp_path / "no store"):
        pass


def test_an_error_gives_the_turn_back(tmp_path: Path) -> None:
    (tmp_path / layout.MANIFESTS).mkdir()
    with pytest.raises(KeyError), turns.turn(tmp_path):
        raise KeyError
    other = os.open(tmp_path / layout.MANIFESTS, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
