"""The commits of a store in a bucket: which is the newest, which there are, and what they hold."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from actstore.errors import (
    BucketAccessError,
    BucketError,
    BucketFileError,
    CorruptStoreError,
    SnapshotNotFoundError,
    StoreNotFoundError,
)
from actstore.remote import cache as caches
from actstore.remote.bucket import Bucket
from actstore.storage import layout
from actstore.storage import manifest as manifests
from actstore.storage.file_hashes import sha256_of
from actstore.storage.files import temporary_folder
from actstore.storage.manifest import Manifest
from actstore.storage.segments import SegmentEntry
from actstore.storage.threads import Pool

HINT = f"{layout.MANIFESTS}/latest"
"""The number of a commit that was the newest once. It is never believed, only begun at."""
_MANIFEST = re.compile(rf"{layout.MANIFESTS}/([0-9]{{10}})\.json")
_NUMBER = re.compile(rb"[1-9][0-9]{0,9}\n?")


class StoredCommit(NamedTuple):
    """One commit, as its object is."""

    number: int
    data: bytes


def manifest_name(number: int) -> str:
    """Return the name of a commit's object."""
    return f"{layout.MANIFESTS}/{number:010d}.json"


def newest(bucket: Bucket, *, known: int = 0) -> StoredCommit | None:
    """Return the newest commit, in about one round however many there are; None: there is none.

    Args:
        bucket: of the store.
        known: number of a commit that is known to have been made, to begin at.

    Raises:
        BucketError: the bucket cannot be read.
    """
    start = known or _hinted(bucket)
    if start:
        with Pool(2) as pool:
            following = pool.submit(bucket.read, manifest_name(start + 1))
            found = bucket.read(manifest_name(start))
            try:
                after = following.result()
            except BucketAccessError:  # as S3 answers for what is not there to who may not list
                if found is None:
                    raise
                after = None
        if after is not None:
            return _onwards(bucket, StoredCommit(start + 1, after))
        if found is not None:
            return StoredCommit(start, found)
    # No hint, or one of a commit that is gone: all names, as they are.
    while listed := numbers(bucket):
        data = bucket.read(manifest_name(listed[-1]))
        if data is not None:
            return _onwards(bucket, StoredCommit(listed[-1], data))
    return None


def _onwards(bucket: Bucket, at: StoredCommit) -> StoredCommit:
    while (data := bucket.read(manifest_name(at.number + 1))) is not None:
        at = StoredCommit(at.number + 1, data)
    return at


def _hinted(bucket: Bucket) -> int:
    try:
        found = bucket.read(HINT, most=1 << 10)
    except BucketFileError:
        return 0
    return int(found) if found is not None and _NUMBER.fullmatch(found) else 0


def hint_at(bucket: Bucket, number: int) -> None:
    """Leave word of the newest commit; where that fails the next reader lists the names."""
    try:
        bucket.put(HINT, b"%d\n" % number)
    except BucketError:
        return


def numbers(bucket: Bucket) -> list[int]:
    """Return the numbers of all commits, ascending; empty when there is no store.

    Raises:
        BucketError: the bucket cannot be read.
    """
    return numbers_of(each.path for each in bucket.objects(layout.MANIFESTS))


def numbers_of(paths: Iterable[str]) -> list[int]:
    """Return the numbers of the manifests among some paths, ascending."""
    return sorted(int(found[1]) for found in map(_MANIFEST.fullmatch, paths) if found)


def read_commit(bucket: Bucket, at: int | None = None, *, known: int = 0) -> StoredCommit:
    """Return commit ``at``, or the newest one.

    Raises:
        StoreNotFoundError: there is no store.
        SnapshotNotFoundError: it has no commit ``at``.
        BucketError: the bucket cannot be read.
    """
    if at is None:
        found = newest(bucket, known=known)
        if found is None:
            raise StoreNotFoundError(_why_no_store(bucket))
        return found
    data = bucket.read(manifest_name(at))
    if data is not None:
        return StoredCommit(at, data)
    listed = numbers(bucket)
    if not listed:
        raise StoreNotFoundError(_why_no_store(bucket))
    span = f"{listed[0]} to {listed[-1]}" if len(listed) > 1 else str(listed[0])
    raise SnapshotNotFoundError(
        f"{bucket.address} has no commit {at}: it has {span} (see: actstore log {bucket.address})"
    )


def decode(commit: StoredCommit, bucket: Bucket, root: Path | None = None) -> Manifest:
    """Decode a commit; its segments are fetched, if they are not here yet.

    Args:
        commit: as its object is.
        bucket: it is in.
        root: a folder to keep segments in, which are then read when they are needed; when missing
            they are read now, and kept in the user's cache.

    Raises:
        CorruptStoreError: it is damaged, or another than its name says.
        BucketError: a segment is missing or cannot be read.
    """
    where = f"{manifest_name(commit.number)} of {bucket.address}"
    found = manifests.decode(commit.data, where, root or _kept(bucket))
    if found.number != commit.number:
        raise CorruptStoreError(f"{where} calls itself commit {found.number}: restore it")
    for segment in found.segments:
        _fetch_segment(bucket, segment, root)
    if root is None:
        _ = found.shards, found.runs
    return found


def _kept(bucket: Bucket) -> Path:
    """Return a folder for the segments of a store's manifests."""
    try:
        return caches.default().metadata_folder(
            hashlib.sha256(bucket.identity.encode()).hexdigest()
        )
    except OSError:  # read-only, or full
        return temporary_folder(bucket.identity)


def _fetch_segment(bucket: Bucket, segment: SegmentEntry, root: Path | None) -> None:
    kept = _kept(bucket)
    if not _is_whole(kept / segment.path, segment):
        data = bucket.read(segment.path, most=segment.bytes)
        if data is None or hashlib.sha256(data).hexdigest() != segment.sha256:
            state = "missing" if data is None else "not what the manifest says"
            raise BucketFileError(
                f"{segment.path} of {bucket.address} is {state}, and names shards of the commit: "
                "restore the object from a copy"
            )
        _write(kept / segment.path, data)
    if root is not None and not (root / segment.path).exists():
        _write(root / segment.path, (kept / segment.path).read_bytes())


def _is_whole(path: Path, segment: SegmentEntry) -> bool:
    return path.is_file() and sha256_of(path) == (segment.sha256, segment.bytes)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    draft.write_bytes(data)
    draft.replace(path)


def _why_no_store(bucket: Bucket) -> str:
    hint = f"make one with: actstore ingest SOURCE --store {bucket.address}"
    parts = bucket.top()[:5]
    holds = f"it holds {', '.join(parts)}" if parts else "nothing has a name that begins so"
    return f"there is no store at {bucket.address}: {holds}; {hint}"
