"""Bit by bit: whatever is changed in a small store is found, and never read as if it were right.

A sample runs by default; ``make torture`` tries every bit and every length of a tiny store.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from actstore.errors import ActstoreError
from actstore.storage import checksums, shard
from actstore.storage import manifest as manifests
from actstore.storage.labels import set_labels
from actstore.storage.snapshot import open_snapshot
from actstore.storage.verification import verify
from tests.storage.stores import Content, batch, content, without_seals, write
from tests.torture.effort import TORTURE, Tally, attack

SAMPLE = 300 if TORTURE else 14
PARTS = 4
"""Tests that share the bits of the tiny store, so that several processes can take them."""
SHARES = [*(("new", part) for part in range(PARTS)), ("old", 0)]
"""All of them, and of the format without seals every fourth byte's."""
_moments = count(1)


@pytest.fixture(params=["new", "old"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two shards of several row groups and blocks, labels; or as it was written before hashes."""
    monkeypatch.setattr(shard, "GROUP_BYTES", 64)
    monkeypatch.setattr(checksums, "BLOCK_BYTES", 32)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    root = tmp_path / "s"
    write(root, batch(0, 11), batch(0, 3, layer=9, width=4, dtype="float32"))
    set_labels(open_snapshot(root), np.array([0, 4, 12]), ["x", "y", None], message="")
    if request.param == "old":
        without_seals(root)
    return root


@pytest.fixture(params=["new", "old"])
def tiny(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One shard of two blocks, and a label: so few bytes that each can be tried."""
    monkeypatch.setattr(checksums, "BLOCK_BYTES", 8)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    root = tmp_path / "s"
    write(root, batch(0, 2, width=4))
    set_labels(open_snapshot(root), np.array([0]), ["x"], message="")
    if request.param == "old":
        without_seals(root)
    return root


def put(path: Path, data: bytes) -> None:
    """Write a file that is nobody's."""
    path.write_bytes(data)
    touch(path)


def poke(path: Path, at: int, value: int) -> None:
    """Write one byte of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes([value]))
    touch(path)


def touch(path: Path) -> None:
    """Give a file a time of its own: times tell files apart, and here they come too fast."""
    moment = 10**18 + next(_moments) * 10**6
    os.utime(path, ns=(moment, moment))


def read(root: Path, *, cached: bool) -> Content | None:
    """Return what a checked read of everything gives; None where it is refused."""
    if not cached:
        shutil.rmtree(root / ".cache", ignore_errors=True)
    try:
        return content(root)
    except ActstoreError:
        return None


def found(root: Path) -> bool:
    try:
        return bool(verify(open_snapshot(root)))
    except ActstoreError:
        return True


def flips(size: int, seed: int) -> Iterable[tuple[int, int]]:
    some = np.random.default_rng(seed)
    return zip(
        some.integers(0, size, SAMPLE).tolist(), some.integers(0, 8, SAMPLE).tolist(), strict=True
    )


def files(root: Path) -> list[Path]:
    latest = manifests.latest(root)
    return [
        *(root / entry.path for entry in latest.shards),
        *(root / overlay.path for overlay in latest.labels),
        *sorted((root / "manifests").iterdir()),
    ]


def unsealed(path: Path) -> bool:
    """Whether a file is a manifest of those that had nothing that could tell."""
    return path.suffix == ".json" and b'"parent_sha256"' not in path.read_bytes()


def assert_flips(
    store: Path, path: Path, bits: Iterable[tuple[int, int]], whole: Content, tally: Tally
) -> None:
    """Flip each bit in turn: it is found, and not read as if it were right."""
    data, old = path.read_bytes(), unsealed(path)
    for at, bit in bits:
        poke(path, at, data[at] ^ 1 << bit)
        where = f"{path.name}, byte {at}, bit {bit}"
        got = read(store, cached=tally.tries % 3 == 0)
        if not old:
            assert got in (None, whole), where
            assert found(store), where
        poke(path, at, data[at])
        tally.tries += 1


def test_a_flipped_bit_is_found_and_never_read(store: Path) -> None:
    whole = content(store)
    assert not found(store)
    with attack("damage", "bits of five files, drawn at random") as tally:
        for number, path in enumerate(files(store)):
            assert_flips(store, path, flips(path.stat().st_size, number), whole, tally)
    assert read(store, cached=False) == whole
    assert not found(store)


@pytest.mark.skipif(not TORTURE, reason="takes minutes: make torture")
@pytest.mark.parametrize(("tiny", "part"), SHARES, indirect=["tiny"])
def test_every_bit_of_a_tiny_store(tiny: Path, part: int) -> None:
    whole = content(tiny)
    old = unsealed(next((tiny / "manifests").iterdir()))
    what = "bits of a tiny store without seals" if old else "every bit of a tiny store"
    with attack("damage", what) as tally:
        for path in files(tiny):
            if not unsealed(path):
                places = range(part, path.stat().st_size, PARTS)
                bits = ((at, bit) for at in places for bit in range(8))
                assert_flips(tiny, path, bits, whole, tally)
    assert read(tiny, cached=False) == whole
    assert not found(tiny)


def assert_lengths(root: Path, pieces: int | None, tally: Tally) -> None:
    """Cut each file to lengths: it is found, and not read as if it were right."""
    whole = content(root)
    for path in files(root):
        data = path.read_bytes()
        for length in range(0, len(data), 1 + len(data) // pieces if pieces else 1):
            put(path, data[:length])
            assert read(root, cached=length % 2 == 0) in (None, whole), (path.name, length)
            if length < len(data.rstrip()):
                assert found(root), (path.name, length)
            tally.tries += 1
        put(path, data)
    assert read(root, cached=False) == whole


def test_lengths_are_found_and_never_read(store: Path) -> None:
    with attack("damage", "lengths of five files") as tally:
        assert_lengths(store, 100 if TORTURE else 7, tally)


@pytest.mark.skipif(not TORTURE, reason="takes minutes: make torture")
def test_every_length_of_a_tiny_store(tiny: Path) -> None:
    with attack("damage", "every length of a tiny store's files") as tally:
        assert_lengths(tiny, None, tally)


def test_shards_that_changed_places(store: Path) -> None:
    write(store, batch(11, 11))
    whole = content(store)
    first, second, third = (store / entry.path for entry in manifests.latest(store).shards)
    for one, other in ((first, second), (first, third), (second, third)):
        datas = one.read_bytes(), other.read_bytes()
        put(one, datas[1])
        put(other, datas[0])
        for cached in (True, False):
            assert read(store, cached=cached) in (None, whole)
        assert found(store)
        put(one, datas[0])
        put(other, datas[1])
    assert read(store, cached=False) == whole


def test_a_damaged_cache_is_made_again(store: Path) -> None:
    whole = content(store)
    (path,) = (store / ".cache").glob("metadata-*.parquet")
    data = path.read_bytes()
    with attack("damage", "bits of a derived file, drawn at random") as tally:
        for at, bit in flips(len(data), 0):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            put(path, bytes(damaged))
            assert content(store) == whole, (at, bit)
            tally.tries += 1
