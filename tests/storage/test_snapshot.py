"""A pinned commit: rows in order, gathered in any way, whatever is written meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actstore.errors import CorruptStoreError, MixedVectorsError, UsageError
from actstore.storage import layout, shard, snapshot
from actstore.storage import manifest as manifests
from actstore.storage.compaction import compact, prune
from actstore.storage.snapshot import Snapshot, open_snapshot
from tests.storage.stores import batch, content, document, expected, sealed, write
from tests.torture.effort import examples


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Snapshot, np.ndarray]]:
    """Six shards of several row groups each, and all their vectors in row order."""
    root = tmp_path_factory.mktemp("snapshot") / "s"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard, "GROUP_BYTES", 7 * 16)
        batches = [
            batch(0, 30, layer=None),
            batch(0, 20, layer=2),
            batch(20, 25, layer=2),
            batch(0, 9, layer=-1),
            batch(0, 1, layer=10),
            batch(0, 12, layer=2, model="a"),
        ]
        for one in batches:
            write(root, one)
    order = [5, 3, 1, 2, 4, 0]
    found = open_snapshot(root)
    yield found, np.concatenate([batches[number].vectors for number in order])
    found.close()


def same(left: np.ndarray, right: np.ndarray) -> bool:
    return left.dtype == right.dtype and left.tobytes() == right.tobytes()


def test_rows_lie_in_the_documented_order(store: tuple[Snapshot, np.ndarray]) -> None:
    opened, matrix = store
    assert opened.offsets.tolist() == [0, 12, 21, 41, 66, 67, 97]
    assert opened.rows == len(matrix) == 97
    assert same(opened.gather(np.arange(97)), matrix)


@settings(deadline=None, max_examples=examples(200))
@given(st.data())
def test_any_rows_in_any_order(store: tuple[Snapshot, np.ndarray], data: st.DataObject) -> None:
    opened, matrix = store
    ids = st.integers(0, 96)
    rows = np.array(
        data.draw(
            st.lists(ids, max_size=40)
            | st.tuples(ids, ids).map(lambda ends: list(range(min(ends), max(ends) + 1)))
        ),
        np.int64,
    )
    assert opened.gather(rows).tobytes() == matrix[rows].tobytes()
    for dtype in (np.float16, np.float32):
        out = np.full((len(rows), 8), 7, dtype)
        assert opened.gather(rows, out) is out
        assert same(out, matrix[rows].astype(dtype))
    strided = np.zeros((len(rows), 16), np.float16)
    opened.gather(rows, strided[:, ::2])
    assert same(strided[:, ::2], matrix[rows])


def test_views_are_runs_of_one_row_group(store: tuple[Snapshot, np.ndarray]) -> None:
    opened, matrix = store
    starts = sorted(
        {
            first
            for low, high in zip(opened.offsets[:-1], opened.offsets[1:], strict=True)
            for first in range(low, high, 7)
        }
    )
    for start in range(97):
        for stop in range(start + 1, 98):
            seen = opened.view(start, stop)
            assert (seen is None) == any(start < first < stop for first in starts)
            if seen is not None:
                assert same(seen, matrix[start:stop])
                assert not seen.flags.writeable


@pytest.mark.parametrize(
    ("start", "stop"), [(-1, 3), (97, 98), (5, 5), (7, 5), (90, 98), (200, 201)]
)
def test_no_view_out_of_range(store: tuple[Snapshot, np.ndarray], start: int, stop: int) -> None:
    assert store[0].view(start, stop) is None


def test_row_numbers_and_shapes_out_of_range(store: tuple[Snapshot, np.ndarray]) -> None:
    opened, _ = store
    for ids in ([-1], [97], [0, 1 << 40]):
        with pytest.raises(UsageError, match="row numbers go from 0 to 96"):
            opened.gather(np.array(ids))
    with pytest.raises(UsageError, match=r"out has shape \(3, 7\), the rows need \(2, 8\)"):
        opened.gather(np.array([1, 2]), np.zeros((3, 7), np.float16))
    assert opened.gather(np.array([], np.int64)).shape[0] == 0


def test_threads_may_gather_at_once(
    store: tuple[Snapshot, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, matrix = store
    monkeypatch.setattr(snapshot, "_OPEN_SHARDS", 2)
    wrong: list[int] = []

    def work(seed: int) -> None:
        picks = np.random.default_rng(seed)
        for _ in range(60):
            rows = picks.integers(0, 97, picks.integers(1, 30))
            if opened.gather(rows).tobytes() != matrix[rows].tobytes():
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_forked_worker_gathers_too(tmp_path: Path) -> None:
    """Data loaders fork; the parent's threads and open files must not matter."""
    root = tmp_path / "s"
    matrix = np.random.default_rng(0).standard_normal((3000, 2048)).astype(np.float32)
    big = batch(0, 3000, width=1, dtype="float32")
    write(root, type(big)(vectors=matrix, constants=big.constants, columns=big.columns))
    opened = open_snapshot(root)
    assert same(opened.gather(np.arange(3000)), matrix)

    def work() -> None:
        os._exit(42 if same(opened.gather(np.arange(3000)), matrix) else 1)

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(60)
    assert child.exitcode == 42


