"""`actstore compact` folds labels in, keeps rows, and prunes on request."""

import json
from pathlib import Path

import numpy as np

from actstore.storage.dropping import drop_rows
from actstore.storage.labels import set_labels
from actstore.storage.snapshot import open_snapshot
from tests.commands.conftest import Command


def test_labels_are_folded_in_and_old_commits_pruned(actstore: Command, store: Path) -> None:
    snapshot = open_snapshot(store)
    before = snapshot.gather(np.arange(snapshot.rows))
    set_labels(snapshot, np.array([0, 5]), ["a", "b"], message="two")
    snapshot.close()
    done = json.loads(actstore("compact", store, "--prune", "--json").out)
    assert done["labels_folded"] == 2
    assert done["pruned"]["commits"] == 2
    after = open_snapshot(store)
    assert not after.manifest.labels
    assert after.gather(np.arange(after.rows)).tobytes() == before.tobytes()


def test_nothing_to_do_is_said(actstore: Command, store: Path) -> None:
    finished = actstore("compact", store)
    assert finished.out == "nothing to do: 2 shards, no labels apart\n"


def test_keep_needs_prune(actstore: Command, store: Path) -> None:
    assert actstore("compact", store, "--keep", 2).code == 2


def test_what_pruning_removed_is_said(actstore: Command, store: Path) -> None:
    """A report that quotes a dropped row goes too, and is named."""
    (store / "reports").mkdir()
    (store / "reports/run-1.json").write_text('{"first_row": {"prediction": "It is 4."}}')
    snapshot = open_snapshot(store)
    drop_rows(snapshot, np.array([4, 24]))
    kept = actstore("compact", store, "--prune")
    assert kept.code == 0
    assert "removed 0 old commits, 0 files" in kept.out
    assert "commit 1 is being read by a process that has the store open: it stays" in kept.err
    snapshot.close()
    done = actstore("compact", store, "--prune")
    assert "removed 1 old commit, 2 files, " in done.out
    assert "removed reports/run-1.json, which quotes rows" in done.out
    assert not list((store / "reports").iterdir())
