"""Where a store is copied from: a folder, a bucket or a repository on the Hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from actstore import paths
from actstore.errors import BucketFileError, DamageError, TransferError
from actstore.remote import bucket_commits, meetings, resolve
from actstore.remote.address import is_address, parse
from actstore.remote.bucket import Bucket
from actstore.remote.bucket_address import is_bucket, parse_bucket
from actstore.remote.client import Client
from actstore.remote.download import download
from actstore.remote.meetings import Meetings
from actstore.storage import layout
from actstore.storage import manifest as manifests
from actstore.storage.disk_errors import content_of
from actstore.storage.file_hashes import sha256_of
from actstore.storage.lease import pin
from actstore.storage.manifest import Manifest, ShardEntry
from actstore.storage.soundness import Named


class Commit(NamedTuple):
    """One commit."""

    manifest: Manifest
    data: bytes
    """Its manifest's file."""


Advance = Callable[[int], None]
"""Told how many more bytes are here."""


class CopySource(Protocol):
    """A store that is copied from. Several threads fetch at once."""

    name: str
    numbers: list[int]
    """All its commits, ascending."""

    def commit(self, number: int) -> Commit:
        """Return a commit, sound as far as its manifest goes."""

    def fetch(self, entry: Named, draft: Path, advance: Advance) -> Path:
        """Return a file on this machine with just the bytes that the manifest names.

        Args:
            entry: the file.
            draft: where to bring it, if it is not on this machine; its folder exists. What an
                earlier attempt left there is gone on with.
            advance: told of bytes as they come.

        Raises:
            ActstoreError: it is missing or damaged, or cannot be had.
        """

    def card(self) -> bytes | None:
        """Return README.md; None where there is none."""

    def meetings(self) -> Meetings:
        """Return what it remembers of repositories."""

    def close(self) -> None:
        """Give everything back."""


def copy_source(place: str | Path) -> CopySource:
    """Open a store to copy from.

    Raises:
        StoreNotFoundError: there is no store.
        ActstoreError: it cannot be read.
    """
    if is_bucket(place):
        return _FromBucket(Bucket(parse_bucket(place)))
    if is_address(str(place)):
        return _FromHub(str(place), Client())
    return _FromFolder(paths.local_store(place))


class _FromFolder:
    def __init__(self, root: Path) -> None:
        self.name = str(root)
        self._root = root
        _, self._lease = pin(root)
        self.numbers = manifests.numbers(root)

    def commit(self, number: int) -> Commit:
        found = manifests.load(self._root, number)
        return Commit(found, content_of(layout.manifest_path(self._root, number)))

    def fetch(self, entry: Named, draft: Path, advance: Advance) -> Path:
        path = self._root / entry.path
        reason = None if path.is_file() else "the file is missing"
        if reason is None and sha256_of(path) != (entry.sha256, entry.bytes):
            reason = "its SHA-256 is not what the manifest says"
        if reason is not None:
            raise DamageError(
                f"{entry.path} of {self.name}: {reason}; what was copied stays for the next "
                f"attempt, and nothing was committed: repair it with: actstore repair {self.name}",
                [(entry.path, reason)],
            )
        advance(entry.bytes)
        return path

    def card(self) -> bytes | None:
        path = self._root / layout.CARD
        return content_of(path) if path.is_file() else None

    def meetings(self) -> Meetings:
        return meetings.in_folder(self._root)

    def close(self) -> None:
        self._lease.release()


class _FromBucket:
    def __init__(self, bucket: Bucket) -> None:
        self.name = str(bucket.address)
        self._bucket = bucket
        self._newest = bucket_commits.read_commit(bucket)
        self.numbers = bucket_commits.numbers(bucket)

    def commit(self, number: int) -> Commit:
        found = self._newest
        if number != found.number:
            found = bucket_commits.read_commit(self._bucket, number)
        return Commit(bucket_commits.decode(found, self._bucket), found.data)

    def fetch(self, entry: Named, draft: Path, advance: Advance) -> Path:
        here = draft.stat().st_size if draft.exists() else 0
        if here > entry.bytes:
            here = 0
        with draft.open("r+b" if here else "wb") as file:
            file.seek(here)
            advance(here)
            if here < entry.bytes:
                for block in self._bucket.blocks(entry.path, here):
                    file.write(block)
                    advance(len(block))
        if sha256_of(draft) == (entry.sha256, entry.bytes):
            return draft
        draft.unlink()
        if here:  # an earlier attempt may have left something else
            advance(-entry.bytes)
            return self.fetch(entry, draft, advance)
        raise BucketFileError(
            f"{entry.path} of {self.name} is not what its manifest says: what was copied stays "
            "for the next attempt, and nothing was committed. Try again; if this goes on, "
            "restore the object from a copy"
        )

    def card(self) -> bytes | None:
        return self._bucket.read(layout.CARD, most=64 << 20)

    def meetings(self) -> Meetings:
        return meetings.in_bucket(self._bucket)

    def close(self) -> None:
        pass


class _FromHub:
    def __init__(self, address: str, client: Client) -> None:
        self._client = client
        self._held = resolve.look_up(client, parse(address))
        self.name = str(parse(address))
        self.numbers = list(self._held.numbers)

    def commit(self, number: int) -> Commit:
        path = bucket_commits.manifest_name(number)
        data = self._client.read(self._held.repository, path, self._held.commit)
        return Commit(resolve.decode(data, number, f"{path} of {self.name}"), data)

    def fetch(self, entry: Named, draft: Path, advance: Advance) -> Path:
        held = self._held
        if isinstance(entry, ShardEntry):
            download(
                self._client,
                held.repository,
                held.commit,
                entry.path,
                draft,
                size=entry.bytes,
                sha256=entry.sha256,
                progress=advance,
            )
            return draft
        data = self._client.read(held.repository, entry.path, held.commit, most=entry.bytes)
        draft.write_bytes(data)
        if sha256_of(draft) != (entry.sha256, entry.bytes):
            raise TransferError(f"{entry.path} of {self.name} arrives damaged; run it again")
        advance(entry.bytes)
        return draft

    def card(self) -> bytes | None:
        return None

    def meetings(self) -> Meetings:
        return {}

    def close(self) -> None:
        pass
