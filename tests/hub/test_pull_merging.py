"""A pull into a store that holds things: both sides' work stays, and nothing twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actstore.errors import ConflictError, RemoteStoreError, SnapshotNotFoundError
from actstore.hub.fetch import Fetch
from actstore.storage import layout
from actstore.storage import manifest as manifests
from actstore.storage.compaction import compact
from actstore.storage.labels import set_labels
from actstore.storage.manifest import Run
from actstore.storage.snapshot import open_snapshot
from tests.hub.publishing import moved, publish
from tests.hub.pulling import assert_whole, of, pull_from, several
from tests.hub.pushing import ID, push_to, relabel, remote_content
from tests.hub_server import Hub
from tests.storage.stores import batch, content, write

pytestmark = pytest.mark.usefixtures("lfs", "quick_retries")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return several(tmp_path / "origin.store")


def test_parts_add_up_and_are_brought_up_to_date(hub: Hub, store: Path, tmp_path: Path) -> None:
    push_to(hub, store)
    folder = tmp_path / "p"
    pull_from(hub, folder, layers=[0])
    pull_from(hub, folder, where="layer = 2 AND example_id IN ('e1', 'e2')")
    write(store, batch(20, 4, layer=0), batch(20, 4, layer=1))
    relabel(store, [5 + 2 * 16 + 1], "changed")  # e1 of layer 2
    push_to(hub, store)
    done = pull_from(hub, folder, layers=[0])
    assert_whole(folder)
    everything = content(store)
    two = {key: row for key, row in of(everything, layer=2).items() if key[3] in ("e1", "e2")}
    assert content(folder) == of(everything, layer=0) | two
    assert sorted(row[2] for row in two.values()) == ["changed", "l2"]
    assert (done.fetched, done.removed) == (2, 1)
    pull_from(hub, folder)
    assert content(folder) == everything
    assert [entry.path for entry in assert_whole(folder).shards] == [
        entry.path for entry in manifests.load(store).shards
    ]


def test_what_the_repository_gave_up_goes_and_what_is_new_comes(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    push_to(hub, store)
    folder = tmp_path / "p"
    pull_from(hub, folder)
    relabel(store, [0, 13], "graded")
    write(store, batch(50, 3, layer=7))
    push_to(hub, store)  # writes the labels into two shards, which so become others
    hub.reset()
    done = pull_from(hub, folder)
    assert (done.fetched, done.removed, done.local_commit) == (3, 2, 2)
    assert content(folder) == content(store)
    assert assert_whole(folder).shards == manifests.load(store).shards
    assert content(folder, 1) != content(folder)  # the earlier commit can still be read
    assert moved(hub) < sum(entry.bytes for entry in manifests.load(folder).shards)


def test_rows_and_labels_of_ones_own_survive(hub: Hub, store: Path, tmp_path: Path) -> None:
    push_to(hub, store)
    folder = tmp_path / "p"
    pull_from(hub, folder)
    write(folder, batch(70, 4, layer=0), batch(70, 4, layer=9))
    relabel(folder, [5, 6, 7], "mine")  # e0 to e2 of layer 0
    relabel(store, [6, 8, 9], "theirs")  # e1, e3 and e4
    push_to(hub, store)
    done = pull_from(hub, folder)
    found = content(folder)
    assert_whole(folder)
    assert done.relabelled == 3
    assert len(of(found, layer=0)) == 16
    assert len(of(found, layer=9)) == 4
    labels = {key[3]: row[2] for key, row in of(found, layer=0).items()}
    assert [labels[f"e{n}"] for n in range(6)] == ["mine", "mine", "mine", "theirs", "theirs", "l0"]
    # Both sides' work ends up in the repository.
    push_to(hub, folder)
    pull_from(hub, tmp_path / "q")
    assert content(tmp_path / "q") == found


def test_labels_of_rows_that_a_revision_does_not_have_come_back_with_them(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    push_to(hub, store)
    hub.repository(ID).create_ref("refs/tags/v1", hub.head(ID).oid)
    first = content(store)
    write(store, batch(50, 2, layer=5))
    push_to(hub, store)
    folder = tmp_path / "p"
    pull_from(hub, folder)
    relabel(folder, [n for n, key in enumerate(content(folder)) if key not in first], "mine")
    graded = content(folder)
    done = pull_from(hub, folder, revision="v1")
    assert (done.removed, done.relabelled) == (1, 0)
    assert content(folder) == first
    assert_whole(folder)
    pull_from(hub, folder)
    assert content(folder) == graded


def test_a_label_that_the_repository_has_by_now_is_not_ones_own(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    push_to(hub, store)
    folder = tmp_path / "p"
    pull_from(hub, folder)
    relabel(folder, [0], "first")
    push_to(hub, folder)
    pull_from(hub, store)
    relabel(store, [0], "second")
    push_to(hub, store)
    done = pull_from(hub, folder)
    assert done.relabelled == 0
    assert content(folder) == content(store)


def test_rows_that_are_here_already_are_not_stored_twice(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    push_to(hub, store)
    folder = tmp_path / "p"
    write(folder, batch(0, 12, layer=0), batch(4, 4, layer=1))  # layer 0 wholly, some of layer 1
    done = pull_from(hub, folder)
    assert done.duplicates == 16
    found = content(folder)
    assert found.keys() == content(store).keys()
    assert all(found[key][:2] == row[:2] for key, row in content(store).items())
    hub.reset()
    again = pull_from(hub, folder)
    assert (again.changed, again.fetched) == (False, 0)
    assert moved(hub) == 0
    # And what is pushed is not what is there already.
    assert push_to(hub, folder).sent == 0


def test_a_row_with_another_vector_is_refused_and_nothing_changes(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    from actstore.errors import ConflictError

    push_to(hub, store)
    folder = tmp_path / "p"
    write(folder, batch(3, 1, layer=1, seed=9))
    before = content(folder)
    with pytest.raises(ConflictError, match=r"different vector: .*e3.*nothing was pulled"):
        pull_from(hub, folder)
    assert content(folder) == before
    assert manifests.numbers(folder) == [1]
    other = tmp_path / "q"
    write(other, batch(0, 1, layer=1, width=3))
    with pytest.raises(ConflictError, match=r"width 3 .* of width 8"):
        pull_from(hub, other)
    # What was fetched is still there for another try.
    hub.reset()
    pull_from(hub, folder, layers=[0])
    assert moved(hub) == 0
    assert len(content(folder)) == 13


def test_a_store_that_was_compacted_is_not_fetched_anew(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    write(store, batch(30, 3, layer=0))
    push_to(hub, store)
    folder = tmp_path / "p"
    pull_from(hub, folder)
    pull_from(hub, folder, where="layer = 0")
    compact(folder)
    before = content(folder)
    hub.reset()
    done = pull_from(hub, folder)
    assert (done.fetched, done.changed, moved(hub)) == (0, False, 0)
    assert content(folder) == before


def test_revisions_and_earlier_commits_take_each_others_place(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    push_to(hub, store)
    hub.repository(ID).create_ref("refs/tags/v1", hub.head(ID).oid)
    first = content(store)
    relabel(store, [0], "later")
    write(store, batch(50, 2, layer=5))
    push_to(hub, store)
    folder = tmp_path / "p"
    write(folder, batch(99, 1, layer=9))
    own = content(folder)
    pull_from(hub, folder)
    assert content(folder) == content(store) | own
    pull_from(hub, folder, revision="v1")
    assert content(folder) == first | own
    hub.reset()
    pull_from(hub, folder)
    assert moved(hub) == 0  # the shards lie here still
    assert content(folder) == content(store) | own
    pull_from(hub, folder, at=1)
    assert content(folder) == first | own
    assert_whole(folder)
    with pytest.raises(SnapshotNotFoundError, match="never held commit 77"):
        pull_from(hub, folder, at=77)
    # Having looked at an old version does not undo anything in the repository.
    pull_from(hub, folder, revision="v1")
    pull_from(hub, folder)
    push_to(hub, folder)
    assert remote_content(hub, tmp_path / "copy") == content(store) | own


def test_two_repositories_in_one_store(hub: Hub, tmp_path: Path) -> None:
    write(tmp_path / "a", batch(0, 6, layer=0))
    write(tmp_path / "b", batch(4, 6, layer=0), batch(0, 2, layer=1))
    push_to(hub, tmp_path / "a", "alice/a")
    push_to(hub, tmp_path / "b", "alice/b")
    folder = tmp_path / "p"
    pull_from(hub, folder, "alice/a")
    assert pull_from(hub, folder, "alice/b").duplicates == 2
    assert content(folder) == content(tmp_path / "a") | content(tmp_path / "b")
    for name in ("alice/a", "alice/b"):
        assert not pull_from(hub, folder, name).changed
    assert_whole(folder)


def test_labels_beside_the_shards_of_a_repository_are_written_in(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    set_labels(open_snapshot(store), np.array([0, 20]), ["a", None], message="")
    publish(hub, store)
    folder = tmp_path / "p"
    pull_from(hub, folder)
    found = assert_whole(folder)
    assert not found.labels
    assert content(folder) == content(store)
    assert not pull_from(hub, folder).changed
    set_labels(open_snapshot(store), np.array([1]), ["b"], message="")
    publish(hub, store)
    pull_from(hub, folder)
    assert content(folder) == content(store)


def test_another_writer_in_between_loses_nothing(
    hub: Hub, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_to(hub, store)
    folder = tmp_path / "p"
    write(folder, batch(80, 2, layer=0))
    fetch = Fetch.fetch
    publishing = manifests.publish
    late: list[bool] = []

    def slow(self: Fetch, wanted: object) -> object:
        found = fetch(self, wanted)  # type: ignore[arg-type]
        write(folder, batch(0, 2, layer=1))  # rows that the pull brings too
        return found

    def publish_late(root: Path, *rest: object) -> bool:
        if not late:
            late.append(True)
            relabel(folder, [0], "while it merged")
        return publishing(root, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Fetch, "fetch", slow)
    monkeypatch.setattr(manifests, "publish", publish_late)
    done = pull_from(hub, folder)
    monkeypatch.undo()
    assert done.duplicates == 2
    assert_whole(folder)
    found = content(folder)
    assert found.keys() == content(store).keys() | {k for k in found if k[3] in ("e80", "e81")}
    assert "while it merged" in {row[2] for row in found.values()}


def test_runs_of_the_repository_are_kept_and_foreign_memories_are_not(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    write(store, batch(90, 1), run=Run(run_id="capture", kind="capture", started_at="2026"))
    push_to(hub, store)
    pull_from(hub, tmp_path / "p", layers=[0])
    write(tmp_path / "p", batch(91, 1))
    push_to(hub, tmp_path / "p")  # with its memory of having pulled one layer
    pull_from(hub, tmp_path / "q")
    assert content(tmp_path / "q").keys() > content(store).keys()
    runs = {run.run_id for run in assert_whole(tmp_path / "q").runs}
    assert {"run", "capture"} <= runs


def test_another_file_under_a_name_that_the_store_has_is_noticed(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(layout, "new_transaction", lambda: "0123456789ab01234567")
        for seed, name in enumerate(("one", "two")):
            write(tmp_path / name, batch(0, 4, layer=0, seed=seed), batch(0, 4, layer=1))
            push_to(hub, tmp_path / name, f"alice/{name}")
    folder = tmp_path / "p"
    pull_from(hub, folder, "alice/one")
    before = manifests.load(folder)
    for choice in ({}, {"layers": [0]}):
        with pytest.raises(RemoteStoreError, match="holds another file as activations/"):
            pull_from(hub, folder, "alice/two", **choice)
    assert manifests.load(folder) == before
    with pytest.raises(ConflictError, match="different vector"):
        pull_from(hub, folder, "alice/two", where="layer = 0 AND example_id = 'e1'")
    pull_from(hub, folder, "alice/two", layers=[1])  # the very same file
    assert content(folder) == content(tmp_path / "one")


def test_an_archived_copy_of_what_the_store_has_is_the_same(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    push_to(hub, store)
    push_to(hub, store, "alice/archived", archive=True)
    folder = tmp_path / "p"
    pull_from(hub, folder)
    assert pull_from(hub, folder, "alice/archived").fetched == 0
    assert content(folder) == content(store)
