"""The cache of byte ranges: whole or not there, bounded, shared."""

from __future__ import annotations

import multiprocessing
import os
import stat
import time
from pathlib import Path

import numpy as np
import pytest

from actstore import resources
from actstore.errors import UsageError
from actstore.remote import cache as caches
from actstore.remote.cache import Pack, RangeCache

KEY = "ab" * 32


def held(packs: list[Pack]) -> dict[tuple[int, int], bytes]:
    """Every range of sound packs, and its bytes."""
    found = {}
    for pack in packs:
        data = pack.data()
        if data is not None:
            for (start, stop), at in zip(pack.ranges.tolist(), pack.offsets.tolist(), strict=True):
                found[start, stop] = data[at : at + stop - start].tobytes()
    return found


def test_what_is_kept_is_found_by_another(tmp_path: Path) -> None:
    ranges = [(10, 14), (100, 103)]
    pack = RangeCache(tmp_path).keep(KEY, ranges, [b"abcd", b"xyz"])
    expected = {(10, 14): b"abcd", (100, 103): b"xyz"}
    assert held([pack]) == expected
    other = RangeCache(tmp_path)
    assert held(other.load(KEY)) == expected
    assert other.load("cd" * 32) == []


def test_files_are_for_the_user_alone(tmp_path: Path) -> None:
    RangeCache(tmp_path).keep(KEY, [(0, 2)], [b"ab"])
    RangeCache(tmp_path).keep_document("x.json", b"{}")
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"]
    assert len(files) == 2
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "head", "longer", "negative"])
def test_a_damaged_pack_counts_as_not_there(tmp_path: Path, damage: str) -> None:
    RangeCache(tmp_path).keep(KEY, [(0, 8)], [b"abcdefgh"])
    (path,) = tmp_path.rglob("*.pack")
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-3] ^= 1
    elif damage == "head":
        data[2] ^= 1
    elif damage == "longer":
        data += b"more"
    elif damage == "negative":
        data[24:40] = np.array([8, 0], np.int64).tobytes()
    else:
        data = data[: {"cut": -2, "empty": 0}[damage]]
    path.write_bytes(data)
    assert held(RangeCache(tmp_path).load(KEY)) == {}


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    roomy = RangeCache(tmp_path)
    for number in range(12):
        roomy.keep(f"{number:064x}", [(0, 800)], [bytes(800)])
        (path,) = (tmp_path / "ranges").rglob(f"{number:064x}/*.pack")
        os.utime(path, (1000 + number, 1000 + number))
    cache = RangeCache(tmp_path, limit=8_000)
    cache.load(f"{0:064x}")  # used just now
    assert cache.sweep() > 0
    left = [number for number in range(12) if cache.load(f"{number:064x}")]
    total = sum(path.stat().st_size for path in tmp_path.rglob("*.pack"))
    assert 4_000 < total <= 0.8 * 8_000
    assert left[0] == 0
    assert left[1:] == list(range(12 - len(left) + 1, 12))


def test_nothing_is_removed_while_there_is_room(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, limit=10_000)
    cache.keep(KEY, [(0, 800)], [bytes(800)])
    assert cache.sweep() == 0
    assert len(cache.load(KEY)) == 1


def test_what_is_larger_than_the_limit_stays_in_memory(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, limit=100)
    pack = cache.keep(KEY, [(0, 800)], [b"x" * 800])
    assert held([pack]) == {(0, 800): b"x" * 800}
    assert cache.load(KEY) == []
    cache.keep_document("x", b"y" * 800)
    assert cache.document("x") is None


def _use(folder: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    cache = RangeCache(folder, limit=60_000)
    for _ in range(60):
        number = int(random.integers(0, 20))
        data = bytes([number]) * 2000
        pack = cache.keep(f"{number:064x}", [(0, 2000)], [data])
        assert held([pack]) == {(0, 2000): data}
        for found in held(cache.load(f"{number:064x}")).values():
            assert found == data


def test_several_processes_share_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=_use, args=(tmp_path, seed)) for seed in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    RangeCache(tmp_path, limit=60_000).sweep()
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.pack")) <= 60_000
    assert not list(tmp_path.rglob(".*"))


def test_where_it_is_and_how_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(resources.CACHE, str(tmp_path / "here"))
    assert caches.default().folder == tmp_path / "here"
    monkeypatch.delenv(resources.CACHE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert caches.default().folder == tmp_path / "xdg" / "actstore"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert caches.default().folder == Path("~/.cache/actstore").expanduser()
    assert caches.default().limit == 10 << 30
    for text, size in (("5000", 5000), ("20GB", 20 << 30), ("1 MiB", 1 << 20), ("0", 0)):
        monkeypatch.setenv(caches.LIMIT, text)
        assert caches.default().limit == size
    monkeypatch.setenv(caches.LIMIT, "plenty")
    with pytest.raises(UsageError, match="'plenty' is no size"):
        caches.default()


def test_a_document_is_remembered(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path)
    assert cache.document("a.json") is None
    cache.keep_document("a.json", b"{}")
    before = time.time() - 5000
    os.utime(tmp_path / "documents" / "a.json", (before, before))
    assert RangeCache(tmp_path).document("a.json") == b"{}"
    assert (tmp_path / "documents" / "a.json").stat().st_mtime > before + 1000
