"""What a killed command left in a store is cleared by the next of any kind, which says so."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

from actstore.storage.staging import Staging
from tests.children import children
from tests.commands.conftest import Command
from tests.storage import crashing


def test_wherever_a_label_is_killed(actstore: Command, tmp_path: Path) -> None:
    whole, store = tmp_path / "whole", tmp_path / "s"
    crashing.prepare_labels(whole)
    said = 0
    for at in range(1, 100):
        shutil.copytree(whole, store)
        child = children.Process(target=crashing.run_and_die, args=(store, crashing.label, at))
        child.start()
        child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        left = list((store / ".staging").glob("*/lock"))  # an empty folder is worth no word
        finished = actstore("log", store)  # which only reads
        assert finished.code == 0
        assert os.listdir(store / ".staging") == []
        told = "cleared what 1 command had left that ended before its end" in finished.err
        assert told is bool(left)
        said += told
        assert actstore("log", store).err == ""
        shutil.rmtree(store)
    assert at > 10
    assert said > 5


def test_a_living_writers_folder_is_left_alone(actstore: Command, store: Path) -> None:
    work = Staging(store)
    (work.folder / "draft").write_bytes(b"x")
    finished = actstore("info", store)
    assert finished.err == ""
    assert (work.folder / "draft").exists()
    work.close()
