"""Repositories made to do harm: one clear error each, nothing outside the target, no store hurt."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from actstore.api.store import Store
from actstore.errors import ActstoreError, RemoteStoreError
from actstore.storage import manifest as manifests
from actstore.storage.manifest import Manifest, ShardEntry, in_row_order
from actstore.storage.snapshot import open_snapshot
from tests.hub.publishing import name_of, publish, remote
from tests.hub.pulling import assert_whole, pull_from
from tests.hub.pushing import ID, relabel
from tests.hub_server import Hub
from tests.hub_server.repository import regular_entry
from tests.storage.stores import batch, content, document, sealed, write

pytestmark = pytest.mark.usefixtures("lfs", "quick_retries")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    root = tmp_path / "origin.store"
    write(root, batch(0, 8, layer=0), batch(0, 8, layer=1))
    return root


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A store that is there already, in a folder of its own."""
    folder = tmp_path / "place" / "target"
    write(folder, batch(50, 3, layer=5))
    return folder


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".cache" not in path.parts
    }


def publish_manifest(hub: Hub, store: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Publish a store whose manifest was changed by hand."""
    manifest = publish(hub, store)
    content = document(manifest)
    change(content)
    hub.commit(ID, {name_of(manifest): sealed(content)})


def refused(hub: Hub, target: Path, match: str) -> None:
    """Opening and pulling fail with one clear error; the target is as it was."""
    outside = target.parent.parent
    before, content_before = files_below(target.parent), content(target)
    roots = {path.name for path in outside.iterdir()}
    with pytest.raises(RemoteStoreError, match=match) as caught:
        remote(hub)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 900
    with pytest.raises(RemoteStoreError, match=match):
        pull_from(hub, target)
    with pytest.raises(RemoteStoreError, match=match):
        pull_from(hub, target.with_name("fresh"))
    assert not target.with_name("fresh").exists()
    assert files_below(target.parent) == before
    assert content(target) == content_before
    assert {path.name for path in outside.iterdir()} == roots


@pytest.mark.parametrize(
    "path",
    [
        "../../outside.parquet",
        "activations/../../../outside.parquet",
        "/outside/shard.parquet",
        "activations//outside.parquet",
        "activations/./outside.parquet",
        "activations\\..\\outside.parquet",
        "C:\\outside.parquet",
        "activations/a\0b.parquet",
        "activations/a\nb.parquet",
        "activations/\x1b[2Jx.parquet",
        "activations/.hidden/x.parquet",
        "activations/x.parquet/../../README.md",
        "README.md",
        "manifests/0000000009.json",
        ".staging/x/lock",
        "labels/x.parquet",
        "activations/x.pkl",
        "activations/" + "x" * 300 + ".parquet",
        "",
        "activations",
    ],
)
def test_paths_that_lead_elsewhere(hub: Hub, store: Path, target: Path, path: str) -> None:
    publish_manifest(hub, store, lambda found: found["shards"][0].update(path=path))
    refused(hub, target, "is no name of a shard|outside the store|names the file|damaged")


def test_a_label_file_that_leads_elsewhere(hub: Hub, store: Path, target: Path) -> None:
    entry = {"path": "labels/../README.md", "rows": 1, "bytes": 5, "sha256": "0" * 64}
    publish_manifest(hub, store, lambda found: found["labels"].append(entry))
    refused(hub, target, "outside the store|no label file")
    entry["path"] = "labels/none.parquet"
    publish_manifest(hub, store, lambda found: found["labels"].append(entry))
    refused(hub, target, "no label file")


@pytest.mark.parametrize(
    "facts",
    [
        {"bytes": 1 << 50},
        {"bytes": 1 << 45},
        {"bytes": 5},
        {"rows": 1 << 40},
        {"rows": 0},
        {"rows": -8},
        {"width": 1 << 40},
        {"rows": 8.0},
        {"dtype": "object"},
        {"sha256": "0" * 64},
        {"sha256": ["x"]},
        {"layer": "1"},
        {"model": 7},
        {"pages": [[1 << 47, 1]]},
        {"pages": [["a", "b"]]},
        {"surplus": 1},
    ],
    ids=str,
)
def test_entries_that_cannot_be(hub: Hub, store: Path, target: Path, facts: dict[str, Any]) -> None:
    publish_manifest(hub, store, lambda found: found["shards"][0].update(facts))
    refused(hub, target, "damaged|not the file|cannot be|is no name")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 1000,
        b"{}",
        b"[" * 100_000,
        b'{"format": "actstore-manifest", "version": 99}',
        b'{"format": "actstore-manifest", "version": 1}',
        "ünïcode".encode("latin-1"),
    ],
    ids=lambda data: repr(data[:20]),
)
def test_manifests_that_are_none(hub: Hub, store: Path, target: Path, data: bytes) -> None:
    manifest = publish(hub, store)
    hub.commit(ID, {name_of(manifest): data})
    refused(hub, target, "manifest|damaged|upgrade")


def test_a_manifest_under_another_number(hub: Hub, store: Path, target: Path) -> None:
    manifest = publish(hub, store)
    hub.commit(ID, {"manifests/0000000099.json": manifest.encode()})
    refused(hub, target, "calls itself commit 1")


def test_one_shard_named_twice(hub: Hub, store: Path, target: Path) -> None:
    publish_manifest(hub, store, lambda found: found["shards"].append(found["shards"][0]))
    refused(hub, target, "named twice")


def test_a_shard_that_is_not_there(hub: Hub, store: Path, target: Path) -> None:
    manifest = publish(hub, store)
    hub.commit(ID, {manifest.shards[0].path: None})
    refused(hub, target, "is not there")


def test_a_link_in_place_of_a_shard(hub: Hub, store: Path, target: Path) -> None:
    """Git keeps a link as a small text; the Hub serves that text."""
    manifest = publish(hub, store)
    entry = manifest.shards[0]
    data = b"/etc/passwd"
    hub.services.objects.write(data)
    hub.repository(ID).commit(
        "refs/heads/main", {entry.path: regular_entry(data)}, title="link", author="mallory"
    )
    refused(hub, target, "is not the file that the manifest names")


def republish(hub: Hub, manifest: Manifest, data: bytes, **facts: Any) -> ShardEntry:
    """Put other bytes in place of the first shard, with a manifest that names them."""
    digest = hashlib.sha256(data).hexdigest()
    entry = dataclasses.replace(manifest.shards[0], bytes=len(data), sha256=digest, **facts)
    changed = dataclasses.replace(manifest, shards=in_row_order((entry, *manifest.shards[1:])))
    hub.commit(ID, {entry.path: data, name_of(manifest): changed.encode()})
    return entry


def unreadable(hub: Hub, target: Path) -> None:
    """The store opens, since only its manifest is read; reading the shard is one clear error."""
    before = content(target)
    far = Store(remote(hub))
    with pytest.raises(ActstoreError) as caught:
        far.select().table()
    assert isinstance(caught.value, RemoteStoreError), caught.value
    for folder in (target, target.with_name("fresh")):
        with pytest.raises(RemoteStoreError, match="pushed it must push it anew"):
            pull_from(hub, folder)
        assert not (folder / "manifests" / "0000000002.json").exists()
    assert content(target) == before


def test_bytes_that_are_no_parquet(hub: Hub, store: Path, target: Path) -> None:
    manifest = publish(hub, store)
    size = manifest.shards[0].bytes
    for data in (b"\0" * size, b"PAR1" + b"\xff" * (size - 8) + b"PAR1", pickle.dumps(object())):
        republish(hub, manifest, data, pages=())
        unreadable(hub, target)


def test_a_footer_that_lies_about_its_rows(hub: Hub, store: Path, target: Path) -> None:
    manifest = publish(hub, store)
    data = hub.read(ID, manifest.shards[0].path)
    republish(hub, manifest, data, rows=4, pages=())
    unreadable(hub, target)


def test_a_footer_that_is_longer_than_the_file(hub: Hub, store: Path, target: Path) -> None:
    manifest = publish(hub, store)
    data = hub.read(ID, manifest.shards[0].path)
    republish(hub, manifest, data[:-8] + struct.pack("<I", 1 << 31) + b"PAR1")
    unreadable(hub, target)


def test_another_table_in_place_of_a_shard(hub: Hub, store: Path, target: Path) -> None:
    manifest = publish(hub, store)
    sink = io.BytesIO()
    pq.write_table(pa.table({"x": range(8)}), sink)
    republish(hub, manifest, sink.getvalue(), pages=())
    unreadable(hub, target)


def test_vectors_elsewhere_than_the_manifest_says(hub: Hub, store: Path, target: Path) -> None:
    manifest = publish(hub, store)
    data = hub.read(ID, manifest.shards[0].path)
    ((offset, rows),) = manifest.shards[0].pages
    republish(hub, manifest, data, pages=((offset - 16, rows),))
    before = content(target)
    with pytest.raises(RemoteStoreError, match="elsewhere than its manifest says"):
        pull_from(hub, target)
    assert content(target) == before


def test_a_shard_of_another_layer_than_its_manifest_says(
    hub: Hub, store: Path, target: Path
) -> None:
    manifest = publish(hub, store)
    data = (store / manifest.shards[0].path).read_bytes()
    republish(hub, manifest, data, layer=40, path="activations/by/hand/layer_040/x.parquet")
    before = content(target)
    with pytest.raises(RemoteStoreError, match="holds rows of layer 0, its manifest says 40"):
        pull_from(hub, target)
    assert content(target) == before


def test_a_table_that_unfolds_to_a_mountain(hub: Hub, store: Path, target: Path) -> None:
    """Run lengths make any number of rows out of a few bytes: rows must fit the file."""
    manifest = publish(hub, store)
    rows = 5_000_000
    column = pa.nulls(rows, pa.string())
    sink = io.BytesIO()
    pq.write_table(pa.table({"label": column}), sink)
    path = "activations/by/hand/x.parquet"
    for claimed, match in ((8, "has other columns"), (rows, "which cannot be")):
        republish(hub, manifest, sink.getvalue(), rows=claimed, pages=(), width=5000, path=path)
        with pytest.raises(RemoteStoreError, match=match):
            pull_from(hub, target)


def test_pickles_and_programs_among_the_files_are_never_touched(
    hub: Hub, store: Path, target: Path
) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (target.parent / "sprung",))

    trap = pickle.dumps(Trap())
    publish(
        hub,
        store,
        extra={
            "acts.py": b"raise SystemExit",
            "activations/model/x.pkl": trap,
            "activations/model/x.pt": trap,
            "dataset_infos.json": b"{}",
        },
    )
    hub.reset()
    pull_from(hub, target)
    assert content(target).keys() > content(store).keys()
    assert not (target.parent / "sprung").exists()
    assert not [path for path in target.rglob("*.p*") if path.suffix in (".pkl", ".pt", ".py")]
    assert not hub.log.entries(path=r"acts\.py|\.pkl|\.pt\b")


@pytest.mark.parametrize(
    "text",
    [
        b"---\nlicense: [unclosed\n---\n# Hi",
        b"---\n- a list\n---\nHi",
        b"---\na: &a [*a]\n---\n",
        b"---\n" + b"x: " + b"[" * 1500 + b"\n---\n",
        b"---\nconfigs:\n- config_name: ../../x\n  data_files: /etc/passwd\n---\n",
        b"\xff\xfe\x00not text",
        b"---\n"
        + b"".join(b"k%d: &k%d [*k%d,*k%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 40)),
        b"<!-- actstore: end -->\n# actstore: end\n<!-- actstore: generated, edits -->",
        b"x" * (3 << 20),
    ],
    ids=lambda text: repr(text[:12]),
)
def test_a_card_that_is_broken(hub: Hub, store: Path, target: Path, text: bytes) -> None:
    publish(hub, store, extra={"README.md": text})
    Store(remote(hub)).select(layer=0).numpy()
    pull_from(hub, target)
    assert_whole(target)
    fresh = target.with_name("fresh")
    pull_from(hub, fresh)
    assert content(fresh) == content(store)
    found = load_dataset(str(fresh), split="train", cache_dir=str(target.parent / "datasets"))
    assert len(found) == 16


def test_names_that_would_disturb_a_terminal_or_a_path(
    hub: Hub, store: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = "evil\x1b[2J\n../../model"
    root = target.parent / "wild"
    write(root, batch(0, 3, model=wild, site="../../etc"))
    publish(hub, root)
    fresh = target.with_name("fresh")
    pull_from(hub, fresh)
    assert_whole(fresh)
    assert content(fresh) == content(root)
    assert {path.name for path in target.parent.iterdir()} == {"target", "wild", "fresh"}


def test_a_shard_that_changes_under_its_name_is_noticed(
    hub: Hub, store: Path, target: Path
) -> None:
    """The commit is pinned, and what is read is what the manifest of that commit names."""
    publish(hub, store)
    far = Store(remote(hub))
    relabel(store, [0], "x")
    path = manifests.load(store).shards[0].path
    hub.commit(ID, {path: b"PAR1 something else PAR1"})
    assert far.select(layer=0).numpy().shape == (8, 8)
    refused(hub, target, "is not the file that the manifest names")
    assert open_snapshot(store).rows == 16
