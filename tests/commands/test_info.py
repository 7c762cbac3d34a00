"""`actstore info` counts what is there."""

import json
from pathlib import Path

import numpy as np

from actstore.storage.labels import set_labels
from actstore.storage.snapshot import open_snapshot
from tests.commands.conftest import Command


def test_numbers_for_people(actstore: Command, store: Path) -> None:
    lines = actstore("info", store).out.splitlines()
    assert "rows    40 of 20 examples" in lines
    assert "labels  faithful 20 (10 examples), unfaithful 20 (10 examples)" in lines
    assert [line.split()[2:8] for line in lines[-2:]] == [
        ["mean", "NULL", "3", "8", "float16", "20"],
        ["mean", "NULL", "7", "8", "float16", "20"],
    ]


def test_numbers_for_programs_at_any_commit(actstore: Command, store: Path) -> None:
    set_labels(open_snapshot(store), np.arange(30), [None] * 30, message="fewer")
    now = json.loads(actstore("info", store, "--json").out)
    assert (now["rows"], now["commit"], now["unlabelled"]) == (40, 2, 30)
    assert (now["examples"], sum(now["label_examples"].values())) == (20, 10)
    before = json.loads(actstore("info", store, "--at", 1, "--json").out)
    assert (before["commit"], before["unlabelled"]) == (1, 0)
