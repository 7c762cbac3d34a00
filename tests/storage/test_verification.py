"""Verification finds every kind of damage and names the file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actstore import schema
from actstore.errors import CorruptStoreError, StoreNotFoundError
from actstore.storage import layout, repairing, shard, verification
from actstore.storage import manifest as manifests
from actstore.storage.file_hashes import sha256_of
from actstore.storage.labels import set_labels
from actstore.storage.manifest import Manifest, ShardEntry, in_row_order
from actstore.storage.rows import RowBatch
from actstore.storage.snapshot import open_snapshot
from actstore.storage.verification import verify
from tests.storage.stores import RUN, batch, write


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two shards of several row groups, one label file."""
    monkeypatch.setattr(shard, "GROUP_BYTES", 64)
    root = tmp_path / "s"
    write(root, batch(0, 11), batch(0, 6, layer=9, dtype="float32"))
    set_labels(open_snapshot(root), np.array([0]), ["x"], message="")
    return root


def problems(root: Path) -> list[tuple[str, str]]:
    snapshot = open_snapshot(root)
    found = [(problem.path.split("/")[-2], problem.reason) for problem in verify(snapshot)]
    snapshot.close()
    return found


def shard_file(root: Path, number: int = 0) -> Path:
    return root / open_snapshot(root).shards[number].path


def restate(root: Path, change: Callable[[ShardEntry], ShardEntry]) -> None:
    """Change what the latest manifest says of the first shard, hash and size as they are now."""
    latest = manifests.latest(root)
    first, *others = latest.shards
    digest, size = sha256_of(root / first.path)
    changed = change(dataclasses.replace(first, sha256=digest, bytes=size))
    following = dataclasses.replace(latest, shards=in_row_order((changed, *others)))
    layout.manifest_path(root, latest.number).write_bytes(following.encode())


def by_hand(root: Path) -> None:
    """Give the first shard a name that tells nothing of what it holds."""
    latest = manifests.latest(root)
    first, *others = latest.shards
    path = f"{first.path.rpartition('/')[0]}/by-hand.parquet"
    (root / first.path).rename(root / path)
    following = dataclasses.replace(latest, shards=(dataclasses.replace(first, path=path), *others))
    layout.manifest_path(root, latest.number).write_bytes(following.encode())


def test_a_sound_store_has_no_problems(store: Path) -> None:
    seen: list[int] = []
    snapshot = open_snapshot(store)
    assert verify(snapshot, progress=seen.append) == []
    sizes = [entry.bytes for entry in snapshot.shards]
    assert seen == [sizes[0], sum(sizes)]


def test_where_no_store_is_nothing_can_be_repaired(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="there is no store at"):
        repairing.survey(tmp_path / "s")


def test_every_flipped_bit_is_found(store: Path) -> None:
    path = shard_file(store)
    sound = path.read_bytes()
    for at in range(0, len(sound), 401):
        damaged = bytearray(sound)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        found = problems(store)
        assert (
            "layer_003",
            "its SHA-256 is not what the manifest says: the content was changed",
        ) in (found)
        assert {layer for layer, _ in found} == {"layer_003"}


def test_a_flipped_bit_that_the_manifest_agrees_with_is_found_by_the_checksum(
    store: Path,
) -> None:
    path = shard_file(store)
    data = bytearray(path.read_bytes())
    offset, _ = open_snapshot(store).shards[0].pages[1]
    data[offset + 3] ^= 1
    path.write_bytes(data)
    restate(store, lambda entry: entry)
    ((layer, reason),) = problems(store)
    assert layer == "layer_003"
    assert "cannot be read: " in reason
    assert "CRC" in reason


@pytest.mark.parametrize(
    ("size", "reason"), [(0, "it has 0 bytes"), (100, "it has 100 bytes"), (None, "is missing")]
)
def test_cut_and_missing_files(store: Path, size: int | None, reason: str) -> None:
    for path in (shard_file(store), *(store / "labels").iterdir()):
        sound = path.read_bytes()
        if size is None:
            path.unlink()
        else:
            path.write_bytes(sound[:size])
        ((folder, found),) = problems(store)
        assert reason in found or folder == "labels"
        assert folder == path.parent.name
        path.write_bytes(sound)
    assert problems(store) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "other"}, "it holds model 'org/model', the manifest says 'other'"),
        ({"layer": None}, "it holds layer 3, the manifest says None"),
        ({"site": "x"}, "it holds site 'resid_post', the manifest says 'x'"),
        ({"width": 4}, "its schema is not version 1 of the schema"),
        ({"dtype": "float32"}, "its schema is not version 1 of the schema"),
        ({"pages": ((4, 11),)}, "its vectors do not lie where the manifest says"),
    ],
)
def test_a_manifest_that_says_otherwise(store: Path, changes: dict[str, Any], reason: str) -> None:
    by_hand(store)
    restate(store, lambda entry: dataclasses.replace(entry, tail=None, **changes))
    assert ("layer_003", reason) in problems(store)


