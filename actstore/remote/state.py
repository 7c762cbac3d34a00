"""What a repository holds at one commit: its files, and the store they make up."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass

from actstore.remote import cache, resolve
from actstore.remote.address import Address
from actstore.remote.client import Client, RemoteFile
from actstore.remote.files import RemoteFiles
from actstore.remote.hub_source import HubSource
from actstore.remote.resolve import ResolvedStore
from actstore.storage import layout
from actstore.storage.manifest import Manifest

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

    def remote_files(self, client: Client) -> RemoteFiles:
        """Return what reads parts of the shards."""
        assert self.manifest is not None
        held = ResolvedStore(
            repository=self.repository,
            commit=self.commit,
            manifest=self.manifest,
            numbers=(self.manifest.number,),
            files=self.files,
        )
        address = Address(repository=self.repository, revision=self.commit)
        return RemoteFiles(HubSource(client, address, held), cache.default())

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
    manifest = None
    numbers = resolve.held_numbers(files)
    if numbers:
        manifest = resolve.read_manifest(client, repository, commit, numbers[-1])
        # Shards that are lost are another matter: the store may be able to bring them back.
        there = tuple(e for e in manifest.shards if e.path in files)
        there = tuple(e for e in there if files[e.path].sha256 == e.sha256)
        sound = dataclasses.replace(manifest, shards=there)
        resolve.check(sound, files, f"{repository} at {commit[:8]}")
    card = ""
    if layout.CARD in files:
        data = client.read(repository, layout.CARD, commit, most=16 << 20)
        card = data.decode("utf-8", "surrogateescape")
    return State(repository=repository, commit=commit, files=files, manifest=manifest, card=card)


def manifest_name(number: int) -> str:
    """Return the path of a manifest in a repository."""
    return f"{layout.MANIFESTS}/{number:010d}.json"
