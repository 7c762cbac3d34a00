"""Labels set after capture: overlays over immutable shards, one commit each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from actstore.errors import CommitError, UsageError
from actstore.storage.compaction import compact
from actstore.storage.labels import set_labels
from actstore.storage.snapshot import open_snapshot
from tests.storage.stores import assert_sound, batch, card_files, content, live_files, write


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two shards, five rows and three."""
    root = tmp_path / "s"
    write(root, batch(0, 5, label="old"), batch(0, 3, layer=9))
    return root


def labels(root: Path, at: int | None = None) -> list[str | None]:
    return [label for _, _, label in content(root, at).values()]


def test_later_labels_lie_over_earlier_ones(store: Path) -> None:
    files = live_files(store)
    vectors = {key: found[1] for key, found in content(store).items()}
    assert set_labels(open_snapshot(store), np.array([6, 0]), ["a", "b"], message="one") == 2
    assert set_labels(open_snapshot(store), np.array([0, 1]), [None, "c"], message="two") == 3
    assert labels(store) == [None, "c", "old", "old", "old", None, "a", None]
    assert labels(store, at=2) == ["b", "old", "old", "old", "old", None, "a", None]
    assert labels(store, at=1) == ["old"] * 5 + [None] * 3
    assert {key: found[1] for key, found in content(store).items()} == vectors
    assert live_files(store) == files
    assert card_files(store)["metadata"] == files
    assert_sound(store)
    manifest = open_snapshot(store).manifest
    assert (manifest.operation, manifest.message) == ("label", "two")
    assert [entry.rows for entry in manifest.labels] == [2, 2]


def test_an_overlay_is_a_small_parquet_file_that_names_shards(store: Path) -> None:
    set_labels(open_snapshot(store), np.array([7, 5, 2]), ["x", "é", None], message="")
    (entry,) = open_snapshot(store).manifest.labels
    table = pq.read_table(store / entry.path)
    files = [shard.path for shard in open_snapshot(store).shards]
    assert table.to_pydict() == {
        "shard": [files[1], files[1], files[0]],
        "row": [2, 0, 2],
        "label": ["x", "é", None],
    }
    assert entry.bytes == (store / entry.path).stat().st_size


def test_rows_added_meanwhile_keep_theirs(store: Path) -> None:
    snapshot = open_snapshot(store)
    write(store, batch(5, 2, label="new"))
    set_labels(snapshot, np.arange(8), ["x"] * 8, message="")
    assert labels(store) == ["x"] * 5 + ["new"] * 2 + ["x"] * 3


def test_a_store_compacted_meanwhile_is_refused_and_unharmed(store: Path) -> None:
    snapshot = open_snapshot(store)
    write(store, batch(5, 2))
    compact(store)
    before = sorted(store.rglob("*.*"))
    with pytest.raises(CommitError, match="was compacted while the labels were prepared"):
        set_labels(snapshot, np.array([0]), ["x"], message="")
    assert sorted(store.rglob("*.*")) == before
    set_labels(open_snapshot(store), np.array([0]), ["x"], message="")
    assert labels(store)[0] == "x"


def test_labels_on_rows_that_compaction_left_alone_go_in(store: Path) -> None:
    """Only the shards of the labelled rows must still be there."""
    snapshot = open_snapshot(store)
    write(store, batch(5, 2))
    compact(store)
    assert set_labels(snapshot, np.array([6]), ["x"], message="") == 4
    assert labels(store)[8] == "x"


def test_nothing_to_label_makes_no_commit(store: Path) -> None:
    assert set_labels(open_snapshot(store), np.array([], np.int64), [], message="") is None
    assert open_snapshot(store).manifest.number == 1


@pytest.mark.parametrize("rows", [[-1], [8], [0, 1 << 40]])
def test_row_numbers_out_of_range(store: Path, rows: list[int]) -> None:
    with pytest.raises(UsageError, match="row numbers go from 0 to 7"):
        set_labels(open_snapshot(store), np.array(rows), ["x"] * len(rows), message="")
    with pytest.raises(UsageError, match="2 rows and 1 labels do not match"):
        set_labels(open_snapshot(store), np.array([0, 1]), ["x"], message="")
