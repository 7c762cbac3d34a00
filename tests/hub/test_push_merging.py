"""Several stores push to one repository: their union ends there, or a refusal says why."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from actstore.errors import (
    AccessError,
    ConflictError,
    RemoteChangedError,
    RemoteStoreError,
)
from actstore.hub.push import Pushed, push
from actstore.storage import compaction, pruning
from actstore.storage import manifest as manifests
from tests.hub.pulling import pull_from
from tests.hub.pushing import (
    ID,
    client,
    commits,
    push_to,
    relabel,
    remote_content,
    remote_manifest,
    uploads,
)
from tests.hub_server import Hub, faults
from tests.storage.stores import Content, batch, content, write

pytestmark = pytest.mark.usefixtures("lfs", "quick_retries")


@pytest.fixture
def one(tmp_path: Path) -> Path:
    root = tmp_path / "one.store"
    write(root, batch(0, 10, layer=0, label="one"), batch(0, 10, layer=1, label="one"))
    return root


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Rows 5 to 9 of layer 1 are in `one` too."""
    root = tmp_path / "two.store"
    write(root, batch(5, 10, layer=1, label="two"), batch(0, 10, layer=2, label="two"))
    return root


def union(*stores: Path) -> Content:
    """All rows; of those that several have, the first one's."""
    found: Content = {}
    for store in stores:
        found = content(store) | found
    return found


def test_a_second_store_adds_the_rows_that_are_not_there(
    hub: Hub, one: Path, two: Path, tmp_path: Path
) -> None:
    push_to(hub, one)
    before = content(two)
    done = push_to(hub, two)
    assert (done.theirs, done.duplicates, done.rows) == (2, 5, 35)
    assert remote_content(hub, tmp_path / "copy") == union(one, two)
    assert content(two) == before
    assert manifests.numbers(two) == [1]
    runs = [run.run_id for run in remote_manifest(hub).runs]
    assert len(runs) == len(set(runs))
    assert "| one | two |" in hub.read(ID, "README.md").decode().replace("task | ", "")
    for store in (two, one, two):
        assert push_to(hub, store).commit is None
    write(two, batch(40, 1, layer=2))
    write(one, batch(50, 1, layer=1))
    for store in (two, one):
        assert push_to(hub, store).sent == 1
    assert remote_content(hub, tmp_path / "more") == union(one, two)


def test_only_keys_travel_where_rows_do_not_meet(hub: Hub, tmp_path: Path) -> None:
    big, small = tmp_path / "big", tmp_path / "small"
    write(big, batch(0, 200, layer=1, width=4096))
    push_to(hub, big)
    write(small, batch(500, 2, layer=1, width=4096))
    hub.reset()
    push_to(hub, small)
    shard = remote_manifest(hub).shards[0]
    assert shard.bytes > 1_600_000
    assert 0 < hub.log.bytes_sent(origin="objects") < 40_000


def test_all_rows_there_already_is_nothing_to_push(hub: Hub, one: Path, tmp_path: Path) -> None:
    push_to(hub, one)
    same = tmp_path / "same"
    write(same, batch(0, 10, layer=1, label="one"))
    done = push_to(hub, same)
    assert (done.commit, done.duplicates, done.sent) == (None, 10, 0)
    assert commits(hub) == 1


def test_labels_written_after_a_merge_reach_the_rows_that_were_ours(
    hub: Hub, one: Path, two: Path, tmp_path: Path
) -> None:
    push_to(hub, one)
    push_to(hub, two)
    relabel(two, list(range(20)), "new")
    push_to(hub, two)
    assert remote_content(hub, tmp_path / "copy") == union(one, two)
    assert len(remote_manifest(hub).shards) == 4


def test_a_row_with_another_vector_is_refused_by_name(hub: Hub, one: Path, tmp_path: Path) -> None:
    push_to(hub, one)
    other = tmp_path / "other"
    write(other, batch(9, 2, layer=1, seed=5))
    with pytest.raises(ConflictError, match=r"alice/acts holds this row .*example_id=e9, layer=1"):
        push_to(hub, other)
    wide = tmp_path / "wide"
    write(wide, batch(100, 2, layer=1, width=16))
    with pytest.raises(ConflictError, match=r"width 8 .*width 16"):
        push_to(hub, wide)
    assert commits(hub) == 1


def test_what_others_have_rewritten_is_not_undone(hub: Hub, one: Path, tmp_path: Path) -> None:
    push_to(hub, one)
    copy = tmp_path / "copy.store"
    copy.mkdir()
    for path in [*one.rglob("*.parquet"), *one.rglob("*.json"), one / "README.md"]:
        target = copy / path.relative_to(one)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    relabel(copy, [0], "theirs")
    push_to(hub, copy)
    before = hub.head(ID).oid
    relabel(one, [1], "ours")
    with pytest.raises(RemoteChangedError, match=r"1 shards .* no longer there.*fold"):
        push_to(hub, one)
    assert hub.head(ID).oid == before
    write(copy, batch(70, 1, layer=0))
    assert push_to(hub, copy).sent == 1


def test_an_extended_copy_goes_on_top(hub: Hub, one: Path, tmp_path: Path) -> None:
    """A store made of the repository's files and nothing else, as a pull leaves it."""
    push_to(hub, one)
    copy = tmp_path / "copy.store"
    remote_content(hub, copy)
    write(copy, batch(20, 5, layer=1), batch(0, 5, layer=7))
    compaction.compact(copy)
    push_to(hub, copy)
    assert remote_content(hub, tmp_path / "after") == content(copy)
    with pytest.raises(RemoteChangedError):
        push_to(hub, one)


