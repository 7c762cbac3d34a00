"""Manifests of many shards: what they share lies in segments, and nothing else is different."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from actstore.errors import CorruptStoreError
from actstore.storage import (
    card,
    compaction,
    labels,
    layout,
    manifest_content,
    pruning,
    repairing,
)
from actstore.storage import manifest as manifests
from actstore.storage.manifest import Manifest
from actstore.storage.snapshot import open_snapshot
from actstore.storage.verification import verify
from tests.storage.stores import RUN, batch, write

_FEW = 4


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let four shards be many."""
    monkeypatch.setattr(manifest_content, "MOST_LISTED", _FEW)
    manifests.forget()
    yield
    manifests.forget()


def many(root: Path, commits: int = 12) -> None:
    """Write a store of so many commits, each of one row of its own layer or of layer 0."""
    for number in range(commits):
        write(
            root,
            batch(number, 1, layer=number % 3),
            run=dataclasses.replace(RUN, run_id=f"run {number // 3}"),
        )


def paths(root: Path) -> set[str]:
    folder = root / layout.SEGMENTS
    return {path.relative_to(root).as_posix() for path in folder.glob("*")}


def test_what_is_new_is_all_that_is_written(tmp_path: Path) -> None:
    root = tmp_path / "s"
    many(root)
    for number in manifests.numbers(root):
        document = json.loads(layout.manifest_path(root, number).read_bytes())
        assert len(document["shards"]) <= _FEW
        assert len(document["runs"]) <= _FEW
        assert document["version"] == (3 if number > _FEW else 1)
    found = manifests.load(root)
    assert [entry.since for entry in found.shards] == [1, 4, 7, 10, 2, 5, 8, 11, 3, 6, 9, 12]
    assert found.rows == 12
    assert [run.run_id for run in found.runs] == [f"run {number}" for number in range(4)]
    sizes = [each.shards for each in found.segments]
    assert all(larger >= 2 * smaller for larger, smaller in pairwise(sizes))


def test_it_is_the_same_commit_as_one_that_lists_all(tmp_path: Path) -> None:
    root = tmp_path / "s"
    many(root)
    found = manifests.load(root)
    whole = found.whole()
    assert isinstance(found, manifests.SegmentedManifest)
    assert type(whole) is Manifest
    for name in ("shards", "runs", "labels", "rows", "files", "fingerprint", "number", "parent"):
        assert getattr(whole, name) == getattr(found, name), name
    read_back = manifests.decode(whole.encode(), "x")
    assert read_back == whole
    for entry in found.shards:
        assert found.shards_of(entry.partition) == whole.shards_of(entry.partition)
    assert found.shards_of(("no such model", "resid_post", 0)) == []
    assert [dataclasses.astuple(each) for each in read_back.shards] == [
        dataclasses.astuple(each)
        for each in found.shards  # tails and roundings too
    ]


def test_a_partition_is_found_without_reading_the_others(tmp_path: Path) -> None:
    root = tmp_path / "s"
    for name in ('a "b"', "a", "é\\"):
        write(root, batch(0, 1, model=name), batch(1, 1, model=name, layer=None))
    found = manifests.load(root, lazily=True)
    assert found.segments
    for model in ('a "b"', "a", "é\\"):
        for layer in (3, None):
            shards = found.shards_of((model, "resid_post", layer))
            assert [entry.partition for entry in shards] == [(model, "resid_post", layer)]
    assert "shards" not in found.__dict__


def test_every_operation_on_segments(tmp_path: Path) -> None:
    """Labels, compaction and pruning see what they would of a manifest that lists all."""
    root = tmp_path / "s"
    many(root)
    with_labels = open_snapshot(root)
    labels.set_labels(with_labels, np.array([0, 5]), ["yes", "no"], message="m")
    assert manifests.load(root, lazily=True).segments == with_labels.manifest.segments
    with_labels.close()
    before = paths(root)
    compaction.compact(root)
    after = manifests.load(root)
    assert len(after.shards) == 3
    assert not after.segments  # there is little to name now
    assert paths(root) == before
    pruning.erase(root, keep=1)
    assert paths(root) == set()
    opened = open_snapshot(root)
    assert opened.rows == 12
    assert verify(opened) == []
    assert len(pruning.stored_files(root)) == 3


def test_a_prune_keeps_the_segments_that_commits_name(tmp_path: Path) -> None:
    root = tmp_path / "s"
    many(root)
    held = open_snapshot(root, at=7)
    pruning.erase(root, keep=1)
    named = {each.path for each in held.manifest.segments}
    named |= {each.path for each in manifests.load(root).segments}
    assert paths(root) == named
    assert held.shards == manifests.load(root, 7).shards
    held.close()
    pruning.erase(root, keep=1)
    assert paths(root) == {each.path for each in manifests.load(root).segments}
    assert verify(open_snapshot(root)) == []


