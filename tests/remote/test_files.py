"""A store opened from afar answers as it does at home, and moves no more bytes than it must."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import actstore
from actstore.api.store import Store
from actstore.errors import (
    MixedVectorsError,
    NotInStoreError,
    RemoteStoreError,
    RepositoryNotFoundError,
    RevisionError,
    SnapshotNotFoundError,
    TransferError,
    UsageError,
)
from actstore.querying.info import describe
from actstore.remote.cache import RangeCache
from actstore.remote.client import Patience
from actstore.remote.files import open_remote
from actstore.storage.labels import set_labels
from actstore.storage.snapshot import open_snapshot
from tests.hub.publishing import ADDRESS, moved, publish, remote
from tests.hub.pushing import ID, client, push_to, relabel
from tests.hub_server import Hub, faults
from tests.querying.stores import add, layered, mixed, vectors
from tests.storage.stores import batch, content, write

pytestmark = pytest.mark.usefixtures("lfs", "quick_retries")


@pytest.fixture
def use_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user sets: where the Hub is and who asks it."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_write")


@pytest.mark.usefixtures("use_hub")
def test_a_remote_store_answers_as_the_local_one(hub: Hub, tmp_path: Path) -> None:
    matrices = layered(tmp_path / "s", layers=3, rows=40, width=16)
    push_to(hub, tmp_path / "s")
    local = actstore.open(tmp_path / "s")
    far = actstore.open(ADDRESS)
    assert repr(far) == f"Store('{ADDRESS}', commit 3, 120 rows)"
    assert (far.models, far.sites, far.layers, far.labels) == (
        local.models,
        local.sites,
        local.layers,
        local.labels,
    )
    assert far.select(layer=1).numpy().tobytes() == matrices[1].tobytes()
    where = "label = 'yes' AND task = 'maze'"
    some, same = (store.select(where, layer=[0, 1, 2]) for store in (far, local))
    assert some.table().equals(same.table())
    assert np.array_equal(some.numpy(), same.numpy())
    for store in (far, local):
        with pytest.raises(MixedVectorsError, match=r"layer \(0, 1, 2\)"):
            store.select(where).numpy()
    assert far.select().stack("layer").array.tobytes() == np.stack(matrices, axis=1).tobytes()
    query = "SELECT layer, sum(dot(activation, activation)) FROM activations GROUP BY 1 ORDER BY 1"
    assert far.sql(query).fetchall() == local.sql(query).fetchall()
    assert far.sql("SELECT activation FROM activations WHERE row_id = 77").fetchall() == (
        local.sql("SELECT activation FROM activations WHERE row_id = 77").fetchall()
    )
    assert far.nearest("e7", 5, layer=2).equals(local.nearest("e7", 5, layer=2))
    assert far.frame().filter(layer=2).collect().equals(local.frame().filter(layer=2).collect())
    found, expected = far.info().as_dict(), local.info().as_dict()
    assert found.pop("path") == ADDRESS
    assert (found.pop("commits"), expected.pop("commits")) == (1, 3)
    expected.pop("path")
    assert found == expected


def test_any_rows_in_any_order_come_bit_for_bit(hub: Hub, tmp_path: Path) -> None:
    root = tmp_path / "s"
    layered(root, layers=3, rows=300, width=32)
    add(root, vectors(50, 32, "float32", 9), layer=1, site="mlp_out")
    publish(hub, root)
    local, far = open_snapshot(root), remote(hub)
    random = np.random.default_rng(1)
    for rows in (
        np.array([5]),
        random.integers(0, 950, 400),
        np.arange(290, 620),
        np.arange(949, -1, -1),
        np.empty(0, np.int64),
    ):
        assert far.gather(rows).tobytes() == local.gather(rows).tobytes()
    out = np.empty((700, 32), np.float32)
    far.gather(np.arange(100, 800), out)
    assert np.array_equal(out, local.gather(np.arange(100, 800)).astype(np.float32))
    assert far.view(0, 3) is None


def test_widths_that_differ_are_told_apart(hub: Hub, tmp_path: Path) -> None:
    matrices = mixed(tmp_path / "s")
    publish(hub, tmp_path / "s")
    far = Store(remote(hub))
    assert far.widths == [4, 6]
    assert np.array_equal(far.select(model="b/large").numpy(), matrices[6])
    assert len(far.sql("SELECT activation FROM activations").fetchall()) == 8


def test_one_percent_of_a_layer_moves_under_two_percent_of_it(hub: Hub, tmp_path: Path) -> None:
    root = tmp_path / "s"
    layers = layered(root, layers=5, rows=2000, width=2560)  # five times 10 MB
    publish(hub, root)
    layer_bytes = layers[0].nbytes
    hub.reset()
    far = Store(remote(hub))
    assert moved(hub) == 0
    chosen = np.sort(np.random.default_rng(0).permutation(2000)[:20])
    found = far.select(layer=3).take(chosen).numpy()
    assert found.tobytes() == layers[3][chosen].tobytes()
    assert 20 * 5120 <= moved(hub) < 0.02 * layer_bytes
    assert far.traffic is not None
    assert far.traffic.received == moved(hub)
    assert {entry.path.split("?")[0] for entry in hub.log.entries(origin="objects")} == {
        f"/objects/{open_snapshot(root).shards[3].sha256}"
    }
    # Conditions on metadata: the tails of all shards besides.
    hub.reset()
    tails = sum(entry.bytes - entry.vector_bytes for entry in far._snapshot.shards)
    rows = far.select("example_id IN ('e17', 'e1917')", layer=4)
    assert rows.numpy().tobytes() == layers[4][[17, 1917]].tobytes()
    assert moved(hub) <= tails + 2 * 5120 + 5 * 4096


def test_selecting_one_layer_reads_no_metadata_at_all(hub: Hub, tmp_path: Path) -> None:
    layers = layered(tmp_path / "s", layers=4, rows=100, width=64)
    publish(hub, tmp_path / "s")
    hub.reset()
    assert np.array_equal(Store(remote(hub)).select(layer=2).numpy(), layers[2])
    assert moved(hub) == layers[2].nbytes
    head, ranged = hub.log.entries(path="/resolve/.*parquet"), hub.log.entries(origin="objects")
    assert (len(head), len(ranged)) == (1, 1)


def test_what_was_fetched_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    layered(tmp_path / "s", layers=3, rows=200, width=64)
    publish(hub, tmp_path / "s")
    Store(remote(hub)).nearest(np.ones(64), 3, mixed=True)
    hub.reset()
    again = Store(remote(hub))
    again.nearest(np.ones(64), 3, mixed=True)
    again.select("label = 'yes'").numpy(mixed=True)
    assert again.traffic is not None
    assert again.traffic.received == 0
    assert again.traffic.cached >= 3 * 200 * 64 * 2
    assert moved(hub) == 0
    # Which commit `main` is now is asked every time, and nothing else.
    assert len(hub.log.entries()) == 1


def test_pieces_of_one_file_serve_every_repository_that_holds_it(hub: Hub, tmp_path: Path) -> None:
    layers = layered(tmp_path / "s", layers=2, rows=50, width=32)
    publish(hub, tmp_path / "s", "alice/one")
    publish(hub, tmp_path / "s", "alice/two")
    Store(remote(hub, "hf://datasets/alice/one")).select(layer=1).numpy()
    hub.reset()
    found = Store(remote(hub, "hf://datasets/alice/two")).select(layer=1).numpy()
    assert np.array_equal(found, layers[1])
    assert moved(hub) == 0


def test_another_push_is_seen_by_who_opens_or_refreshes(hub: Hub, tmp_path: Path) -> None:
    root = tmp_path / "s"
    layered(root, layers=2, rows=30, width=8)
    push_to(hub, root)
    hub_client = client(hub)
    far = Store(
        open_remote(ADDRESS, client=hub_client), lambda: open_remote(ADDRESS, client=hub_client)
    )
    assert far.labels == {"no": 20, "yes": 20, None: 20}
    relabel(root, [0, 1, 2], "changed")
    push_to(hub, root)
    assert far.labels == {"no": 20, "yes": 20, None: 20}
    assert far.refresh().labels == {"no": 19, "yes": 19, None: 19, "changed": 3}
    before = far._snapshot
    assert far.refresh()._snapshot is before


def test_labels_beside_the_shards_count(hub: Hub, tmp_path: Path) -> None:
    root = tmp_path / "s"
    layered(root, layers=2, rows=10, width=8)
    set_labels(open_snapshot(root), np.array([3, 15]), ["a", "b"], message="")
    publish(hub, root)
    assert Store(remote(hub)).labels == Store(open_snapshot(root)).labels


def test_a_compressed_store_reads_the_same(hub: Hub, tmp_path: Path) -> None:
    root = tmp_path / "s"
    write(root, batch(0, 30, layer=1, width=16), batch(0, 30, layer=2, width=16, dtype="float32"))
    push_to(hub, root, archive=True)
    far = remote(hub)
    assert not any(entry.pages for entry in far.shards)
    assert content(far) == content(root)


def test_branches_tags_and_commits(hub: Hub, tmp_path: Path) -> None:
    root = tmp_path / "s"
    write(root, batch(0, 3))
    publish(hub, root)
    first = hub.head(ID).oid
    hub.repository(ID).create_ref("refs/tags/v1", first)
    write(root, batch(3, 3))
    publish(hub, root)
    assert remote(hub).rows == 6
    assert remote(hub, f"{ADDRESS}@v1").rows == 3
    assert remote(hub, f"{ADDRESS}@{first}").rows == 3
    with pytest.raises(RevisionError, match="'v2'"):
        remote(hub, f"{ADDRESS}@v2")


def test_earlier_commits_are_found_in_the_history(hub: Hub, tmp_path: Path) -> None:
    root = tmp_path / "s"
    for number in range(3):
        write(root, batch(3 * number, 3))
        publish(hub, root)
        hub.commit(ID, {"NOTES.md": f"after {number}".encode()})
    assert remote(hub, at=2).rows == 6
    assert remote(hub, at=3).rows == 9
    assert content(remote(hub, at=1)) == content(root, 1)
    with pytest.raises(SnapshotNotFoundError, match=r"never held commit 7: it has held 1, 2, 3"):
        remote(hub, at=7)


def test_a_folder_uploaded_as_it_is_opens_at_each_of_its_commits(hub: Hub, tmp_path: Path) -> None:
    root = tmp_path / "s"
    first = write(root, batch(0, 3))
    write(root, batch(3, 3))
    one = (root / "manifests" / "0000000001.json").read_bytes()
    publish(hub, root, extra={"manifests/0000000001.json": one})
    assert remote(hub).rows == 6
    assert describe(remote(hub)).commits == 2
    assert remote(hub, at=first).rows == 3


@pytest.mark.usefixtures("use_hub")
def test_a_store_on_the_hub_cannot_be_written_to(hub: Hub, tmp_path: Path) -> None:
    write(tmp_path / "s", batch(0, 3))
    publish(hub, tmp_path / "s")
    far = actstore.open(Path(ADDRESS))
    with pytest.raises(UsageError, match="actstore pull alice/acts FOLDER"):
        far.path  # noqa: B018
    with pytest.raises(UsageError, match="actstore pull"):
        set_labels(remote(hub), np.array([0]), ["x"], message="")


def test_what_cannot_be_opened_says_why(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFoundError, match="alice/none"):
        remote(hub, "hf://datasets/alice/none")
    hub.create("alice/raw", {"layer_1.pt": b"\0" * 50, "layer_2.pt": b"\1" * 50, "README.md": b"x"})
    with pytest.raises(RemoteStoreError, match=r"holds no store .* it has 2 \.pt.*actstore ingest"):
        remote(hub, "hf://datasets/alice/raw")
    with pytest.raises(UsageError, match="path inside a repository"):
        remote(hub, "hf://datasets/alice/raw/folder")
    write(tmp_path / "s", batch(0, 3))
    publish(hub, tmp_path / "s")
    with pytest.raises(NotInStoreError, match="layer 9"):
        Store(remote(hub)).select(layer=9)


@pytest.mark.parametrize(
    "fault",
    [
        faults.status(500),
        faults.status(503),
        faults.rate_limit(1),
        faults.drop("before", kind="rst"),
        faults.drop("body", kind="rst", at=100),
        faults.drop("body", at=100),
        faults.status(403),  # the link has grown too old
    ],
    ids=lambda fault: fault.name,
)
def test_a_fault_of_the_storage_is_got_over(hub: Hub, tmp_path: Path, fault: faults.Fault) -> None:
    layers = layered(tmp_path / "s", layers=2, rows=40, width=16)
    publish(hub, tmp_path / "s")
    far = Store(remote(hub))
    rule = hub.faults.add(fault, origin="objects")
    assert np.array_equal(far.select(layer=0).numpy(), layers[0])
    assert len(rule.fired) == 1
    assert far.labels == Store(open_snapshot(tmp_path / "s")).labels


def test_a_silent_connection_is_given_up(hub: Hub, tmp_path: Path) -> None:
    layers = layered(tmp_path / "s", layers=1, rows=40, width=16)
    publish(hub, tmp_path / "s")
    patience = Patience(attempts=3, first=0.01, most=1.0, silence=0.4)
    far = Store(open_remote(ADDRESS, client=client(hub, patience=patience)))
    hub.faults.add(faults.stall(1.5, at=50), origin="objects")
    assert np.array_equal(far.select(layer=0).numpy(), layers[0])


def test_a_flipped_byte_in_the_metadata_is_noticed(hub: Hub, tmp_path: Path) -> None:
    layered(tmp_path / "s", layers=1, rows=40, width=16)
    entry = publish(hub, tmp_path / "s").shards[0]
    ((offset, rows),) = entry.pages
    hub.faults.add(faults.flip(offset + rows * 32 + 40), origin="objects", times=None)
    with pytest.raises(RemoteStoreError, match="is not what its manifest says"):
        Store(remote(hub)).labels  # noqa: B018


def test_an_answer_that_is_not_the_part_asked_for_is_refused(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.hub_server import routes_content

    layered(tmp_path / "s", layers=1, rows=40, width=16)
    publish(hub, tmp_path / "s")
    far = Store(remote(hub))
    whole = routes_content.ranged

    def shifted(request: object, path: Path, headers: dict[str, str]) -> object:
        answer = whole(request, path, headers)  # type: ignore[arg-type]
        answer.headers["Content-Range"] = "bytes 0-9/10"  # type: ignore[index]
        return answer

    monkeypatch.setattr(routes_content, "ranged", shifted)
    with pytest.raises(TransferError, match="bytes 0-9/10 came"):
        far.select(layer=0).numpy()


def test_a_full_cache_forgets_and_a_cache_that_cannot_be_written_is_done_without(
    hub: Hub, tmp_path: Path
) -> None:
    layers = layered(tmp_path / "s", layers=4, rows=100, width=64)
    publish(hub, tmp_path / "s")
    small = RangeCache(tmp_path / "small", limit=40_000)
    far = Store(remote(hub, cache=small))
    for layer in (0, 1, 2, 3, 0):
        assert np.array_equal(far.select(layer=layer).numpy(), layers[layer])
    small.sweep()
    kept = sum(path.stat().st_size for path in (tmp_path / "small").rglob("*") if path.is_file())
    assert kept <= 40_000
    (tmp_path / "file").write_text("")
    nowhere = Store(remote(hub, cache=RangeCache(tmp_path / "file")))
    assert np.array_equal(nowhere.select(layer=2).numpy(), layers[2])
    assert nowhere.labels == far.labels
