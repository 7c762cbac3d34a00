"""`actstore log` lists commits, the newest first."""

import json
from pathlib import Path

import numpy as np

from actstore.storage.labels import set_labels
from actstore.storage.snapshot import open_snapshot
from tests.commands.conftest import Command


def test_commits_newest_first(actstore: Command, store: Path) -> None:
    set_labels(open_snapshot(store), np.array([0]), ["a"], message="one label")
    commits = json.loads(actstore("log", store, "--json").out)
    assert [(c["commit"], c["parent"], c["rows"]) for c in commits] == [(2, 1, 40), (1, None, 40)]
    table = actstore("log", store, "--last", 1).out.splitlines()
    assert len(table) == 2
    assert table[1].endswith("one label")
