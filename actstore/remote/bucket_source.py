"""A store in a bucket, opened from afar: its objects as the place where a commit's files lie."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from actstore.errors import BucketFileError, UsageError
from actstore.remote import bucket_commits
from actstore.remote import cache as caches
from actstore.remote.bucket import Bucket
from actstore.remote.bucket_address import parse_bucket
from actstore.remote.cache import Range
from actstore.remote.files import RemoteFiles
from actstore.remote.ranges import Meter, read_side_by_side
from actstore.storage import manifest as manifests
from actstore.storage.manifest import LabelEntry, ShardEntry
from actstore.storage.snapshot import Snapshot


def open_bucket(
    address: str | Path, at: int | None = None, *, create: bool = False, known: int = 0
) -> Snapshot:
    """Open the store in a bucket; nothing of it is read but its manifest.

    Args:
        address: such as ``s3://bucket/store``.
        at: number of the commit; the latest when missing.
        create: whether a store that is not there yet is one without rows.
        known: number of a commit that is known to have been made.

    Raises:
        StoreNotFoundError: there is no store.
        SnapshotNotFoundError: it has no commit ``at``.
        CorruptStoreError: the manifest is damaged.
        BucketError: the bucket cannot be read; the leaf says why.
        MissingExtraError: obstore is not installed.
    """
    bucket = Bucket(parse_bucket(address))
    if create and bucket_commits.newest(bucket) is None:
        return Snapshot(RemoteFiles(BucketSource(bucket), caches.default()), manifests.EMPTY)
    found = bucket_commits.read_commit(bucket, at, known=known)
    manifest = bucket_commits.decode(found, bucket)
    return Snapshot(RemoteFiles(BucketSource(bucket), caches.default()), manifest)


class BucketSource:
    """The files of a store in a bucket."""

    vouches = False

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    @property
    def name(self) -> str:
        return str(self._bucket.address)

    @property
    def identity(self) -> str:
        return self._bucket.identity

    @property
    def meter(self) -> Meter:
        return self._bucket.meter

    @cached_property
    def commits(self) -> int:
        return len(bucket_commits.numbers(self._bucket))

    def ranged(self, entry: ShardEntry) -> BucketObject:
        return BucketObject(self._bucket, entry)

    def read(self, entry: LabelEntry) -> bytes:
        data = self._bucket.read(entry.path, most=entry.bytes)
        if data is None:
            raise self.damaged(entry.path, "it is missing")
        return data

    def needs_folder(self) -> UsageError:
        return UsageError(
            f"{self.name} is in a bucket, and this needs a store on this machine: copy it with: "
            f"actstore sync {self.name} FOLDER"
        )

    def damaged(self, path: str, reason: str) -> BucketFileError:
        return damaged(self._bucket, path, reason)


class BucketObject:
    """One shard in a bucket, read by ranges, each answer checked.

    Args:
        bucket: it lies in.
        entry: what the manifest says of it.
    """

    def __init__(self, bucket: Bucket, entry: ShardEntry | LabelEntry) -> None:
        self._bucket = bucket
        self.path = entry.path
        self.size = entry.bytes
        self.sha256 = entry.sha256
        self._lock = threading.Lock()
        self._e_tag: str | None = None

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return the bytes of each range, fetched side by side.

        Raises:
            BucketFileError: the object is missing, of another size, or was replaced.
            BucketError: it cannot be read.
        """
        return read_side_by_side(self._fetch, ranges)

    def _fetch(self, start: int, stop: int) -> bytes:
        part = self._bucket.read_range(self.path, start, stop)
        if part is None:
            raise damaged(self._bucket, self.path, "it is missing")
        if part.size != self.size:
            raise damaged(self._bucket, self.path, f"it has {part.size:,} of {self.size:,} bytes")
        if len(part.data) != stop - start:
            raise damaged(self._bucket, self.path, "fewer bytes came than were asked for")
        with self._lock:
            if self._e_tag is None:
                self._e_tag = part.e_tag
        if part.e_tag != self._e_tag:
            raise damaged(self._bucket, self.path, "it was replaced while it was read")
        return part.data


def damaged(bucket: Bucket, path: str, reason: str) -> BucketFileError:
    """Return the error for an object that is not what the manifest says."""
    return BucketFileError(
        f"{path} of {bucket.address} is not what its manifest says ({reason}): restore the object "
        "from a copy, or an older commit that does not need it is opened with --at N"
    )
