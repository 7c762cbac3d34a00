"""Copies between folders and buckets: the same store afterwards, or a sentence says why not."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
from pathlib import Path

import pytest

import actstore
from actstore.errors import (
    BucketFileError,
    CommitError,
    DamageError,
    DivergedError,
    StoreError,
    UsageError,
)
from actstore.remote import copy_targets
from actstore.remote.bucket import Bucket
from actstore.remote.bucket_address import parse_bucket
from actstore.remote.syncing import sync
from actstore.storage import layout
from actstore.storage import manifest as manifests
from actstore.storage.pruning import erase
from actstore.storage.snapshot import open_snapshot
from actstore.storage.verification import verify
from tests.hub.publishing import ADDRESS
from tests.hub.pushing import ID, push_to
from tests.hub_server import Hub
from tests.querying.stores import layered
from tests.remote.buckets import Proxy, put_rows
from tests.remote.test_bucket_stores import contents, expected
from tests.torture.effort import TORTURE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with three commits, one of them of labels."""
    root = tmp_path / "runs.store"
    put_rows(root, 0)
    actstore.open(root).label("'right'")
    put_rows(root, 3)
    return root


def test_there_and_back_it_is_the_same_store(folder: Path, bucket: str, tmp_path: Path) -> None:
    (folder / "README.md").write_text((folder / "README.md").read_text() + "\nmy own words\n")
    done = sync(folder, f"{bucket}/runs")
    assert (done.commits, done.files, done.there, done.rows) == ((3,), 3, 0, 6)
    there = actstore.open(f"{bucket}/runs")
    assert there.fingerprint == actstore.open(folder).fingerprint
    assert there.labels == {"right": 3, None: 3}
    back = tmp_path / "back"
    sync(f"{bucket}/runs", back)
    assert manifests.load(back).sha256 == manifests.load(folder).sha256
    assert verify(open_snapshot(back)) == []
    assert "my own words" in (back / "README.md").read_text()
    assert not (back / ".cache" / "sync").exists()
    again = sync(folder, f"{bucket}/runs")
    assert (again.commits, again.files) == ((), 0)


