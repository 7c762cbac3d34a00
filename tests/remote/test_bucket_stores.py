"""Stores in buckets: written, read, labelled and verified, on an S3 server and in memory."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
import tempfile
import threading
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

import actstore
from actstore.errors import (
    BucketAccessError,
    BucketError,
    BucketFileError,
    BucketNotFoundError,
    ConflictError,
    MissingExtraError,
    PathError,
    SnapshotNotFoundError,
    StoreNotFoundError,
    UsageError,
)
from actstore.ingestion.memory import write
from actstore.remote.bucket import Bucket
from actstore.remote.bucket_address import is_bucket, parse_bucket
from actstore.remote.bucket_commits import HINT, hint_at, manifest_name, numbers
from actstore.remote.bucket_pruning import prune_bucket
from actstore.remote.syncing import sync
from actstore.remote.working import looking, working
from actstore.storage import unfinished
from actstore.storage.snapshot import open_snapshot
from actstore.storage.verification import verify
from tests.remote.buckets import Proxy, put_rows, vector


def contents(store: actstore.Store, layer: int = 0) -> dict[str, bytes]:
    """Every example of a layer and its vector's bytes."""
    rows = store.select(layer=layer)
    ids = rows.table(["example_id"])["example_id"].to_pylist()
    return dict(zip(ids, (each.tobytes() for each in rows.numpy()), strict=True))


def expected(*names: int, layer: int = 0) -> dict[str, bytes]:
    return {f"e{number}": vector(number, layer).tobytes() for number in names}


def some(address: str) -> Bucket:
    return Bucket(parse_bucket(address))


@pytest.mark.parametrize("kind", ["s3", "memory"])
def test_what_is_written_is_read(kind: str, bucket: str, tmp_path: Path) -> None:
    place = f"{bucket}/a/store" if kind == "s3" else f"memory://{tmp_path.name}/store"
    store = actstore.open(place, create=True)
    assert (store.commit, store.rows) == (0, 0)
    store.write(
        {("resid_post", 0): np.array([vector(number) for number in range(3)])},
        {"example_id": ["e0", "e1", "e2"]},
        model="m",
    )
    assert (store.commit, contents(store)) == (1, expected(0, 1, 2))
    with store.writer() as session:
        for number in (3, 4):
            array = vector(number)[None]
            session.write({("resid_post", 0): array}, {"example_id": [f"e{number}"]}, model="m")
    again = actstore.open(place)
    assert (again.commit, contents(again)) == (2, expected(*range(5)))
    assert again.sql("SELECT count(*) FROM activations").fetchall() == [(5,)]
    assert actstore.open(Path(place), 1).rows == 3  # a Path keeps one slash of two
    assert again.info().commits == 2


def test_labels_are_a_commit_of_their_own(bucket: str) -> None:
    put_rows(bucket, 0)
    store = actstore.open(bucket)
    done = store.label("CASE WHEN example_id = 'e1' THEN 'right' END")
    assert (done.changed, store.commit, store.labels) == (1, 2, {"right": 1, None: 2})


def test_rows_that_are_there_are_not_written_twice_and_others_of_their_key_refused(
    bucket: str,
) -> None:
    put_rows(bucket, 0)
    put_rows(bucket, 1)  # two of three are there
    store = actstore.open(bucket)
    assert (store.commit, contents(store)) == (2, expected(0, 1, 2, 3))
    put_rows(bucket, 0, 4)
    assert actstore.open(bucket).commit == 2
    with pytest.raises(ConflictError, match="already stored with a different vector"):
        put_rows(bucket, 0, seed=1)
    assert actstore.open(bucket).commit == 2


