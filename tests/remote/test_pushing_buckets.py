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
