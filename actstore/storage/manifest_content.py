"""One commit: what its manifest says of shards, labels and runs, itself or through segments."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from actstore import schema
from actstore.errors import CorruptStoreError
from actstore.storage.entries import (
    LabelEntry,
    Run,
    ShardEntry,
    check_together,
    fields,
    in_row_order,
)
from actstore.storage.segments import MOST_LISTED, Older, Partition, SegmentEntry

FORMAT = "actstore-manifest"
VERSION = 3
"""The newest that is read. What is written is as old as its content allows: version 1 with
float16 and float32 alone, 2 with shards of int8, 3 with segments. Earlier versions of actstore
refuse what they do not know."""


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

    @property
    def segments(self) -> tuple[SegmentEntry, ...]:
        """Files that hold most of its shards and runs, where these are many."""
        return ()

    @cached_property
    def rows(self) -> int:
        """Rows in all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def files(self) -> dict[str, ShardEntry | LabelEntry]:
        """Every file of rows that it names, by path."""
        found: dict[str, ShardEntry | LabelEntry] = {shard.path: shard for shard in self.shards}
        return found | {overlay.path: overlay for overlay in self.labels}

    @property
    def named(self) -> dict[str, ShardEntry | LabelEntry | SegmentEntry]:
        """Every file that it cannot be read without, by path."""
        return self.files | {segment.path: segment for segment in self.segments}

    @property
    def fingerprint(self) -> str:
        """Hash of all content: the SHA-256 of the hashes of shards and labels, sorted."""
        hashes = sorted(
            [*(each.sha256 for each in self.shards), *(each.sha256 for each in self.labels)]
        )
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    def shards_of(self, partition: Partition) -> list[ShardEntry]:
        """Return the shards of one model, site and layer, reading no others where there are many.

        Raises:
            CorruptStoreError: a segment is missing or damaged.
        """
        return [entry for entry in self.shards if entry.partition == partition]

    def more_than(self, before: Manifest) -> list[ShardEntry]:
        """Return the shards that an earlier commit does not name."""
        known = {entry.path for entry in before.shards}
        return [entry for entry in self.shards if entry.path not in known]

    def next(
        self,
        *,
        operation: str,
        message: str,
        shards: Sequence[ShardEntry] | None = None,
        labels: tuple[LabelEntry, ...] | None = None,
        runs: Sequence[Run] | None = None,
    ) -> Manifest:
        """Return the manifest that follows this one.

        Args:
            operation: what the log calls it.
            message: what the log says.
            shards: all its shards, which are put in row order; the same as now when missing.
            labels: all its overlays; the same as now when missing.
            runs: all its runs; the same as now when missing.
        """
        facts = self._following(operation, message, labels)
        shards = _since(self.shards if shards is None else shards, facts["number"])
        runs = self.runs if runs is None else runs
        return Manifest(**facts, shards=in_row_order(shards), runs=tuple(runs))

    def adding(
        self,
        more: Sequence[ShardEntry],
        *,
        run: Run,
        operation: str,
        message: str,
        gone: Sequence[ShardEntry] = (),
    ) -> Manifest:
        """Return the manifest that follows this one with more shards, and nothing else changed.

        Args:
            more: come behind all others of their model, site and layer.
            run: what made them; takes the place of what is known of it.
            operation: what the log calls it.
            message: what the log says.
            gone: shards that it does not name any longer.
        """
        runs = (*(known for known in self.runs if known.run_id != run.run_id), run)
        paths = {entry.path for entry in gone}
        shards = (*(entry for entry in self.shards if entry.path not in paths), *more)
        return self.next(operation=operation, message=message, shards=shards, runs=runs)

    def in_segments(self, root: Path, path: str) -> tuple[Manifest, bytes] | None:
        """Return the same commit with what it lists in a new segment, and that one's bytes.

        None where it lists little. Each commit writes what is new, since all others' share what
        is not.

        Args:
            root: folder of the store.
            path: of the new segment.

        Raises:
            CorruptStoreError: an older segment, which becomes part of it, is missing or damaged.
        """
        if max(len(self.shards), len(self.runs)) <= MOST_LISTED:
            return None
        entries, content = Older(root, ()).sealed(path, self.number, self.shards, self.runs)
        return _all_in(self, Older(root, entries)), content

    def whole(self) -> Manifest:
        """Return the same commit with all that it names in its own file, as others are sent it.

        Raises:
            CorruptStoreError: a segment is missing or damaged.
        """
        return self

    def encode(self) -> bytes:
        """Return the manifest as JSON, one line per shard, its own SHA-256 at the end."""
        return self._encode(self.shards, self.runs, {})

    def _following(
        self, operation: str, message: str, labels: tuple[LabelEntry, ...] | None
    ) -> dict[str, Any]:
        return {
            "number": self.number + 1,
            "parent": self.number or None,
            "created_at": now(),
            "operation": operation,
            "message": message,
            "labels": self.labels if labels is None else labels,
            "parent_sha256": self.sha256 if self.number else None,
        }

    def _encode(
        self, shards: Sequence[ShardEntry], runs: Sequence[Run], gone: Mapping[str, int]
    ) -> bytes:
        types = {entry.dtype for entry in shards}
        version = schema.version_of(types.union(*(each.dtypes for each in self.segments)))
        head = {
            "format": FORMAT,
            "version": VERSION if self.segments else version,
            "schema": f"activations/v{version}",
            "number": self.number,
            "parent": self.parent,
            **({"parent_sha256": self.parent_sha256} if self.sealed else {}),
            "created_at": self.created_at,
            "operation": self.operation,
            "message": self.message,
        }
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
        listed: dict[str, Sequence[ShardEntry | LabelEntry | Run]]
        listed = {"runs": runs, "labels": self.labels, "shards": shards}
        for key, entries in listed.items():
            items = ",\n".join(json.dumps(fields(entry)) for entry in entries)
            lines.append(f"{json.dumps(key)}: [{items and chr(10)}{items}]")
        if self.segments:
            items = ",\n".join(json.dumps(dataclasses.asdict(each)) for each in self.segments)
            lines.append(f'"segments": [\n{items}]')
        tails = {entry.path: entry.tail for entry in shards if entry.tail}
        lost = {entry.path: list(entry.rounding) for entry in shards if entry.rounding}
        for key, facts in (("tails", tails), ("rounded", lost), ("gone", gone)):
            if facts and self.sealed:
                items = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in facts.items())
                lines.append(f"{json.dumps(key)}: {{\n{items}}}")
        text = ("{\n" + ",\n".join(lines)).encode()
        if not self.sealed:
            return text + b"\n}\n"
        return text + b',\n"sha256": "%s"\n}\n' % hashlib.sha256(text).hexdigest().encode()


