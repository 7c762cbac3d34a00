"""A pulled store holds what was asked for, bit for bit, and only that was transferred."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import actstore
from actstore.analysis.examples import lineages
from actstore.analysis.examples.place_rows import RowChoice
from actstore.analysis.steering import validation, vector_files, vectors
from actstore.errors import (
    CommitError,
    NotInStoreError,
    RemoteStoreError,
    SqlError,
    StoreError,
    TransferError,
    UsageError,
)
from actstore.hub.fetch import Fetch
from actstore.storage import manifest as manifests
from actstore.storage.compaction import compact
from actstore.storage.snapshot import open_snapshot
from tests.analysis import labelled
from tests.hub.publishing import moved
from tests.hub.pulling import assert_whole, of, pull_from, several
from tests.hub.pushing import ID, client, commits, push_to
from tests.hub_server import Hub, faults
from tests.storage.stores import batch, content, write

pytestmark = pytest.mark.usefixtures("lfs", "quick_retries")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return several(tmp_path / "origin.store")


def test_a_pulled_store_is_the_pushed_one(hub: Hub, store: Path, tmp_path: Path) -> None:
    push_to(hub, store)
    hub.reset()
    done = pull_from(hub, tmp_path / "p")
    found = assert_whole(tmp_path / "p")
    assert content(tmp_path / "p") == content(store)
    there = manifests.load(store)
    assert found.shards == there.shards
    assert done.received == moved(hub) == sum(entry.bytes for entry in there.shards)
    assert (done.fetched, done.rows, done.local_commit, done.changed) == (4, 41, 1, True)
    assert [run.run_id for run in found.runs][:-1] == [run.run_id for run in there.runs]
    settings = found.runs[-1].settings
    assert (found.runs[-1].kind, settings["repository"], settings["revision"]) == (
        "pull",
        ID,
        "main",
    )
    assert settings["commit"] == done.commit == hub.head(ID).oid
    opened = actstore.open(tmp_path / "p")
    assert len(opened.select(layer=1, model="org/model").numpy(copy=False)) == 12


def test_pulling_again_changes_and_transfers_nothing(hub: Hub, store: Path, tmp_path: Path) -> None:
    push_to(hub, store)
    pull_from(hub, tmp_path / "p")
    hub.reset()
    again = pull_from(hub, tmp_path / "p")
    assert (again.changed, again.fetched, again.received, again.local_commit) == (False, 0, 0, 1)
    assert moved(hub) == 0
    assert push_to(hub, tmp_path / "p").commit is None
    assert commits(hub) == 1


@pytest.mark.parametrize(
    ("part", "wanted"),
    [
        ({"layers": [1]}, {"layer": 1}),
        ({"layers": [None]}, {"layer": None}),
        ({"models": ["b/other"]}, {"model": "b/other"}),
        ({"sites": ["resid_post"], "layers": [0]}, {"layer": 0}),
        ({"sites": ["blocks.2.hook_resid_post"]}, {"layer": 2}),
    ],
)
def test_only_the_shards_of_a_part_are_fetched(
    hub: Hub, store: Path, tmp_path: Path, part: dict[str, Any], wanted: dict[str, object]
) -> None:
    push_to(hub, store)
    hub.reset()
    done = pull_from(hub, tmp_path / "p", **part)
    assert_whole(tmp_path / "p")
    assert content(tmp_path / "p") == of(content(store), **wanted)
    assert done.fetched == 1
    assert moved(hub) == sum(entry.bytes for entry in open_snapshot(tmp_path / "p").shards)


def test_rows_that_meet_a_condition_are_fetched_by_ranges(hub: Hub, tmp_path: Path) -> None:
    root = tmp_path / "s"
    for layer in range(2):
        write(root, *(batch(0, 300, layer=layer, width=512, label="no", task="t"),))
        write(root, batch(300, 9, layer=layer, width=512, label="yes", task="t"))
    compact(root)
    push_to(hub, root)
    before = manifests.load(root)
    hub.reset()
    done = pull_from(hub, tmp_path / "p", where="label = 'yes' AND layer = 1")
    assert_whole(tmp_path / "p")
    expected = {k: row for k, row in of(content(root), layer=1).items() if row[2] == "yes"}
    assert content(tmp_path / "p") == expected
    assert len(expected) == 9
    tails = sum(entry.bytes - entry.vector_bytes for entry in before.shards)
    assert done.received == moved(hub) <= tails + 2 * 9 * 1024
    # The rows still say which run made them, and that run is described.
    table = actstore.open(tmp_path / "p").select().table()
    assert set(table["run_id"].to_pylist()) == {"run"}
    assert {run.run_id for run in before.runs} <= {
        run.run_id for run in manifests.load(tmp_path / "p").runs
    }
    assert push_to(hub, tmp_path / "p").commit is None


def test_rows_that_a_vector_was_made_of_are_known_after_push_and_pull(
    hub: Hub, tmp_path: Path
) -> None:
    root = tmp_path / "s"
    # Without questions or data sets, their run alone tells examples apart.
    labelled.layered(root, {1: 0.0}, rows=40, width=32, question=[None] * 40)
    with actstore.open(root) as opened:
        made = vectors.steer(opened, choice=RowChoice(where="example_id < 'e3'"))
        own = lineages.shared(opened.select(), made.vectors[0].made_of, made.lineage["group_by"])
    vector_files.save(made, tmp_path / "run")
    push_to(hub, root)
    pull_from(hub, tmp_path / "p")
    pull_from(hub, tmp_path / "part", where="example_id >= 'e25'")
    for name, left in (("p", 40 - own.sum()), ("part", None)):
        with actstore.open(tmp_path / name) as opened:
            (one,) = validation.validate(opened, tmp_path / "run").layers
        assert one.in_sample.rows
        assert left is None or (one.examples, one.in_sample.rows) == (left, own.sum())


def test_a_condition_that_all_rows_of_a_shard_meet_takes_the_shard(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    push_to(hub, store)
    pull_from(hub, tmp_path / "p", where="layer = 1 OR example_id = 'e3'")
    found = assert_whole(tmp_path / "p")
    names = {entry.path for entry in manifests.load(store).shards}
    assert sorted(entry.rows for entry in found.shards) == [1, 1, 1, 12]
    assert {entry.rows for entry in found.shards if entry.path in names} == {12}


def test_a_compressed_repository(hub: Hub, store: Path, tmp_path: Path) -> None:
    push_to(hub, store, archive=True)
    pull_from(hub, tmp_path / "p")
    assert_whole(tmp_path / "p")
    assert content(tmp_path / "p") == content(store)
    pull_from(hub, tmp_path / "q", where="example_id = 'e2'")
    assert content(tmp_path / "q") == of(content(store), example_id="e2")
    assert all(entry.pages for entry in assert_whole(tmp_path / "q").shards)
    assert push_to(hub, tmp_path / "p").commit is None


def test_two_pulls_into_one_store_do_not_meet(
    hub: Hub, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_to(hub, store)
    fetch = Fetch.fetch

    def second(self: Fetch, wanted: object) -> object:
        with pytest.raises(CommitError, match=r"another pull .* is under way"):
            pull_from(hub, tmp_path / "p")
        return fetch(self, wanted)  # type: ignore[arg-type]

    monkeypatch.setattr(Fetch, "fetch", second)
    pull_from(hub, tmp_path / "p")
    assert_whole(tmp_path / "p")


def test_an_interrupted_pull_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    root = tmp_path / "s"
    write(root, batch(0, 4000, layer=0, width=128), batch(0, 10, layer=1, width=128))
    push_to(hub, root)
    size = max(entry.bytes for entry in manifests.load(root).shards)
    seen: list[int] = []

    def interrupt(done: int, total: int) -> None:
        seen.append(done)
        if done > size // 2:
            raise KeyboardInterrupt

    hub.faults.add(faults.pace(20 << 20), origin="objects", times=None)
    with pytest.raises(KeyboardInterrupt):
        pull_from(hub, tmp_path / "p", progress=interrupt)
    assert manifests.numbers(tmp_path / "p") == []
    hub.reset()
    done = pull_from(hub, tmp_path / "p", progress=lambda done, total: seen.append(done))
    assert 0 < done.received == moved(hub) < size
    assert any(entry.range for entry in hub.log.entries(origin="objects"))
    assert content(tmp_path / "p") == content(root)
    assert_whole(tmp_path / "p")


def test_a_damaged_object_is_fetched_once_more_and_then_refused(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    push_to(hub, store)
    hub.faults.add(faults.flip(700), origin="objects")
    pull_from(hub, tmp_path / "p", layers=[0])
    assert_whole(tmp_path / "p")
    before = content(tmp_path / "p")
    hub.faults.add(faults.flip(700), origin="objects", times=None)
    with pytest.raises(TransferError, match="arrives damaged"):
        pull_from(hub, tmp_path / "p")
    assert content(tmp_path / "p") == before
    hub.faults.clear()
    pull_from(hub, tmp_path / "p")
    assert content(tmp_path / "p") == content(store)


def test_no_room_is_said_before_anything_is_fetched(
    hub: Hub, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    push_to(hub, store)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    hub.reset()
    with pytest.raises(CommitError, match=r"has 1,000 bytes free, and the pull needs .* --layers"):
        pull_from(hub, tmp_path / "p")
    assert moved(hub) == 0


def test_what_cannot_be_pulled_leaves_nothing_behind(hub: Hub, store: Path, tmp_path: Path) -> None:
    push_to(hub, store)
    for options, error in (
        ({"layers": [77]}, NotInStoreError),
        ({"models": ["none"]}, NotInStoreError),
        ({"where": "this is no condition"}, SqlError),
        ({"revision": "none"}, LookupError),
        ({"source": "alice/none"}, LookupError),
        ({"source": f"hf://datasets/{ID}@v1", "revision": "v2"}, UsageError),
        ({"source": f"hf://datasets/{ID}/manifests"}, UsageError),
        ({"source": "no-slash"}, UsageError),
    ):
        with pytest.raises(error):
            pull_from(hub, tmp_path / "p", **options)
        assert not (tmp_path / "p").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(StoreError, match=r"thesis\.tex"):
        pull_from(hub, tmp_path / "full")
    hub.create("alice/empty")
    with pytest.raises(RemoteStoreError, match="holds no store"):
        pull_from(hub, tmp_path / "p", "alice/empty")


def test_a_private_repository_needs_its_token(hub: Hub, store: Path, tmp_path: Path) -> None:
    push_to(hub, store, private=True)
    for token in (False, "hf_other"):
        with pytest.raises(LookupError) as caught:
            pull_from(hub, tmp_path / "p", client=client(hub, token))
        assert "hf_other" not in str(caught.value)
    pull_from(hub, tmp_path / "p", client=client(hub, "hf_read"))
    assert content(tmp_path / "p") == content(store)


def test_the_card_comes_along_and_what_was_written_here_stays(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    push_to(hub, store, license="cc-by-4.0")
    text = hub.read(ID, "README.md").decode()
    hub.commit(ID, {"README.md": text.replace("# Activations of", "# About\n\nOf").encode()})
    folder = tmp_path / "p"
    pull_from(hub, folder)
    card = (folder / "README.md").read_text()
    assert "license: cc-by-4.0" in card or 'license: "cc-by-4.0"' in card
    assert "# About" in card
    (folder / "README.md").write_text(f"{card}\nMy notes.\n")
    write(store, batch(60, 1))
    push_to(hub, store)
    pull_from(hub, folder)
    assert "My notes." in (folder / "README.md").read_text()
    assert_whole(folder)


def test_the_metadata_file_of_a_pulled_store_is_as_at_home(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    push_to(hub, store)
    pull_from(hub, tmp_path / "p")
    ours = pq.read_table(open_snapshot(store).metadata_file())
    theirs = pq.read_table(open_snapshot(tmp_path / "p").metadata_file())
    assert theirs.equals(ours)
