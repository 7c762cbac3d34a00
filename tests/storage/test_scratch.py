"""Folders for a while: gone with their process, or with the next one where that was killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actstore.storage import scratch as scratches
from actstore.storage.scratch import scratch

HOLD = """
import sys, time
from actstore.storage.scratch import scratch
with scratch("held") as folder:
    (folder / "file").write_text("x")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def aged(folder: Path) -> None:
    """Let it be long ago that a folder was made."""
    then = time.time() - 2 * scratches._YOUNG
    os.utime(folder, (then, then))


def end(*holders: subprocess.Popen[str]) -> None:
    """Kill some processes; they may be dead already."""
    for each in holders:
        with each:
            each.kill()


def test_it_goes_with_the_block_whatever_happens(tmp_path: Path) -> None:
    with scratch("word") as folder:
        assert folder.parent == tmp_path
        assert "word" in folder.name
        assert folder.stat().st_mode & 0o777 == 0o700
    with contextlib.suppress(KeyboardInterrupt), scratch("word") as folder:
        (folder / "in").mkdir()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next_and_what_others_hold_is_not(
    tmp_path: Path,
) -> None:
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        folders = []
        for each in holders:
            assert each.stdout is not None
            folders.append(Path(each.stdout.readline().strip()))
        end(holders[0])
        with scratch("young"):
            assert all(folder.exists() for folder in folders)  # it may just not have its lock yet
        for folder in folders:
            aged(folder)
        with scratch("old"):
            assert [folder.exists() for folder in folders] == [False, True]
        assert (folders[1] / "file").read_text() == "x"
    finally:
        end(*holders)


def test_nothing_else_is_touched(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/mine").write_text("x")
    (tmp_path / f"{scratches._PREFIX}link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / f"{scratches._PREFIX}file").write_text("x")
    (tmp_path / "another").mkdir()
    for each in tmp_path.iterdir():
        aged(each)
    with scratch("word"):
        pass
    assert len(list(tmp_path.iterdir())) == 4
    assert (tmp_path / "elsewhere/mine").exists()
