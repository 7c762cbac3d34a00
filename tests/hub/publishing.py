"""Puts stores into repositories of the loopback Hub as a push leaves them, and opens them there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actstore.remote.address import parse
from actstore.remote.files import open_remote
from actstore.storage import manifest as manifests
from actstore.storage.manifest import Manifest
from actstore.storage.snapshot import Snapshot
from tests.hub.pushing import ID, client
from tests.hub_server import Hub

ADDRESS = f"hf://datasets/{ID}"


def publish(
    hub: Hub,
    root: Path,
    to: str = ID,
    *,
    at: int | None = None,
    revision: str = "main",
    extra: dict[str, bytes | None] | None = None,
) -> Manifest:
    """Make a revision hold one commit of a store and nothing else; ``extra`` changes that."""
    manifest = manifests.load(root, at)
    named = [*(entry.path for entry in manifest.shards), *(e.path for e in manifest.labels)]
    files: dict[str, bytes | None] = {path: (root / path).read_bytes() for path in named}
    files[name_of(manifest)] = manifest.encode()
    files["README.md"] = (root / "README.md").read_bytes()
    try:
        there = hub.files(to, revision)
    except KeyError:
        hub.create(to)
        there = {}
    files |= {path: None for path in there if path not in files}
    files |= extra or {}
    hub.commit(to, files, revision=revision)
    return manifest


def name_of(manifest: Manifest) -> str:
    """Path of a manifest."""
    return f"manifests/{manifest.number:010d}.json"


def remote(hub: Hub, address: str = ADDRESS, at: int | None = None, **options: Any) -> Snapshot:
    """Open a store from afar."""
    return open_remote(parse(address), at, client=client(hub), **options)


def moved(hub: Hub) -> int:
    """Bytes of large files that were downloaded since the log was reset."""
    return hub.log.bytes_sent(origin="objects")