class SegmentedManifest(Manifest):
    """A commit whose manifest lists what is new; the rest is in segments, read when asked for.

    With some of its facts replaced (:func:`dataclasses.replace`) it is a manifest that lists all.
    """

    older: Older
    newest: tuple[ShardEntry, ...]
    """Shards that its own file lists, in row order."""
    newest_runs: tuple[Run, ...]
    gone: Mapping[str, int]
    """Shards of its segments that are not its own any longer, each with its rows."""

    def __new__(cls, **facts: Any) -> Manifest:  # type: ignore[misc]
        return Manifest(**facts)

    @cached_property
    def shards(self) -> tuple[ShardEntry, ...]:
        """All shards, as of any commit.

        Raises:
            CorruptStoreError: a segment is missing, damaged, or of another commit.
        """
        stay = (entry for entry in self.older.shards if entry.path not in self.gone)
        found = in_row_order((*stay, *self.newest))
        try:
            check_together(found, self.labels)
            if sum(entry.rows for entry in found) != self.rows:
                raise ValueError("it speaks of shards that are gone and were not there")
        except ValueError as error:
            raise CorruptStoreError(
                f"commit {self.number} of {self.older.root} is damaged ({error}): restore it from "
                "a copy"
            ) from error
        return found

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """All runs, in the order in which they last added something.

        Raises:
            CorruptStoreError: a segment is missing or damaged.
        """
        found: dict[str, Run] = {}
        for run in (*self.older.runs, *self.newest_runs):
            found.pop(run.run_id, None)
            found[run.run_id] = run
        return tuple(found.values())

    @property
    def segments(self) -> tuple[SegmentEntry, ...]:
        return self.older.entries

    @cached_property
    def rows(self) -> int:
        """Rows in all shards."""
        there = self.older.rows + sum(shard.rows for shard in self.newest)
        return there - sum(self.gone.values())

    def shards_of(self, partition: Partition) -> list[ShardEntry]:
        newest = (entry for entry in self.newest if entry.partition == partition)
        older = self.older.shards_of(partition)
        return [*(entry for entry in older if entry.path not in self.gone), *newest]

    def more_than(self, before: Manifest) -> list[ShardEntry]:
        if isinstance(before, SegmentedManifest):
            older = before.segments, before.gone
            if older == (self.segments, self.gone):
                known = {entry.path for entry in before.newest}
                return [entry for entry in self.newest if entry.path not in known]
        return super().more_than(before)

    def next(
        self,
        *,
        operation: str,
        message: str,
        shards: Sequence[ShardEntry] | None = None,
        labels: tuple[LabelEntry, ...] | None = None,
        runs: Sequence[Run] | None = None,
    ) -> Manifest:
        if shards is None and runs is None:
            facts = self._following(operation, message, labels)
            return segmented(facts, self.older, self.newest, self.newest_runs, self.gone)
        return super().next(
            operation=operation, message=message, shards=shards, labels=labels, runs=runs
        )

    def adding(
        self,
        more: Sequence[ShardEntry],
        *,
        run: Run,
        operation: str,
        message: str,
        gone: Sequence[ShardEntry] = (),
    ) -> Manifest:
        facts = self._following(operation, message, None)
        paths = {entry.path: entry.rows for entry in gone}
        stay = (entry for entry in self.newest if entry.path not in paths)
        newest = in_row_order((*stay, *_since(more, facts["number"])))
        for entry in self.newest:
            paths.pop(entry.path, None)
        runs = tuple(known for known in self.newest_runs if known.run_id != run.run_id)
        return segmented(facts, self.older, newest, (*runs, run), {**self.gone, **paths})

    def in_segments(self, root: Path, path: str) -> tuple[Manifest, bytes] | None:
        if len(self.gone) > MOST_LISTED:
            return self.whole().in_segments(root, path)
        if max(len(self.newest), len(self.newest_runs)) <= MOST_LISTED:
            return None
        entries, content = self.older.sealed(path, self.number, self.newest, self.newest_runs)
        return _all_in(self, Older(root, entries)), content

    def whole(self) -> Manifest:
        return dataclasses.replace(self)

    def encode(self) -> bytes:
        return self._encode(self.newest, self.newest_runs, self.gone)


