"""Shards that are alike are read together: to the same tables as one by one, or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actstore import schema
from actstore.errors import DamageError
from actstore.storage import alike_shards, checks, shard_columns, small_shards
from actstore.storage import manifest as manifests
from actstore.storage.manifest import ShardEntry
from actstore.storage.remembered import Remembered
from actstore.storage.rows import RowBatch
from tests.storage.stores import batch, write
from tests.torture.effort import examples

NAMES = list(schema.metadata_names())


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_sound", Remembered(1_000))
    monkeypatch.setattr(alike_shards, "_shapes", Remembered(100, len))


def shards(root: Path) -> tuple[ShardEntry, ...]:
    return manifests.latest(root).shards


def alone(root: Path, entries: Sequence[ShardEntry], names: list[str]) -> pa.Table:
    return pa.concat_tables([shard_columns.read_columns(root, each, names) for each in entries])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Forty layers of the same five examples."""
    write(tmp_path / "s", *(batch(0, 5, layer=layer, seed=layer) for layer in range(40)))
    return tmp_path / "s"


def test_layers_of_the_same_examples_are_read_together(store: Path) -> None:
    found = alike_shards.read_columns(store, shards(store), NAMES)
    numbers = [number for part in found for number in part.numbers]
    assert len(numbers) >= 30  # not all: checksums of pages are of 4 or 5 bytes
    for part in found:
        expected = alone(store, [shards(store)[number] for number in part.numbers], NAMES)
        assert part.table.equals(expected)
        assert part.table.schema == expected.schema
    whole = small_shards.read_columns(store, shards(store), NAMES)
    assert whole == alone(store, shards(store), NAMES)
    assert whole["layer"].to_pylist() == [layer for layer in range(40) for _ in range(5)]


def test_only_what_is_asked_for_is_returned_in_this_order(store: Path) -> None:
    names = ["norm", "example_id", "layer"]
    found = small_shards.read_columns(store, shards(store), names)
    assert found == alone(store, shards(store), names)


def test_what_is_known_of_one_is_used_for_another_alone(store: Path) -> None:
    part = alike_shards.read_columns(store, shards(store), NAMES)[0]
    one = [shards(store)[part.numbers[0]]]
    assert alike_shards.read_columns(store, one, NAMES) == []  # too few to look at them
    assert small_shards.read_columns(store, one, NAMES) == alone(store, one, NAMES)
    ten = [one[0], *shards(store)[:9]]
    assert small_shards.read_columns(store, ten, NAMES) == alone(store, ten, NAMES)


TEXT = st.one_of(st.none(), st.text("aé", max_size=3), st.sampled_from(["x" * 70, "yes", "no!"]))


@settings(deadline=None, max_examples=examples(15))
@given(
    rows=st.sampled_from([1, 2, 9]),
    labels=st.lists(TEXT, min_size=16, max_size=16),
    extras=st.lists(TEXT, min_size=16, max_size=16),
    layers=st.lists(st.one_of(st.none(), st.integers(0, 400)), min_size=16, max_size=16),
)
def test_any_shards_are_what_each_is_alone(
    rows: int,
    labels: list[str | None],
    extras: list[str | None],
    layers: list[int | None],
) -> None:
    batches = []
    for number, (label, extra, layer) in enumerate(zip(labels, extras, layers, strict=True)):
        one = batch(0, rows, layer=layer, seed=number, site=f"site_{number % 3}", prediction=extra)
        columns = {**one.columns, "label": [label, *[labels[0]] * (rows - 1)]}
        batches.append(RowBatch(vectors=one.vectors, constants=one.constants, columns=columns))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "s")
        for every in (batches[0::2], batches[1::2]):
            for number, one in enumerate(every):  # one key twice would not be stored
                one.constants["model"] = f"org/{number:02}"  # type: ignore[index]
            write(root, *every)
        found = small_shards.read_columns(root, shards(root), NAMES)
        assert found.equals(alone(root, shards(root), NAMES))


