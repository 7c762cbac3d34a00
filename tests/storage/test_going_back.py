"""Back to an earlier commit, as a new one: the history stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actstore.errors import CommitError, SnapshotNotFoundError, StoreNotFoundError
from actstore.storage import manifest as manifests
from actstore.storage.compaction import compact, prune
from actstore.storage.dropping import drop_rows
from actstore.storage.going_back import go_back
from actstore.storage.labels import set_labels
from actstore.storage.snapshot import open_snapshot
from actstore.storage.staging import Staging
from tests.storage.stores import (
    assert_sound,
    batch,
    card_commit,
    card_files,
    content,
    live_files,
    write,
)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Rows, more rows, labels, compaction, a drop: a commit each."""
    root = tmp_path / "s"
    write(root, batch(0, 5, layer=1))
    write(root, batch(5, 4, layer=1), batch(0, 3, layer=2))
    set_labels(open_snapshot(root), np.array([0]), ["x"], message="")
    compact(root)
    drop_rows(open_snapshot(root), np.array([0, 11]))
    return root


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_the_new_commit_equals_the_old_one(store: Path, at: int) -> None:
    every = {number: list(content(store, number).items()) for number in range(1, 6)}
    made = go_back(store, at)
    assert made is not None
    assert (made.number, made.parent, made.operation) == (6, 5, "checkout")
    old = manifests.load(store, at)
    assert (made.shards, made.labels, made.runs) == (old.shards, old.labels, old.runs)
    assert made.fingerprint == old.fingerprint
    assert {number: list(content(store, number).items()) for number in range(1, 6)} == every
    assert list(content(store).items()) == every[at]
    assert_sound(store)
    assert card_commit(store) == 6
    assert card_files(store)["metadata"] == live_files(store)
    assert go_back(store, at) is None
    go_back(store, 5)
    assert list(content(store).items()) == every[5]


def test_writing_and_pruning_go_on_from_there(store: Path) -> None:
    go_back(store, 2)
    write(store, batch(5, 5, layer=1))
    whole = content(store)
    assert len(whole) == 13
    prune(store)
    assert content(store) == whole
    assert manifests.numbers(store) == [7]
    assert_sound(store)


def test_what_cannot_be_gone_back_to(store: Path, tmp_path: Path) -> None:
    with pytest.raises(SnapshotNotFoundError, match="has no commit 9: it has 1 to 5"):
        go_back(store, 9)
    prune(store, keep=2)
    with pytest.raises(SnapshotNotFoundError):
        go_back(store, 1)
    with pytest.raises(StoreNotFoundError):
        go_back(tmp_path / "nowhere", 1)
    assert not (tmp_path / "nowhere").exists()


def test_a_commit_that_comes_meanwhile_is_not_undone_unasked(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Staging.place

    def place_late(staging: Staging, files: dict[str, Path]) -> None:
        monkeypatch.setattr(Staging, "place", place)
        write(store, batch(50, 2, layer=1))
        place(staging, files)

    monkeypatch.setattr(Staging, "place", place_late)
    with pytest.raises(CommitError, match="got commit 6 meanwhile; nothing changed"):
        go_back(store, 1)
    assert manifests.latest(store).number == 6
    assert len(content(store)) == 12
