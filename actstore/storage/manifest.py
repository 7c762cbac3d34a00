"""Manifests: one JSON file per commit that names every live shard, created atomically."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from actstore import schema
from actstore.errors import (
    CommitError,
    CorruptStoreError,
    SnapshotNotFoundError,
    StoreNotFoundError,
)
from actstore.storage import layout
from actstore.storage.entries import LabelEntry as LabelEntry
from actstore.storage.entries import PoolingRegion as PoolingRegion
from actstore.storage.entries import Rounding as Rounding
from actstore.storage.entries import Run as Run
from actstore.storage.entries import ShardEntry as ShardEntry
from actstore.storage.entries import (
    check_hash,
    check_labels,
    check_shard,
    check_size,
    check_together,
)
from actstore.storage.entries import in_row_order as in_row_order
from actstore.storage.entries import together as together

FORMAT = "actstore-manifest"
VERSION = 2
"""The newest that is read. What is written is as old as its content allows: version 1 unless a
shard is of int8, which earlier versions of actstore do not know and so refuse to open."""
_SCHEMAS = {1: f"activations/v{schema.VERSION}", 2: f"activations/v{schema.QUANTISED_VERSION}"}
_NAME = re.compile(r"([0-9]{10})\.json")
_SEAL = re.compile(rb',\n"sha256": "([0-9a-f]{64})"\n\}\n\Z')
"""The end of a manifest: the SHA-256 of all that stands before it."""
_LOOKS = 10


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One commit: everything that is in the store at that moment."""

    number: int
    parent: int | None
    created_at: str
    operation: str
    message: str
    shards: tuple[ShardEntry, ...] = ()
    """In row order: by model, site, layer (unknown last), then by commit."""
    labels: tuple[LabelEntry, ...] = ()
    runs: tuple[Run, ...] = ()
    parent_sha256: str | None = field(default=None, compare=False)
    """SHA-256 of the parent's file; None in manifests written before this was recorded."""
    sealed: bool = field(default=True, compare=False)
    """Whether its text ends with its own SHA-256, as all do that are written now."""
    _read: str = field(default="", init=False, compare=False, repr=False)

    @property
    def sha256(self) -> str:
        """SHA-256 of its file."""
        return self._read or hashlib.sha256(self.encode()).hexdigest()

    @cached_property
    def rows(self) -> int:
        """Rows in all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def files(self) -> dict[str, ShardEntry | LabelEntry]:
        """Every file that it names, by path."""
        found: dict[str, ShardEntry | LabelEntry] = {shard.path: shard for shard in self.shards}
        return found | {overlay.path: overlay for overlay in self.labels}

    @property
    def fingerprint(self) -> str:
        """Hash of all content: the SHA-256 of the hashes of shards and labels, sorted."""
        hashes = sorted(
            [*(each.sha256 for each in self.shards), *(each.sha256 for each in self.labels)]
        )
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    def next(
        self,
        *,
        operation: str,
        message: str,
        shards: tuple[ShardEntry, ...],
        labels: tuple[LabelEntry, ...] | None = None,
        runs: tuple[Run, ...] | None = None,
    ) -> Manifest:
        """Return the manifest that follows this one; shards are put in row order."""
        number = self.number + 1
        shards = tuple(
            shard if shard.since else dataclasses.replace(shard, since=number) for shard in shards
        )
        return Manifest(
            number=number,
            parent=self.number or None,
            created_at=now(),
            operation=operation,
            message=message,
            shards=in_row_order(shards),
            labels=self.labels if labels is None else labels,
            runs=self.runs if runs is None else runs,
            parent_sha256=self.sha256 if self.number else None,
        )

    def encode(self) -> bytes:
        """Return the manifest as JSON, one line per shard, its own SHA-256 at the end."""
        version = schema.version_of({entry.dtype for entry in self.shards})
        head = {
            "format": FORMAT,
            "version": version,
            "schema": _SCHEMAS[version],
            "number": self.number,
            "parent": self.parent,
            **({"parent_sha256": self.parent_sha256} if self.sealed else {}),
            "created_at": self.created_at,
            "operation": self.operation,
            "message": self.message,
        }
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
        for key in ("runs", "labels", "shards"):
            items = ",\n".join(json.dumps(_fields(entry)) for entry in getattr(self, key))
            lines.append(f"{json.dumps(key)}: [{items and chr(10)}{items}]")
        # Not beside the other facts of a shard: earlier versions refuse to see more there.
        tails = {entry.path: entry.tail for entry in self.shards if entry.tail}
        if tails and self.sealed:
            items = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in tails.items())
            lines.append(f'"tails": {{\n{items}}}')
        lost = {entry.path: list(entry.rounding) for entry in self.shards if entry.rounding}
        if lost and self.sealed:
            items = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in lost.items())
            lines.append(f'"rounded": {{\n{items}}}')
        text = ("{\n" + ",\n".join(lines)).encode()
        if not self.sealed:
            return text + b"\n}\n"
        return text + b',\n"sha256": "%s"\n}\n' % hashlib.sha256(text).hexdigest().encode()


def _fields(entry: ShardEntry | LabelEntry | Run) -> dict[str, Any]:
    # dataclasses.asdict copies deeply, which takes a third of a second for 10,000 shards.
    return {name: getattr(entry, name) for name in _FIELDS[type(entry)]}


_BESIDE = ("tail", "rounding")
_FIELDS = {
    kind: tuple(item.name for item in dataclasses.fields(kind) if item.name not in _BESIDE)
    for kind in (ShardEntry, LabelEntry, Run)
}


_KEYS = frozenset(
    {"format", "version", "schema", "number", "parent", "created_at", "operation", "message"}
    | {"runs", "labels", "shards"}
)


EMPTY = Manifest(number=0, parent=None, created_at="", operation="", message="")
"""What a store holds before its first commit."""


def now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def decode(data: bytes, where: str) -> Manifest:
    """Decode a manifest.

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
            ShardEntry(
                **{
                    **entry,
                    "pages": tuple(map(tuple, entry["pages"])),
                    "pools": _pools(entry.get("pools")),
                    "tail": tails.get(entry["path"]) if entry["pages"] else None,
                    "rounding": Rounding(*lost[entry["path"]]) if entry["path"] in lost else None,
                }
            )
            for entry in _list(document, "shards")
        )
        for shard in shards:
            _check_path(shard.path, where)
            check_shard(shard)
        labels = tuple(LabelEntry(**entry) for entry in _list(document, "labels"))
        for overlay in labels:
            _check_path(overlay.path, where)
            check_labels(overlay)
        check_together(shards, labels)
        found = Manifest(
            number=document["number"],
            parent=document["parent"],
            created_at=document["created_at"],
            operation=document["operation"],
            message=document["message"],
            shards=shards,
            labels=labels,
            runs=tuple(Run(**entry) for entry in _list(document, "runs")),
            parent_sha256=document.get("parent_sha256"),
            sealed=sealed,
        )
        _check_facts(found)
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
    if document.get("schema") != _SCHEMAS[document["version"]]:
        raise CorruptStoreError(
            f"{where} is of schema {document.get('schema')!r}, this actstore reads "
            f"{_SCHEMAS[document['version']]}: upgrade actstore"
        )


