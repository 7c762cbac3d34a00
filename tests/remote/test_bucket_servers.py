"""Servers as they are installed: those that keep conditions are written to, others refused.

Run where `localbucket`, `nanio` (of the package index) or `azurite-blob` (of npm) are on the path.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest

import actstore
from actstore.errors import BucketConditionError
from actstore.remote import bucket as buckets
from actstore.remote.syncing import sync
from tests.remote.buckets import put_rows, use
from tests.remote.test_bucket_stores import contents, expected

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The key of every Azure emulator, which Microsoft has published."""


@contextmanager
def running(*words: str) -> Iterator[int]:
    """Run a server, on the port that stands for ``PORT`` in its words; give the port."""
    program = shutil.which(words[0])
    if program is None:
        pytest.skip(f"{words[0]} is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = [word.replace("PORT", str(port)) for word in words[1:]]
    with subprocess.Popen(
        [program, *given], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            for _ in range(300):
                time.sleep(0.1)
                with socket.socket() as looking:
                    if looking.connect_ex(("127.0.0.1", port)) == 0:
                        break
            yield port
        finally:
            server.terminate()


@pytest.mark.parametrize(
    ("words", "ignored"),
    [
        (("localbucket", "DATA", "--port", "PORT"), "If-Match"),
        (("nanio", "serve", "--data-dir", "DATA", "--port", "PORT"), "If-None-Match"),
    ],
)
def test_servers_that_ignore_conditions_are_read_and_not_written(
    words: tuple[str, ...], ignored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data" / "box").mkdir(parents=True)
    for name in ("NANIO_ACCESS_KEY", "NANIO_SECRET_KEY"):
        monkeypatch.setenv(name, "of-the-tests")
    with running(*(word.replace("DATA", str(tmp_path / "data")) for word in words)) as port:
        use(monkeypatch, f"http://127.0.0.1:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-tests")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-tests")
        monkeypatch.setattr(buckets, "_trusted", set())
        with pytest.raises(BucketConditionError, match=ignored):
            put_rows("s3://box/store", 0)
        put_rows(tmp_path / "store", 0)
        with pytest.raises(BucketConditionError, match=ignored):
            sync(tmp_path / "store", "s3://box/store")
        shutil.copytree(tmp_path / "store", tmp_path / "data" / "box" / "store", dirs_exist_ok=True)
        assert contents(actstore.open("s3://box/store")) == expected(0, 1, 2)


def test_azurite_keeps_conditions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("azurite-blob", "--blobPort", "PORT", "--silent", "--location", str(tmp_path / "az"))
    with running(*words, "--skipApiVersionCheck", "--disableTelemetry") as port:
        make_container(port, "box")
        for name, value in {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{port}/{ACCOUNT}",
        }.items():
            monkeypatch.setenv(name, value)
        put_rows("az://box/store", 0)
        put_rows("az://box/store", 2)
        store = actstore.open("az://box/store")
        assert (store.commit, contents(store)) == (2, expected(*range(5)))
        sync("az://box/store", tmp_path / "back", snapshots=True)
        assert actstore.open(tmp_path / "back").fingerprint == store.fingerprint


def make_container(port: int, name: str) -> None:
    """Make a container of the emulator, by a request signed as Azure wants it."""
    date = formatdate(usegmt=True)
    headers = {"x-ms-date": date, "x-ms-version": "2021-08-06"}
    signed = "\n".join(
        ["PUT", *[""] * 11, *(f"{key}:{value}" for key, value in sorted(headers.items()))]
    )
    signed += f"\n/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    digest = hmac.digest(base64.b64decode(KEY), signed.encode(), hashlib.sha256)
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    headers["Content-Length"] = "0"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("PUT", f"/{ACCOUNT}/{name}?restype=container", headers=headers)
    assert connection.getresponse().status == 201
    connection.close()