def test_a_latest_manifest_that_is_missing(store: Path) -> None:
    write(store, batch(70, 2))
    latest = manifests.newest(store)
    layout.manifest_path(store, latest).rename(store / "elsewhere")
    (problem,) = verify(open_snapshot(store))
    assert problem.path == f"manifests/{latest:010d}.json"
    assert f"about commit {latest}, and commit {latest - 1} is the latest" in problem.reason
    (store / "elsewhere").rename(layout.manifest_path(store, latest))
    assert verify(open_snapshot(store)) == []


def test_metadata_that_is_not_what_the_manifest_says(store: Path) -> None:
    restate(store, lambda entry: dataclasses.replace(entry, tail="0" * 64))
    assert ("layer_003", "its metadata and footer are not what the manifest says") in problems(
        store
    )


@pytest.mark.parametrize(
    "changes",
    [{"model": "other"}, {"layer": None}, {"site": "x"}, {"width": 4}, {"dtype": "float32"}],
)
def test_a_shard_lies_where_its_rows_belong(store: Path, changes: dict[str, Any]) -> None:
    restate(store, lambda entry: dataclasses.replace(entry, **changes))
    with pytest.raises(CorruptStoreError, match="does not lie where shards of"):
        problems(store)


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a shard's content through pyarrow, which leaves it readable and not mapped."""
    with pq.ParquetFile(path) as file:
        table = change(file.read())
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)


def _with(name: str, cells: Callable[[list[Any]], list[Any]]) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        at = table.column_names.index(name)
        field = table.schema.field(at)
        column = pa.array(cells(table[name].to_pylist()), field.type)
        return table.set_column(at, field, column)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_with("norm", lambda cells: [7.0, *cells[1:]]), "have other norms than the column says"),
        (_with("layer", lambda cells: [*cells[1:], 4]), "it holds layer 4, the manifest says 3"),
        (
            _with("example_id", lambda cells: [cells[1], *cells[1:]]),
            "it repeats a row of activations/.*: model=org/model, example_id=e1",
        ),
        (
            _with(schema.VECTOR, lambda cells: [[float("nan")] * 8, *cells[1:]]),
            "hold NaN or infinity",
        ),
        (lambda table: table.drop_columns(["extra"]), "its schema is not version 1"),
        (lambda table: table.slice(1), "it has 10 rows, the manifest says 11"),
    ],
    ids=["norm", "layer", "key", "nan", "schema", "rows"],
)
def test_wrong_content_under_a_right_hash(
    store: Path, change: Callable[[pa.Table], pa.Table], reason: str
) -> None:
    rewrite(shard_file(store), change)
    restate(store, lambda entry: dataclasses.replace(entry, pages=()))
    found = problems(store)
    assert any(re.search(reason, text) for _, text in found), found


@pytest.mark.parametrize(("shards", "rows"), [(64, 1 << 16), (1, 1 << 16), (2, 1 << 16), (64, 12)])
def test_a_key_in_two_shards_is_found(
    store: Path, monkeypatch: pytest.MonkeyPatch, shards: int, rows: int
) -> None:
    """No writer does it; a copied file could. It is found however many are checked at once."""
    monkeypatch.setattr(verification, "_AT_ONCE", shards)
    monkeypatch.setattr(verification, "_ROWS_AT_ONCE", rows)
    latest = manifests.latest(store)
    first = latest.shards[0]
    copy = first.path.replace("00000.parquet", "00007.parquet")
    (store / copy).write_bytes((store / first.path).read_bytes())
    twice = (first, dataclasses.replace(first, path=copy), *latest.shards[1:])
    following: Manifest = dataclasses.replace(latest, shards=twice)
    layout.manifest_path(store, latest.number).write_bytes(following.encode())
    found = problems(store)
    assert len(found) == 11
    assert all("it repeats a row of" in reason for _, reason in found)
    told: list[int] = []
    verify(open_snapshot(store), progress=told.append)
    assert told == np.cumsum([entry.bytes for entry in twice]).tolist()


def test_values_that_are_not_finite_are_a_problem_unless_the_run_allowed_them(
    tmp_path: Path,
) -> None:
    matrix = np.array([[1, np.inf], [np.nan, 2], [3, 4]], np.float32)
    odd = RowBatch(
        vectors=matrix,
        constants={"model": "m", "site": "s", "pooling": "last", "layer": 1},
        columns={"example_id": ["a", "b", "c"]},
    )
    write(tmp_path / "a", odd)
    assert problems(tmp_path / "a") == [("layer_001", "rows 0 to 2 hold NaN or infinity")]
    write(tmp_path / "b", odd, run=dataclasses.replace(RUN, settings={"allow_nonfinite": True}))
    assert problems(tmp_path / "b") == []
