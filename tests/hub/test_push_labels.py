"""A push with labels: the store changes after it or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actstore.errors import HubError, RemoteChangedError, TransferError
from actstore.hub import origin
from actstore.hub.pull import pull
from actstore.remote.client import Client
from actstore.storage import compaction
from actstore.storage import manifest as manifests
from tests.hub.pulling import of
from tests.hub.pushing import (
    ID,
    client,
    commits,
    matching,
    push_to,
    relabel,
    remote_content,
    remote_manifest,
    uploads,
)
from tests.hub_server import Hub, faults
from tests.storage.stores import assert_sound, batch, content, write

pytestmark = pytest.mark.usefixtures("lfs", "quick_retries")


@pytest.fixture
def store(pushed: Path) -> Path:
    relabel(pushed, [5, 12], "bad")
    return pushed


def files(root: Path) -> dict[str, bytes]:
    """Every file of a store but the cache, and its bytes."""
    paths = (path for path in root.rglob("*") if path.is_file())
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    return {name: data for name, data in found.items() if not name.startswith(".cache/")}


def test_a_push_that_fails_has_not_changed_the_store(hub: Hub, store: Path) -> None:
    before = files(store)
    hub.faults.add(faults.status(400), method="POST", path="/commit/")
    with pytest.raises(TransferError):
        push_to(hub, store)
    assert files(store) == before
    hub.faults.clear()
    hub.faults.add(faults.status(403), path="/commit/")
    with pytest.raises(HubError):
        push_to(hub, store)
    assert files(store) == before


def test_a_push_that_is_refused_has_not_changed_the_store(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    pull(ID, other, client=client(hub))
    relabel(other, [0], "theirs")
    push_to(hub, other)
    before = files(store)
    with pytest.raises(RemoteChangedError):
        push_to(hub, store)
    assert files(store) == before


def test_interrupted_while_it_sends(hub: Hub, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(store)

    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("actstore.hub.upload.Uploads.send", interrupt)
    with pytest.raises(KeyboardInterrupt):
        push_to(hub, store)
    assert files(store) == before


def test_a_pull_request_does_not_change_the_store(hub: Hub, store: Path, tmp_path: Path) -> None:
    before, expected = files(store), content(store)
    done = push_to(hub, store, create_pr=True)
    assert done.folded == 2
    assert files(store) == before
    assert remote_content(hub, tmp_path / "pr", revision="refs/pr/1") == expected
    client(hub).api.merge_pull_request(ID, 1, repo_type="dataset")
    hub.reset()
    assert push_to(hub, store).commit is None  # it is there already
    assert uploads(hub) == 0
    matching_rows(hub, store, tmp_path / "merged")
    assert content(store) == expected


@contextlib.contextmanager
def at_the_commit(action: Any) -> Iterator[None]:
    """Do something in the store right after the Hub has made the commit."""
    with pytest.MonkeyPatch.context() as patch:
        call = Client.call

        def called(self: Client, doing: str, work: Any, **options: Any) -> Any:
            found = call(self, doing, work, **options)
            if doing.startswith("commit to"):
                action()
            return found

        patch.setattr(Client, "call", called)
        yield


def killed() -> None:
    """Stands for the end of the process."""
    raise KeyboardInterrupt


def test_killed_after_the_commit_and_pushed_again(hub: Hub, store: Path, tmp_path: Path) -> None:
    """What is up there is recognized, and the store takes it over now."""
    before, expected = files(store), content(store)
    with at_the_commit(killed), pytest.raises(KeyboardInterrupt):
        push_to(hub, store)
    assert files(store) == before
    assert commits(hub) == 2
    hub.reset()
    assert push_to(hub, store).commit is None
    assert uploads(hub) == 0
    assert commits(hub) == 2
    assert content(store) == expected
    matching_rows(hub, store, tmp_path / "copy")
    assert manifests.load(store).operation == "fold"
    relabel(store, [2], "later")
    assert push_to(hub, store).sent == 1
    matching_rows(hub, store, tmp_path / "later")


def test_killed_before_the_store_takes_over(
    hub: Hub, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store remembers by then what the repository holds, and a pull fetches nothing twice."""
    expected = content(store)
    with monkeypatch.context() as patch:
        patch.setattr("actstore.hub.label_folding.Folded.take_over", lambda self: killed())
        with pytest.raises(KeyboardInterrupt):
            push_to(hub, store)
    met = origin.load(store, ID, "main", client(hub).endpoint)
    assert met is not None
    assert set(met.shards) == {entry.path for entry in manifests.load(store).shards}
    assert pull(ID, store, client=client(hub)).fetched == 0
    assert content(store) == expected
    relabel(store, [2], "later")
    push_to(hub, store)
    matching_rows(hub, store, tmp_path / "copy")