def _check_seal(data: bytes) -> None:
    seal = _SEAL.search(data)
    if seal is None or hashlib.sha256(data[: seal.start()]).hexdigest().encode() != seal[1]:
        raise ValueError("its content is not what its own SHA-256 says")


def _check_facts(found: Manifest) -> None:
    """Refuse a wrong type of what is no shard and no overlay."""
    check_size("the manifest", "number", found.number, 1)
    if found.parent is not None:
        check_size("the manifest", "parent", found.parent, 1)
    texts = [("created_at", found.created_at), ("operation", found.operation)]
    texts.append(("message", found.message))
    for run in found.runs:
        if not isinstance(run.settings, dict) or not isinstance(run.versions, dict):
            raise ValueError(f"run {run.run_id!r} has no settings and versions")
        texts += [("run_id", run.run_id), ("kind", run.kind), ("started_at", run.started_at)]
        texts += run.versions.items()
    for name, text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{name} is {text!r}")
    if found.parent_sha256 is not None:
        check_hash("the parent", found.parent_sha256)


def _pools(pairs: list[list[Any]] | None) -> tuple[PoolingRegion, ...] | None:
    if pairs is None:
        return None
    found = tuple((pooling, region) for pooling, region in pairs)
    for pooling, region in found:
        if not isinstance(pooling, str) or not isinstance(region, str | None):
            raise ValueError(f"a shard has the pooling {pooling!r} over {region!r}")
    return found


