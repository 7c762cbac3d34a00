"""Rows with a stored key and another vector take the stored ones' place, in one commit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actstore.errors import CommitError, ConflictError, DamageError, LayoutError
from actstore.storage import manifest as manifests
from actstore.storage.compaction import compact
from actstore.storage.labels import set_labels
from actstore.storage.rows import Added
from actstore.storage.snapshot import open_snapshot
from actstore.storage.writer import StoreWriter
from tests.storage.stores import RUN, assert_sound, batch, content, expected, write
from tests.storage.undoing import files_of, flip


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two shards of layer 1, one of layer 2, labels beside them."""
    root = tmp_path / "s"
    write(root, batch(0, 5, layer=1))
    write(root, batch(5, 4, layer=1), batch(0, 3, layer=2))
    set_labels(open_snapshot(root), np.array([1, 2, 10]), ["x", "y", "z"], message="")
    return root


def replacing(root: Path) -> StoreWriter:
    return StoreWriter(root, run=RUN, replace=True)


def refused_file(session: StoreWriter) -> None:
    """A file whose last rows do not fit."""
    with session.file():
        session.add(batch(0, 9, layer=1, seed=1))
        session.add(batch(20, 2, layer=1, width=3))


def test_in_one_commit_beside_rows_that_are_new_and_rows_that_are_there(store: Path) -> None:
    before = content(store)
    again, new, same = batch(2, 5, layer=1, seed=1), batch(9, 2, layer=1), batch(0, 1, layer=1)
    with replacing(store) as session:
        assert session.add(again)[:4] == Added(5, 0)[:4]
        assert session.add(new)[:4] == Added(2, 0)[:4]
        assert session.add(same)[:4] == Added(0, 1)[:4]
        assert session.add(again)[:4] == Added(0, 5, repeated=5)[:4]
        replaced = [(each.entry.rows, each.rows.tolist()) for each in session.replaced()]
        assert replaced == [(5, [2, 3, 4]), (4, [0, 1])]
        assert session.commit(operation="ingest", message="") == 4
        assert session.replaced() == []
        assert session.add(again)[:4] == Added(0, 5, repeated=5)[:4]
    assert content(store) == before | expected(again) | expected(new)
    assert content(store, at=3) == before
    assert [label for *_, label in content(store).values()].count("x") == 1
    assert_sound(store)


def test_a_source_that_contradicts_itself_is_a_conflict(store: Path) -> None:
    before = content(store)
    with replacing(store) as session:
        session.add(batch(0, 2, layer=1, seed=1))
        with pytest.raises(ConflictError, match="two rows have this key and different"):
            session.add(batch(1, 2, layer=1, seed=2))
        assert sum(len(each.rows) for each in session.replaced()) == 2
        session.commit(operation="ingest", message="")
    assert content(store) == before | expected(batch(0, 2, layer=1, seed=1))


def test_a_refused_file_replaces_nothing(store: Path) -> None:
    before = content(store)
    with replacing(store) as session:
        with pytest.raises(LayoutError, match="width 3"):
            refused_file(session)
        assert session.replaced() == []
        assert session.commit(operation="ingest", message="") is None
        session.add(batch(0, 3, layer=2, seed=1))
        session.commit(operation="ingest", message="")
    assert content(store) == before | expected(batch(0, 3, layer=2, seed=1))
    assert_sound(store)


def test_a_shard_that_others_changed_meanwhile_is_left_to_them(store: Path) -> None:
    with replacing(store) as session:
        session.add(batch(0, 2, layer=1, seed=1))
        compact(store)
        before = files_of(store)
        with pytest.raises(CommitError, match="changed by others"):
            session.commit(operation="ingest", message="")
    assert files_of(store) == before
    with replacing(store) as session:
        session.add(batch(0, 2, layer=1, seed=1))
        write(store, batch(0, 2, layer=8))
        assert session.commit(operation="ingest", message="") == 6
    assert_sound(store)


def test_damaged_shards_are_not_rewritten(store: Path) -> None:
    entry = manifests.latest(store).shards[0]
    with replacing(store) as session:
        session.add(batch(0, 2, layer=1, seed=1))
        flip(store / entry.path, entry.pages[0][0] + 70)
        before = files_of(store)
        with pytest.raises(DamageError, match=Path(entry.path).name):
            session.commit(operation="ingest", message="")
    assert files_of(store) == before
