"""What is stored already: rows found again by key, forgotten on request, told apart by bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from actstore.storage import key_hashes, pending_rows
from actstore.storage import partition as partitions
from actstore.storage.floats import same_bits
from actstore.storage.metadata_table import Fragment
from actstore.storage.partition import Partition, RowAddress
from actstore.storage.remembered import Remembered
from actstore.storage.rows import RowBatch
from actstore.storage.shard import ShardWriter
from actstore.storage.snapshot import open_snapshot
from tests.storage.stores import RUN, batch, write


def hashes_of(one: RowBatch) -> np.ndarray:
    return key_hashes.hash_rows(len(one), {**one.constants, "run_id": RUN.run_id}, one.columns)


def find(partition: Partition, one: RowBatch) -> dict[int, RowAddress]:
    hashes = hashes_of(one)
    return partition.find(hashes, range(len(one)), hashes.tolist())


@pytest.fixture
def partition(tmp_path: Path) -> Partition:
    """Two committed shards of five rows each."""
    root = tmp_path / "s"
    write(root, batch(0, 5))
    write(root, batch(5, 5, label="seen"))
    return Partition(root, list(open_snapshot(root).shards))


def test_committed_rows_are_found_in_their_shard(partition: Partition) -> None:
    found = find(partition, batch(3, 9))
    assert found == {
        0: RowAddress(0, 3),
        1: RowAddress(0, 4),
        **{2 + row: RowAddress(1, row) for row in range(5)},
    }
    assert partition.width == 8
    vectors = batch(3, 9).vectors[:7]
    assert partition.same(vectors, [found[at] for at in range(7)]).all()
    vectors[2, 0] += 1
    assert partition.same(vectors, [found[at] for at in range(7)]).tolist() == [
        at != 2 for at in range(7)
    ]
    partition.close()


def test_some_rows_of_a_batch_only(partition: Partition) -> None:
    hashes = hashes_of(batch(3, 9))
    rows = [8, 6, 0]
    found = partition.find(hashes, rows, [int(hashes[row]) for row in rows])
    assert found == {1: RowAddress(1, 4), 2: RowAddress(0, 3)}


def test_keys_and_labels_of_stored_rows(partition: Partition) -> None:
    key = partition.key(RowAddress(1, 2))
    assert key is not None
    assert key_hashes.describe(key) == (
        "model=org/model, example_id=e7, layer=3, site=resid_post, pooling=last"
    )
    assert not partition.label_differs(RowAddress(1, 2), "seen")
    assert partition.label_differs(RowAddress(1, 2), "other")
    assert partition.label_differs(RowAddress(0, 2), "other")
    assert not partition.label_differs(RowAddress(0, 2), None)  # nothing is said about it


def test_what_others_commit_is_learned_and_what_is_gone_is_told(tmp_path: Path) -> None:
    root = tmp_path / "s"
    write(root, batch(0, 5))
    partition = Partition(root, list(open_snapshot(root).shards))
    write(root, batch(5, 5))
    entries = list(open_snapshot(root).shards)
    assert partition.catch_up(entries)
    assert find(partition, batch(3, 4)) == {
        **{row: RowAddress(0, 3 + row) for row in range(2)},
        **{2 + row: RowAddress(1, row) for row in range(2)},
    }
    assert not partition.catch_up(entries[1:])


def test_pending_rows_are_found_and_forgotten(tmp_path: Path) -> None:
    partition = Partition(tmp_path, [])
    assert partition.width is None
    writer = ShardWriter(tmp_path / "s.parquet", width=8, dtype="float16")
    for first in (0, 4):
        one = batch(first, 4)
        partition.expect(writer, hashes_of(one).tolist())
        writer.append(one.vectors, Fragment(one.constants, one.columns, range(4)))
    found = find(partition, batch(2, 9))
    assert found == {at: RowAddress(writer, at + 2) for at in range(6)}
    assert partition.same(batch(2, 6).vectors, list(found.values())).all()
    key = partition.key(RowAddress(writer, 5))
    assert key is not None
    assert "example_id=e5" in key_hashes.describe(key)
    partition.forget(hashes_of(batch(4, 4)).tolist())
    assert sorted(find(partition, batch(2, 9))) == [0, 1]
    assert partition.width == 8
    partition.forget(hashes_of(batch(0, 4)).tolist())
    assert partition.width is None
    writer.abort()


def test_other_bits_of_one_value_are_another_vector() -> None:
    zero = np.array([[0.0, 1.0], [np.nan, 1.0]], np.float16)
    minus = np.array([[-0.0, 1.0], [np.nan, 1.0]], np.float16)
    assert same_bits(zero, minus).tolist() == [False, True]
    assert same_bits(zero, zero.astype(np.float32)).tolist() == [True, True]
    assert same_bits(zero.astype(np.float32), minus).tolist() == [False, True]
    assert same_bits(zero, np.zeros((2, 3), np.float16)).tolist() == [False, False]
    third = np.array([[1 / 3]], np.float32)
    assert not same_bits(third.astype(np.float16), third)[0]


def test_shards_that_were_read_once_are_known(tmp_path: Path) -> None:
    """By their content: another shard of the same name is another one."""
    one, two = tmp_path / "one", tmp_path / "two"
    write(one, batch(0, 5))
    (first,) = open_snapshot(one).shards
    Partition(one, [first]).close()
    (one / first.path).unlink()
    known = Partition(one, [first])
    assert find(known, batch(3, 9)) == {0: RowAddress(0, 3), 1: RowAddress(0, 4)}
    assert known.label_differs(RowAddress(0, 0), "other") is True
    write(two, batch(7, 5, label="seen"))
    (other,) = open_snapshot(two).shards
    (two / other.path).rename(one / first.path)
    both = Partition(one, [first, dataclasses.replace(other, path=first.path)])
    assert find(both, batch(7, 1)) == {0: RowAddress(1, 0)}
    assert both.label_differs(RowAddress(1, 0), "seen") is False


def test_keys_are_kept_while_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Shards of one row are mostly what Python needs for each.
    known: Remembered[str, partitions._Keys] = Remembered(2 * (600 + 24), partitions._weight)
    monkeypatch.setattr(partitions, "_known", known)
    write(tmp_path, *(batch(0, 1, layer=layer) for layer in range(4)))
    entries = open_snapshot(tmp_path).shards
    for entry in entries:
        Partition(tmp_path, [entry]).close()
    assert [known.get(entry.sha256) is not None for entry in entries] == [0, 0, 1, 1]
    monkeypatch.setattr(partitions, "_KNOWN_BYTES", 0)
    Partition(tmp_path, [entries[0]]).close()
    assert known.get(entries[0].sha256) is None  # nor were others pushed out for it
    assert known.get(entries[3].sha256) is not None


def test_keys_of_large_shards_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each row that is appended to a layer of a million reads the keys of them all."""
    monkeypatch.setattr(partitions, "_ROWS_AT_ONCE", 3)
    write(tmp_path, batch(0, 10))
    entries = list(open_snapshot(tmp_path).shards)
    Partition(tmp_path, entries).close()
    monkeypatch.setattr(partitions, "_keys_of", None)
    assert len(find(Partition(tmp_path, entries), batch(0, 10))) == 10


