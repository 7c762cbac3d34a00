"""Stores that came from the repository go back to it: whole, in part, changed on both sides."""

from __future__ import annotations

from pathlib import Path

import pytest

from actstore.errors import RemoteChangedError, TransferError
from actstore.hub.pull import Pulled
from actstore.hub.pull import pull as pull_from
from actstore.storage import compaction
from actstore.storage import manifest as manifests
from tests.hub.pushing import ID, client, commits, push_to, relabel, remote_content, uploads
from tests.hub_server import Hub, faults
from tests.storage.stores import batch, content, write

pytestmark = pytest.mark.usefixtures("lfs", "quick_retries")


def pull(hub: Hub, folder: Path, **options: object) -> Pulled:
    return pull_from(ID, folder, client=client(hub), **options)  # type: ignore[arg-type]


@pytest.fixture
def store(pushed: Path) -> Path:
    return pushed


def test_a_pulled_store_is_unchanged(hub: Hub, store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    pull(hub, copy)
    assert push_to(hub, copy).commit is None
    assert commits(hub) == 1


def test_a_pulled_store_is_extended_and_goes_back(hub: Hub, store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    pull(hub, copy)
    write(copy, batch(6, 3, layer=1), batch(0, 3, layer=9))
    relabel(copy, [0], "bad")
    hub.reset()
    assert push_to(hub, copy).removed >= 1
    assert uploads(hub) == 3
    assert remote_content(hub, tmp_path / "after") == content(copy)
    pull(hub, store)
    assert content(store) == content(copy)
    assert push_to(hub, store).commit is None


def test_a_part_goes_back_without_taking_the_rest_along(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    part = tmp_path / "part"
    pull(hub, part, layers=[1, 2])
    assert push_to(hub, part).commit is None
    relabel(part, [0, 1], "bad")
    write(part, batch(6, 2, layer=2))
    expected = content(store) | content(part)
    push_to(hub, part)
    assert remote_content(hub, tmp_path / "after") == expected
    compaction.compact(part)
    push_to(hub, part)
    assert remote_content(hub, tmp_path / "compacted") == expected
    pull(hub, store)
    assert content(store) == expected


def test_a_selection_of_rows_goes_back(hub: Hub, store: Path, tmp_path: Path) -> None:
    some = tmp_path / "some"
    pull(hub, some, where="example_id IN ('e2', 'e4') AND layer = 1")
    assert len(content(some)) == 2
    assert push_to(hub, some).commit is None
    write(some, batch(50, 2, layer=1))
    push_to(hub, some)
    assert remote_content(hub, tmp_path / "after") == content(store) | content(some)


def test_both_sides_relabel_and_a_pull_brings_them_together(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    pull(hub, other)
    relabel(other, [0], "theirs")
    push_to(hub, other)
    relabel(store, [1], "ours")
    with pytest.raises(RemoteChangedError, match="actstore pull"):
        push_to(hub, store)
    pull(hub, store)
    push_to(hub, store)
    found = remote_content(hub, tmp_path / "after")
    assert sorted(label for _, _, label in found.values() if label != "ok") == ["ours", "theirs"]
    assert found == content(store)


def test_labels_survive_a_push_that_failed_before_it_was_refused(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    """However often it failed, they lie beside the shards that both sides had."""
    other = tmp_path / "other"
    pull(hub, other)
    for row, label in ((1, "first"), (2, "second")):
        relabel(store, [row], label)
        hub.faults.add(faults.status(400), method="POST", path="/commit/")
        with pytest.raises(TransferError):
            push_to(hub, store)
    relabel(store, [3], "beside")
    relabel(other, [0], "theirs")
    push_to(hub, other)
    with pytest.raises(RemoteChangedError):
        push_to(hub, store)
    expected = content(store)
    assert sorted(label for _, _, label in expected.values() if label != "ok") == [
        "beside",
        "first",
        "second",
    ]
    pull(hub, store)
    push_to(hub, store)
    found = remote_content(hub, tmp_path / "after")
    assert found == content(store)
    changed = [key for key in found if found[key] != expected[key]]
    assert [found[key][2] for key in changed] == ["theirs"]


def test_both_sides_compact(hub: Hub, store: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write(store, batch(6, 2, layer=0))
    push_to(hub, store)
    pull(hub, other)
    for root in (store, other):
        compaction.compact(root)
    push_to(hub, other)
    with pytest.raises(RemoteChangedError):
        push_to(hub, store)
    expected = content(store)
    pull(hub, store)
    push_to(hub, store)
    assert remote_content(hub, tmp_path / "after") == content(store) == expected
    assert manifests.load(store).rows == 24


def test_an_archive_comes_back_as_it_is(hub: Hub, store: Path, tmp_path: Path) -> None:
    push_to(hub, store, archive=True)
    copy = tmp_path / "copy"
    pull(hub, copy)
    assert content(copy) == content(store)
    assert push_to(hub, copy).commit is None
    write(copy, batch(6, 1, layer=0))
    assert push_to(hub, copy).sent == 1
    pull(hub, store)
    assert content(store) == content(copy)
    assert push_to(hub, store).commit is None
