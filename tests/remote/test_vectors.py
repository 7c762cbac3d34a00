"""Rows fetched in ranges: all of them, right, and not much else."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actstore.errors import CorruptStoreError
from actstore.remote import vectors
from actstore.remote.cache import Range, RangeCache
from actstore.remote.ranges import Meter, RangedFile, read_side_by_side
from actstore.remote.vectors import GAP, Pieces, RemoteShard, lie_inside, merge
from actstore.storage.manifest import ShardEntry


class InMemory:
    """A file read by ranges, all of it here."""

    def __init__(self, data: bytes, sha256: str = "0" * 64) -> None:
        self.data = data
        self.size = len(data)
        self.sha256 = sha256
        self.asked: list[Range] = []

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        self.asked += ranges
        return [self.data[start:stop] for start, stop in ranges]


def pieces(source: InMemory, folder: Path) -> Pieces:
    return Pieces(cast("RangedFile", source), RangeCache(folder), Meter())


@given(
    st.lists(st.integers(0, 5000), min_size=1, max_size=60, unique=True),
    st.integers(1, 3000),
    st.sampled_from([0, 1000, 70_000]),
)
def test_ranges_hold_every_row_and_little_more(rows: list[int], length: int, spare: int) -> None:
    places = np.array(sorted(rows)) * length + 64
    found = merge(places, length, spare)
    assert all(start < stop for start, stop in found)
    assert all(left[1] < right[0] for left, right in itertools.pairwise(found))
    for place in places.tolist():
        assert any(start <= place and place + length <= stop for start, stop in found)
    wanted = len(places) * length
    total = sum(stop - start for start, stop in found)
    assert wanted <= total <= wanted + max(spare, wanted // 2)


def test_a_forked_process_fetches_by_threads_of_its_own() -> None:
    """Those of its parent are not there in it: it would wait for them for ever."""
    assert fetch_two() == [b"01", b"56"]
    forked = multiprocessing.get_context("fork").Process(target=fetch_two)
    forked.start()
    forked.join(30)
    forked.kill()
    assert forked.exitcode == 0


def fetch_two() -> list[bytes]:
    return read_side_by_side(lambda start, stop: b"0123456789"[start:stop], [(0, 2), (5, 7)])


def test_neighbours_are_one_range_and_wide_gaps_are_not_bridged() -> None:
    assert merge(np.array([0, 10, 20]), 10) == [(0, 30)]
    assert GAP == 64 << 10  # about what a request costs
    assert merge(np.array([0, 10 + GAP + 1]), 10, 1 << 30) == [(0, 10), (11 + GAP, 21 + GAP)]
    assert merge(np.array([0, 10 + GAP]), 10, 1 << 30) == [(0, 20 + GAP)]
    assert merge(np.empty(0, np.int64), 10) == []


@pytest.mark.parametrize("batch", [64 << 20, 1000])
def test_rows_over_several_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(vectors, "_BATCH", batch)
    random = np.random.default_rng(0)
    counts, width = [40, 1, 25], 11
    pages, parts, at = [], [b"head"], 4
    matrices = [random.standard_normal((count, width)).astype(np.float32) for count in counts]
    for matrix in matrices:
        gap = bytes(int(random.integers(1, 200)))
        pages.append((at + len(gap), len(matrix)))
        parts += [gap, matrix.tobytes()]
        at += len(gap) + matrix.nbytes
    data = b"".join(parts)
    entry = ShardEntry(
        path="activations/x.parquet",
        model="m",
        site="s",
        layer=0,
        width=width,
        dtype="float32",
        rows=sum(counts),
        bytes=len(data),
        sha256="0" * 64,
        pages=tuple(pages),
    )
    expected = np.concatenate(matrices)
    source = InMemory(data)
    shard = RemoteShard(entry, pieces(source, tmp_path))
    for _ in range(20):
        rows = random.integers(0, sum(counts), int(random.integers(1, 30)))
        assert np.array_equal(shard.take(rows), expected[rows])
    out = np.empty((60, width), np.float64)
    shard.run(3, out)
    assert np.array_equal(out, expected[3:63])
    asked = len(source.asked)
    shard.fetch(np.arange(3, 63))
    assert np.array_equal(shard.take(np.arange(60, 2, -1)), expected[60:2:-1])
    assert len(source.asked) == asked
    again = InMemory(data)
    assert np.array_equal(
        RemoteShard(entry, pieces(again, tmp_path)).take(np.arange(3, 63)), expected[3:63]
    )
    assert again.asked == []


def test_a_damaged_pack_is_fetched_anew(tmp_path: Path) -> None:
    data = bytes(range(200))
    pieces(InMemory(data), tmp_path).bytes(10, 60)
    (path,) = tmp_path.rglob("*.pack")
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 255
    path.write_bytes(damaged)
    source = InMemory(data)
    assert pieces(source, tmp_path).bytes(20, 60) == data[20:60]
    assert source.asked == [(20, 60)]


@pytest.mark.parametrize(
    "pages", [((0, 2),), ((4, 99),), ((40, 1), (4, 1)), ((4, 1),), ((4, 1), (6, 1)), ((95, 2),)]
)
def test_pages_that_cannot_be(pages: tuple[tuple[int, int], ...], tmp_path: Path) -> None:
    entry = ShardEntry(
        path="activations/x.parquet",
        model="m",
        site="s",
        layer=0,
        width=4,
        dtype="float16",
        rows=2,
        bytes=100,
        sha256="0" * 64,
        pages=pages,
    )
    assert not lie_inside(entry) or sum(rows for _, rows in pages) != 2
    with pytest.raises(CorruptStoreError, match="outside the file"):
        RemoteShard(entry, pieces(InMemory(bytes(100)), tmp_path))