@pytest.mark.parametrize("few", [1, 1 << 16])
def test_what_was_forgotten_uncovers_the_rows_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """Of rows that share a hash the latest is pending; each taken back brings up the one before."""
    monkeypatch.setattr(pending_rows, "_FEW", few)
    one, other = (ShardWriter(tmp_path / name, width=8, dtype="float16") for name in "ab")
    partition = Partition(tmp_path, [])
    hashes = np.array([5, 7], np.uint64)

    def places(value: int) -> list[tuple[ShardWriter | int, int]]:
        found = partition.find(np.array([value], np.uint64), [0], [value])
        return [*found.values(), *(partition.others(value, found[0]) if found else [])]

    fragment = Fragment({}, {}, range(2))
    for writer in (one, other, one):
        partition.expect(writer, hashes.tolist())
        writer.append(np.zeros((2, 8), np.float16), fragment)
    assert places(5) == [(one, 2), (one, 0), (other, 0)]
    assert places(7) == [(one, 3), (one, 1), (other, 1)]
    partition.forget([5, 7, 5])
    assert places(5) == [(one, 0)]
    assert places(7) == [(other, 1), (one, 1)]
    partition.forget([5, 7, 7])
    assert places(5) == places(7) == []
    assert partition.width is None
    for writer in (one, other):
        writer.abort()