def test_writers_at_once_lose_nothing(bucket: str) -> None:
    """All build on the same commit, overlap in a row, and come to the end one after the other."""
    put_rows(bucket, 0, 1)
    gate = threading.Barrier(6)
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            gate.wait()
            put_rows(bucket, 0, 2 + number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    store = actstore.open(bucket)
    assert contents(store) == expected(*range(7))
    assert store.rows == 7
    assert numbers(some(bucket)) == list(range(1, store.commit + 1))
    with looking(bucket, history=True) as root:
        assert verify(open_snapshot(root)) == []


def test_a_range_of_vectors_is_all_that_travels(bucket: str) -> None:
    wide = np.random.default_rng(0).normal(size=(2_000, 256)).astype(np.float32)
    names = [f"e{number}" for number in range(2_000)]
    with working(bucket) as root:
        write(root, {("resid_post", 0): wide}, {"example_id": names}, model="m")
        assert not (root / "README.md").exists()  # nobody would see it
    store = actstore.open(bucket)
    store.sql("SELECT count(*) FROM activations").fetchall()
    assert store.traffic is not None
    before = store.traffic
    chosen = [7, 8, 9, 500, 1999]
    assert (store.rows_at(chosen).numpy() == wide[chosen]).all()
    assert store.traffic.received - before.received < 0.02 * wide.nbytes
    again = store.traffic
    assert (store.rows_at(chosen).numpy() == wide[chosen]).all()
    assert store.traffic.received == again.received


@pytest.mark.parametrize("hint", [None, 1, 3, 99, b"no number", b"9" * 2_000])
def test_the_newest_commit_is_found_whatever_the_hint_says(
    hint: int | bytes | None, bucket: str
) -> None:
    for number in range(4):
        put_rows(bucket, number, 1)
    held = some(bucket)
    if hint is None:
        held.delete([HINT])
    elif isinstance(hint, int):
        hint_at(held, hint)
    else:
        held.put(HINT, hint)
    assert actstore.open(bucket).commit == 4
    put_rows(bucket, 9, 1)
    assert actstore.open(bucket).commit == 5


def test_opening_takes_as_many_requests_however_many_commits_there_are(
    proxy: Proxy, bucket: str
) -> None:
    counts = []
    for number in (1, 6):
        put_rows(bucket, number, 1)
        while actstore.open(bucket).commit < number:
            put_rows(bucket, 100 + actstore.open(bucket).commit, 1)
        proxy.fail(None)
        actstore.open(bucket)
        counts.append(len(proxy.seen))
    assert counts == [3, 3]


def test_a_commit_that_is_not_there(bucket: str) -> None:
    with pytest.raises(StoreNotFoundError, match="nothing has a name that begins so"):
        actstore.open(f"{bucket}/nothing")
    some(f"{bucket}/other").put("notes.txt", b"x")
    with pytest.raises(StoreNotFoundError, match=r"it holds notes\.txt"):
        actstore.open(f"{bucket}/other")
    put_rows(bucket, 0)
    with pytest.raises(SnapshotNotFoundError, match="has no commit 5: it has 1"):
        actstore.open(bucket, 5)


def test_damage_is_named(bucket: str) -> None:
    put_rows(bucket, 0)
    put_rows(bucket, 0, layer=1)
    store = actstore.open(bucket)
    first, second = (shard.path for shard in store._snapshot.shards)
    held = some(bucket)
    data = held.read(first)
    assert data is not None
    held.put(first, data[:-100] + bytes(100))  # of the same size
    with pytest.raises(BucketFileError, match="its metadata and footer are others"):
        actstore.open(bucket).select("example_id = 'e0'").numpy()
    held.put(first, data + b"x")
    with pytest.raises(BucketFileError, match=r"it has [\d,]+ of [\d,]+ bytes"):
        actstore.open(bucket).rows_at([0]).numpy()
    held.delete([second])
    with looking(bucket) as root:
        problems = {each.path: each.reason for each in verify(open_snapshot(root))}
    assert problems.keys() == {first, second}
    assert problems[second] == "the file is missing"
    held.put(manifest_name(2), b"{}")
    with pytest.raises(actstore.errors.CorruptStoreError, match="not an actstore manifest"):
        actstore.open(bucket)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_whole_blocks_of_vectors_are_held_against_their_checksums(dtype: type, bucket: str) -> None:
    wide: np.ndarray = np.random.default_rng(0).normal(size=(1_000, 100)).astype(dtype)
    names = [f"e{number}" for number in range(1_000)]
    with working(bucket) as root:
        write(root, {("resid_post", 0): wide}, {"example_id": names}, model="m")
    assert (actstore.open(bucket).rows_at(np.arange(1_000)[::-1]).numpy() == wide[::-1]).all()
    shard = actstore.open(bucket)._snapshot.shards[0]
    held = some(bucket)
    sound = held.read(shard.path)
    assert sound is not None
    bad = bytearray(sound)
    bad[shard.pages[0][0] + 500 * shard.row_bytes] ^= 1
    held.put(shard.path, bytes(bad))
    for path in Path(os.environ["ACTSTORE_CACHE"]).rglob("*.pack"):
        path.unlink()
    store = actstore.open(bucket)
    with pytest.raises(BucketFileError, match=r"the vectors of its rows \d+ to \d+ are not those"):
        store.select(layer=0).numpy()
    held.put(shard.path, sound)
    assert (actstore.open(bucket).select(layer=0).numpy() == wide).all()  # nothing bad is kept


def test_manifests_in_segments(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many shards a commit writes what is new: the rest is in files that commits share."""
    monkeypatch.setattr("actstore.storage.manifest_content.MOST_LISTED", 2)
    for number in range(9):
        put_rows(bucket, number, 1)
    held = some(bucket)
    assert actstore.open(bucket)._snapshot.manifest.segments
    assert contents(actstore.open(bucket)) == expected(*range(9))
    sync(bucket, tmp_path / "copy", snapshots=True)
    assert verify(open_snapshot(tmp_path / "copy")) == []
    put_rows(tmp_path / "copy", 9, 1)
    actstore.open(tmp_path / "copy").label("'x'")
    sync(tmp_path / "copy", bucket)
    with looking(bucket, history=True) as root:
        assert verify(open_snapshot(root)) == []
    before = len(held.objects("manifests/segments"))
    assert prune_bucket(held, grace=timedelta(0)).commits == tuple(range(1, 11))
    assert 0 < len(held.objects("manifests/segments")) < before
    put_rows(bucket, 10, 1)
    assert contents(actstore.open(bucket)) == expected(*range(11))
    held.delete([each.path for each in held.objects("manifests/segments")])
    monkeypatch.setenv("ACTSTORE_CACHE", str(tmp_path / "other"))
    with pytest.raises(BucketFileError, match="is missing, and names shards of the commit"):
        actstore.open(bucket)


def test_what_needs_a_folder_says_how_to_get_one(bucket: str) -> None:
    put_rows(bucket, 0)
    with pytest.raises(UsageError, match=f"actstore sync {bucket} FOLDER"):
        _ = actstore.open(bucket).path
    with pytest.raises(UsageError, match=f"actstore sync {bucket} FOLDER"):
        actstore.open(bucket, skip_damaged=True)


def test_no_bucket_no_access_and_no_extra(
    bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BucketNotFoundError, match="there is no bucket 'nowhere'"):
        actstore.open("s3://nowhere/x")
    with pytest.raises(BucketNotFoundError, match="there is no bucket 'nowhere'"):
        put_rows("s3://nowhere/x", 0)
    proxy.fail("403", 0)
    with pytest.raises(BucketAccessError, match="access is refused") as refused:
        actstore.open(bucket)
    assert "AKIA" not in str(refused.value)
    with pytest.raises(BucketAccessError, match="AZURE_STORAGE_ACCOUNT_NAME"):
        actstore.open("az://container/store")
    monkeypatch.setitem(__import__("sys").modules, "obstore.store", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'actstore\[bucket\]'"):
        actstore.open(bucket)


def test_who_may_read_and_not_list_can_open_a_store(bucket: str, proxy: Proxy) -> None:
    """S3 then refuses what is not there, such as the commit after the newest."""
    put_rows(bucket, 0)
    proxy.no_lists = True
    assert actstore.open(bucket).rows == 3


def test_anonymous_readers_and_readers_who_pay(
    bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_rows(bucket, 0)
    monkeypatch.setenv("AWS_REQUEST_PAYER", "true")
    actstore.open(bucket)
    assert proxy.headers["x-amz-request-payer"] == "requester"
    assert "authorization" in proxy.headers
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REQUEST_PAYER"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    with pytest.raises(BucketAccessError):  # moto lets nobody read what is not public
        actstore.open(bucket)
    assert not {"authorization", "x-amz-request-payer"} & proxy.headers.keys()


def test_keys_of_a_profile_are_used_and_never_shown(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_server: str
) -> None:
    put_rows(bucket, 0)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    config, keys = tmp_path / "config", tmp_path / "credentials"
    config.write_text(f"[profile lab]\nregion = eu-west-1\nendpoint_url = {s3_server}\n")
    keys.write_text("[lab]\naws_access_key_id = AKIAOFTHELAB\naws_secret_access_key = hidden\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    store = actstore.open(bucket)
    assert store.rows == 3
    assert "AKIA" not in repr(store) + repr(some(bucket)) + store.name


@pytest.mark.parametrize(
    ("text", "scheme", "name", "prefix"),
    [
        ("s3://b/x/y/", "s3", "b", "x/y"),
        ("gs://b", "gs", "b", ""),
        ("az:/b/with space", "az", "b", "with space"),
        ("memory://m", "memory", "m", ""),
    ],
)
def test_addresses(text: str, scheme: str, name: str, prefix: str) -> None:
    found = parse_bucket(text)
    assert (found.scheme, found.bucket, found.prefix) == (scheme, name, prefix)
    assert parse_bucket(str(found)) == found


@pytest.mark.parametrize("text", ["s3://", "s3:///x", "s3://b/../x", "s3://b/x//y", "gs://b/x?y"])
def test_addresses_that_are_none(text: str) -> None:
    assert is_bucket(text)
    with pytest.raises(UsageError, match=r"names no bucket|no name of a store|cannot be called"):
        actstore.open(text)


def test_a_file_address_is_a_folder(tmp_path: Path) -> None:
    place = tmp_path / "with space"
    address = f"file://{tmp_path}/with%20space"
    actstore.open(address, create=True)
    put_rows(address, 0)
    assert actstore.open(Path(address)).path == place
    assert actstore.open(place).rows == 3
    with pytest.raises(PathError, match="three slashes"):
        actstore.open("file://elsewhere/x")


def test_a_forked_process_is_told_to_be_spawned(bucket: str) -> None:
    """obstore's threads are not there in it: without a look it would wait for ever."""
    put_rows(bucket, 0)
    told = multiprocessing.get_context("fork").Process(target=is_told, args=(bucket,))
    told.start()
    told.join(30)
    assert told.exitcode == 7


def is_told(place: str) -> None:
    try:
        actstore.open(place)
    except BucketError as error:
        os._exit(7 if "multiprocessing_context='spawn'" in str(error) else 1)


def test_what_a_killed_writer_has_left_here_goes_with_the_next_command(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = multiprocessing.get_context("fork").Process(target=write_and_die, args=("memory://m",))
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".m.*.partial/m/manifests"))) == 1
    with working(bucket) as root:
        assert unfinished.clear() == [tmp_path / "m"]  # and not of those who live
        assert root.is_dir()
    assert list(tmp_path.glob(".*.partial")) == []


def write_and_die(place: str) -> None:
    with working(place):
        os.kill(os.getpid(), signal.SIGKILL)


def test_small_writes_are_joined_there_too() -> None:
    name = f"memory://joined-{secrets.token_hex(4)}"
    store = actstore.open(name, create=True)
    vectors = np.arange(20 * 8, dtype=np.float32).reshape(20, 8)
    for number in range(20):
        one = {("resid_post", 0): vectors[number : number + 1]}
        store.write(one, {"example_id": [f"{number:02}"]}, model="m")
    assert [shard.rows for shard in store.select(layer=0).shards] == [16, 1, 1, 1, 1]
    assert np.array_equal(store.select(layer=0).numpy(), vectors)