def test_two_pushers_race_and_both_end_on_main(
    hub: Hub, one: Path, two: Path, tmp_path: Path
) -> None:
    write(one, batch(100, 3, layer=5))
    hub.create(ID)
    ready = Barrier(2)

    def go(store: Path) -> Pushed:
        own = client(hub)
        ready.wait()
        return push(store, ID, client=own)

    for _ in range(3):
        with ThreadPoolExecutor(2) as threads:
            done = list(threads.map(go, (one, two)))
        assert all(one_push.commit for one_push in done)
        found = remote_content(hub, tmp_path / f"copy {commits(hub)}")
        first, second = content(one), content(two)
        assert found.keys() == first.keys() | second.keys()
        assert all(row in (first.get(key), second.get(key)) for key, row in found.items())
        layer = 10 + commits(hub)
        write(one, batch(0, 2, layer=layer, label="one"))
        write(two, batch(1, 2, layer=layer, label="two"))
    assert commits(hub) == 6


def test_somebody_pushes_between_the_look_and_the_commit(
    hub: Hub, one: Path, two: Path, tmp_path: Path
) -> None:
    push_to(hub, one)
    write(one, batch(30, 2, layer=0))
    slow = hub.faults.add(faults.stall(1.5), method="POST", path="/commit/")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(push_to, hub, one)
        while not slow.fired:
            pass
        push_to(hub, two)
        waiting.result()
    assert [entry.status for entry in hub.log.entries(path="/commit/")].count(412) == 1
    assert remote_content(hub, tmp_path / "copy") == union(one, two)
    assert commits(hub) == 3


def test_nobody_pushed_and_yet_it_is_refused(hub: Hub, one: Path) -> None:
    hub.faults.add(faults.status(412), method="POST", path="/commit/", times=None)
    with pytest.raises(AccessError, match="--create-pr"):
        push_to(hub, one)


HOSTILE = {
    "climbs": ("activations/", "activations/../../"),
    "absolute": ("activations/", "/etc/activations/"),
    "backslash": ("activations/org", "activations\\\\org"),
    "elsewhere": ('"path": "activations/', '"path": "README.md/'),
    "no json": ("{", "["),
    "other number": ('"number": 1', '"number": 7'),
    "newer": ('"version": 1', '"version": 99'),
    "negative": ('"rows": 10', '"rows": -10'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_is_refused(hub: Hub, one: Path, two: Path, name: str) -> None:
    push_to(hub, one)
    path = "manifests/0000000001.json"
    text = hub.read(ID, path).decode()
    changed = text.replace(*HOSTILE[name])
    assert changed != text
    hub.commit(ID, {path: changed.encode()})
    before = hub.head(ID).oid
    for store in (one, two):
        with pytest.raises(RemoteStoreError):
            push_to(hub, store)
    assert hub.head(ID).oid == before


def test_a_shard_that_is_not_what_the_manifest_says(hub: Hub, one: Path, two: Path) -> None:
    push_to(hub, one)
    path = next(e.path for e in remote_manifest(hub).shards if e.layer == 1)
    data = bytearray(hub.read(ID, path))
    data[200] ^= 1
    hub.commit(ID, {path: bytes(data)})
    with pytest.raises(RemoteStoreError, match="damaged"):
        push_to(hub, two)


def test_a_shard_that_arrives_damaged(hub: Hub, one: Path, two: Path, tmp_path: Path) -> None:
    push_to(hub, one)
    hub.faults.add(faults.flip(200), method="GET", path="layer_001|/o", origin="objects", nth=2)
    push_to(hub, two)
    assert remote_content(hub, tmp_path / "copy") == union(one, two)


def test_the_store_of_another_program_with_labels_beside_is_left_alone(hub: Hub, one: Path) -> None:
    push_to(hub, one)
    label = manifests.LabelEntry(path="labels/x.parquet", rows=1, bytes=2, sha256="0" * 64)
    changed = dataclasses.replace(remote_manifest(hub), labels=(label,))
    hub.commit(ID, {"manifests/0000000001.json": changed.encode(), "labels/x.parquet": b"\0x"})
    with pytest.raises(RemoteChangedError, match="labels beside"):
        push_to(hub, one)


def test_a_repository_made_anew_gets_everything_again(hub: Hub, one: Path, tmp_path: Path) -> None:
    push_to(hub, one)
    client(hub).api.delete_repo(ID, repo_type="dataset")
    hub.reset()
    assert push_to(hub, one).sent == 2
    assert uploads(hub) == 2
    assert remote_content(hub, tmp_path / "copy") == content(one)


def test_rows_that_were_left_out_go_up_when_the_shard_that_had_them_goes(
    hub: Hub, tmp_path: Path
) -> None:
    root = tmp_path / "own"
    write(root, batch(0, 1, layer=0))
    push_to(hub, root)
    write(root, batch(1, 1, layer=0))
    compaction.compact(root)
    pruning.erase(root)  # nothing says any more whose the shard of the branch is
    push_to(hub, root, revision="side")
    pull_from(hub, root, revision="side")
    push_to(hub, root, revision="side")
    assert remote_content(hub, tmp_path / "after", "side") == content(root)
