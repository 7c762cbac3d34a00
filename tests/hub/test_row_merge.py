"""Both sides have changed the same shards: a pull brings them together row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import actstore
from actstore.errors import RemoteChangedError
from actstore.storage import pruning
from actstore.storage.compaction import compact
from actstore.storage.dropping import drop_rows
from actstore.storage.renaming import NewValues, Renaming
from actstore.storage.snapshot import open_snapshot
from tests.hub.pulling import assert_whole, of, pull_from
from tests.hub.pushing import push_to, relabel, remote_content
from tests.hub_server import Hub
from tests.storage.stores import Content, batch, content, write
from tests.storage.undoing import rows_of

pytestmark = pytest.mark.usefixtures("lfs", "quick_retries")


def drop(root: Path, **wanted: object) -> None:
    drop_rows(open_snapshot(root), rows_of(root, **wanted))


def label(root: Path, text: str, *examples: str) -> None:
    rows = np.concatenate([rows_of(root, example_id=name) for name in examples])
    relabel(root, rows.tolist(), text)


def rename(root: Path, column: str, value: str, **wanted: object) -> None:
    rows = rows_of(root, **wanted)
    values = NewValues(rows=rows, columns={column: [value] * len(rows)})
    Renaming(open_snapshot(root), values).commit("renamed")


def labels(rows: Content, layer: int = 0) -> dict[str, object]:
    return {key[3]: row[2] for key, row in of(rows, layer=layer).items()}


@pytest.fixture
def store(hub: Hub, tmp_path: Path) -> Path:
    root = tmp_path / "runs.store"
    write(root, *[batch(0, 5, layer=layer, label="ok") for layer in range(2)])
    push_to(hub, root)
    return root


@pytest.fixture
def copy(hub: Hub, store: Path, tmp_path: Path) -> Path:
    """Somebody else's, pulled."""
    root = tmp_path / "copy.store"
    pull_from(hub, root)
    return root


@pytest.mark.parametrize("pruned", [False, True])
def test_a_dropped_row_does_not_come_back_with_the_labels_of_others(
    hub: Hub, store: Path, copy: Path, tmp_path: Path, pruned: bool
) -> None:
    label(store, "graded", "e1", "e2")
    push_to(hub, store)
    drop(copy, example_id="e1")
    label(copy, "mine", "e3")
    if pruned:  # what both had is to be read from the repository's history
        pruning.erase(copy)
    done = pull_from(hub, copy)
    assert (done.duplicates, done.removed) == (8, 0)
    mine = {"e0": "ok", "e2": "graded", "e3": "mine", "e4": "ok"}
    for layer in range(2):
        assert labels(content(copy), layer) == mine
    assert_whole(copy)
    assert not pull_from(hub, copy).changed
    push_to(hub, copy)
    assert remote_content(hub, tmp_path / "after") == content(copy)
    pull_from(hub, store)
    assert content(store) == content(copy)


def test_a_row_that_others_dropped_goes_from_a_compacted_store(
    hub: Hub, store: Path, copy: Path, tmp_path: Path
) -> None:
    write(copy, batch(7, 2, layer=0, label="own"))
    compact(copy)
    drop(store, example_id="e1")
    drop(store, layer=1)
    push_to(hub, store)
    pull_from(hub, copy)
    names = {"e0": "ok", "e2": "ok", "e3": "ok", "e4": "ok", "e7": "own", "e8": "own"}
    assert labels(content(copy)) == names
    assert_whole(copy)
    push_to(hub, copy)
    assert remote_content(hub, tmp_path / "after") == content(copy)


def test_labels_of_others_reach_a_compacted_store(hub: Hub, store: Path, copy: Path) -> None:
    write(copy, batch(7, 2, layer=0))
    compact(copy)
    label(store, "graded", "e1", "e2")
    push_to(hub, store)
    label(copy, "mine", "e2")
    done = pull_from(hub, copy)
    assert done.relabelled == 1  # of layer 1, of which there is one shard still
    mine = {
        "e0": "ok",
        "e1": "graded",
        "e2": "mine",
        "e3": "ok",
        "e4": "ok",
        "e7": None,
        "e8": None,
    }
    assert labels(content(copy)) == mine
    assert len(of(content(copy), layer=0)) == 7