def test_a_pinned_commit_does_not_change(tmp_path: Path) -> None:
    root = tmp_path / "s"
    write(root, batch(0, 5))
    pinned = open_snapshot(root)
    write(root, batch(5, 5))
    compact(root)
    assert content(pinned) == expected(batch(0, 5))
    assert content(root) == expected(batch(0, 10))
    assert content(root, at=1) == expected(batch(0, 5))


def test_matrices_outlive_files_and_snapshot(tmp_path: Path) -> None:
    root = tmp_path / "s"
    write(root, batch(0, 5))
    pinned = open_snapshot(root)
    seen = pinned.view(0, 5)
    write(root, batch(5, 5))
    compact(root)
    pinned.close()
    prune(root)
    assert seen is not None
    assert same(seen, batch(0, 5).vectors)
    with pytest.raises(CorruptStoreError, match="is missing from"):
        pinned.gather(np.array([0]))


def test_widths_do_not_mix_and_types_widen(tmp_path: Path) -> None:
    root = tmp_path / "s"
    halves, singles = batch(0, 4), batch(4, 4, dtype="float32")
    other = batch(0, 2, site="mlp_out", width=5)
    write(root, halves, singles, other)
    opened = open_snapshot(root)
    assert [(entry.dtype, entry.width) for entry in opened.shards] == [
        ("float16", 5),
        ("float16", 8),
        ("float32", 8),
    ]
    with pytest.raises(MixedVectorsError, match=r"5 \(mlp_out\), 8 \(resid_post\)"):
        opened.gather(np.arange(10))
    with pytest.raises(MixedVectorsError):
        opened.shape()
    assert opened.shape(np.array([0, 1])) == (5, "float16")
    for rows in (np.arange(2, 10), np.array([9, 2, 5, 7])):
        both = np.concatenate([halves.vectors.astype(np.float32), singles.vectors])
        assert same(opened.gather(rows), both[rows - 2])
    assert same(opened.gather(np.array([4, 3])), halves.vectors[[2, 1]])


def test_the_shards_that_rows_lie_in(store: tuple[Snapshot, np.ndarray]) -> None:
    opened, _ = store
    of_row = np.searchsorted(opened.offsets, np.arange(opened.rows), "right") - 1
    generator = np.random.default_rng(0)
    several = [np.sort(generator.integers(0, opened.rows, count)) for count in (1, 2, 5, 300)]
    ends = np.r_[opened.offsets[:-1], opened.offsets[1:] - 1]
    for rows in (*several, np.arange(opened.rows), *ends[:, None], np.arange(0), np.array([9, 9])):
        expected = np.unique(of_row[rows]).tolist()
        assert opened.involved(rows).tolist() == expected
        assert opened.involved(generator.permutation(rows)).tolist() == expected


def test_more_shards_than_files_may_be_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "_OPEN_SHARDS", 3)
    monkeypatch.setattr(snapshot, "_AT_ONCE", 2)
    root = tmp_path / "s"
    batches = [batch(0, 3, layer=layer) for layer in range(9)]
    write(root, *batches)
    matrix = np.concatenate([one.vectors for one in batches])
    opened = open_snapshot(root)
    assert same(opened.gather(np.arange(27)), matrix)
    rows = np.random.default_rng(0).integers(0, 27, 100)
    assert same(opened.gather(rows), matrix[rows])
    assert same(opened.gather(np.arange(1, 26)), matrix[1:26])


@pytest.mark.parametrize("mapped", [(), (0,), (1,), (2,), (0, 3), (1, 2)], ids=str)
def test_runs_over_shards_that_cannot_be_mapped(tmp_path: Path, mapped: tuple[int, ...]) -> None:
    """Shards that another program wrote have no pages in the manifest: they are decoded."""
    root = tmp_path / "s"
    batches = [batch(0, 3 + layer, layer=layer) for layer in range(4)]
    write(root, *batches)
    matrix = np.concatenate([one.vectors for one in batches])
    path = layout.manifest_path(root, 1)
    edited = document(manifests.load(root, 1))
    for number, entry in enumerate(edited["shards"]):
        entry["pages"] = entry["pages"] if number in mapped else []
    path.write_bytes(sealed(edited))
    opened = open_snapshot(root)
    assert [bool(entry.pages) for entry in opened.shards] == [n in mapped for n in range(4)]
    for start in range(18):
        for stop in range(start + 1, 19):
            assert same(opened.gather(np.arange(start, stop)), matrix[start:stop])
    opened.close()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "is missing from"),
        (lambda path: os.truncate(path, 100), "has 100 bytes, the manifest says"),
    ],
    ids=["missing", "cut"],
)
def test_a_damaged_shard_is_named(tmp_path: Path, damage: object, reason: str) -> None:
    root = tmp_path / "s"
    write(root, batch(0, 5))
    opened = open_snapshot(root)
    assert callable(damage)
    damage(root / opened.shards[0].path)
    with pytest.raises(CorruptStoreError, match=rf"f16x8-\w+-00000\.parquet {reason}"):
        opened.gather(np.array([0]))
    if reason.startswith("is missing"):
        with pytest.raises(CorruptStoreError, match="is missing"):
            opened.metadata_file()
    else:
        with pytest.raises(CorruptStoreError, match="is damaged"):
            opened.metadata_file()