def test_names_of_files_are_durable_before_a_commit_speaks_of_them(
    folder: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync(folder, f"{bucket}/runs")
    back = tmp_path / "back"
    synced: set[Path] = set()
    sync_folder, link = layout.sync_folder, os.link

    def synced_too(path: Path) -> None:
        synced.add(path)
        sync_folder(path)

    def linked(draft: Path, target: Path) -> None:
        if target.parent.name == layout.MANIFESTS:
            shards = [back / shard.path for shard in manifests.load(folder).shards]
            assert shards
            for each in (parent for shard in shards for parent in shard.parents):
                assert each in synced or not each.is_relative_to(back), each
        link(draft, target)

    monkeypatch.setattr(layout, "sync_folder", synced_too)
    monkeypatch.setattr(os, "link", linked)
    sync(f"{bucket}/runs", back)
    assert verify(open_snapshot(back)) == []


def test_files_of_the_same_content_are_copied_each(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("left", "right", "left"):  # two of them bring the same file under two names
        actstore.open(folder).label(f"'{text}'")
    alike = {entry.sha256 for entry in manifests.load(folder).labels[-3::2]}
    assert len(alike) == 1
    both = threading.Barrier(2)
    copyfile = shutil.copyfile

    def slow(source: Path, target: Path) -> Path:
        made = copyfile(source, target)
        if target.name in alike:
            with contextlib.suppress(threading.BrokenBarrierError):  # one comes after the other
                both.wait(0.2)
        return made

    monkeypatch.setattr(shutil, "copyfile", slow)
    sync(folder, tmp_path / "copy")
    with actstore.open(tmp_path / "copy") as store:
        assert store.labels == {"left": 6}


def test_only_what_came_since_is_copied(folder: Path, bucket: str) -> None:
    sync(folder, bucket)
    put_rows(folder, 6)
    put_rows(folder, 9)
    done = sync(folder, bucket)
    assert (done.commits, done.files, done.there) == ((4, 5), 2, 3)
    store = actstore.open(bucket)
    assert contents(store) == expected(*range(12))
    # And from the bucket, where the next rows are written, into the folder.
    put_rows(bucket, 12)
    assert sync(bucket, folder).commits == (6,)
    assert contents(actstore.open(folder)) == expected(*range(15))
    assert verify(open_snapshot(folder)) == []


def test_older_commits_come_if_asked(folder: Path, bucket: str) -> None:
    sync(folder, bucket)
    with pytest.raises(actstore.errors.SnapshotNotFoundError):
        actstore.open(bucket, 1)
    assert sync(folder, bucket, snapshots=True).commits == (1, 2)
    assert actstore.open(bucket, 1).rows == 3
    assert actstore.open(bucket).commit == 3
    assert sync(bucket, f"{bucket}/copy", snapshots=True).commits == (1, 2, 3)


@pytest.mark.parametrize("also", ["folder", "bucket"])
def test_commits_on_both_sides_are_refused(
    also: str, folder: Path, bucket: str, tmp_path: Path
) -> None:
    target = bucket if also == "bucket" else str(tmp_path / "copy")
    sync(folder, target)
    put_rows(target, 100, 1)
    with pytest.raises(DivergedError, match="at commit 4, and that is no commit of"):
        sync(folder, target)
    put_rows(folder, 200, 1)
    with pytest.raises(DivergedError, match="each has commits that the other lacks"):
        sync(folder, target)
    assert contents(actstore.open(target)) == expected(*range(6), 100)


def test_a_gap_in_the_commits_is_refused(folder: Path, bucket: str) -> None:
    sync(folder, bucket)
    for number in range(3):
        put_rows(folder, 10 + number, 1)
    (folder / "manifests" / "0000000005.json").unlink()
    with pytest.raises(DivergedError, match="no longer has all commits from 4 to 6"):
        sync(folder, bucket)
    for number in (1, 2, 3, 4):
        (folder / "manifests" / f"000000000{number}.json").unlink()
    with pytest.raises(DivergedError, match="no longer has commit 3"):
        sync(folder, bucket)


@pytest.mark.parametrize("fault", ["500", "lost", "cut"] if TORTURE else ["lost"])
def test_what_broke_off_goes_on(
    fault: str, folder: Path, proxy: Proxy, bucket: str, tmp_path: Path
) -> None:
    """The server is gone from one request on, at each in turn; the next attempt ends it."""
    at = 3
    while True:
        target = f"{bucket}/{at}"
        proxy.fail(fault, at)
        proxy.stays = True
        try:
            sync(folder, target)
            break
        except actstore.errors.BucketError:
            pass
        finally:
            proxy.stays = False
            proxy.fail(None)
        sync(folder, target)
        store = actstore.open(target)
        assert contents(store) == expected(*range(6)), at
        assert store.commit == 3
        at += 1 if TORTURE else 4
    assert at > 8


def test_a_download_goes_on_where_it_was(folder: Path, bucket: str, tmp_path: Path) -> None:
    sync(folder, bucket)
    back = tmp_path / "back"
    shard = manifests.load(folder).shards[0]
    drafts = back / ".cache" / copy_targets._DRAFTS
    drafts.mkdir(parents=True)
    (drafts / shard.sha256).write_bytes((folder / shard.path).read_bytes()[:1000])
    other = manifests.load(folder).shards[1]
    (drafts / other.sha256).write_bytes(bytes(1000))  # of something else: noticed, fetched anew
    sync(bucket, back)
    assert verify(open_snapshot(back)) == []


def test_a_damaged_source_is_named_and_nothing_committed(folder: Path, bucket: str) -> None:
    shard = manifests.load(folder).shards[0]
    data = (folder / shard.path).read_bytes()
    (folder / shard.path).write_bytes(data[:-1] + b"x")
    with pytest.raises(DamageError, match="its SHA-256 is not what the manifest says"):
        sync(folder, bucket)
    with pytest.raises(actstore.errors.StoreNotFoundError):
        actstore.open(bucket)
    (folder / shard.path).write_bytes(data)
    sync(folder, bucket)
    Bucket(parse_bucket(bucket)).put(shard.path, data[:-1] + b"x")
    with pytest.raises(BucketFileError, match="is not what its manifest says"):
        sync(bucket, f"{bucket}/other")


def test_files_that_are_pruned_before_they_are_committed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "copy"
    sync(folder, target)
    put_rows(folder, 6)
    write_durably = layout.write_durably

    def pruned(path: Path, data: bytes) -> None:
        write_durably(path, data)
        monkeypatch.setattr(layout, "write_durably", write_durably)
        assert len(erase(target).files) == 1

    monkeypatch.setattr(layout, "write_durably", pruned)
    with pytest.raises(CommitError, match=r"was pruned while commit 4 was copied: sync again"):
        sync(folder, target)
    assert contents(actstore.open(target)) == expected(*range(6))
    assert sync(folder, target).files == 1
    assert contents(actstore.open(target)) == expected(*range(9))


def test_places_that_cannot_be(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="both the source and the target"):
        sync(folder, f"{folder}/")
    with pytest.raises(UsageError, match="actstore push"):
        sync(folder, "hf://datasets/org/name")
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("x")
    with pytest.raises(StoreError, match="not empty"):
        sync(folder, other)
    with pytest.raises(actstore.errors.StoreNotFoundError):
        sync(other, tmp_path / "new")


@pytest.mark.usefixtures("lfs", "quick_retries")
def test_from_the_hub_to_a_bucket_and_a_folder(
    hub: Hub, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    layered(tmp_path / "s", layers=2, rows=10, width=8)
    push_to(hub, tmp_path / "s")
    far = actstore.open(ADDRESS)
    for target in (bucket, str(tmp_path / "copy")):
        done = sync(ADDRESS, target)
        assert (done.commit, done.files) == (far.commit, 2)
        copy = actstore.open(target)
        assert copy.fingerprint == far.fingerprint
        assert (copy.select(layer=1).numpy() == far.select(layer=1).numpy()).all()
    assert verify(open_snapshot(tmp_path / "copy")) == []


@pytest.mark.usefixtures("lfs", "quick_retries")
def test_a_push_out_of_a_bucket(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one out of a folder: labels are folded in, the store takes over what was made for it."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    monkeypatch.setenv("ACTSTORE_CACHE", str(tmp_path / "cache"))
    layered(tmp_path / "s", layers=2, rows=10, width=8)
    place = f"memory://{secrets.token_hex(6)}"
    sync(tmp_path / "s", place)
    store = actstore.open(place)
    store.label("CASE WHEN layer = 1 THEN 'x' END")
    assert store.push(ID, dry_run=True).sent == 2
    assert (store.push(ID).sent, store.commit) == (2, 4)
    far = actstore.open(ADDRESS)
    assert far.fingerprint == store.fingerprint
    assert far.labels == store.labels == {"x": 10, None: 10}
    assert (far.select(layer=1).numpy() == store.select(layer=1).numpy()).all()
    assert store.push(ID).commit is None
    store.drop("layer = 0")  # known to be our own up there, since an older commit names it
    done = store.push(ID)
    assert (done.sent, done.theirs, actstore.open(ADDRESS).layers) == (0, 0, [1])
