"""Pulls from the loopback Hub, and what must be true after one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actstore import schema
from actstore.hub.pull import Pulled, pull
from actstore.storage import manifest as manifests
from actstore.storage.manifest import Manifest
from tests.hub.pushing import ID, client
from tests.hub_server import Hub
from tests.storage.stores import Content, assert_sound, batch, card_commit, content, write

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


def several(root: Path) -> Path:
    """Make a store: three layers of one model, one of another, of another width and type."""
    rows = [batch(0, 12, layer=layer, task="maze", label=f"l{layer}") for layer in range(3)]
    other = batch(0, 5, layer=None, model="b/other", site="mlp_out", width=5, dtype="float32")
    write(root, *rows, other)
    return root


def of(found: Content, **wanted: object) -> Content:
    """The rows with these values in their keys."""
    names = schema.key_names()
    places = {names.index(name): value for name, value in wanted.items()}
    return {key: row for key, row in found.items() if all(key[at] == v for at, v in places.items())}
