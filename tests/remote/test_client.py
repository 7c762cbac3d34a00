"""Addresses, and asking a Hub that fails now and then."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from actstore.errors import RemoteStoreError, TransferError, UsageError
from actstore.remote.address import Address, is_address, parse
from actstore.remote.download import download
from actstore.remote.hub_errors import HubCall, judge
from actstore.storage.file_hashes import sha256_of
from tests.hub.pushing import client
from tests.hub_server import Hub, faults

ID = "alice/files"
DATA = bytes(range(256)) * 4000

pytestmark = pytest.mark.usefixtures("lfs", "quick_retries")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("org/name", Address(repository="org/name")),
        ("datasets/org/name", Address(repository="org/name")),
        ("org/name@v1.0", Address(repository="org/name", revision="v1.0")),
        ("hf://datasets/org/name", Address(repository="org/name")),
        ("hf://datasets/org/name/a/b", Address(repository="org/name", path="a/b")),
        (
            "hf://datasets/org/name@exp%2Fx/a",
            Address(repository="org/name", revision="exp/x", path="a"),
        ),
        (
            "hf://datasets/org/name@refs/pr/3/a/b",
            Address(repository="org/name", revision="refs/pr/3", path="a/b"),
        ),
        ("org/name@refs/pr/3", Address(repository="org/name", revision="refs/pr/3")),
    ],
)
def test_addresses_are_read_and_written(text: str, address: Address) -> None:
    assert parse(text) == address
    assert is_address(str(address))
    assert parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "name", "org/", "/name", "a/b/c", "hf://models/a/b", "hf://a/b", "org/na--me"),
        *("org/x..y", "org/-x", "org/x.git", "org/x@", "or g/x", "org/" + "x" * 100, "../x"),
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match=r"ORG/NAME|revision"):
        parse(text)


@pytest.fixture
def files(hub: Hub) -> Hub:
    hub.create(ID, {"README.md": b"# Card\n", "data/a b#?.bin": DATA})
    return hub


def test_files_and_parts_of_them(files: Hub) -> None:
    one = client(files)
    commit = one.head(ID)
    found = one.files(ID, commit)
    assert found["data/a b#?.bin"].size == len(DATA)
    assert found["README.md"].sha256 is None
    assert one.read(ID, "README.md", commit) == b"# Card\n"
    assert one.read(ID, "data/a b#?.bin", commit) == DATA
    assert one.read_range(ID, "data/a b#?.bin", commit, 10, 700) == DATA[10:700]
    with pytest.raises(RemoteStoreError, match="larger than 100 bytes"):
        one.read(ID, "data/a b#?.bin", commit, most=100)
    assert "hf_write" not in repr(one)


def test_the_token_does_not_go_to_the_storage(files: Hub) -> None:
    one = client(files)
    one.read(ID, "data/a b#?.bin", one.head(ID))
    assert {e.authorized for e in files.log.entries(origin="hub")} == {True}
    assert {e.authorized for e in files.log.entries(origin="objects")} == {False}


def fetch(hub: Hub, target: Path, sha256: str, size: int = len(DATA)) -> list[int]:
    steps: list[int] = []
    one = client(hub)
    commit = one.head(ID)
    download(
        one, ID, commit, "data/a b#?.bin", target, size=size, sha256=sha256, progress=steps.append
    )
    return steps


@pytest.fixture
def digest(tmp_path: Path) -> str:
    path = tmp_path / "same"
    path.write_bytes(DATA)
    return sha256_of(path)[0]


@pytest.mark.parametrize("kind", ["fin", "rst"])
def test_a_download_goes_on_where_it_broke_off(
    files: Hub, tmp_path: Path, digest: str, kind: str
) -> None:
    for at in (300_000, 200_000, 100_000, 100_000, 100_000, 100_000, 100_000):
        fault = faults.drop("body", kind="fin" if kind == "fin" else "rst", at=at)
        files.faults.add(fault, origin="objects")
    steps = fetch(files, tmp_path / "file", digest)
    assert (tmp_path / "file").read_bytes() == DATA
    assert sum(steps) == len(DATA)
    assert files.log.bytes_sent(origin="objects") < 2 * len(DATA)
    assert not (tmp_path / "file.part").exists()


def test_what_an_earlier_attempt_left_is_continued(files: Hub, tmp_path: Path, digest: str) -> None:
    (tmp_path / "file.part").write_bytes(DATA[:900_000])
    fetch(files, tmp_path / "file", digest)
    assert files.log.bytes_sent(origin="objects") == len(DATA) - 900_000
    (tmp_path / "file.part").write_bytes(b"x" * (len(DATA) + 1))
    fetch(files, tmp_path / "file", digest)
    (tmp_path / "file.part").write_bytes(b"x" * 1000)  # of another file: found out at the end
    fetch(files, tmp_path / "file", digest)
    assert (tmp_path / "file").read_bytes() == DATA


def test_a_flipped_byte_is_noticed(files: Hub, tmp_path: Path, digest: str) -> None:
    files.faults.add(faults.flip(5000), origin="objects")
    fetch(files, tmp_path / "file", digest)
    assert (tmp_path / "file").read_bytes() == DATA
    with pytest.raises(TransferError, match="arrives damaged"):
        fetch(files, tmp_path / "other", "0" * 64)
    assert not (tmp_path / "other").exists()


def test_an_object_that_is_too_short_is_given_up(files: Hub, tmp_path: Path, digest: str) -> None:
    with pytest.raises(TransferError):
        fetch(files, tmp_path / "file", digest, size=len(DATA) + 10)
    assert not (tmp_path / "file").exists()


def test_progress_bars_of_the_hub_come_back(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", None)
    was = are_progress_bars_disabled()
    enable_progress_bars()
    try:
        with client(hub).quiet():
            assert are_progress_bars_disabled()
        assert not are_progress_bars_disabled()
        disable_progress_bars()
        with client(hub).quiet():
            assert are_progress_bars_disabled()
        assert are_progress_bars_disabled()
    finally:
        (disable_progress_bars if was else enable_progress_bars)()


@pytest.mark.parametrize("kind", [httpx2.ReadError, httpx2.ConnectError])
def test_a_connection_that_fails_is_told_in_its_own_words(
    kind: type[httpx2.TransportError],
) -> None:
    call = HubCall("read it", "https://hub.invalid", ID, None, None)
    for error, said in ((kind("reset by peer"), "(reset by peer)"), (kind(""), kind.__name__)):
        judged = judge(error, call)
        assert judged is not None
        assert judged.transient
        assert said in str(judged.error)