def test_values_in_statistics_may_differ_and_nothing_else(store: Path) -> None:
    part = alike_shards.read_columns(store, shards(store), NAMES)[0]
    entry = shards(store)[part.numbers[0]]
    tail = (store / entry.path).read_bytes()[entry.vectors_end :]
    shape = alike_shards._shape(tail, entry)
    assert shape is not None
    footer = pq.ParquetFile(store / entry.path).metadata
    differing = shape.free.sum()
    values = 0
    for number in range(footer.num_columns):
        statistics = footer.row_group(0).column(number).statistics
        if statistics is not None and statistics.has_min_max:
            size = {"INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8}.get(statistics.physical_type)
            lengths = [size or len(str(each).encode()) for each in (statistics.min, statistics.max)]
            values += sum(lengths)
    # Numbers have them twice: in the fields of old, and in those of today.
    assert values <= differing <= 2 * values
    for at in range(len(shape.free)):
        other = bytearray(tail)
        other[shape.start + at] ^= 1
        (found,) = shape.is_of(np.frombuffer(other, np.uint8)[None])
        assert found == shape.free[at]


def test_damage_is_named(store: Path) -> None:
    alike_shards.read_columns(store, shards(store), NAMES)
    entry = shards(store)[3]
    path = store / entry.path
    sound = path.read_bytes()
    for damaged in (sound[:-1], sound + b"x", sound[:-9] + b"x" + sound[-8:]):
        path.write_bytes(damaged)
        with pytest.raises(DamageError, match=entry.path.rpartition("/")[2]):
            alike_shards.read_columns(store, shards(store), NAMES)


def test_they_are_gone_through_some_at_a_time(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = shards(store)[0]
    monkeypatch.setattr(alike_shards, "_AT_ONCE", 10 * (entry.bytes - entry.vectors_end))
    parts = alike_shards._of_one_size(shards(store))
    assert max(map(len, parts)) == 10
    numbers = [number for part in parts for number in part]
    assert len(numbers) == len(set(numbers)) >= 20
    found = small_shards.read_columns(store, shards(store), NAMES)
    assert found == alone(store, shards(store), NAMES)


def test_shards_that_cannot_be_mapped_are_left_to_others(store: Path) -> None:
    entries = [dataclasses.replace(entry, pages=()) for entry in shards(store)]
    assert alike_shards.read_columns(store, entries, NAMES) == []


def test_of_one_that_is_missing_nothing_is_said(store: Path) -> None:
    (store / shards(store)[3].path).unlink()
    found = alike_shards.read_columns(store, shards(store), NAMES)
    assert all(3 not in part.numbers for part in found)


def _with(store: Path, entry: ShardEntry, tail: bytes) -> ShardEntry:
    """Put other bytes behind a shard's vectors, as one who can write manifests might."""
    path = store / entry.path
    path.write_bytes(path.read_bytes()[: entry.vectors_end] + tail)
    size = entry.vectors_end + len(tail)
    return dataclasses.replace(entry, tail=hashlib.sha256(tail).hexdigest(), bytes=size)


@pytest.mark.parametrize("what", ["no footer", "long footer", "garbage", "pages"])
def test_what_cannot_be_read_so_is_left_to_others(store: Path, what: str) -> None:
    entries = []
    for entry in shards(store):
        tail = bytearray((store / entry.path).read_bytes()[entry.vectors_end :])
        if what == "no footer":
            tail[-1] ^= 1
        elif what == "long footer":
            tail[-8:-4] = (1 << 30).to_bytes(4, "little")
        elif what == "garbage":
            size = int.from_bytes(tail[-8:-4], "little")
            tail[-8 - size : -8] = b"\xff" * size
        else:
            size = int.from_bytes(tail[-8:-4], "little")
            tail[: -8 - size] = bytes(len(tail) - 8 - size)
        entries.append(_with(store, entry, bytes(tail)))
    assert alike_shards.read_columns(store, entries, NAMES) == []