@pytest.mark.parametrize("how", ["flipped", "cut", "missing", "of another store"])
def test_a_damaged_segment_is_named_and_repaired(tmp_path: Path, how: str) -> None:
    root, copy = tmp_path / "s", tmp_path / "copy"
    many(root)
    labels.set_labels(open_snapshot(root), np.array([0]), ["changed"], message="m")
    for path in root.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    rows = manifests.load(root).rows
    path = root / manifests.load(root).segments[0].path
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "flipped":
        path.write_bytes(content.replace(b'"layer": 1', b'"layer": 2', 1))
    elif how == "cut":
        path.write_bytes(content[:-1])
    else:
        path.write_bytes(b'{"format": "something else"}')
    manifests.forget()
    with pytest.raises(CorruptStoreError, match=path.name):
        _ = open_snapshot(root).shards
    with pytest.raises(CorruptStoreError, match=path.name):
        manifests.load(root)
    copies = _copies(copy)
    found = repairing.survey(root, copies)
    assert [entry.path for entry in found.files] == [path.relative_to(root).as_posix()]
    if how != "missing":  # without the copy: the shards are named anew, the labels stay
        alone = repairing.survey(root)
        assert alone.salvaged is not None
        assert alone.salvaged.labels
        repairing.apply(root, alone)
        assert manifests.load(root).rows == rows
        labelled = open_snapshot(root)
        assert _labels(labelled).count("changed") == 1
        return
    repairing.apply(root, found, copies)
    assert path.read_bytes() == content
    assert verify(open_snapshot(root)) == []


def test_an_edited_manifest_cannot_make_rows(tmp_path: Path) -> None:
    root = tmp_path / "s"
    many(root)
    found = manifests.load(root, lazily=True)
    lying = tuple(dataclasses.replace(each, rows=each.rows + 1) for each in found.segments)
    found.older.entries = lying  # type: ignore[attr-defined]
    path = layout.manifest_path(root, found.number)
    path.write_bytes(found.encode())
    with pytest.raises(CorruptStoreError, match="other shards, runs or rows"):
        manifests.load(root)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("path", "../x.json"),
        ("path", "manifests/0000000001.json"),
        ("sha256", "x"),
        ("rows", -1),
        ("shards", 1 << 60),
        ("dtypes", ["float8"]),
        ("bytes", 0),
    ],
)
def test_an_edited_segment_is_refused(tmp_path: Path, name: str, value: object) -> None:
    root = tmp_path / "s"
    many(root, 6)
    found = manifests.load(root, lazily=True)
    first, *rest = found.segments
    found.older.entries = (dataclasses.replace(first, **{name: value}), *rest)  # type: ignore
    layout.manifest_path(root, found.number).write_bytes(found.encode())
    with pytest.raises(CorruptStoreError, match="is damaged"):
        manifests.load(root, lazily=True)


def test_the_card_follows_with_each_segment(tmp_path: Path) -> None:
    """A writer of much brings it up to date; one small write among many leaves it for later."""
    root = tmp_path / "s"
    many(root)
    assert f"commit {manifests.newest(root)} of " in card.read(root)
    for number in range(20, 29):
        write(root, batch(number, 1), small=True)
        latest = manifests.load(root)
        about = card.commit(root)
        assert max(each.since for each in latest.segments) <= about <= latest.number
        behind = latest.number - about
        assert behind <= _FEW
    write(root, batch(40, 1))
    assert card.commit(root) == manifests.newest(root)


def test_a_segment_of_a_writer_that_was_overtaken_is_taken_back(tmp_path: Path) -> None:
    from actstore.storage.transaction import Transaction

    root = tmp_path / "s"
    many(root, 4)
    run = manifests.load(root).runs[0]
    with Transaction(root) as change:
        tries = []

        def build(latest: Manifest) -> Manifest:
            tries.append(latest.number)
            if len(tries) == 1:
                write(root, batch(50, 1))
            shards = [dataclasses.replace(latest.shards[0], path="activations/x.parquet")]
            return latest.adding(shards, run=run, operation="o", message="m")

        made = change.commit({}, build)
    assert len(tries) == 2
    assert made is not None
    assert paths(root) == {each.path for each in made.segments}


def _labels(snapshot: object) -> list[str]:
    import pyarrow.parquet as pq

    table = pq.read_table(snapshot.metadata_file(), columns=["label"])  # type: ignore[attr-defined]
    return [str(label) for label in table["label"].to_pylist()]


def _copies(root: Path) -> repairing.Copies:
    from actstore.remote.copies import LocalCopies

    return LocalCopies(root)
