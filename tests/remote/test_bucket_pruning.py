"""Pruning in a bucket: only what nobody can be using any longer, and nothing of damaged stores."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

import actstore
from actstore.errors import DamageError, StoreNotFoundError
from actstore.remote.bucket import Bucket
from actstore.remote.bucket_address import parse_bucket
from actstore.remote.bucket_commits import HINT, numbers
from actstore.remote.bucket_pruning import prune_bucket
from actstore.remote.syncing import sync
from actstore.storage.manifest import Manifest
from tests.remote.buckets import Proxy, put_rows
from tests.remote.test_bucket_stores import contents, expected
from tests.torture.effort import TORTURE

NO_GRACE = timedelta(0)


@pytest.fixture
def held(bucket: str) -> Bucket:
    """A store of three commits, and a shard that a writer has left that died."""
    for number in range(3):
        put_rows(bucket, number, 1)
    made = Bucket(parse_bucket(bucket))
    made.put("activations/m/resid_post/layer_000/left.parquet", b"of nobody")
    return made


def newest(bucket: str) -> Manifest:
    return actstore.open(bucket)._snapshot.manifest


def test_within_the_grace_nothing_goes(held: Bucket, bucket: str) -> None:
    before = held.objects("activations")
    done = prune_bucket(held)
    assert (done.commits, done.kept_by_grace, done.files) == ((), (1, 2), ())
    assert held.objects("activations") == before
    assert actstore.open(bucket, 1).rows == 1


def test_afterwards_old_commits_and_what_nobody_names_go(held: Bucket, bucket: str) -> None:
    done = prune_bucket(held, keep=2, grace=NO_GRACE)
    assert done.commits == (1,)
    assert [path.rpartition("/")[2] for path in done.files] == ["left.parquet"]
    assert numbers(held) == [2, 3]
    assert contents(actstore.open(bucket)) == expected(0, 1, 2)
    assert held.objects("manifests/probe") == []
    put_rows(bucket, 9, 1)
    assert actstore.open(bucket).commit == 4


def test_what_was_superseded_a_moment_ago_stays(held: Bucket, bucket: str) -> None:
    """Commit 2 ended when 3 was made, however old it is itself."""
    time.sleep(2.1)  # the server's times are whole seconds
    put_rows(bucket, 3, 1)
    done = prune_bucket(held, grace=timedelta(seconds=2))
    assert done.commits == (1, 2)
    assert done.kept_by_grace == (3,)


def test_a_damaged_store_is_left_as_it_is(held: Bucket, bucket: str) -> None:
    shard = newest(bucket).shards[0]
    held.delete([shard.path])
    with pytest.raises(DamageError, match="the object is missing; nothing was removed"):
        prune_bucket(held, grace=NO_GRACE)
    assert numbers(held) == [1, 2, 3]
    held.put(shard.path, b"short")
    with pytest.raises(DamageError, match="it has 5 of"):
        prune_bucket(held, grace=NO_GRACE)
    with pytest.raises(StoreNotFoundError):
        prune_bucket(Bucket(parse_bucket(f"{bucket}/other")))


@pytest.mark.parametrize("fault", ["500", "lost"] if TORTURE else ["lost"])
def test_a_pruning_that_broke_off_is_done_by_the_next(
    fault: str, proxy: Proxy, bucket: str
) -> None:
    for number in range(3):
        put_rows(bucket, number, 1)
    held = Bucket(parse_bucket(bucket))
    at = 2
    while True:
        proxy.fail(fault, at)
        proxy.stays = True
        try:
            prune_bucket(held, grace=NO_GRACE)
            break
        except actstore.errors.BucketError:
            at += 1 if TORTURE else 4
        finally:
            proxy.stays = False
            proxy.fail(None)
        assert contents(actstore.open(bucket)) == expected(0, 1, 2)
    prune_bucket(held, grace=NO_GRACE)
    assert numbers(held) == [3]
    assert held.read(HINT) == b"3\n"
    assert contents(actstore.open(bucket)) == expected(0, 1, 2)


def test_a_copy_does_not_count_on_what_may_be_pruned(
    held: Bucket, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object of an earlier attempt that no commit names is copied anew once it is old."""
    target = f"{bucket}/copy"
    other = Bucket(parse_bucket(target))
    for shard in newest(bucket).shards:
        data = held.read(shard.path)
        assert data is not None
        other.put(shard.path, data)
    assert sync(bucket, target, dry_run=True).there == 3
    monkeypatch.setattr("actstore.remote.copy_targets.GRACE", -timedelta(hours=1))
    assert sync(bucket, target).there == 0
    assert contents(actstore.open(target)) == expected(0, 1, 2)