def salvaged(manifest: Manifest) -> Manifest:
    """Return what is sound of a commit of which segments are missing or damaged."""
    if not isinstance(manifest, SegmentedManifest):
        return manifest
    older = manifest.older.sound
    there = {entry.path for entry in older.shards}
    gone = {path: rows for path, rows in manifest.gone.items() if path in there}
    facts = {name: getattr(manifest, name) for name in _FACTS}
    return segmented(facts, older, manifest.newest, manifest.newest_runs, gone).whole()


def _all_in(manifest: Manifest, older: Older) -> Manifest:
    """Return a commit whose shards and runs are all in segments."""
    facts = {name: getattr(manifest, name) for name in _FACTS}
    gone = manifest.gone if isinstance(manifest, SegmentedManifest) else {}
    return segmented(facts, older, (), (), gone)


def segmented(
    facts: dict[str, Any],
    older: Older,
    newest: tuple[ShardEntry, ...],
    newest_runs: tuple[Run, ...],
    gone: Mapping[str, int],
) -> SegmentedManifest:
    """Return a commit of which segments hold a part.

    Args:
        facts: what a :class:`Manifest` is made of, but for shards and runs.
        older: what segments hold.
        newest: shards that the manifest lists, in row order.
        newest_runs: runs that it lists.
        gone: shards of the segments that are not its own any longer, each with its rows.
    """
    found = object.__new__(SegmentedManifest)
    found.__dict__.update(
        facts, older=older, newest=newest, newest_runs=newest_runs, gone=dict(gone)
    )
    return found


def _since(shards: Sequence[ShardEntry], number: int) -> tuple[ShardEntry, ...]:
    """Return shards of which each knows the commit that brought it."""
    return tuple(
        shard if shard.since else dataclasses.replace(shard, since=number) for shard in shards
    )


_FACTS = tuple(
    item.name
    for item in dataclasses.fields(Manifest)
    if item.init and item.name not in ("shards", "runs")
)


EMPTY = Manifest(number=0, parent=None, created_at="", operation="", message="")
"""What a store holds before its first commit."""


def now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
