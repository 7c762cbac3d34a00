"""Pulls into stores that were pushed, and between branches: nothing is lost, nor there twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actstore.errors import RemoteChangedError
from actstore.querying.changes import Drop
from tests.hub.pulling import assert_whole, of, pull_from, several
from tests.hub.pushing import push_to, relabel, remote_content
from tests.hub_server import Hub
from tests.storage.stores import batch, content, write

pytestmark = pytest.mark.usefixtures("lfs", "quick_retries")


@pytest.fixture
def store(hub: Hub, tmp_path: Path) -> Path:
    """A store that was pushed, and never pulled into."""
    root = several(tmp_path / "origin.store")
    push_to(hub, root)
    return root


@pytest.fixture
def other(hub: Hub, store: Path, tmp_path: Path) -> Path:
    """Somebody else's copy, in which every row is relabelled."""
    root = tmp_path / "other.store"
    pull_from(hub, root)
    relabel(root, list(range(len(content(root)))), "theirs")
    return root


def test_chosen_rows_of_shards_that_are_here_do_not_come_twice(hub: Hub, store: Path) -> None:
    relabel(store, [5, 6], "mine")
    before = content(store)
    done = pull_from(hub, store, where="example_id IN ('e1', 'e2')")
    assert (done.fetched, done.duplicates) == (0, 0)
    assert_whole(store)
    assert content(store) == before
    pull_from(hub, store)
    assert content(store) == before


@pytest.mark.parametrize("choice", [{"layers": [1]}, {"where": "layer = 1 AND example_id = 'e1'"}])
def test_what_was_pushed_and_not_asked_for_stays(
    hub: Hub, store: Path, other: Path, choice: dict[str, Any]
) -> None:
    before = content(store)
    push_to(hub, other)  # all shards are others now
    pull_from(hub, store, **choice)
    found = content(store)
    assert found.keys() == before.keys()
    labels = {key[7]: row[2] for key, row in found.items()}
    assert labels[0] == "l0"
    assert labels[1] == ("theirs" if "layers" in choice else "l1")
    with pytest.raises(RemoteChangedError):  # a push does not undo what was not brought together
        push_to(hub, store)
    pull_from(hub, store)
    assert_whole(store)
    assert content(store) == content(other)


def test_a_shard_that_came_by_a_condition_goes_with_it(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "p"
    pull_from(hub, folder, where="label = 'l1'")
    assert content(folder) == of(content(store), layer=1)
    relabel(store, [5 + 12 + 3], "graded")  # e3 of layer 1
    push_to(hub, store)
    pull_from(hub, folder, where="label = 'l1'")
    assert_whole(folder)
    assert content(folder) == {
        key: row for key, row in of(content(store), layer=1).items() if key[3] != "e3"
    }


def test_sites_by_another_tools_name_are_what_was_asked_for(
    hub: Hub, store: Path, other: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "p"
    pull_from(hub, folder, sites=["hook_resid_post"])
    push_to(hub, other)
    pull_from(hub, folder, sites=["hook_resid_post"])
    assert content(folder) == of(content(other), site="resid_post")


def test_rows_that_a_push_to_a_branch_took_over_come_back_from_main(
    hub: Hub, store: Path, other: Path
) -> None:
    relabelled = content(other)
    push_to(hub, other, revision="side")
    pull_from(hub, other, revision="side")
    pull_from(hub, other)
    assert_whole(other)
    assert content(other) == content(store)
    pull_from(hub, other, revision="side")
    assert content(other) == relabelled


def test_dropped_rows_stay_dropped_when_others_change_the_layer(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    write(store, batch(30, 4, layer=1))
    push_to(hub, store)
    folder = tmp_path / "p"
    pull_from(hub, folder)
    Drop(folder, "layer = 1 AND example_id IN ('e1', 'e2')").apply()
    relabel(store, [number for number, key in enumerate(content(store)) if key[3] == "e31"], "new")
    push_to(hub, store)
    pull_from(hub, folder)
    dropped = [key for key in of(content(store), layer=1) if key[3] in ("e1", "e2")]
    assert content(folder) == {k: v for k, v in content(store).items() if k not in dropped}


def test_what_others_hold_on_a_branch_is_not_taken_to_be_on_main(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    pull_from(hub, copy)
    for root in (copy, store):
        Drop(root, "layer = 1 AND example_id = 'e1'").apply()
        push_to(hub, root, revision="side")  # the second time each row is there from the other
    before = content(store)
    pull_from(hub, store)
    push_to(hub, store)
    assert remote_content(hub, tmp_path / "there") == content(store) == before
