"""What a store remembers of repositories, as files that a copy of it takes along."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from actstore.remote.bucket import Bucket
from actstore.storage import layout
from actstore.storage.disk_errors import content_of

Meetings = Mapping[str, bytes]
"""Files of ``remotes/``, by name."""


def in_folder(root: Path) -> dict[str, bytes]:
    """Return what a store in a folder remembers."""
    return {path.name: content_of(path) for path in (root / layout.REMOTES).glob("*.json")}


def in_bucket(bucket: Bucket) -> dict[str, bytes]:
    """Return what a store in a bucket remembers.

    Raises:
        BucketError: it cannot be read.
    """
    found = {}
    for each in bucket.objects(layout.REMOTES):
        name = each.path.removeprefix(f"{layout.REMOTES}/")
        data = bucket.read(each.path) if "/" not in name and name.endswith(".json") else None
        if data is not None:
            found[name] = data
    return found


def to_carry(theirs: Meetings, ours: Meetings, *, pulled: bool) -> dict[str, bytes]:
    """Return what a copy does not know yet.

    A copy that has pushed by itself since knows more, unless the source has pulled: what it
    remembers then may speak of an earlier state of the repository, by choice.

    Args:
        theirs: what the source remembers.
        ours: what the copy does.
        pulled: whether the source has made a pull that the copy did not have.
    """
    return {
        name: data
        for name, data in theirs.items()
        if data != ours.get(name) and (pulled or _number(data) >= _number(ours.get(name)))
    }


def _number(data: bytes | None) -> int:
    """Return the commit of the store that the repository held; -1 where nobody can say."""
    try:
        return int(json.loads(data or b"")["number"])
    except (ValueError, KeyError, TypeError):
        return -1
