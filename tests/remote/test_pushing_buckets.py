"""Stores in buckets are pushed again and again, as those in folders are."""

from __future__ import annotations

from pathlib import Path

import pytest

import actstore
from actstore.errors import RemoteChangedError
from actstore.hub.push import push
from actstore.remote.syncing import sync
from actstore.remote.working import working
from tests.hub.pulling import pull_from
from tests.hub.pushing import ID, client, push_to
from tests.hub_server import Hub
from tests.remote.buckets import put_rows

pytestmark = pytest.mark.usefixtures("lfs", "quick_retries")


def push_bucket(hub: Hub, place: str) -> None:
    with working(place, there=True, history=True) as root:
        push(root, ID, client=client(hub))


def labels(hub: Hub, folder: Path) -> dict[str, str | None]:
    """Labels of the repository's rows, by example."""
    pull_from(hub, folder)
    with actstore.open(folder) as store:
        table = store.select().table(["example_id", "label"])
    return dict(zip(table["example_id"].to_pylist(), table["label"].to_pylist(), strict=True))


def test_labels_and_drops_reach_rows_that_went_without_those_of_others(
    hub: Hub, bucket: str, tmp_path: Path
) -> None:
    put_rows(tmp_path / "first", 0)
    push_to(hub, tmp_path / "first")
    place = f"{bucket}/runs"
    put_rows(place, 1, 5)  # e1 and e2 are there
    push_bucket(hub, place)
    with actstore.open(place) as store:
        store.label("'late'", "example_id = 'e3'")
        store.drop("example_id = 'e4'")
    push_bucket(hub, place)
    found = labels(hub, tmp_path / "found")
    assert found == {"e0": None, "e1": None, "e2": None, "e3": "late", "e5": None}


def test_what_others_dropped_is_not_brought_back(hub: Hub, bucket: str, tmp_path: Path) -> None:
    place = f"{bucket}/runs"
    put_rows(place, 0, 4)
    push_bucket(hub, place)
    other = tmp_path / "other"
    pull_from(hub, other)
    with actstore.open(other) as store:
        store.drop("example_id = 'e1'")
    push_to(hub, other)
    with pytest.raises(RemoteChangedError):
        push_bucket(hub, place)
    assert "e1" not in labels(hub, tmp_path / "found")
    # Brought together in a folder, it is pushed from the bucket again.
    sync(place, tmp_path / "copy")
    pull_from(hub, tmp_path / "copy")
    sync(tmp_path / "copy", place)
    put_rows(place, 7, 1)
    push_bucket(hub, place)
    assert "e7" in labels(hub, tmp_path / "found")


def rows(hub: Hub, folder: Path) -> list[tuple[str, str | None, str | None]]:
    """Example, variant and label of the repository's rows."""
    pull_from(hub, folder)
    with actstore.open(folder) as store:
        table = store.select().table(["example_id", "variant", "label"])
    return sorted(tuple(row.values()) for row in table.to_pylist())


@pytest.mark.parametrize("ways", ["folder", "bucket", "bucket and back"])
def test_a_synced_copy_pushes_what_changed_since_the_last_push(
    hub: Hub, bucket: str, tmp_path: Path, ways: str
) -> None:
    first = tmp_path / "first"
    put_rows(first, 0, 4)
    push_to(hub, first)
    with actstore.open(first) as store:
        store.drop("example_id = 'e0'")
        store.rename({"variant": "v"}, "example_id = 'e1'")
        store.label("'late'", "example_id = 'e2'")
    copy = str(tmp_path / "copy") if ways == "folder" else f"{bucket}/copy"
    sync(first, copy)  # the newest commit alone, which no longer names what was pushed
    if ways == "bucket and back":
        sync(copy, tmp_path / "back")
        copy = str(tmp_path / "back")
    push_bucket(hub, copy)
    expected = [("e1", "v", None), ("e2", None, "late"), ("e3", None, None)]
    assert rows(hub, tmp_path / "found") == expected
    sync(copy, first)
    assert push_to(hub, first).commit is None


def pushed_and_more(hub: Hub, tmp_path: Path) -> Path:
    """Return a store that was pushed, and has got a layer since."""
    first = tmp_path / "first"
    put_rows(first, 0, 2)
    push_to(hub, first)
    put_rows(first, 2, 2, layer=1)
    return first


def test_a_sync_does_not_make_a_copy_forget_a_push_of_its_own(
    hub: Hub, bucket: str, tmp_path: Path
) -> None:
    first, copy = pushed_and_more(hub, tmp_path), f"{bucket}/copy"
    sync(first, copy)
    push_bucket(hub, copy)
    put_rows(first, 4, 2, layer=2)
    sync(first, copy)
    with actstore.open(copy) as store:
        store.drop("example_id = 'e3'")
    push_bucket(hub, copy)
    assert [row[0] for row in rows(hub, tmp_path / "found")] == ["e0", "e1", "e2", "e4", "e5"]


def test_a_copy_that_is_brought_to_an_earlier_state_removes_nothing_up_there(
    hub: Hub, bucket: str, tmp_path: Path
) -> None:
    first, copy = pushed_and_more(hub, tmp_path), f"{bucket}/copy"
    push_to(hub, first)
    sync(first, copy)
    pull_from(hub, first, at=1)
    put_rows(first, 4, 1)
    sync(first, copy)
    push_bucket(hub, copy)
    assert [row[0] for row in rows(hub, tmp_path / "found")] == ["e0", "e1", "e2", "e3", "e4"]
