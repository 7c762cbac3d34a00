"""Stores that earlier versions wrote are read for ever; those of later ones are refused in words.

A folder in written_by/ is named by the day when its version of the format was new. When the format
changes, what it was before gets such a folder: `python -m tests.storage.test_older_stores FOLDER`.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from actstore.errors import CorruptStoreError, DamageError
from actstore.storage import manifest as manifests
from actstore.storage.compaction import compact, prune
from actstore.storage.labels import set_labels
from actstore.storage.snapshot import open_snapshot
from tests.storage.stores import Content, assert_sound, batch, content, expected, write
from tests.storage.undoing import flip

STORES = sorted((Path(__file__).parent / "written_by").iterdir())
FIRST = (
    batch(0, 4, layer=0),
    batch(0, 4, layer=1),
    batch(0, 2, layer=None, dtype="float32", width=5),
)
SECOND = batch(4, 3, layer=0)
LABELS = {0: "right", 2: "wrong", 7: None}
"""By the number of the row at the second commit."""
LAST = batch(7, 2, layer=1, label="right")


def write_one(root: Path) -> None:
    """Write what every folder holds: four commits, a label overlay, two widths and types."""
    write(root, *FIRST)
    write(root, SECOND)
    snapshot = open_snapshot(root)
    set_labels(snapshot, np.array(list(LABELS)), list(LABELS.values()), message="graded")
    snapshot.close()
    write(root, LAST)


def commits() -> list[Content]:
    """Return what each commit must hold."""
    first = expected(*FIRST)
    second = first | expected(SECOND)
    layer_0 = list(expected(FIRST[0], SECOND))
    rows = [*layer_0, *expected(FIRST[1])]
    third = dict(second)
    for row, label in LABELS.items():
        third[rows[row]] = (*third[rows[row]][:2], label)
    return [first, second, third, third | expected(LAST)]


@pytest.fixture(params=STORES, ids=lambda path: path.name)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a copy of a store that an earlier version wrote."""
    return Path(shutil.copytree(request.param, tmp_path / "old"))


def test_every_commit_is_read(old: Path) -> None:
    for number, rows in enumerate(commits(), start=1):
        assert content(old, number) == rows
    assert_sound(old)


def test_it_is_written_on(old: Path) -> None:
    rows = commits()[-1] | expected(batch(20, 2, layer=1))
    write(old, batch(20, 2, layer=1))
    assert content(old) == rows
    compact(old)
    prune(old)
    assert content(old) == rows
    assert_sound(old)


def test_the_present_version_writes_the_same(tmp_path: Path) -> None:
    write_one(tmp_path / "new")
    for number, rows in enumerate(commits(), start=1):
        assert content(tmp_path / "new", number) == rows


def test_where_no_table_of_checksums_is_a_page_has_its_own(old: Path) -> None:
    """A compaction names the tail of an old shard that it leaves as it is: without a table."""
    compact(old)
    (entry,) = (entry for entry in manifests.latest(old).shards if entry.dtype == "float32")
    flip(old / entry.path, entry.pages[0][0] + 1)
    with pytest.raises(DamageError, match="the vectors of its rows 0 to 1, in row group 0"):
        content(old)


def test_a_later_version_is_refused_in_words(old: Path) -> None:
    path = old / "manifests" / "0000000004.json"
    path.write_text(re.sub(r'"version": \d+', '"version": 99', path.read_text(), count=1))
    with pytest.raises(CorruptStoreError, match=r"version 99, .* upgrade actstore"):
        open_snapshot(old)
    with pytest.raises(CorruptStoreError, match="upgrade actstore"):
        write(old, batch(20, 2))
    assert manifests.numbers(old) == [1, 2, 3, 4]


if __name__ == "__main__":
    write_one(Path(sys.argv[1]))
