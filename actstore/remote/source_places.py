"""Where source files lie that are ingested from afar: repositories on the Hub, and buckets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from actstore.errors import BucketFileError, RemoteStoreError, TransferError, UsageError
from actstore.remote import bucket_commits, resolve
from actstore.remote.address import Address, is_address, parse
from actstore.remote.bucket import Bucket
from actstore.remote.bucket_address import BucketAddress, is_bucket, parse_bucket
from actstore.remote.client import Client
from actstore.remote.download import download
from actstore.remote.mirror import Place, hidden

_STEP = 8 << 20


def is_elsewhere(source: str | Path) -> bool:
    """Say whether a source is an address, not a path."""
    return is_address(str(source)) or is_bucket(source)


def place_of(source: str | Path) -> Place:
    """Return where the files of an address lie.

    Raises:
        UsageError: it is no address, or there is nothing at it.
        RemoteStoreError: the repository holds a store already.
        HubError, BucketError: it cannot be asked; the leaf says why.
    """
    if is_bucket(source):
        return BucketPlace(parse_bucket(source))
    return HubPlace(parse(str(source)), Client())


class HubPlace:
    """One commit of a repository.

    Args:
        address: the repository, its revision, and a folder or file in it, if need be.
        client: the Hub.
    """

    def __init__(self, address: Address, client: Client) -> None:
        self._client = client
        self._address = address
        self._commit = client.head(address.repository, address.revision)
        self._files = client.files(address.repository, self._commit)
        if resolve.held_numbers(self._files) and not address.path:
            raise RemoteStoreError(
                f"{address.repository} holds a store already: fetch it with: "
                f"actstore pull {address.repository} FOLDER"
            )
        below = address.path
        visible = [path for path in self._files if not hidden(path)]
        if below and not any(p == below or p.startswith(f"{below}/") for p in visible):
            raise UsageError(
                f"{address}: there is no {below!r} in {address.repository}; it has "
                f"{', '.join(sorted({p.split('/')[0] for p in visible})[:8]) or 'no file'}"
            )

    @property
    def name(self) -> str:
        return self._address.repository

    @property
    def revision(self) -> str:
        return self._commit[:8]

    @property
    def within(self) -> str:
        return self._address.path

    @property
    def pinned(self) -> str:
        return str(Address(repository=self.name, revision=self._commit, path=self.within))

    @cached_property
    def files(self) -> Mapping[str, int]:
        return {path: file.size for path, file in self._files.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_client"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._client = Client()

    def version(self, path: str) -> str:
        return self._files[path].blob

    def bring(self, path: str, target: Path) -> None:
        file = self._files[path]
        if file.sha256 is not None:
            download(
                self._client,
                self.name,
                self._commit,
                path,
                target,
                size=file.size,
                sha256=file.sha256,
            )
            return
        data = self._client.read(self.name, path, self._commit, most=max(file.size, 1))
        if hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() != file.blob:
            raise TransferError(
                f"{path} of {self.name} arrives damaged; run the same command again"
            )
        target.write_bytes(data)

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        return self._client.read_range(self.name, path, self._commit, start, stop)

    def refuse(self, reason: str) -> RemoteStoreError:
        return RemoteStoreError(f"{self.name} {reason}; nothing was fetched")


class BucketPlace:
    """What lies below an address in a bucket, or the one object of that name; nothing else.

    No version is kept of it as on the Hub: each object is held to the size and tag that it had
    when it was first listed.

    Args:
        address: a folder in a bucket, or an object.
    """

    revision = ""

    def __init__(self, address: BucketAddress) -> None:
        self._bucket = Bucket(address)
        self.within = ""
        listed = self._bucket.objects("")
        if bucket_commits.numbers_of(each.path for each in listed):
            raise UsageError(
                f"{address} holds a store already: copy it with: actstore sync {address} FOLDER"
            )
        folders = {each.path.rpartition("/")[0] for each in listed}
        # Consoles make an empty object for each folder.
        found = [each for each in listed if each.size or each.path not in folders]
        self.files = {each.path: each.size for each in found}
        self._tags = {each.path: each.e_tag for each in found}
        if not found:
            self._take_one(address)

    def _take_one(self, address: BucketAddress) -> None:
        """Take an address for that of an object.

        Raises:
            UsageError: it is none either.
        """
        folder, _, self.within = address.prefix.rpartition("/")
        above = BucketAddress(scheme=address.scheme, bucket=address.bucket, prefix=folder)
        self._bucket = Bucket(above)
        part = self._bucket.read_range(self.within, 0, 1) if self.within else None
        if part is None:
            raise UsageError(f"{address}: nothing in the bucket has a name that begins so")
        self.files = {self.within: part.size}
        self._tags = {self.within: part.e_tag}

    @property
    def name(self) -> str:
        return str(self._bucket.address)

    @property
    def pinned(self) -> str:
        return f"{self.name}/{self.within}" if self.within else self.name

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_bucket": self._bucket.address}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._bucket = Bucket(state["_bucket"])

    def version(self, path: str) -> str:
        return f"{self.files[path]} {self._tags[path]}"

    def bring(self, path: str, target: Path) -> None:
        with target.open("wb") as file:
            for start in range(0, self.files[path], _STEP):
                file.write(self.read_range(path, start, min(start + _STEP, self.files[path])))

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        if start == stop:
            return b""
        part = self._bucket.read_range(path, start, stop)
        if part is None or (part.size, part.e_tag) != (self.files[path], self._tags[path]):
            raise BucketFileError(
                f"{path} of {self.name} was {'removed' if part is None else 'replaced'} while it "
                "was read: run the same command again"
            )
        return part.data

    def refuse(self, reason: str) -> BucketFileError:
        return BucketFileError(f"{self.name} {reason}; nothing was fetched")
