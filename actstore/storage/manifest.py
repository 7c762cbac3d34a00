"""Manifests: one JSON file per commit that names every live shard, created atomically."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

from actstore import schema
from actstore.errors import (
    CommitError,
    CorruptStoreError,
    SnapshotNotFoundError,
    StoreNotFoundError,
)
from actstore.storage import layout, segments, turns
from actstore.storage.disk_errors import reading, unread
from actstore.storage.entries import LabelEntry as LabelEntry
from actstore.storage.entries import PoolingRegion as PoolingRegion
from actstore.storage.entries import Rounding as Rounding
from actstore.storage.entries import Run as Run
from actstore.storage.entries import ShardEntry as ShardEntry
from actstore.storage.entries import (
    check_hash,
    check_labels,
    check_path,
    check_size,
    check_texts,
    check_together,
    run_of,
    shard_of,
)
from actstore.storage.entries import in_row_order as in_row_order
from actstore.storage.entries import is_inside as is_inside
from actstore.storage.entries import together as together
from actstore.storage.manifest_content import EMPTY as EMPTY
from actstore.storage.manifest_content import FORMAT, VERSION, segmented
from actstore.storage.manifest_content import Manifest as Manifest
from actstore.storage.manifest_content import SegmentedManifest as SegmentedManifest
from actstore.storage.manifest_content import now as now
from actstore.storage.manifest_content import salvaged as salvaged
from actstore.storage.segments import Older

_NAME = re.compile(r"([0-9]{10})\.json")
_SEAL = re.compile(rb',\n"sha256": "([0-9a-f]{64})"\n\}\n\Z')
"""The end of a manifest: the SHA-256 of all that stands before it."""
_SEGMENTS = layout.SEGMENTS.rpartition("/")[2]
_KEPT_BYTES = 1 << 20
"""Bytes of a commit that is kept as it was decoded, at most."""
_LOOKS = 10


_KEYS = frozenset(
    {"format", "version", "schema", "number", "parent", "created_at", "operation", "message"}
    | {"runs", "labels", "shards"}
)


def decode(data: bytes, where: str, root: Path | None = None) -> Manifest:
    """Decode a manifest.

    Args:
        data: its file.
        where: what messages call it.
        root: folder of the store, in which its segments lie; None: it must have none.

    Raises:
        CorruptStoreError: it is no manifest, was changed, or is of a newer version.
    """
    try:
        document = json.loads(data)
        if document.get("format") != FORMAT:
            raise CorruptStoreError(f"{where} is not an actstore manifest")
        _check_version(document, where)
        sealed = "sha256" in document
        if sealed:
            _check_seal(data)
        tails = document.get("tails", {})
        lost = document.get("rounded", {})
        shards = tuple(
            shard_of(entry, tails.get(entry["path"]), lost.get(entry["path"]))
            for entry in _list(document, "shards")
        )
        labels = tuple(LabelEntry(**entry) for entry in _list(document, "labels"))
        for overlay in labels:
            check_path(overlay.path)
            check_labels(overlay)
        check_together(shards, labels)
        runs = tuple(map(run_of, _list(document, "runs")))
        facts = {
            "number": document["number"],
            "parent": document["parent"],
            "created_at": document["created_at"],
            "operation": document["operation"],
            "message": document["message"],
            "labels": labels,
            "parent_sha256": document.get("parent_sha256"),
            "sealed": sealed,
        }
        _check_facts(facts)
        found: Manifest
        if document["version"] < VERSION:
            found = Manifest(**facts, shards=shards, runs=runs)
        else:
            if root is None:
                raise ValueError(
                    "it names segments, which no store has that was sent with: actstore push"
                )
            older = Older(root, tuple(map(segments.entry_of, _list(document, "segments"))))
            gone = document.get("gone", {})
            for path, rows in gone.items():
                check_size(path, "rows", rows, 1)
            found = segmented(facts, older, shards, runs, gone)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, CorruptStoreError):
            raise
        raise CorruptStoreError(f"{where} is damaged ({error}): restore it from a copy") from error
    object.__setattr__(found, "_read", hashlib.sha256(data).hexdigest())
    return found


def unknown_keys(data: bytes) -> list[str]:
    """Return what a manifest that carries no SHA-256 of its own says and none ever did."""
    return [key for key in json.loads(data) if key not in _KEYS]


def _check_version(document: dict[str, Any], where: str) -> None:
    check_size("the manifest", "version", document["version"], 1)
    if document["version"] > VERSION:
        raise CorruptStoreError(
            f"{where} has manifest version {document['version']}, this actstore reads up to "
            f"{VERSION}: upgrade actstore"
        )
    version = document["version"]
    known = range(schema.VERSION, schema.QUANTISED_VERSION + 1) if version == VERSION else [version]
    if document.get("schema") not in [f"activations/v{number}" for number in known]:
        raise CorruptStoreError(
            f"{where} is of schema {document.get('schema')!r}, this actstore reads "
            f"activations/v{known[-1]}: upgrade actstore"
        )


def _check_seal(data: bytes) -> None:
    seal = _SEAL.search(data)
    if seal is None or hashlib.sha256(data[: seal.start()]).hexdigest().encode() != seal[1]:
        raise ValueError("its content is not what its own SHA-256 says")


def _check_facts(facts: dict[str, Any]) -> None:
    """Refuse a wrong type of what is no shard, no overlay and no run."""
    check_size("the manifest", "number", facts["number"], 1)
    if facts["parent"] is not None:
        check_size("the manifest", "parent", facts["parent"], 1)
    check_texts((name, facts[name]) for name in ("created_at", "operation", "message"))
    if facts["parent_sha256"] is not None:
        check_hash("the parent", facts["parent_sha256"])


def _list(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = document[key]
    if not isinstance(found, list):
        raise ValueError(f"{key} is no list")
    return found


def numbers(root: Path) -> list[int]:
    """Return the numbers of all commits, ascending; empty when there is no store.

    Raises:
        CorruptStoreError: the folder cannot be read.
    """
    return sorted(int(found[1]) for found in map(_NAME.fullmatch, _names(root)) if found)


def _names(root: Path) -> list[str]:
    try:
        return os.listdir(root / layout.MANIFESTS)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CorruptStoreError(unread(str(root / layout.MANIFESTS), error)) from error


def newest(root: Path) -> int:
    """Return the number of the latest commit; 0 where there is none.

    Raises:
        CorruptStoreError: the folder cannot be read.
    """
    # Of thousands of names the largest is found at once, and all numbers are not.
    latest = max({*_names(root)} - {_SEGMENTS}, default="")
    found = _NAME.fullmatch(latest)
    if latest and not found:
        return max(numbers(root), default=0)  # somebody else's file lies there
    return int(found[1]) if found else 0


def forget() -> None:
    """Read commits and segments again when they are asked for next, as a check of them must."""
    segments.forget()
    _decoded.cache_clear()


# A write asks for the same commit when it begins, commits, and is read back.
@lru_cache(maxsize=4)
def _decoded(data: bytes, where: str, root: Path) -> Manifest:
    return decode(data, where, root)


def load(root: Path, at: int | None = None, *, lazily: bool = False) -> Manifest:
    """Load commit ``at``, or the latest.

    Args:
        root: folder of the store.
        at: its number.
        lazily: leave its segments for later, which whoever has a lease of the commit may.

    Raises:
        StoreNotFoundError: there is no store at ``root``.
        SnapshotNotFoundError: the store has no commit ``at``.
        CorruptStoreError: the manifest is damaged.
    """
    for _ in range(_LOOKS):
        number = newest(root)
        if not number:
            raise StoreNotFoundError(_why_no_store(root))
        if at is not None:
            number = at
        path = layout.manifest_path(root, number)
        try:
            data = path.read_bytes()
            make = _decoded if len(data) <= _KEPT_BYTES else decode
            found = make(data, str(path), root)
            if found.number != number:
                raise CorruptStoreError(
                    f"{path} calls itself commit {found.number}: restore it from a copy"
                )
            if not lazily:
                _ = found.shards, found.runs
        except FileNotFoundError:
            if at is not None:
                raise SnapshotNotFoundError(_why_no_commit(root, at)) from None
            continue  # pruned since the folder was listed: look again
        except CorruptStoreError:
            if path.exists():
                raise
            continue  # pruned since it was read, with its segments
        except OSError as error:
            raise CorruptStoreError(unread(str(path), error)) from error
        return found
    raise CorruptStoreError(f"{path} is listed but not there: restore it from a copy")


def _why_no_commit(root: Path, at: int) -> str:
    known = numbers(root)
    span = f"{known[0]} to {known[-1]}" if len(known) > 1 else ", ".join(map(str, known))
    return f"{root} has no commit {at}: it has {span} (see: actstore log {root})"


def load_if_there(root: Path, number: int) -> Manifest | None:
    """Load a commit that somebody may be pruning; None where it is gone."""
    try:
        return load(root, number)
    except SnapshotNotFoundError:
        return None


def load_all(root: Path, chosen: Callable[[list[int]], Collection[int]]) -> list[Manifest]:
    """Load commits of a store as they all are there at one moment, while others may be pruning.

    Args:
        root: folder of the store.
        chosen: which of its numbers; asked again where one of them is gone before it is read.
    """
    while True:
        found = [load_if_there(root, number) for number in chosen(numbers(root))]
        there = [each for each in found if each is not None]
        if len(there) == len(found):
            return there


def latest(root: Path, *, lazily: bool = False) -> Manifest:
    """Load the latest commit, or :data:`EMPTY` when there is none yet; see :func:`load`."""
    try:
        return load(root, lazily=lazily)
    except StoreNotFoundError:
        return EMPTY


def _why_no_store(root: Path) -> str:
    with reading(root):
        return _what_is_there(root)


def _what_is_there(root: Path) -> str:
    hint = "make one with: actstore ingest SOURCE --store " + shlex.quote(str(root))
    if not root.exists():
        return f"there is no store at {root}: the path does not exist; {hint}"
    if not root.is_dir():
        return f"there is no store at {root}: it is a file, a store is a folder"
    if (root / layout.STAGING).is_dir() or (root / layout.MANIFESTS).is_dir():
        return f"the store at {root} has no commit yet; finish one with the ingest that was begun"
    names = sorted(child.name for child in root.iterdir())[:5]
    if names == [layout.REPORTS]:
        return (
            f"the store at {root} has no rows yet: what was ingested was refused, and its reports "
            f"in {root / layout.REPORTS} say why"
        )
    holds = f"it holds {', '.join(names)}" if names else "the folder is empty"
    return f"there is no store at {root}: {holds}; {hint}"


def publish(root: Path, manifest: Manifest, staging: Path) -> bool:
    """Create the manifest's file, exclusively and durably.

    Returns False when another writer has already made a commit of that number, or a later one:
    nothing happened, read the latest manifest and try again on top of it.

    Raises:
        CommitError: the disk is full or failed; the message says which commit stands.
    """
    target = layout.manifest_path(root, manifest.number)
    draft = staging / f"{layout.new_transaction()}.json"  # once linked it is the commit itself
    try:
        layout.write_durably(draft, manifest.encode())
        # Another writer that had nothing to commit may have removed the empty folder.
        target.parent.mkdir(exist_ok=True)
        with turns.naming(root):
            if newest(root) >= manifest.number:  # one of that number may have been pruned since
                return False
            if not layout.link(draft, target):
                return False
    except OSError as error:
        raise CommitError(
            f"commit {manifest.number} of {root} could not be written ({error}); "
            "the previous commit still stands"
        ) from error
    try:
        layout.sync_folder(target.parent)
    except OSError as error:  # others see the commit already: it cannot be taken back
        raise CommitError(
            f"commit {manifest.number} of {root} is made, but the disk did not confirm it "
            f"({error}): it may not survive a power failure; check the disk"
        ) from error
    return True
