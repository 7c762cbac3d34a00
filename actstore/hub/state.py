"""What a repository holds at one commit: its files, and the store they make up."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from actstore.errors import CorruptStoreError, RemoteStoreError
from actstore.hub.client import Client, RemoteFile
from actstore.storage import layout
from actstore.storage import manifest as manifests
from actstore.storage.manifest import Manifest

_MANIFEST = re.compile(rf"{layout.MANIFESTS}/([0-9]{{10}})\.json")
_HARMLESS = frozenset({layout.CARD, ".gitattributes"})
"""What a repository may hold beside nothing and still count as empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """One commit of a repository."""

    repository: str
    commit: str
    files: dict[str, RemoteFile]
    manifest: Manifest | None
    """The store in it; None when there is none."""
    card: str
    """README.md; empty when there is none."""

    @property
    def foreign(self) -> list[str]:
        """Files that show that the repository is used for something else than a store."""
        return [] if self.manifest else sorted(self.files.keys() - _HARMLESS)

    def holds(self, path: str, sha256: str) -> bool:
        """Say whether a large file is there with that content."""
        found = self.files.get(path)
        return found is not None and found.sha256 == sha256

    def holds_bytes(self, path: str, data: bytes) -> bool:
        """Say whether a file, large or not, is there with that content."""
        found = self.files.get(path)
        if found is None or found.size != len(data):
            return False
        if found.sha256 is not None:
            return found.sha256 == hashlib.sha256(data).hexdigest()
        return found.blob == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def read_state(
    client: Client, repository: str, revision: str | None = None, *, commit: str | None = None
) -> State:
    """Read a repository's tree, manifest and card at its head, or at ``commit``.

    Raises:
        RemoteStoreError: its manifest is damaged or hostile.
        HubError: as :meth:`Client.call`.
    """
    commit = commit or client.head(repository, revision)
    files = client.files(repository, commit)
    numbers = sorted(int(found[1]) for found in map(_MANIFEST.fullmatch, files) if found)
    manifest = _read_manifest(client, repository, commit, numbers[-1]) if numbers else None
    card = ""
    if layout.CARD in files:
        data = client.read(repository, layout.CARD, commit, most=16 << 20)
        card = data.decode("utf-8", "surrogateescape")
    return State(repository=repository, commit=commit, files=files, manifest=manifest, card=card)


def manifest_name(number: int) -> str:
    """Return the path of a manifest in a repository."""
    return f"{layout.MANIFESTS}/{number:010d}.json"


def _read_manifest(client: Client, repository: str, commit: str, number: int) -> Manifest:
    path = manifest_name(number)
    where = f"{path} of {repository} at {commit[:8]}"
    try:
        found = manifests.decode(client.read(repository, path, commit), where)
    except CorruptStoreError as error:
        raise RemoteStoreError(f"{error} on the Hub, or push a sound store anew") from None
    if found.number != number:
        raise RemoteStoreError(
            f"{where} calls itself commit {found.number}: the repository was changed by hand; "
            "restore it from its history"
        )
    for shard in found.shards:
        if not shard.path.startswith(f"{layout.ACTIVATIONS}/"):
            raise RemoteStoreError(f"{where} names {shard.path!r} as a shard: that is none")
    return found
