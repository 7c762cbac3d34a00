"""Compaction and pruning: fewer files, the same rows in the same order."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from actstore.errors import CommitError, DamageError, StoreNotFoundError, UsageError
from actstore.storage import compaction, shard
from actstore.storage import manifest as manifests
from actstore.storage.compaction import Compacted, compact, prune
from actstore.storage.file_hashes import tail_of
from actstore.storage.labels import set_labels
from actstore.storage.manifest import Run
from actstore.storage.snapshot import open_snapshot
from actstore.storage.staging import Staging
from actstore.storage.writer import StoreWriter
from tests.storage.stores import (
    RUN,
    assert_sound,
    batch,
    card_commit,
    card_files,
    content,
    live_files,
    without_seals,
    write,
)
from tests.storage.undoing import flip


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Layer 1 in four shards of three types and widths, layer 2 in one, and new labels."""
    root = tmp_path / "s"
    for one in (
        batch(0, 5, layer=1),
        batch(5, 4, layer=1, label="l"),
        batch(9, 2, layer=1, dtype="float32"),
        batch(11, 3, layer=1),
        batch(0, 6, layer=2),
        batch(0, 2, layer=1, site="mlp_out", width=3),
    ):
        write(root, one, run=Run(run_id=f"run{len(one)}", kind="ingest", started_at=""))
    return root


def counts(root: Path) -> list[tuple[str, int | None, int, str, int]]:
    shards = open_snapshot(root).shards
    return [(e.site, e.layer, e.width, e.dtype, e.rows) for e in shards]


def test_neighbours_of_one_type_are_joined_and_rows_keep_their_order(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "GROUP_BYTES", 50)
    monkeypatch.setattr(compaction, "_BLOCK_BYTES", 40)
    before = content(store)
    steps: list[int] = []
    assert compact(store, progress=steps.append) == Compacted(7, 6, 5, 0)
    assert steps == [9 * 16]
    assert list(content(store).items()) == list(before.items())
    assert counts(store) == [
        ("mlp_out", 1, 3, "float16", 2),
        ("resid_post", 1, 8, "float16", 9),
        ("resid_post", 1, 8, "float32", 2),
        ("resid_post", 1, 8, "float16", 3),
        ("resid_post", 2, 8, "float16", 6),
    ]
    assert_sound(store)
    assert card_commit(store) == 7
    assert card_files(store)["metadata"] == live_files(store)
    manifest = open_snapshot(store).manifest
    assert (manifest.operation, manifest.message) == ("compact", "2 shards became 1")
    assert {run.run_id for run in manifest.runs} == {"run2", "run3", "run4", "run5", "run6"}
    assert compact(store) == Compacted(None, 5, 5, 0)


def test_every_column_survives(store: Path) -> None:
    before = pq.read_table(open_snapshot(store).metadata_file())
    compact(store)
    after = pq.read_table(open_snapshot(store).metadata_file())
    assert after.equals(before)


def test_labels_move_into_the_shards(store: Path) -> None:
    set_labels(open_snapshot(store), np.array([2, 15]), ["x", "y"], message="")
    set_labels(open_snapshot(store), np.array([2, 7]), [None, "z"], message="")
    before = content(store)
    assert compact(store).labels_folded == 3
    assert open_snapshot(store).manifest.labels == ()
    assert list(content(store).items()) == list(before.items())
    labels = [
        label
        for entry in open_snapshot(store).shards
        for label in pq.read_table(store / entry.path, columns=["label"])["label"].to_pylist()
    ]
    assert labels == [label for _, _, label in before.values()]
    assert_sound(store)


def test_folding_labels_alone_leaves_other_shards_the_files_they_are(store: Path) -> None:
    files = [entry.path for entry in open_snapshot(store).shards]
    set_labels(open_snapshot(store), np.array([3]), ["x"], message="")
    before = content(store)
    assert compact(store, join=False) == Compacted(8, 6, 6, 1)
    after = [entry.path for entry in open_snapshot(store).shards]
    assert [old == new for old, new in zip(files, after, strict=True)] == [
        True, False, True, True, True, True
    ]  # fmt: skip
    assert list(content(store).items()) == list(before.items())


def test_shards_are_joined_up_to_a_size(store: Path) -> None:
    assert compact(store, shard_bytes=8 * 16) == Compacted(None, 6, 6, 0)
    for first in range(20, 30, 2):
        write(store, batch(first, 2, layer=2))
    compact(store, shard_bytes=8 * 16)
    assert [rows for *_, layer, _, _, rows in counts(store) if layer == 2] == [8, 8]


