"""A commit without some rows, whatever else is done to the store."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from actstore.errors import CommitError, UsageError
from actstore.storage import manifest as manifests
from actstore.storage import pruning, rewriting, shard, shard_columns
from actstore.storage.compaction import compact
from actstore.storage.dropping import drop_rows
from actstore.storage.labels import set_labels
from actstore.storage.manifest import Run
from actstore.storage.snapshot import open_snapshot
from actstore.storage.staging import Staging
from tests.storage.stores import (
    RUN,
    assert_sound,
    batch,
    card_commit,
    card_files,
    content,
    live_files,
    write,
)
from tests.storage.undoing import commits, files_of, holds, rows_of

SECRET = "Alice lives in Vilnius"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three shards of layer 1, one of layer 2, labels in overlays for some rows."""
    root = tmp_path / "s"
    write(root, batch(0, 5, layer=1))
    write(root, batch(5, 4, layer=1, label="l"))
    write(root, batch(9, 2, layer=1, dtype="float32"))
    write(root, batch(0, 6, layer=2))
    set_labels(open_snapshot(root), np.array([2, 6, 13]), ["x", "y", "z"], message="")
    set_labels(open_snapshot(root), np.array([2, 7]), [None, "w"], message="")
    return root


def test_the_rows_are_gone_and_all_others_are_as_they_were(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "GROUP_BYTES", 50)
    monkeypatch.setattr(rewriting, "_BLOCK_BYTES", 40)
    before = list(content(store).items())
    gone = [1, 6, 7, 9, 13]
    commit = drop_rows(open_snapshot(store), np.array([13, 1, 6, 9, 7, 7]))
    assert commit is not None
    assert commit.number == 7
    kept = [item for row, item in enumerate(before) if row not in gone]
    assert list(content(store).items()) == kept
    assert list(content(store, at=6).items()) == before
    assert_sound(store)
    assert card_commit(store) == 7
    assert card_files(store)["metadata"] == live_files(store)
    assert commits(store)[-1] == ("drop", "5 rows dropped")


def test_shards_that_lose_nothing_stay_the_files_they_are(store: Path) -> None:
    before = {entry.path: entry for entry in open_snapshot(store).shards}
    drop_rows(open_snapshot(store), np.array([9, 10]))
    after = {entry.path: entry for entry in open_snapshot(store).shards}
    assert len(after) == 3
    assert after.items() <= before.items()


def test_every_column_of_the_rows_left_survives(store: Path) -> None:
    before = pq.read_table(open_snapshot(store).metadata_file())
    drop_rows(open_snapshot(store), np.array([0, 4]))
    after = pq.read_table(open_snapshot(store).metadata_file())
    assert after.equals(before.take([1, 2, 3, *range(5, len(before))]))


def test_overlays_speak_of_shards_that_are_there(store: Path) -> None:
    drop_rows(open_snapshot(store), np.array([1]))
    latest = manifests.latest(store)
    spoken = set(shard_columns.overlays(store, latest.labels))
    assert spoken
    assert spoken <= {entry.path for entry in latest.shards}
    labels = [label for _, _, label in content(store).values()]
    assert labels == [None, None, None, None, "l", "y", "w", "l", None, None, None, None, "z",
                      None, None, None]  # fmt: skip
    compact(store)
    assert [label for _, _, label in content(store).values()] == labels


def test_everything_can_be_dropped_and_stored_again(store: Path) -> None:
    before = content(store)
    drop_rows(open_snapshot(store), np.arange(open_snapshot(store).rows))
    assert content(store) == {}
    latest = manifests.latest(store)
    assert (latest.shards, latest.labels, latest.runs) == ((), (), ())
    assert_sound(store)
    write(store, batch(0, 5, layer=1))
    assert content(store).keys() == set(list(before)[:5])


def test_runs_leave_with_their_last_row(tmp_path: Path) -> None:
    root = tmp_path / "s"
    for name, first in (("one", 0), ("two", 3)):
        run = Run(run_id=name, kind="ingest", started_at="", settings={"source": name})
        write(root, batch(first, 3), run=run)
    drop_rows(open_snapshot(root), np.array([0, 1, 3, 4, 5]))
    assert [run.run_id for run in manifests.latest(root).runs] == ["one"]


def test_nothing_to_drop_and_rows_that_are_not_there(store: Path) -> None:
    before = files_of(store)
    assert drop_rows(open_snapshot(store), np.array([], np.int64)) is None
    with pytest.raises(UsageError, match="row numbers go from 0 to 16, got -1 to 17"):
        drop_rows(open_snapshot(store), np.array([-1, 17]))
    assert files_of(store) == before


