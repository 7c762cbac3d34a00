"""Pushes against the loopback Hub, and what came of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from actstore.hub.push import Pushed, push
from actstore.remote.client import Client, Patience
from actstore.storage import manifest as manifests
from actstore.storage.labels import set_labels
from actstore.storage.manifest import Manifest
from actstore.storage.snapshot import open_snapshot
from tests.hub_server import Hub
from tests.storage.stores import Content, assert_sound, content

ALL = "ACTSTORE_ALL_FAULTS"
"""Set it to try every fault at every request, once and for ever."""
ID = "alice/acts"
QUICK = Patience(first=0.01, most=2.0, silence=20.0)


def client(hub: Hub, token: str | bool = "hf_write", patience: Patience = QUICK) -> Client:
    return Client(endpoint=hub.url, token=token, patience=patience)


def push_to(hub: Hub, store: Path, to: str = ID, **options: Any) -> Pushed:
    return push(store, to, client=client(hub), **options)


def relabel(store: Path, rows: list[int], label: str | None) -> None:
    snapshot = open_snapshot(store)
    set_labels(snapshot, np.array(rows), [label] * len(rows), message="graded")
    snapshot.close()


def remote_manifest(hub: Hub, revision: str = "main", to: str = ID) -> Manifest:
    """The only manifest of a revision."""
    names = [path for path in hub.files(to, revision) if path.startswith("manifests/")]
    assert len(names) == 1, names
    found = manifests.decode(hub.read(to, names[0], revision), names[0])
    assert names[0] == f"manifests/{found.number:010d}.json"
    return found


def remote_content(hub: Hub, folder: Path, revision: str = "main", to: str = ID) -> Content:
    """Every row of a revision, its files checked as `actstore verify` checks a store.

    The files are those that the manifest names, the card, and nothing else.
    """
    manifest = remote_manifest(hub, revision, to)
    files = hub.files(to, revision)
    named = {entry.path for entry in manifest.shards}
    named |= {f"manifests/{manifest.number:010d}.json", "README.md"}
    assert files.keys() == named
    assert not manifest.labels
    for path in files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(hub.read(to, path, revision))
    assert_sound(folder)
    return content(folder)


def commits(hub: Hub, revision: str = "main", to: str = ID) -> int:
    """Commits of a branch, that which made the repository left out."""
    repository = hub.repository(to)
    count = 0
    oid: str | None = hub.head(to, revision).oid
    while oid is not None:
        commit = repository.commit_at(oid)
        oid = commit.parent
        count += 1
    return count - 1


def uploads(hub: Hub) -> int:
    """Objects that were sent since the log was reset."""
    return len(hub.log.entries(method="PUT", origin="objects"))


def matching(hub: Hub, store: Path, folder: Path) -> None:
    """A repository and the only store behind it hold the same, down to the manifest's bytes."""
    assert remote_content(hub, folder) == content(store)
    local = manifests.load(store)
    assert remote_manifest(hub) == local
    path = f"manifests/{local.number:010d}.json"
    assert hub.read(ID, path) == (store / path).read_bytes()
