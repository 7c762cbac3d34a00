"""`actstore repair`: bytes come back from copies, commits from what is sound; the rest is named."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from actstore.errors import CorruptStoreError
from actstore.storage import layout
from actstore.storage import manifest as manifests
from actstore.storage.labels import set_labels
from actstore.storage.repairing import survey
from actstore.storage.snapshot import open_snapshot
from actstore.storage.writer import StoreWriter
from tests.commands.conftest import Command
from tests.storage.stores import RUN, assert_sound, batch, content, expected, write
from tests.storage.undoing import files_of, flip


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """A store of two layers with labels, and a copy of it."""
    root = tmp_path / "s"
    write(root, batch(0, 5), batch(0, 4, layer=9))
    set_labels(open_snapshot(root), np.array([0, 6]), ["x", "y"], message="")
    shutil.copytree(root, tmp_path / "copy")
    return root, tmp_path / "copy"


def test_files_come_back_byte_by_byte(actstore: Command, two: tuple[Path, Path]) -> None:
    root, copy = two
    whole, rows = files_of(root), content(root)
    first, second = manifests.latest(root).shards
    (overlay,) = manifests.latest(root).labels
    flip(root / first.path, first.pages[0][0] + 3)
    (root / second.path).unlink()
    flip(root / overlay.path)
    shown = actstore("repair", root, "--from", copy, "--dry-run")
    assert shown.code == 0
    for path in (first.path, second.path, overlay.path):
        assert f"brings back {path}" in shown.out
    alone = actstore("repair", root, "--yes")
    assert alone.code == 4
    assert alone.out.count("not repaired: ") == 3
    done = actstore("repair", root, "--from", copy, "--yes")
    assert done.code == 0
    assert done.out.endswith("brought back 3 files\n")
    assert files_of(root) == whole
    assert content(root) == rows
    assert_sound(root)
    assert "nothing to repair: commit 2 is sound, 9 rows" in actstore("repair", root, "--yes").out


def test_a_copy_that_is_damaged_too_is_of_no_use(actstore: Command, two: tuple[Path, Path]) -> None:
    root, copy = two
    entry = manifests.latest(root).shards[0]
    for folder in two:
        flip(folder / entry.path, entry.pages[0][0] + 3)
    before = files_of(root)
    done = actstore("repair", root, "--from", copy, "--yes")
    assert done.code == 4
    assert f"{copy} has no sound copy of it" in done.out
    assert files_of(root) == before


def test_a_commit_that_may_not_be_read_is_not_put_aside(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    root, _ = two
    for folder in (*tmp_path.parents, tmp_path):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    layout.manifest_path(root, 2).chmod(0)
    own = os.geteuid()
    try:
        os.seteuid(65534 if own == 0 else own)  # root may read anything
        with pytest.raises(CorruptStoreError, match=r"02\.json cannot .*: let this user read it"):
            survey(root)
    finally:
        os.seteuid(own)


def test_a_damaged_latest_commit_is_made_anew(actstore: Command, two: tuple[Path, Path]) -> None:
    root, _ = two
    write(root, batch(5, 3))
    whole = content(root)
    flip(layout.manifest_path(root, 3))
    done = actstore("repair", root, "--yes", "--json")
    assert done.code == 0, done
    found = json.loads(done.out)
    assert (found["base"], found["commit"], len(found["shards"])) == (2, 4, 1)
    assert content(root) == whole
    assert_sound(root)
    assert manifests.numbers(root) == [1, 2, 4]
    assert (root / "manifests/0000000003.json.damaged").exists()


def test_shards_that_took_the_place_of_others_are_left(
    actstore: Command, two: tuple[Path, Path]
) -> None:
    root, _ = two
    whole = content(root)
    assert actstore("compact", root).code == 0
    flip(layout.manifest_path(root, 3))
    done = actstore("repair", root, "--yes")
    assert done.code == 0
    assert done.out.count(", whose rows are in other shards") == 2
    assert content(root) == whole
    assert_sound(root)


def test_new_rows_beside_others_that_were_replaced_are_taken(
    actstore: Command, two: tuple[Path, Path]
) -> None:
    """One shard has both: the others are those of the last sound commit, and stay as they were."""
    root, _ = two
    whole, new = content(root), expected(batch(5, 3))
    with StoreWriter(root, run=RUN, replace=True) as writer:
        writer.add(batch(3, 2, seed=1))
        writer.add(batch(5, 3))
        writer.commit(operation="ingest", message="")
    flip(layout.manifest_path(root, 3))
    shown = actstore("repair", root, "--dry-run")
    assert ": 3 rows that no sound commit has\n" in shown.out
    done = actstore("repair", root, "--yes")
    assert done.code == 4  # the labels of the shard that was written anew
    assert "and 3 rows of 1 shard that no sound commit named" in done.out
    assert content(root) == {**whole, **new}
    assert_sound(root)


def test_renamed_rows_are_named_where_they_are_there_twice(
    actstore: Command, two: tuple[Path, Path]
) -> None:
    root, _ = two
    whole = content(root)
    assert actstore("rename", root, "--set", "variant='v'", "layer = 9", "--yes").code == 0
    both = {**whole, **content(root)}
    new = next(e.path for e in manifests.latest(root).shards if e.layer == 9)
    flip(layout.manifest_path(root, 3))
    done = actstore("repair", root, "--yes")
    assert done.code == 4
    assert f"twice, if a renaming made it: {new} has the vectors of other rows" in done.out
    assert {key: row[:2] for key, row in content(root).items()} == {
        key: row[:2] for key, row in both.items()
    }
    assert_sound(root)


def test_without_any_sound_commit_all_shards_are_taken(
    actstore: Command, two: tuple[Path, Path]
) -> None:
    root, _ = two
    whole = content(root, 1)
    for number in (1, 2):
        flip(layout.manifest_path(root, number))
    done = actstore("repair", root, "--yes")
    assert done.code == 4  # the labels
    assert "nothing says when these labels were set" in done.out
    assert content(root) == whole
    assert_sound(root)


def test_a_shard_with_a_damaged_footer_is_named(actstore: Command, two: tuple[Path, Path]) -> None:
    root, _ = two
    write(root, batch(5, 3))
    path = manifests.latest(root).shards[1].path
    data = (root / path).read_bytes()
    (root / path).write_bytes(data[:-900] + bytes(700) + data[-200:])
    flip(layout.manifest_path(root, 3))
    done = actstore("repair", root, "--yes")
    assert done.code == 4
    assert f"not repaired: {path}" in done.out
    assert_sound(root)


def test_where_no_store_is_nothing_can_be_repaired(actstore: Command, tmp_path: Path) -> None:
    done = actstore("repair", tmp_path / "s", "--yes")
    assert done.code == 1
    assert "there is no store at" in done.err
