"""Removes old commits of a store in a bucket, and what writers that died have left, after a grace.

Nobody can see in a bucket who reads and who writes. So time decides, by the server's own clock: a
commit can be read for the grace after the next one was made, and an object that no commit names
is left alone until it is older than the grace.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from actstore.errors import BucketError, DamageError, UsageError
from actstore.remote import bucket_commits
from actstore.remote.bucket import PROBE, Bucket, StoredObject
from actstore.remote.bucket_commits import manifest_name
from actstore.storage import layout
from actstore.storage.manifest import Manifest

GRACE = timedelta(hours=24)
"""For how long readers of old commits, and writers that have not committed, are safe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketPruned:
    """What was removed from a store in a bucket."""

    commits: tuple[int, ...]
    kept_by_grace: tuple[int, ...]
    """Commits that would have gone, and may still be read."""
    files: tuple[str, ...]
    """Shards, label overlays and segments of manifests, by their path in the store; and what
    ingests have left there that were to be one commit and were never ended."""
    bytes: int
    """Of these."""


def prune_bucket(bucket: Bucket, *, keep: int = 1, grace: timedelta = GRACE) -> BucketPruned:
    """Remove all but the newest ``keep`` commits, and what no commit names, once the grace is over.

    Objects that the commits that stay name must all be there, of the right size: else nothing is
    removed. Manifests go before files, the oldest first: after a crash the same call does the rest.

    Args:
        bucket: the store.
        keep: how many commits stay.
        grace: for how long what is no longer needed may still be in use.

    Raises:
        StoreNotFoundError: there is no store.
        DamageError: an object of a commit that stays is missing or of another size.
        UsageError: ``keep`` is below one, or ``grace`` is negative.
        BucketError: the bucket cannot be read or written.
    """
    if keep < 1 or grace < timedelta(0):
        raise UsageError(f"at least one commit and no negative grace: got {keep} and {grace}")
    bucket_commits.read_commit(bucket)  # says what is there instead
    limit = _now(bucket) - grace
    # Files are listed before manifests: what was committed meanwhile is named by then.
    files = _files(bucket)
    listed = {each.path: each for each in bucket.objects(layout.MANIFESTS)}
    numbers = sorted(bucket_commits.numbers_of(listed))
    old = [n for n in numbers[:-keep] if _superseded(numbers, n, listed) <= limit]
    stay = [number for number in numbers if number not in old]
    kept = [bucket_commits.decode(bucket_commits.read_commit(bucket, n), bucket) for n in stay]
    named = {path for manifest in kept for path in manifest.named}
    _check(bucket, kept, files)
    files |= {each.path: each for each in bucket.objects(layout.CACHE)}
    unused = [each for path, each in files.items() if path not in named and each.modified <= limit]
    bucket_commits.hint_at(bucket, numbers[-1])
    bucket.delete([manifest_name(number) for number in old])
    # Once more: a copying may have brought one of them again since.
    again = _files(bucket) if unused else {}
    again |= {each.path: each for each in unused if each.path.startswith(f"{layout.CACHE}/")}
    gone = [each for each in unused if again.get(each.path) == each]
    probes = [each for path, each in listed.items() if path.startswith(PROBE)]
    bucket.delete([each.path for each in gone])
    bucket.delete([each.path for each in probes if each.modified <= limit])
    return BucketPruned(
        commits=tuple(old),
        kept_by_grace=tuple(number for number in numbers[:-keep] if number not in old),
        files=tuple(each.path for each in gone),
        bytes=sum(each.size for each in gone),
    )


def _files(bucket: Bucket) -> dict[str, StoredObject]:
    found = [*bucket.objects(layout.ACTIVATIONS), *bucket.objects(layout.LABELS)]
    found = [each for each in found if each.path.endswith(".parquet")]
    found += [each for each in bucket.objects(layout.SEGMENTS) if layout.is_segment(each.path)]
    return {each.path: each for each in found}


def _superseded(numbers: list[int], number: int, listed: dict[str, StoredObject]) -> datetime:
    """Return when the next commit was made."""
    following = numbers[numbers.index(number) + 1]
    return listed[manifest_name(following)].modified


def _now(bucket: Bucket) -> datetime:
    """Return the time by the server's clock, which all its objects' times are of."""
    path = f"{PROBE}-{secrets.token_hex(8)}"
    bucket.put(path, b"now")
    try:
        for each in bucket.objects(layout.MANIFESTS):
            if each.path == path:
                return each.modified
    finally:
        bucket.delete([path])
    raise BucketError(f"{bucket.address} does not list what was written a moment ago: not pruned")


def _check(bucket: Bucket, kept: list[Manifest], files: dict[str, StoredObject]) -> None:
    problems = []
    for manifest in kept:
        for path, entry in manifest.named.items():
            there = files.get(path)
            if there is None:
                problems.append((path, "the object is missing"))
            elif there.size != entry.bytes:
                problems.append((path, f"it has {there.size:,} of {entry.bytes:,} bytes"))
    if problems:
        path, reason = problems[0]
        raise DamageError(
            f"{path} of {bucket.address}: {reason}; nothing was removed, since an older commit may "
            f"hold the last sound copy of its rows (see: actstore verify {bucket.address})",
            problems,
        )
