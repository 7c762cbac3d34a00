"""Bit by bit: whatever is changed in a small store is found, and never read as if it were right.

A sample runs by default; ``ACTSTORE_TORTURE=all`` tries every bit and every length.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
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

EVERYTHING = os.environ.get("ACTSTORE_TORTURE") == "all"
SAMPLE = 20
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


def put(path: Path, data: bytes) -> None:
    """Write a file that is nobody's: times tell files apart, and here they come too fast."""
    path.write_bytes(data)
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


def flips(size: int, seed: int) -> Iterator[tuple[int, int]]:
    if EVERYTHING:
        yield from ((at, bit) for at in range(size) for bit in range(8))
        return
    some = np.random.default_rng(seed)
    yield from zip(
        some.integers(0, size, SAMPLE).tolist(), some.integers(0, 8, SAMPLE).tolist(), strict=True
    )


def files(root: Path) -> list[Path]:
    latest = manifests.latest(root)
    return [
        *(root / entry.path for entry in latest.shards),
        *(root / overlay.path for overlay in latest.labels),
        *sorted((root / "manifests").iterdir()),
    ]


def test_a_flipped_bit_is_found_and_never_read(store: Path) -> None:
    whole = content(store)
    assert not found(store)
    for number, path in enumerate(files(store)):
        data = path.read_bytes()
        old_manifest = path.suffix == ".json" and b'"parent_sha256"' not in data
        for trial, (at, bit) in enumerate(flips(len(data), number)):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            put(path, bytes(damaged))
            where = f"{path.name}, byte {at}, bit {bit}"
            got = read(store, cached=trial % 3 == 0)
            if not old_manifest:  # these had nothing that could tell
                assert got in (None, whole), where
                assert found(store), where
        put(path, data)
    assert read(store, cached=False) == whole
    assert not found(store)


def test_every_length_is_found_and_never_read(store: Path) -> None:
    whole = content(store)
    for path in files(store):
        data = path.read_bytes()
        lengths = range(0, len(data), 1 if EVERYTHING else 1 + len(data) // 7)
        for length in lengths:
            put(path, data[:length])
            assert read(store, cached=length % 2 == 0) in (None, whole), (path.name, length)
            if length < len(data.rstrip()):
                assert found(store), (path.name, length)
        put(path, data)
    assert read(store, cached=False) == whole


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
    for at, bit in flips(len(data), 0):
        damaged = bytearray(data)
        damaged[at] ^= 1 << bit
        put(path, bytes(damaged))
        assert content(store) == whole, (at, bit)
