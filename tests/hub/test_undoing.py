"""What was dropped, renamed or gone back from stays so, whatever is pulled or pushed after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actstore
from actstore.storage import manifest as manifests
from actstore.storage import pruning
from actstore.storage.compaction import compact
from actstore.storage.dropping import drop_rows
from actstore.storage.going_back import go_back
from actstore.storage.renaming import NewValues, Renaming
from actstore.storage.snapshot import open_snapshot
from tests.hub.pulling import assert_whole, of, pull_from
from tests.hub.pushing import push_to, relabel, remote_content
from tests.hub_server import Hub
from tests.storage.stores import batch, content, write
from tests.storage.undoing import rows_of

pytestmark = pytest.mark.usefixtures("lfs", "quick_retries")


def drop(root: Path, **wanted: object) -> None:
    drop_rows(open_snapshot(root), rows_of(root, **wanted))


def renamed(root: Path, columns: dict[str, str], **wanted: object) -> None:
    rows = rows_of(root, **wanted)
    values = NewValues(rows=rows, columns={name: [to] * len(rows) for name, to in columns.items()})
    Renaming(open_snapshot(root), values).commit("renamed")


@pytest.fixture
def store(hub: Hub, tmp_path: Path) -> Path:
    root = tmp_path / "runs.store"
    write(root, *[batch(0, 6, layer=layer, label="ok") for layer in range(3)])
    push_to(hub, root)
    return root


def test_dropped_rows_leave_the_repository_with_the_next_push(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    pull_from(hub, copy)
    relabel(store, [0, 7], "bad")
    drop(store, example_id="e2")
    drop(store, layer=2)
    pruning.erase(store, caches=True)
    push_to(hub, store)
    left = content(store)
    assert len(left) == 10
    assert remote_content(hub, tmp_path / "after") == left
    pull_from(hub, copy)
    assert content(copy) == left
    assert_whole(copy)
    assert push_to(hub, store).commit is None


@pytest.mark.parametrize("how", [{}, {"layers": [0, 1]}, {"where": "example_index IS NULL"}])
def test_a_pull_does_not_bring_dropped_rows_back(
    hub: Hub, store: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    copy = tmp_path / "copy"
    pull_from(hub, copy, **how)
    drop(copy, example_id="e2")
    drop(copy, layer=1)
    left = content(copy)
    pull_from(hub, copy, **how)
    assert content(copy) == left
    write(store, batch(6, 2, layer=0))
    push_to(hub, store)
    pull_from(hub, copy, **how)
    assert content(copy) == left | of(content(store), layer=0, example_id="e6") | of(
        content(store), layer=0, example_id="e7"
    )
    assert_whole(copy)


def test_dropped_rows_of_a_pulled_store_leave_the_repository_too(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    pull_from(hub, copy)
    drop(copy, example_id="e2")
    push_to(hub, copy)
    assert remote_content(hub, tmp_path / "after") == content(copy)
    pull_from(hub, store)
    assert content(store) == content(copy)


def test_renamed_rows_go_up_and_come_down(hub: Hub, store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    pull_from(hub, copy)
    rows = rows_of(store, layer=1)
    values = NewValues(rows=rows, columns={"site": ["attn_out"] * len(rows)})
    Renaming(open_snapshot(store), values).commit("renamed")
    push_to(hub, store)
    assert remote_content(hub, tmp_path / "after") == content(store)
    pull_from(hub, copy)
    assert content(copy) == content(store)
    rows = rows_of(copy, example_id="e0")
    values = NewValues(rows=rows, columns={"variant": ["v"] * len(rows)})
    Renaming(open_snapshot(copy), values).commit("renamed")
    left = content(copy)
    pull_from(hub, copy)
    assert content(copy) == left


def test_going_back_goes_up(hub: Hub, store: Path, tmp_path: Path) -> None:
    before = content(store)
    write(store, batch(0, 2, layer=7))
    push_to(hub, store)
    go_back(store, 1)
    assert content(store) == before
    push_to(hub, store)
    assert remote_content(hub, tmp_path / "after") == before


def test_going_back_from_a_pull_stays_so(hub: Hub, store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    write(copy, batch(0, 3, layer=9))
    own = content(copy)
    pull_from(hub, copy)
    assert len(content(copy)) == 21
    go_back(copy, 1)
    assert content(copy) == own
    number = manifests.latest(copy).number
    pull_from(hub, copy)
    assert np.isin(list(range(1, number + 1)), manifests.numbers(copy)).all()
    assert content(copy) == own


@pytest.mark.parametrize("what", ["rows", "labels"])
def test_renamed_rows_of_a_choice_stay_when_others_change_the_layer(
    hub: Hub, store: Path, tmp_path: Path, what: str
) -> None:
    copy = tmp_path / "copy"
    where = "layer = 1 AND example_id IN ('e0', 'e1', 'e7')"
    pull_from(hub, copy, where=where)
    renamed(copy, {"question": "mine?"}, example_id="e0")
    renamed(copy, {"variant": "v"}, example_id="e1")
    before = actstore.open(copy).select().table(["example_id", "variant", "question"])
    number = manifests.latest(copy).number
    assert pull_from(hub, copy, where=where).fetched == 0
    assert manifests.latest(copy).number == number
    if what == "rows":
        write(store, batch(6, 2, layer=1))
    else:
        relabel(store, [6], "changed")  # e0 of layer 1
    push_to(hub, store)
    pull_from(hub, copy, where=where)
    assert_whole(copy)
    after = actstore.open(copy).select().table(["example_id", "variant", "question"]).to_pylist()
    for row in before.to_pylist():
        assert after.count(row) == 1
    more = [row["example_id"] for row in after if row not in before.to_pylist()]
    assert more == (["e7"] if what == "rows" else [])  # e1 has another name here


def test_what_came_by_a_condition_and_was_compacted_is_not_fetched_again(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    where = "layer = 1 AND example_id IN ('e0', 'e1')"
    pull_from(hub, copy, where=where)
    write(copy, batch(9, 2, layer=1))
    compact(copy)
    assert len(manifests.latest(copy).shards) == 1
    drop(copy, example_id="e1")
    left = content(copy)
    assert pull_from(hub, copy, where=where).fetched == 0
    assert content(copy) == left


def test_what_was_pushed_and_dropped_does_not_come_back_by_a_condition(
    hub: Hub, store: Path
) -> None:
    renamed(store, {"variant": "v"}, example_id="e1")
    drop(store, example_id="e2")
    left = content(store)
    pull_from(hub, store, where="example_id IN ('e1', 'e2', 'e3')")
    assert content(store) == left


def test_a_row_that_was_left_out_of_a_pull_comes_when_the_stores_own_goes(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    write(other, batch(0, 2, layer=1, label="ok"), batch(7, 1, layer=1))  # e0 and e1 are there
    push_to(hub, other, revision="side")
    pull_from(hub, other, revision="side")
    assert {key[3] for key in of(content(other), layer=1)} == {*(f"e{n}" for n in range(6)), "e7"}
    pull_from(hub, other)  # of main, to which nobody has brought e7
    assert content(other) == content(store)
