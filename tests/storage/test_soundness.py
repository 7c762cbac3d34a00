"""Nothing is made of damaged files, and nothing removed while one is damaged."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from actstore.errors import CorruptStoreError, DamageError
from actstore.storage import checksums, pruning, soundness
from actstore.storage import manifest as manifests
from actstore.storage.compaction import compact, prune
from actstore.storage.dropping import drop_rows
from actstore.storage.going_back import go_back
from actstore.storage.labels import set_labels
from actstore.storage.renaming import NewValues, Renaming
from actstore.storage.snapshot import open_snapshot
from tests.storage.stores import batch, content, write
from tests.storage.undoing import files_of, flip


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two shards of one layer, one of another, and labels beside them."""
    root = tmp_path / "s"
    write(root, batch(0, 5, layer=1))
    write(root, batch(5, 4, layer=1))
    write(root, batch(0, 3, layer=2))
    set_labels(open_snapshot(root), np.array([0, 6]), ["x", "y"], message="")
    return root


def dropping(root: Path) -> object:
    return drop_rows(open_snapshot(root), np.array([1]))


def renaming(root: Path) -> object:
    snapshot = open_snapshot(root)
    values = NewValues(rows=np.array([1]), columns={"variant": ["v"]})
    return Renaming(snapshot, values).commit("")


def checked_renaming(root: Path) -> object:
    try:
        return renaming(root)
    except CorruptStoreError:
        soundness.check(root, manifests.latest(root).shards)
        raise


def going_back(root: Path) -> object:
    return go_back(root, 3)


CHANGES: dict[str, Callable[[Path], object]] = {
    "compact": compact,
    "drop": dropping,
    "rename": renaming,
    "checkout": going_back,
    "prune": prune,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
@pytest.mark.parametrize("part", ["vectors", "footer", "missing", "shorter"])
def test_a_damaged_shard_is_named_and_nothing_changes(
    store: Path, change: Callable[[Path], object], part: str
) -> None:
    path = store / manifests.latest(store).shards[0].path
    data = path.read_bytes()
    vectors = manifests.latest(store).shards[0].pages[0][0]
    if part == "vectors":
        flip(path, vectors + 20)
    elif part == "footer":
        flip(path, len(data) - 12)  # read by nobody: the end of Arrow's own schema
    elif part == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-1])
    before = files_of(store)
    numbers = manifests.numbers(store)
    if change is renaming and part != "vectors":
        change = checked_renaming  # as querying does: names are read before anything is checked
    with pytest.raises(DamageError) as caught:
        change(store)
    assert [name for name, _ in caught.value.problems] == [path.relative_to(store).as_posix()]
    assert path.name in str(caught.value)
    assert manifests.numbers(store) == numbers
    assert files_of(store) == before
    path.write_bytes(data)
    change(store)


@pytest.mark.parametrize("name", ["compact", "drop", "rename", "prune"])
def test_a_damaged_label_overlay_is_named_and_nothing_changes(store: Path, name: str) -> None:
    path = store / manifests.latest(store).labels[0].path
    flip(path)
    before = files_of(store)
    with pytest.raises(DamageError, match=path.name):
        CHANGES[name](store)
    assert files_of(store) == before


def test_pruning_keeps_the_last_sound_copy(store: Path) -> None:
    """Damage comes after a compaction: the shards that it was made from are the only sound ones."""
    whole = content(store)
    compact(store)
    flip(store / manifests.latest(store).shards[0].path, 300)
    for attempt in (prune, pruning.erase):
        with pytest.raises(DamageError):
            attempt(store)
    go_back(store, 4)
    assert content(store) == whole
    prune(store)
    assert content(store) == whole


def test_always_believes_nothing_that_was_found_sound(store: Path) -> None:
    entry = manifests.latest(store).shards[0]
    path = store / entry.path
    rows = np.arange(entry.rows)
    open_snapshot(store).gather(rows[::-1])
    found = path.stat()
    flip(path, entry.vectors_end + 20)  # among the checksums
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    with pytest.raises(DamageError):
        open_snapshot(store, check="always").gather(rows[::-1])


def test_a_block_that_is_checked_as_one_is_of_sixteen_kibibytes() -> None:
    assert checksums.block_rows(1024) == 16
    assert checksums.block_rows(1 << 20) == 1


def test_many_problems_are_counted(tmp_path: Path) -> None:
    root = tmp_path / "s"
    write(root, *(batch(0, 1, layer=layer) for layer in range(8)))
    for entry in manifests.latest(root).shards:
        (root / entry.path).unlink()
    with pytest.raises(DamageError, match=r"; and 3 more\. Nothing was changed") as caught:
        soundness.check(root, manifests.latest(root).shards)
    assert len(caught.value.problems) == 8
