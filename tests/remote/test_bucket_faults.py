"""Failures at every request of a commit and of a reading: one commit, nothing lost or doubled."""

from __future__ import annotations

from pathlib import Path

import pytest

import actstore
from actstore.errors import BucketConditionError, BucketConnectionError
from actstore.remote import bucket as buckets
from actstore.remote.bucket import Bucket
from actstore.remote.bucket_address import parse_bucket
from actstore.remote.bucket_commits import numbers
from tests.remote.buckets import Proxy, put_rows
from tests.remote.test_bucket_stores import contents, expected
from tests.torture.effort import TORTURE

FAULTS = ("lost", "500", "503", "409", "500 after", "reset", "cut")
WRITING = FAULTS if TORTURE else ("lost", "503", "409", "reset")
READING = FAULTS if TORTURE else ("500", "cut")


def requests_of(proxy: Proxy, work: object) -> int:
    assert callable(work)
    proxy.fail(None)
    work()
    return len(proxy.seen)


@pytest.mark.parametrize("fault", WRITING)
def test_a_commit_that_meets_a_fault_is_made_once(fault: str, proxy: Proxy, bucket: str) -> None:
    put_rows(bucket, 0, 1)
    count = requests_of(proxy, lambda: put_rows(bucket, 1, 1))
    assert count >= 6
    for at in range(count):
        before = actstore.open(bucket).commit
        proxy.fail(fault, at)
        put_rows(bucket, before, 1)
        proxy.fail(None)
        store = actstore.open(bucket)
        assert store.commit == before + 1, (fault, at)
        assert store.rows == before + 1
    store = actstore.open(bucket)
    assert contents(store) == expected(*range(store.rows))
    assert numbers(Bucket(parse_bucket(bucket))) == list(range(1, store.rows + 1))


@pytest.mark.parametrize("fault", READING)
def test_a_reading_that_meets_a_fault_reads_the_same(
    fault: str, proxy: Proxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_rows(bucket, 0, 4)

    def read(name: str) -> dict[str, bytes]:
        monkeypatch.setenv("ACTSTORE_CACHE", str(tmp_path / name))
        return contents(actstore.open(bucket))

    count = requests_of(proxy, lambda: read("first"))
    assert count >= 5
    for at in range(count):
        proxy.fail(fault, at)
        assert read(f"{at}") == expected(0, 1, 2, 3), (fault, at)


def test_a_connection_that_falls_silent_is_given_up_and_asked_again(
    proxy: Proxy, bucket: str
) -> None:
    put_rows(bucket, 0)
    proxy.fail("silent", 1)
    assert actstore.open(bucket).rows == 3


def test_a_server_that_is_gone_is_one_clear_error(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_rows(bucket, 0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(BucketConnectionError, match="no connection"):
        actstore.open(bucket)


def test_nobody_says_that_a_commit_failed_which_may_have_been_made(
    proxy: Proxy, bucket: str
) -> None:
    """All answers to the creation and to the look afterwards are lost."""
    held = Bucket(parse_bucket(bucket))
    assert held.create("there", b"x")
    proxy.fail("lost", 0)
    proxy.stays = True
    with pytest.raises(BucketConnectionError, match="Whether manifests/1 is there nobody can say"):
        held.create("manifests/1", b"mine")
    proxy.stays = False
    proxy.fail(None)
    assert held.create("manifests/1", b"mine")  # and it was this one
    assert not held.create("manifests/1", b"another")


@pytest.mark.parametrize("ignored", ["If-None-Match", "If-Match"])
def test_a_server_that_ignores_a_condition_is_refused(
    ignored: str, proxy: Proxy, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "_trusted", set())
    proxy.without = ignored
    with pytest.raises(BucketConditionError, match=f"{ignored}.*does not write there"):
        put_rows(bucket, 0)
    held = Bucket(parse_bucket(bucket))
    assert numbers(held) == []
    assert held.objects("manifests") == []  # the probe is gone
    proxy.without = None
    put_rows(bucket, 0)
    assert actstore.open(bucket).rows == 3
