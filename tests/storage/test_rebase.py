"""The second of two writers leaves out what the first has brought."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actstore.errors import ConflictError, LayoutError
from actstore.storage import key_hashes, partition, shard
from actstore.storage.remembered import Remembered
from actstore.storage.rows import Added, RowBatch
from actstore.storage.snapshot import open_snapshot
from actstore.storage.writer import StoreWriter
from tests.storage.stores import (
    RUN,
    assert_sound,
    batch,
    card_files,
    content,
    expected,
    live_files,
    write,
)


def behind(root: Path, ours: list[RowBatch], theirs: list[RowBatch]) -> StoreWriter:
    """Return a session that has added ``ours`` while another has committed ``theirs``."""
    session = StoreWriter(root, run=RUN)
    for one in ours:
        session.add(one)
    write(root, *theirs)
    return session


@pytest.mark.parametrize("started", [True, False], ids=["a store", "a new store"])
def test_different_rows_both_go_in(tmp_path: Path, started: bool) -> None:
    root = tmp_path / "s"
    if started:
        write(root, batch(90, 3))
    session = behind(root, [batch(0, 5)], [batch(5, 5), batch(0, 5, layer=9)])
    assert session.commit(operation="ingest", message="") == 2 + started
    assert session.overtaken == 0
    session.close()
    both = expected(batch(0, 10), batch(0, 5, layer=9))
    assert content(root) == (expected(batch(90, 3)) if started else {}) | both
    assert_sound(root)
    assert card_files(root)["metadata"] == live_files(root)


def test_the_same_rows_are_stored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "GROUP_BYTES", 32)
    root = tmp_path / "s"
    session = behind(
        root,
        [batch(0, 9, label="kept"), batch(0, 2, layer=8), batch(0, 3, layer=9)],
        [batch(2, 4), batch(8, 9), batch(0, 2, layer=8)],
    )
    assert session.commit(operation="ingest", message="") == 2
    assert session.overtaken == 7
    assert session.add(batch(0, 17)).present == 17
    session.close()
    assert content(root) == (
        expected(batch(0, 9, label="kept"), batch(0, 3, layer=9))
        | expected(batch(2, 4), batch(8, 9), batch(0, 2, layer=8))
    )
    assert_sound(root)
    assert card_files(root)["metadata"] == live_files(root)
    found = {file.relative_to(root).as_posix() for file in (root / "activations").rglob("*.*")}
    assert found == set(live_files(root))


def test_all_rows_overtaken_make_no_commit(tmp_path: Path) -> None:
    root = tmp_path / "s"
    session = behind(root, [batch(0, 5)], [batch(0, 6)])
    assert session.commit(operation="ingest", message="") is None
    assert session.overtaken == 5
    assert session.add(batch(5, 2))[:4] == Added(1, 1, 0)[:4]
    assert session.commit(operation="ingest", message="") == 2
    session.close()
    assert content(root) == expected(batch(0, 7))
    assert len(list((root / "activations").rglob("*.parquet"))) == 2


def test_halves_and_singles_of_the_same_values_are_the_same_rows(tmp_path: Path) -> None:
    root = tmp_path / "s"
    half = batch(0, 3)
    wide = RowBatch(
        vectors=half.vectors.astype(np.float32), constants=half.constants, columns=half.columns
    )
    session = behind(root, [half], [wide])
    assert session.commit(operation="ingest", message="") is None
    session.close()
    assert content(root) == expected(wide)


def test_another_vector_for_a_key_is_named_and_refused(tmp_path: Path) -> None:
    root = tmp_path / "s"
    session = behind(root, [batch(0, 5), batch(0, 5, layer=9)], [batch(3, 1, seed=1)])
    message = r"another writer has just stored this row .* example_id=e3, layer=3"
    with pytest.raises(ConflictError, match=message):
        session.commit(operation="ingest", message="")
    session.close()
    assert content(root) == expected(batch(3, 1, seed=1))
    assert_sound(root)
    assert len(list((root / "activations").rglob("*.parquet"))) == 1


def test_another_width_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "s"
    session = behind(root, [batch(0, 5)], [batch(5, 5, width=9)])
    message = r"vectors of width 9 for org/model, resid_post, layer 3, these have width 8"
    with pytest.raises(LayoutError, match=message):
        session.commit(operation="ingest", message="")
    session.close()
    assert content(root) == expected(batch(5, 5, width=9))


def test_several_commits_later(tmp_path: Path) -> None:
    """Each new shard of the others is looked at once, compacted ones too."""
    from actstore.storage.compaction import compact

    root = tmp_path / "s"
    write(root, batch(0, 2))
    session = behind(root, [batch(0, 2), batch(2, 9)], [batch(3, 2)])
    write(root, batch(6, 1))
    compact(root)
    write(root, batch(9, 1))
    session.commit(operation="ingest", message="")
    assert session.overtaken == 4
    session.close()
    assert content(root) == expected(batch(0, 11))
    assert_sound(root)
    assert open_snapshot(root).rows == 11


def test_others_are_looked_at_behind_one_that_has_none_of_our_rows(tmp_path: Path) -> None:
    root = tmp_path / "s"
    session = behind(root, [batch(0, 5)], [batch(20, 2)])
    write(root, batch(3, 4))
    session.commit(operation="ingest", message="")
    assert session.overtaken == 2
    session.close()
    assert content(root) == expected(batch(0, 7), batch(20, 2))


def test_hashes_that_collide_do_not_deceive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_hashes, "_hash", lambda value: key_hashes._NULL)
    # Other tests' shards are equal.
    monkeypatch.setattr(partition, "_known", Remembered(1 << 20, partition._weight))
    key_hashes._cell.cache_clear()
    try:
        root = tmp_path / "s"
        session = behind(root, [batch(0, 5)], [batch(3, 4)])
        session.commit(operation="ingest", message="")
        assert session.overtaken == 2
        session.close()
        assert content(root) == expected(batch(0, 7))
        session = behind(root, [batch(20, 5)], [batch(23, 1, seed=1), batch(30, 3)])
        with pytest.raises(ConflictError, match="example_id=e23"):
            session.commit(operation="ingest", message="")
        session.close()
    finally:
        key_hashes._cell.cache_clear()
