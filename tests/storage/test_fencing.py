"""Damaged shards are left out, named, and the rest of the commit is what it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from actstore.errors import DamageError
from actstore.storage import manifest as manifests
from actstore.storage.labels import set_labels
from actstore.storage.manifest import ShardEntry
from actstore.storage.snapshot import open_snapshot
from tests.storage.stores import batch, content, expected, write
from tests.storage.undoing import files_of, flip

FIRST, SECOND = batch(0, 20, layer=3), batch(0, 30, layer=7)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two layers in two commits, then labels of both."""
    root = tmp_path / "s"
    write(root, FIRST)
    write(root, SECOND)
    set_labels(open_snapshot(root), np.array([1, 25]), ["x", "y"], message="")
    return root


def as_folder(path: Path, entry: ShardEntry) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path, ShardEntry], object]] = {
    "a vector": lambda path, entry: flip(path, entry.pages[0][0] + 21),
    "between": lambda path, entry: flip(path, entry.vectors_end + 3),
    "the metadata": lambda path, entry: flip(path, entry.bytes - 2000),
    "the footer": lambda path, entry: flip(path, entry.bytes - 20),
    "missing": lambda path, entry: path.unlink(),
    "a folder": as_folder,
    "cut short": lambda path, entry: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path, entry: path.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
@pytest.mark.parametrize("which", [0, 1])
def test_the_rest_is_what_it_was(
    store: Path, damage: Callable[[Path, ShardEntry], object], which: int
) -> None:
    whole = content(store)
    entry = manifests.latest(store).shards[which]
    damage(store / entry.path, entry)
    before = files_of(store)
    snapshot = open_snapshot(store, skip_damaged=True)
    assert [each.path for each in snapshot.skipped] == [entry.path]
    assert snapshot.skipped[0].rows == entry.rows
    assert snapshot.skipped[0].layer == entry.layer
    other = expected((SECOND, FIRST)[which])
    assert content(snapshot) == {key: whole[key] for key in other}
    labels = {value for _, _, value in content(snapshot).values()}
    assert labels == {None, ("y", "x")[which]}
    snapshot.close()
    assert files_of(store) == before


def test_nothing_is_left_out_of_what_is_sound(store: Path) -> None:
    whole = content(store)
    snapshot = open_snapshot(store, skip_damaged=True)
    assert snapshot.skipped == ()
    assert snapshot.manifest == manifests.latest(store)
    assert content(snapshot) == whole


def test_another_fingerprint_and_the_same_commit(store: Path) -> None:
    entry = manifests.latest(store).shards[0]
    flip(store / entry.path)
    snapshot = open_snapshot(store, skip_damaged=True)
    assert snapshot.manifest.number == 3
    assert snapshot.manifest.fingerprint != manifests.latest(store).fingerprint


def test_an_earlier_commit(store: Path) -> None:
    flip(store / manifests.latest(store).shards[1].path)
    assert open_snapshot(store, 1, skip_damaged=True).skipped == ()
    assert len(open_snapshot(store, 2, skip_damaged=True).skipped) == 1


def test_a_damaged_label_file_is_no_part_to_leave_out(store: Path) -> None:
    (overlay,) = manifests.latest(store).labels
    flip(store / manifests.latest(store).shards[0].path)
    flip(store / overlay.path)
    with pytest.raises(DamageError, match=r"--at N") as found:
        open_snapshot(store, skip_damaged=True)
    assert [path for path, _ in found.value.problems] == [overlay.path]
    assert open_snapshot(store, 2, skip_damaged=True).rows == 30


def test_nothing_is_left(store: Path) -> None:
    entries = manifests.latest(store).shards
    for entry in entries:
        flip(store / entry.path)
    with pytest.raises(DamageError, match="nothing is left to read") as found:
        open_snapshot(store, skip_damaged=True)
    assert [path for path, _ in found.value.problems] == [entry.path for entry in entries]


def test_a_file_that_came_back_is_read_again(store: Path) -> None:
    path = store / manifests.latest(store).shards[0].path
    data = path.read_bytes()
    flip(path)
    assert open_snapshot(store, skip_damaged=True).rows == 30
    path.write_bytes(data)
    assert open_snapshot(store, skip_damaged=True).rows == 50


def test_without_more(store: Path) -> None:
    flip(store / manifests.latest(store).shards[0].path)
    skipped = open_snapshot(store, skip_damaged=True).skipped
    part = open_snapshot(store).without(skipped)
    assert (part.rows, part.skipped) == (30, skipped)
    assert set(content(part)) == set(expected(SECOND))
