"""Pulls from the loopback Hub, and what must be true after one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actstore.hub.pull import Pulled, pull
from actstore.storage import manifest as manifests
from actstore.storage.manifest import Manifest
from tests.hub.pushing import ID, client
from tests.hub_server import Hub
from tests.storage.stores import assert_sound, card_commit, content

SECRETS = (b"hf_write", b"hf_read", b"X-Amz-Signature", b"Bearer")


def pull_from(hub: Hub, folder: Path, source: str = ID, **options: Any) -> Pulled:
    options.setdefault("client", client(hub))
    return pull(source, folder, **options)


def assert_whole(folder: Path) -> Manifest:
    """A pulled store is sound, its card is current, and nothing half done lies about."""
    assert_sound(folder)
    found = manifests.load(folder)
    assert card_commit(folder) == found.number
    left = [path.name for path in (folder / ".cache" / "pull").iterdir()]
    assert left == ["lock"]
    assert not any((folder / ".staging").iterdir())
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not [secret for secret in SECRETS if secret in data], path
    content(folder)
    return found