def _list(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = document[key]
    if not isinstance(found, list):
        raise ValueError(f"{key} is no list")
    return found


def is_inside(path: str) -> bool:
    """Say whether a path, relative to the store with ``/`` between segments, stays inside."""
    parts = path.split("/")
    return not ("\\" in path or "\0" in path or any(part in ("", ".", "..") for part in parts))


def _check_path(path: str, where: str) -> None:
    path.encode()  # or it is no name of a file
    if not is_inside(path):
        raise CorruptStoreError(f"{where} names the file {path!r}, which is outside the store")


def numbers(root: Path) -> list[int]:
    """Return the numbers of all commits, ascending; empty when there is no store.

    Raises:
        CorruptStoreError: the folder cannot be read.
    """
    try:
        names = os.listdir(root / layout.MANIFESTS)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CorruptStoreError(f"the commits of {root} cannot be listed: {error}") from error
    return sorted(int(found[1]) for found in map(_NAME.fullmatch, names) if found)


def load(root: Path, at: int | None = None) -> Manifest:
    """Load commit ``at``, or the latest.

    Raises:
        StoreNotFoundError: there is no store at ``root``.
        SnapshotNotFoundError: the store has no commit ``at``.
        CorruptStoreError: the manifest is damaged.
    """
    for _ in range(_LOOKS):
        known = numbers(root)
        if not known:
            raise StoreNotFoundError(_why_no_store(root))
        number = known[-1] if at is None else at
        if number not in known:
            span = f"{known[0]} to {known[-1]}" if len(known) > 1 else str(known[0])
            raise SnapshotNotFoundError(
                f"{root} has no commit {number}: it has {span} (see: actstore log {root})"
            )
        path = layout.manifest_path(root, number)
        try:
            found = decode(path.read_bytes(), str(path))
        except FileNotFoundError:
            continue  # pruned since the folder was listed: look again
        except OSError as error:
            raise CorruptStoreError(f"{path} cannot be read: {error}") from error
        if found.number != number:
            raise CorruptStoreError(
                f"{path} calls itself commit {found.number}: restore it from a copy"
            )
        return found
    raise CorruptStoreError(f"{path} is listed but not there: restore it from a copy")


def load_if_there(root: Path, number: int) -> Manifest | None:
    """Load a commit that somebody may be pruning; None where it is gone."""
    try:
        return load(root, number)
    except SnapshotNotFoundError:
        return None


def latest(root: Path) -> Manifest:
    """Load the latest commit, or :data:`EMPTY` when there is none yet."""
    return load(root) if numbers(root) else EMPTY


def _why_no_store(root: Path) -> str:
    hint = "make one with: actstore ingest SOURCE --store " + str(root)
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

    Returns False when another writer has already made a commit of that number: nothing
    happened, read the latest manifest and try again on top of it.

    Raises:
        CommitError: the disk is full or failed; the message says which commit stands.
    """
    target = layout.manifest_path(root, manifest.number)
    draft = staging / f"{layout.new_transaction()}.json"  # once linked it is the commit itself
    try:
        layout.write_durably(draft, manifest.encode())
        # Another writer that had nothing to commit may have removed the empty folder.
        target.parent.mkdir(exist_ok=True)
        try:
            os.link(draft, target)
        except FileExistsError:
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