def test_rows_that_come_meanwhile_stay(store: Path) -> None:
    snapshot = open_snapshot(store)
    write(store, batch(50, 2, layer=1))
    set_labels(open_snapshot(store), np.array([12]), ["late"], message="")
    whole = content(store)
    drop_rows(snapshot, np.array([0]))
    del whole[next(iter(whole))]
    assert content(store) == whole
    assert_sound(store)


@pytest.mark.parametrize("other", ["compact", "label", "drop"])
def test_whoever_comes_second_gives_way(
    store: Path, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile() -> None:
        if other == "compact":
            compact(store)
        elif other == "label":
            set_labels(open_snapshot(store), np.array([3]), ["late"], message="")
        else:
            drop_rows(open_snapshot(store), np.array([4]))

    place = Staging.place

    def place_late(staging: Staging, files: dict[str, Path]) -> None:
        monkeypatch.setattr(Staging, "place", place)
        meanwhile()
        place(staging, files)

    monkeypatch.setattr(Staging, "place", place_late)
    with pytest.raises(CommitError, match="changed by others while this was prepared"):
        drop_rows(open_snapshot(store), np.array([0]))
    assert manifests.latest(store).number == 7
    assert_sound(store)
    named: set[str] = set()
    for commit in map(partial(manifests.load, store), manifests.numbers(store)):
        named |= {entry.path for entry in commit.shards} | {entry.path for entry in commit.labels}
    assert set(pruning.stored_files(store)) == named


def test_no_byte_of_a_dropped_row_is_left_after_erasing(tmp_path: Path) -> None:
    """The text stands in shards, an overlay, caches, a report, a run and folders' names."""
    root = tmp_path / "s"
    word = SECRET.split()[0]
    mine = Run(run_id="r2", kind="ingest", started_at="", settings={"source": f"/data/{SECRET}"})
    write(root, batch(0, 5, layer=1))
    write(root, batch(5, 3, layer=1, question=SECRET, extra=f'{{"note": "{SECRET}"}}'), run=mine)
    write(root, batch(5, 3, layer=1, model=word, question=SECRET), run=mine)
    rows = rows_of(root, question=SECRET)
    set_labels(open_snapshot(root), np.array([*rows, 8]), [SECRET] * 6 + ["kept"], message=SECRET)
    compact(root)
    (root / "reports").mkdir()
    (root / "reports/a.json").write_text(f'{{"first_row": {{"question": "{SECRET}!"}}}}')
    (root / "reports/b.json").write_text('{"first_row": {"question": "What is it?"}}')
    (root / "reports/c.json").write_text('{"first_row": {"example_id": "e6"}}')
    (root / "reports/d.json").write_text("{broken")
    (root / ".cache/pull").mkdir(parents=True)
    (root / ".cache/pull/part").write_text(SECRET)
    (root / ".cache/.metadata-0.parquet.draft").write_text(SECRET)
    (root / "notes.txt").write_text("mine")
    for at in (4, 5):
        open_snapshot(root, at).metadata_file()
    assert len({name.split("/")[0] for name in holds(root, word)}) >= 5
    kept = {key: cells for key, cells in content(root).items() if key[3] not in ("e5", "e6", "e7")}
    drop_rows(open_snapshot(root), rows_of(root, question=SECRET))
    assert holds(root, SECRET)
    gone = pruning.erase(root, caches=True)
    assert holds(root, SECRET) == []
    assert holds(root, word) == []
    assert content(root) == kept
    assert_sound(root)
    assert gone.commits == (1, 2, 3, 4, 5)
    assert gone.reports == ("reports/a.json", "reports/c.json", "reports/d.json")
    assert "pull/part" in "".join(gone.caches)
    assert gone.foreign == ("notes.txt",)
    assert manifests.numbers(root) == [6]
    assert pruning.erase(root, caches=True).files == ()


def test_erasing_after_a_crash_does_the_rest(store: Path) -> None:
    """Killed after the commit: the rows are gone from it, and nobody can name them any more."""
    (store / "reports").mkdir()
    report = store / "reports/a.json"
    report.write_text('{"first_row": {"example_id": "e9"}}')
    drop_rows(open_snapshot(store), rows_of(store, example_id="e9"))
    gone = pruning.erase(store)
    assert gone.reports == ("reports/a.json",)
    assert not report.exists()


def test_writers_that_are_at_work_keep_what_they_have_placed(store: Path) -> None:
    from actstore.storage.writer import StoreWriter

    with StoreWriter(store, run=RUN) as session:
        session.add(batch(70, 3, layer=5))
        place = session._change._staging.place

        def place_and_erase(files: dict[str, Path]) -> None:
            place(files)
            drop_rows(open_snapshot(store), np.array([0]))
            pruning.erase(store, caches=True)

        session._change._staging.place = place_and_erase  # type: ignore[method-assign]
        assert session.commit(operation="ingest", message="") == 8
    assert_sound(store)
    assert len(rows_of(store, layer=5)) == 3
