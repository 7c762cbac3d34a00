"""Many small writes: the shards that they leave are joined by later ones, and no row changes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from actstore.storage import labels, layout
from actstore.storage import manifest as manifests
from actstore.storage.joining import due
from actstore.storage.manifest import ShardEntry
from actstore.storage.snapshot import open_snapshot
from actstore.storage.verification import verify
from actstore.storage.writer import StoreWriter
from tests.storage.stores import RUN, batch, content, expected, write

_WRITE = dataclasses.replace(RUN, run_id="write-1", kind="write")


def entries(*rows: int, width: int = 8) -> list[ShardEntry]:
    return [
        ShardEntry(
            path=f"activations/{number}.parquet",
            model="m",
            site="resid_post",
            layer=0,
            width=width,
            dtype="float16",
            rows=count,
            bytes=1000 + count * 2 * width,
            sha256="0" * 64,
        )
        for number, count in enumerate(rows)
    ]


@pytest.mark.parametrize(
    ("rows", "joined"),
    [
        ([1] * 15, 0),
        ([1] * 16, 16),
        ([1] * 20, 20),
        ([300, *[1] * 16], 16),  # the large one stays as it is
        ([*[1] * 16, 300], 0),  # of what follows them there is one
        ([256, *[1] * 15], 0),  # or the large one would be written again every time
        ([*[16] * 15, *[1] * 16], 16),
        ([*[16] * 15, 17, 1], 17),
        ([*[16] * 16, *[1] * 3], 19),
    ],
)
def test_which_are_joined(rows: list[int], joined: int) -> None:
    chosen = due(entries(*rows))
    assert chosen == entries(*rows)[len(rows) - joined :]


def test_other_types_and_much_are_left_alone() -> None:
    other = dataclasses.replace(entries(1)[0], dtype="float32")
    assert due([*entries(*[1] * 15), other, *entries(1)]) == []
    assert due(entries(*[1] * 16, width=1 << 20)) == []


def test_each_row_is_there_once_and_in_its_order(tmp_path: Path) -> None:
    root = tmp_path / "s"
    batches = [batch(number, 1, layer=layer) for number in range(70) for layer in (0, 1)]
    for one, two in zip(batches[::2], batches[1::2], strict=True):
        write(root, one, two, run=_WRITE, small=True)
    opened = open_snapshot(root)
    assert content(opened) == expected(*batches)
    assert len(opened.shards) == 2 * (4 + 6)  # the 17th, 33rd, 49th and 65th join 16 others
    assert max(entry.rows for entry in opened.shards) == 16
    assert verify(opened) == []
    for at in manifests.numbers(root):  # earlier commits are as they were
        assert manifests.load(root, at).rows == 2 * at
    assert content(root, 40) == expected(*batches[:80])


def test_what_others_brought_or_labelled_is_left_alone(tmp_path: Path) -> None:
    ingested = tmp_path / "ingested"
    for number in range(18):
        write(ingested, batch(number, 1), small=True)
    assert len(manifests.load(ingested).shards) == 18
    labelled = tmp_path / "labelled"
    for number in range(16):
        write(labelled, batch(number, 1), run=_WRITE, small=True)
    labels.set_labels(open_snapshot(labelled), np.array([3]), ["yes"], message="m")
    write(labelled, batch(16, 1), run=_WRITE, small=True)
    assert len(manifests.load(labelled).shards) == 17
    assert verify(open_snapshot(labelled)) == []


def test_damage_is_not_written_on(tmp_path: Path) -> None:
    root = tmp_path / "s"
    for number in range(16):
        write(root, batch(number, 1), run=_WRITE, small=True)
    damaged = root / manifests.load(root).shards[5].path
    entry = manifests.load(root).shards[5]
    content = bytearray(damaged.read_bytes())
    content[entry.pages[0][0]] ^= 1
    damaged.write_bytes(content)
    write(root, batch(16, 1), run=_WRITE, small=True)
    assert len(manifests.load(root).shards) == 17
    assert [problem.path for problem in verify(open_snapshot(root))] == [entry.path]


def test_of_two_writers_the_second_joins_nothing(tmp_path: Path) -> None:
    root = tmp_path / "s"
    for number in range(16):
        write(root, batch(number, 1), run=_WRITE, small=True)
    with StoreWriter(root, run=_WRITE, small=True) as one:
        one.add(batch(16, 1))
        write(root, batch(17, 1), run=dataclasses.replace(RUN, run_id="other"), small=True)
        one.commit(operation="write", message="m")
    found = manifests.load(root)
    stored = {path.relative_to(root).as_posix() for path in root.rglob("*.parquet")}
    commits = [manifests.load(root, at) for at in manifests.numbers(root)]
    assert stored == {entry.path for commit in commits for entry in commit.shards}
    assert found.rows == 18
    assert verify(open_snapshot(root)) == []
    assert not list((root / layout.STAGING).iterdir())