def matching_rows(hub: Hub, store: Path, folder: Path) -> None:
    """A repository and a store hold the same rows, in shards of the same bytes."""
    assert remote_content(hub, folder) == content(store)
    here, there = manifests.load(store).shards, remote_manifest(hub).shards
    assert [entry.sha256 for entry in here] == [entry.sha256 for entry in there]
    assert_sound(store)


@pytest.mark.parametrize("what", ["rows", "labels", "compaction", "compaction and labels"])
def test_others_change_the_store_while_it_is_pushed(
    hub: Hub, store: Path, tmp_path: Path, what: str
) -> None:
    def change() -> None:
        if what == "rows":
            write(store, batch(20, 3, layer=1), batch(0, 2, layer=7))
        if "compaction" in what:
            compaction.compact(store)
        if "labels" in what:
            relabel(store, [3], "later")

    pushed = content(store)
    with at_the_commit(change):
        push_to(hub, store)
    assert remote_content(hub, tmp_path / "first") == pushed
    expected = content(store)
    assert expected.keys() >= pushed.keys()
    assert list((store / ".staging").iterdir()) == []
    done = push_to(hub, store)
    assert content(store) == expected
    matching_rows(hub, store, tmp_path / "second")
    assert done.theirs == 0
    assert push_to(hub, store).commit is None


def test_two_pushes_of_one_store_at_once(hub: Hub, store: Path, tmp_path: Path) -> None:
    """The second one finds everything there and lets the store take it over before the first."""
    expected = content(store)
    again: list[Path] = [store]

    def push_too() -> None:
        if again:
            push_to(hub, again.pop())

    with at_the_commit(push_too):
        push_to(hub, store)
    matching_rows(hub, store, tmp_path / "first")
    write(store, batch(30, 1, layer=0))
    push_to(hub, store)
    matching_rows(hub, store, tmp_path / "second")
    assert expected.items() <= content(store).items()
    assert push_to(hub, store).commit is None


def test_others_change_the_store_and_the_repository(hub: Hub, store: Path, tmp_path: Path) -> None:
    """Labels that are still beside the store's shards count as set there, and stay."""
    with at_the_commit(lambda: relabel(store, [7], "mine")):
        push_to(hub, store)
    other = tmp_path / "other"
    pull(ID, other, client=client(hub))
    relabel(other, [5], "theirs")
    push_to(hub, other)
    pull(ID, store, client=client(hub))
    labels = {key[3]: row[2] for key, row in of(content(store), layer=0).items()}
    assert (labels["e1"], labels["e3"]) == ("bad", "mine")
    push_to(hub, store)
    assert remote_content(hub, tmp_path / "after") == content(store)


def test_a_store_that_cannot_be_written_to_any_more_is_pushed_all_the_same(
    hub: Hub, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = content(store)

    def full(*arguments: object) -> bool:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(manifests, "publish", full)
        assert push_to(hub, store).sent == 2
    assert manifests.load(store).labels
    assert remote_content(hub, tmp_path / "copy") == content(store) == expected
    assert push_to(hub, store).commit is None
    matching_rows(hub, store, tmp_path / "again")


def test_a_card_that_cannot_be_written_does_not_undo_what_the_store_took_over(
    hub: Hub, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("actstore.storage.card.write", full)
        assert push_to(hub, store).sent == 2
    assert manifests.load(store).operation == "fold"
    met = origin.load(store, ID, "main", client(hub).endpoint)
    assert met is not None
    assert set(met.shards) == {entry.path for entry in manifests.load(store).shards}
    matching(hub, store, tmp_path / "copy")
    assert push_to(hub, store).commit is None


def test_rows_that_others_brought_are_left_out_of_rewritten_shards(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    write(other, batch(4, 4, layer=0), batch(4, 4, layer=9))
    relabel(other, [1], "theirs")
    before = content(other)
    done = push_to(hub, other, archive=True)
    assert (done.duplicates, done.folded) == (2, 1)
    assert content(other) == before
    assert not manifests.load(other).labels
    assert push_to(hub, other).commit is None


def test_a_plain_push_with_labels_leaves_both_sides_the_same(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    push_to(hub, store)
    matching(hub, store, tmp_path / "copy")