def test_rows_that_come_meanwhile_are_kept(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(store)
    place = Staging.place

    def place_late(staging: Staging, files: dict[str, Path]) -> None:
        monkeypatch.setattr(Staging, "place", place)
        write(store, batch(50, 2, layer=1))
        place(staging, files)

    monkeypatch.setattr(Staging, "place", place_late)
    assert compact(store).commit == 8
    assert content(store) == before | content(store, at=7)
    assert len(content(store)) == len(before) + 2
    assert_sound(store)


@pytest.mark.parametrize("times", [1, 5])
def test_labels_that_come_meanwhile_are_kept(
    store: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """It starts over, and gives up if it never gets through."""
    place = Staging.place
    left = times
    entered = False

    def place_late(staging: Staging, files: dict[str, Path]) -> None:
        nonlocal left, entered
        if not entered and left:
            entered, left = True, left - 1
            snapshot = open_snapshot(store)
            set_labels(snapshot, np.array([left]), ["late"], message="")
            entered = False
        place(staging, files)

    monkeypatch.setattr(Staging, "place", place_late)
    if times == 1:
        compact(store)
    else:
        with pytest.raises(CommitError, match="changed by others 3 times while it was compacted"):
            compact(store)
    monkeypatch.undo()
    found = [label for _, _, label in content(store).values()]
    assert found.count("late") == min(times, 3)
    assert_sound(store)
    named = {
        entry.path
        for number in manifests.numbers(store)
        for entry in manifests.load(store, number).shards
    }
    files = {file.relative_to(store).as_posix() for file in (store / "activations").rglob("*.*")}
    assert files == named


def test_pruning_keeps_what_the_kept_commits_need(store: Path) -> None:
    set_labels(open_snapshot(store), np.array([3]), ["x"], message="")
    compact(store)
    write(store, batch(60, 1))
    before = {at: content(store, at) for at in (8, 9)}
    size = sum(entry.bytes for entry in open_snapshot(store, 6).shards)
    pruned = prune(store, keep=2)
    assert (pruned.commits, pruned.files) == (7, 3)
    assert 0 < pruned.bytes < size
    assert manifests.numbers(store) == [8, 9]
    assert {at: content(store, at) for at in (8, 9)} == before
    assert_sound(store)
    assert card_files(store)["metadata"] == live_files(store)
    assert prune(store, keep=5) == (0, 0, 0)
    write(store, batch(61, 1))
    assert manifests.numbers(store) == [8, 9, 10]


def test_pruning_leaves_the_work_of_living_writers(store: Path) -> None:
    with StoreWriter(store, run=RUN) as session:
        session.add(batch(70, 3))
        placed: list[str] = []
        place = session._change._staging.place

        def place_and_prune(files: dict[str, Path]) -> None:
            place(files)  # they are where they will be, and the commit is not made yet
            placed.extend(files)
            prune(store)

        session._change._staging.place = place_and_prune  # type: ignore[method-assign]
        assert session.commit(operation="ingest", message="") == 7
    assert placed
    assert set(placed) <= set(live_files(store))
    assert_sound(store)


def test_what_cannot_be_pruned_or_compacted(tmp_path: Path, store: Path) -> None:
    with pytest.raises(UsageError, match="at least one commit must be kept, got 0"):
        prune(store, keep=0)
    for action in (compact, prune):
        with pytest.raises(StoreNotFoundError):
            action(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_foreign_shard_that_cannot_be_mapped_becomes_one_that_can(store: Path) -> None:
    from actstore.storage.archive import write_archived

    before = content(store)
    latest = manifests.latest(store)
    entry = latest.shards[1]
    path = entry.path.replace("-0", "-archived0")
    archived = dataclasses.replace(write_archived(store, entry, store / path), path=path)
    shards = tuple(archived if other is entry else other for other in latest.shards)
    staging = Staging(store)
    assert manifests.publish(
        store, latest.next(operation="o", message="", shards=shards), staging.folder
    )
    staging.close()
    assert list(content(store).items()) == list(before.items())
    assert_sound(store)
    compact(store)
    assert all(entry.pages for entry in open_snapshot(store).shards)
    assert list(content(store).items()) == list(before.items())


def test_shards_of_earlier_versions_can_be_checked_in_parts_afterwards(tmp_path: Path) -> None:
    root = tmp_path / "s"
    write(root, batch(0, 9), batch(0, 4, layer=5))
    without_seals(root)
    before = content(root)
    assert [entry.tail for entry in manifests.latest(root).shards] == [None, None]
    assert compact(root).hashed == 2
    latest = manifests.latest(root)
    assert [entry.tail for entry in latest.shards] == [tail_of(root, e) for e in latest.shards]
    assert (latest.operation, latest.message) == ("compact", "hashes of the metadata of 2 shards")
    assert content(root) == before
    assert_sound(root)
    assert compact(root).commit is None


def test_damage_of_an_earlier_version_gets_no_hash(tmp_path: Path) -> None:
    root = tmp_path / "s"
    write(root, batch(0, 9))
    without_seals(root)
    flip(root / manifests.latest(root).shards[0].path, -1)
    with pytest.raises(DamageError):
        compact(root)
    assert manifests.numbers(root) == [1]