def test_other_metadata_of_others_reaches_a_compacted_store(
    hub: Hub, store: Path, copy: Path, tmp_path: Path
) -> None:
    write(copy, batch(7, 2, layer=0))
    compact(copy)
    rename(store, "question", "Which?", example_id="e1")
    rename(store, "question", "Theirs?", example_id="e2")
    rename(store, "variant", "v", example_id="e3")
    push_to(hub, store)
    rename(copy, "question", "Mine?", example_id="e2")
    label(copy, "mine", "e1")
    pull_from(hub, copy)
    push_to(hub, copy)
    for root in (copy, tmp_path / "copy again"):
        if root != copy:
            pull_from(hub, root)
        assert_whole(root)
        rows = actstore.open(root).select(layer=0).table(["example_id", "variant", "question"])
        found = {(r["example_id"], r["variant"]): r["question"] for r in rows.to_pylist()}
        assert found == {
            ("e0", None): "What is it?",
            ("e4", None): "What is it?",
            ("e7", None): "What is it?",
            ("e8", None): "What is it?",
            ("e1", None): "Which?",
            ("e2", None): "Mine?",
            ("e3", "v"): "What is it?",
        }
        assert labels(content(root))["e1"] == "mine"


def test_a_choice_of_rows_leaves_dropped_ones_out_and_a_push_waits(
    hub: Hub, store: Path, copy: Path, tmp_path: Path
) -> None:
    label(copy, "graded", "e2")
    push_to(hub, copy)
    drop(store, example_id="e1")
    left = content(store)
    pull_from(hub, store, where="example_id IN ('e1', 'e2')")
    assert content(store).keys() == left.keys()
    assert labels(content(store))["e2"] == "graded"
    with pytest.raises(RemoteChangedError, match="actstore pull"):
        push_to(hub, store)
    pull_from(hub, store)
    push_to(hub, store)
    assert content(store).keys() == left.keys()
    assert remote_content(hub, tmp_path / "after") == content(store)


def test_a_choice_of_rows_of_another_branch_brings_no_dropped_row_back(
    hub: Hub, store: Path
) -> None:
    push_to(hub, store, revision="side")
    pull_from(hub, store, revision="side", where="example_id = 'e4'")
    drop(store, example_id="e1")
    left = content(store)
    pull_from(hub, store, where="example_id IN ('e1', 'e2')")  # the first one of main
    assert content(store) == left


def test_an_earlier_state_does_not_make_a_store_forget_what_it_dropped(
    hub: Hub, store: Path, copy: Path, tmp_path: Path
) -> None:
    write(store, batch(7, 3, layer=0, label="later"))
    push_to(hub, store)
    drop(store, example_id="e1")
    drop(store, example_id="e8")
    left = content(store)
    pull_from(hub, store, at=1)
    assert labels(content(store)).keys() == {"e0", "e2", "e3", "e4"}
    with pytest.raises(RemoteChangedError, match="earlier state"):
        push_to(hub, store)
    pull_from(hub, store)
    assert content(store) == left
    assert_whole(store)
    push_to(hub, store)
    assert remote_content(hub, tmp_path / "after") == left
    pull_from(hub, copy)
    assert content(copy) == left


def test_what_was_dropped_before_an_earlier_state_was_looked_at_does_not_go_up_again(
    hub: Hub, store: Path, copy: Path, tmp_path: Path
) -> None:
    drop(store, example_id="e1")
    write(store, batch(7, 3, layer=0, label="later"))
    push_to(hub, store)
    left = content(store)
    pull_from(hub, store, at=1)
    assert content(store) == content(copy)
    label(store, "graded", "e2")
    drop(store, example_id="e3")
    with pytest.raises(RemoteChangedError):
        push_to(hub, store)
    assert remote_content(hub, tmp_path / "meanwhile") == left
    pull_from(hub, store)
    push_to(hub, store)
    found = remote_content(hub, tmp_path / "after")
    assert found == content(store)
    assert found.keys() == {key for key in left if key[3] != "e3"}
    assert labels(found)["e2"] == "graded"


def test_a_push_to_a_new_branch_from_an_earlier_state_removes_nothing(
    hub: Hub, store: Path, copy: Path, tmp_path: Path
) -> None:
    write(copy, batch(7, 3, layer=0, label="later"))
    push_to(hub, copy)
    before = content(copy)
    pull_from(hub, copy, at=1)
    assert content(copy) == content(store)
    push_to(hub, copy, revision="side")
    assert remote_content(hub, tmp_path / "side", "side") == before


def test_labels_go_to_a_branch_that_was_left_for_one_that_has_them(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    label(store, "graded", "e1")
    push_to(hub, store, revision="side")
    pull_from(hub, store)
    pull_from(hub, store, revision="side")
    push_to(hub, store)
    assert labels(remote_content(hub, tmp_path / "after"))["e1"] == "graded"


def test_what_a_pull_of_a_branch_takes_away_stays_on_another(
    hub: Hub, store: Path, copy: Path, tmp_path: Path
) -> None:
    write(copy, batch(7, 2, layer=0))
    compact(copy)
    push_to(hub, copy, revision="side")
    drop(copy, example_id="e7")
    drop(store, example_id="e1")
    push_to(hub, store)
    pull_from(hub, copy)
    push_to(hub, copy, revision="side")
    found = remote_content(hub, tmp_path / "side", "side")
    assert "e1" in labels(found)
