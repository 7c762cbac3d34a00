"""Changes of rows that the repository holds in others' shards: a push writes them into these."""

from __future__ import annotations

from pathlib import Path

import pytest

import actstore
from actstore.errors import RemoteChangedError
from actstore.storage import converting
from actstore.storage.compaction import compact
from actstore.storage.snapshot import open_snapshot
from tests.hub.pulling import assert_whole, of, pull_from
from tests.hub.pushing import push_to, remote_content
from tests.hub.test_row_merge import drop, label, rename
from tests.hub_server import Hub
from tests.storage.stores import batch, content, write

pytestmark = pytest.mark.usefixtures("lfs", "quick_retries")
SOME = "example_id IN ('e1', 'e2', 'e3')"


@pytest.fixture
def store(hub: Hub, tmp_path: Path) -> Path:
    root = tmp_path / "runs.store"
    write(root, *[batch(0, 5, layer=layer, label="ok") for layer in range(2)])
    push_to(hub, root)
    return root


@pytest.fixture
def some(hub: Hub, store: Path, tmp_path: Path) -> Path:
    """Rows of it, chosen by a condition."""
    root = tmp_path / "some.store"
    pull_from(hub, root, where=SOME)
    return root


def test_labels_and_drops_of_chosen_rows_go_up(
    hub: Hub, store: Path, some: Path, tmp_path: Path
) -> None:
    label(some, "graded", "e1")
    drop(some, example_id="e2")
    mine = content(some)
    done = push_to(hub, some)
    assert (done.sent, done.removed) == (2, 3)  # both shards, and the manifest before
    found = remote_content(hub, tmp_path / "after")
    assert found == {k: v for k, v in content(store).items() if k[3] in ("e0", "e4")} | mine
    assert push_to(hub, some).commit is None
    pull_from(hub, some, where=SOME)
    assert content(some) == mine
    assert_whole(some)
    pull_from(hub, store)
    assert content(store) == found


def test_other_metadata_of_chosen_rows_goes_up(
    hub: Hub, store: Path, some: Path, tmp_path: Path
) -> None:
    rename(some, "question", "Which?", example_id="e1")
    rename(some, "variant", "v", example_id="e2")
    push_to(hub, some)
    remote_content(hub, tmp_path / "after")
    table = actstore.open(tmp_path / "after").select(layer=0)
    rows = table.table(["example_id", "variant", "question"]).to_pylist()
    found = {(row["example_id"], row["variant"]): row["question"] for row in rows}
    assert found == {
        ("e0", None): "What is it?",
        ("e1", None): "Which?",
        ("e2", "v"): "What is it?",
        ("e3", None): "What is it?",
        ("e4", None): "What is it?",
    }


def test_changes_of_chosen_rows_outlast_a_pull(
    hub: Hub, store: Path, some: Path, tmp_path: Path
) -> None:
    label(some, "graded", "e1")
    drop(some, example_id="e2")
    compact(some)
    label(store, "theirs", "e3")
    push_to(hub, store)
    with pytest.raises(RemoteChangedError, match="actstore pull"):
        push_to(hub, some)
    pull_from(hub, some, where=SOME)
    labels = {key[3]: row[2] for key, row in content(some).items()}
    assert labels == {"e1": "graded", "e3": "theirs"}
    push_to(hub, some)
    found = remote_content(hub, tmp_path / "after")
    assert found.keys() == {key for key in content(store) if key[3] != "e2"}
    labels = {key[3]: row[2] for key, row in of(found, layer=1).items()}
    assert labels == {"e0": "ok", "e1": "graded", "e3": "theirs", "e4": "ok"}


def test_rows_that_were_rounded_here_stay_as_they_are_there(
    hub: Hub, store: Path, some: Path, tmp_path: Path
) -> None:
    before = content(store)
    converting.convert(open_snapshot(some), "int8")
    label(some, "graded", "e1")
    push_to(hub, some)
    remote_content(hub, tmp_path / "after")
    found = actstore.open(tmp_path / "after").select().table(["example_id", "label", "norm"])
    old = actstore.open(store).select().table(["norm"])
    assert found["norm"].to_pylist() == old["norm"].to_pylist()
    after = content(tmp_path / "after")
    assert {key: row[:2] for key, row in after.items()} == {k: r[:2] for k, r in before.items()}
    assert {key[3] for key, row in after.items() if row[2] == "graded"} == {"e1"}
