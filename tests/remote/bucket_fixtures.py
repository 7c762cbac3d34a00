"""Fixtures of tests that talk to a bucket on this machine."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.remote import buckets
from tests.remote.buckets import Proxy

__all__ = ["bucket", "proxy", "s3_server"]

_numbers = itertools.count()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """An S3 server for all tests of a process."""
    with buckets.moto() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A new bucket: its address."""
    monkeypatch.setenv("ACTSTORE_CACHE", str(tmp_path / "cache"))
    buckets.use(monkeypatch, s3_server)
    name = f"bucket-{next(_numbers)}"
    buckets.ask(s3_server, "PUT", f"/{name}")
    return f"s3://{name}"


@pytest.fixture
def proxy(s3_server: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the server, which all requests pass from now on."""
    made = Proxy(s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
    yield made
    made.close()
