"""Makes what a pull fetched part of a store, as one commit: a three-way merge.

What the store and the repository had in common when they last met, what the repository holds
now, and what the store holds now.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from actstore import schema
from actstore.errors import CommitError, RemoteStoreError
from actstore.hub.diff import same_rows
from actstore.hub.fetch import Fetched
from actstore.hub.origin import Origin
from actstore.hub.overlap import Direction, less
from actstore.hub.wanted import PullChoice, WantedShard
from actstore.storage import layout, shard_columns
from actstore.storage import manifest as manifests
from actstore.storage.disk_errors import writing
from actstore.storage.file_hashes import sha256_of
from actstore.storage.labels import write_overlay
from actstore.storage.manifest import LabelEntry, Manifest, Run, ShardEntry
from actstore.storage.transaction import Transaction

_ATTEMPTS = 5
_OVERLAY = "labels.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class PullMemory:
    """What a store's manifest remembers of the pulls from one repository."""

    choices: tuple[PullChoice, ...] = ()
    """What was asked for so far."""
    revision: str | None = None
    """Of the last pull."""
    made: dict[str, str] = field(default_factory=dict)
    """Shards that a pull made of rows of the repository: path and piece."""
    covered: frozenset[str] = frozenset()
    """Pieces whose rows are the store's own: it had them from elsewhere, or has since compacted,
    renamed or dropped what came."""
    taken: frozenset[str] = frozenset()
    """Shards of the repository that came as they are, because all their rows met a condition."""


def recall(manifest: Manifest, run_id: str) -> PullMemory:
    """Return what a manifest remembers; nothing where the run is not there or not ours."""
    for run in manifest.runs:
        if run.run_id == run_id and run.kind == "pull":
            try:
                settings = run.settings
                made = {str(path): str(key) for path, key in settings["made"].items()}
                here = {entry.path for entry in manifest.shards}
                gone = {key for path, key in made.items() if path not in here}
                return PullMemory(
                    choices=tuple(PullChoice.from_dict(each) for each in settings["parts"]),
                    revision=str(settings["revision"]),
                    made={path: key for path, key in made.items() if path in here},
                    covered=frozenset({*map(str, settings["covered"]), *gone}),
                    taken=frozenset(map(str, settings.get("taken", ()))),
                )
            except (KeyError, TypeError, ValueError, AttributeError):
                break
    return PullMemory()


@dataclass(frozen=True, slots=True, kw_only=True)
class PullDiff:
    """What a pull has to fetch and to remove."""

    missing: tuple[WantedShard, ...]
    removed: frozenset[str]
    """Shards of the store that the repository no longer holds."""


def pull_diff(
    local: Manifest,
    wanted: Sequence[WantedShard],
    there: Manifest,
    memory: PullMemory,
    origins: Sequence[Origin],
    *,
    choices: Sequence[PullChoice],
    revision: str,
) -> PullDiff:
    """Compare a store with what it is to hold of a repository.

    A shard never changes under its name, so equal paths hold equal rows; the hashes must say so
    too, unless one is archived. A shard that was shared and has since gone from the store was
    compacted: its rows are in others. What was shared by a push and nobody has asked for stays,
    as nothing would come in its place.

    Args:
        local: the store's commit.
        wanted: pieces of the repository that the store is to hold.
        there: what the repository holds.
        memory: of earlier pulls.
        origins: of the branches that the store has met: the one pulled, the last one pulled.
        choices: what this pull and earlier ones asked for.
        revision: the branch pulled.

    Raises:
        RemoteStoreError: a shard of that name is another one in the store.
    """
    live = {entry.path: entry for entry in local.shards}
    for piece in wanted:
        if piece.key in live and not same_rows(live[piece.key], piece.entry):
            raise RemoteStoreError(
                f"the repository holds another file as {piece.key} than this store, which has it "
                "from elsewhere or from before: one of the two was changed by hand; nothing was "
                "pulled: pull into another folder"
            )
    paths = {entry.path for entry in there.shards}
    keys_wanted = {piece.key for piece in wanted}
    places: dict[str, str | None] = {}  # of every shared shard its path in the repository
    for origin in origins:
        places |= {path: origin.replaced.get(path, path) for path in origin.shards}
    asked = {e.path for e in local.shards if any(choice.covers(e) for choice in choices)}
    asked |= memory.taken & live.keys()
    removed = {
        path for path, at in places.items() if path in asked and at is not None and at not in paths
    }
    removed |= {
        path for path, key in memory.made.items() if key not in keys_wanted and key not in paths
    }
    elsewhere = _elsewhere(local, there, removed, origins, revision)
    present = {path for path in live if path in paths}
    present |= {at for at in places.values() if at} - elsewhere
    made: Counter[str] = Counter()
    for path, key in memory.made.items():
        made[key] += live[path].rows
    touched = {live[path].partition for path in removed}
    # Rows that were left out, as the store had them, may be among those that go.
    safe = {p.key for p in wanted if made[p.key] == p.size or p.entry.partition not in touched}
    present |= safe & (made.keys() | memory.covered)
    missing = tuple(piece for piece in wanted if piece.key not in present)
    return PullDiff(missing=missing, removed=frozenset(removed))


def had_whole(
    local: Manifest, there: Manifest, origins: Sequence[Origin], revision: str
) -> frozenset[str]:
    """Return the shards of a repository all of whose rows are the store's, or were.

    Args:
        local: the store's commit.
        there: what the repository holds.
        origins: as for :func:`pull_diff`. Of several branches nobody can say it here, beyond
            what the store has now.
        revision: the branch pulled.
    """
    live = {entry.path: entry for entry in local.shards}
    found = {e.path for e in there.shards if e.path in live and same_rows(live[e.path], e)}
    if len(origins) == 1 or all(origin.revision != revision for origin in origins):
        for origin in origins:
            found |= {at for path in origin.shards if (at := origin.replaced.get(path, path))}
    return frozenset(found)


def _elsewhere(
    local: Manifest,
    there: Manifest,
    removed: Collection[str],
    origins: Sequence[Origin],
    revision: str,
) -> set[str]:
    """Return the shards of the repository whose rows may only be in shards that go.

    A push to another branch took them over, with labels in them or otherwise: the store shared
    them with the branch that is pulled, and with the other one what became of them.
    """
    mine = next((origin for origin in origins if origin.revision == revision), None)
    others = [origin for origin in origins if origin.revision != revision]
    if mine is None or not others:
        return set()
    only_there = {path for origin in others for path in origin.shards} - set(mine.shards)
    live = {entry.path: entry for entry in local.shards}
    touched = {live[path].partition for path in only_there.intersection(removed)}
    gone = set(mine.shards) - live.keys()
    gone.difference_update(*(origin.shards for origin in others))
    at = {mine.replaced.get(path, path) for path in gone}
    return {entry.path for entry in there.shards if entry.path in at and entry.partition in touched}


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What became of a pull in the store."""

    manifest: Manifest
    """The store's latest commit."""
    changed: bool
    """Whether it is a new one."""
    removed: int
    duplicates: int
    """Rows that the store had from elsewhere, bit for bit."""
    relabelled: int
    """Labels set in this store that were carried over to rows that came anew."""


@dataclass(kw_only=True)
class Merger:
    """Commits one pull, as often as it takes until no other writer comes in between."""

    root: Path
    run: Run
    """Of this pull; its settings get what is to be remembered."""
    there: Manifest
    """What the repository holds."""
    wanted: Sequence[WantedShard]
    choices: tuple[PullChoice, ...]
    origins: Sequence[Origin]
    folder: Path
    """In the store, for files that no commit names yet."""

    def merge(self, arrived: Sequence[Fetched]) -> Merged:
        """Commit what has arrived.

        Raises:
            ConflictError: the store holds one of the rows with a different vector.
            CommitError: the disk is full or failed, or others kept changing the store.
        """
        for _ in range(_ATTEMPTS):
            base = manifests.latest(self.root)
            memory = recall(base, self.run.run_id)
            todo = pull_diff(
                base,
                self.wanted,
                self.there,
                memory,
                self.origins,
                choices=self.choices,
                revision=self.run.settings["revision"],
            )
            known = {item[0].key: item for item in arrived}
            if not {piece.key for piece in todo.missing} <= known.keys():
                break
            chosen = [known[piece.key] for piece in todo.missing]
            with tempfile.TemporaryDirectory(dir=self.folder, prefix="merge-") as workspace:
                merged = self._attempt(base, memory, todo, chosen, Path(workspace))
            if merged is not None:
                return merged
        raise CommitError(
            f"{self.root} was changed by others while the pull was merged in; nothing is lost, run "
            "the same command again"
        )

    def _attempt(
        self,
        base: Manifest,
        memory: PullMemory,
        todo: PullDiff,
        chosen: Sequence[Fetched],
        workspace: Path,
    ) -> Merged | None:
        with Transaction(self.root, base, cards=False) as change:  # the pull writes the card
            with writing(self.root):
                fresh = self._fresh(base, todo, chosen, workspace)
                made = self._made(base, memory, todo, fresh)
                covered = self._covered(memory, fresh)
                remembered = PullMemory(
                    choices=self.choices,
                    revision=self.run.settings["revision"],
                    made=made,
                    covered=covered,
                    taken=self._taken(base, memory, todo, fresh),
                )
                duplicates = sum(item.dropped for item in fresh)
                if not fresh and not todo.removed and remembered == memory and base.number:
                    return Merged(
                        manifest=base, changed=False, removed=0, duplicates=0, relabelled=0
                    )
                live = [item for item in fresh if item.entry.rows]
                files = self._to_place(live, change.folder)
                overlay, relabelled = self._carried_labels(base, todo, live, change.folder)
                if overlay is not None:
                    files[overlay.path] = change.folder / _OVERLAY
            following = self._following(base, todo, live, overlay, remembered)
            done = change.commit(
                files, lambda latest: following if latest.number == base.number else None
            )
        if done is None:
            return None
        return Merged(
            manifest=done,
            changed=True,
            removed=len(todo.removed),
            duplicates=duplicates,
            relabelled=relabelled,
        )

    def _fresh(
        self,
        base: Manifest,
        todo: PullDiff,
        chosen: Sequence[Fetched],
        workspace: Path,
    ) -> list[_NewShard]:
        """Return the shards that come new, without rows that the store has from elsewhere."""
        shared = {entry.path for entry in self.there.shards}
        own = [entry for entry in base.shards if entry.path not in todo.removed]
        found = []
        transaction = layout.new_transaction()
        for number, (piece, entry, file) in enumerate(chosen):
            # Whole shards of a repository never meet; chosen rows may be here in theirs.
            others = [
                (e, self.root / e.path)
                for e in own
                if e.partition == entry.partition
                and (piece.rows is not None or e.path not in shared)
            ]
            kept, source = entry, file
            if others:
                kept, source = less(entry, file, others, self._direction, workspace)
            target = self.root / kept.path
            taken = target != source and target.exists()
            if kept.rows and (kept.rows < entry.rows or taken):
                # Other rows need another name, and so does a file that is not the one there.
                kept = dataclasses.replace(kept, path=kept.named(transaction, number))
            found.append(_NewShard(piece, kept, source, entry.rows - kept.rows))
        return found

    @property
    def _direction(self) -> Direction:
        return Direction(
            holder=str(self.root),
            sender="the repository",
            undone="nothing was pulled",
            other_vector="pull into another folder, or leave the layer out",
            other_width="pull into another folder, or leave the layer out",
        )

    def _made(
        self, base: Manifest, memory: PullMemory, todo: PullDiff, fresh: Sequence[_NewShard]
    ) -> dict[str, str]:
        """Return the shards that are not the repository's own, and the pieces they are."""
        live = {entry.path for entry in base.shards} - todo.removed
        made = {path: key for path, key in memory.made.items() if path in live}
        for item in fresh:
            if item.entry.rows and item.entry.path != item.piece.key:
                made[item.entry.path] = item.piece.key
        return made

    def _covered(self, memory: PullMemory, fresh: Sequence[_NewShard]) -> frozenset[str]:
        wanted = {piece.key for piece in self.wanted} - {item.piece.key for item in fresh}
        return memory.covered & wanted | {i.piece.key for i in fresh if not i.entry.rows}

    def _taken(
        self, base: Manifest, memory: PullMemory, todo: PullDiff, fresh: Sequence[_NewShard]
    ) -> frozenset[str]:
        """Return the shards that only conditions chose, each all of one of the repository's."""
        live = {entry.path for entry in base.shards} - todo.removed
        return (memory.taken & live) | {
            item.entry.path
            for item in fresh
            if item.entry.rows
            and item.entry.path == item.piece.key
            and not any(choice.covers(item.entry) for choice in self.choices)
        }

    def _to_place(self, live: Sequence[_NewShard], staging: Path) -> dict[str, Path]:
        """Link files into the staging folder: a failed attempt leaves what was fetched."""
        files: dict[str, Path] = {}
        for number, item in enumerate(live):
            if item.file == self.root / item.entry.path:
                continue  # left there by an earlier commit
            draft = staging / f"pulled-{number:06d}.parquet"
            try:
                os.link(item.file.resolve(), draft)
            except OSError:  # no links on this disk
                shutil.move(item.file.resolve(), draft)
            files[item.entry.path] = draft
        return files

    def _following(
        self,
        base: Manifest,
        todo: PullDiff,
        live: Sequence[_NewShard],
        overlay: LabelEntry | None,
        remembered: PullMemory,
    ) -> Manifest:
        order = {entry.path: number for number, entry in enumerate(self.there.shards)}
        places = dict(order)
        by_key = {piece.key: order[piece.entry.path] for piece in self.wanted}
        places |= {path: by_key[k] for path, k in remembered.made.items() if k in by_key}
        kept = [entry for entry in base.shards if entry.path not in todo.removed]
        together_ = [*kept, *(item.entry for item in live)]
        # What came from the repository first and in its order, so that row numbers agree.
        together_.sort(key=lambda entry: places.get(entry.path, len(order)))
        run = dataclasses.replace(
            self.run,
            settings={
                **self.run.settings,
                "parts": [choice.as_dict() for choice in remembered.choices],
                "made": dict(sorted(remembered.made.items())),
                "covered": sorted(remembered.covered),
                "taken": sorted(remembered.taken),
            },
        )
        own = [known for known in base.runs if known.run_id != run.run_id]
        ids = {known.run_id for known in (*own, run)}
        theirs = [known for known in self.there.runs if known.run_id not in ids]
        return base.next(
            operation="pull",
            message=f"pull {self.run.settings['repository']} at {self.run.settings['commit'][:8]}",
            shards=tuple(together_),
            labels=base.labels if overlay is None else (*base.labels, overlay),
            runs=(*own, *theirs, run),
        )

    def _carried_labels(
        self, base: Manifest, todo: PullDiff, live: Sequence[_NewShard], staging: Path
    ) -> tuple[LabelEntry | None, int]:
        """Give labels that were set in this store to the same rows in what takes their place.

        A label counts as set here when it differs from the one in the shard that goes: that
        is what both sides had when they last met.
        """
        overlays = shard_columns.overlays(self.root, base.labels) if todo.removed else {}
        columns = [*schema.key_names(), "label"]
        labels: dict[tuple[Any, ...], Any] = {}
        partitions = set()
        for entry in base.shards:
            changes = overlays.get(entry.path)
            if entry.path not in todo.removed or not changes:
                continue
            table = shard_columns.read_columns(self.root, entry, columns)
            rows = sorted(changes)
            cells = table.take(rows).to_pydict()
            key_columns = (cells[name] for name in schema.key_names())
            for row, key in zip(rows, zip(*key_columns, strict=True), strict=True):
                if changes[row] != table["label"][row].as_py():
                    labels[key] = changes[row]
                    partitions.add(entry.partition)
        if not labels:
            return None, 0
        names: list[str] = []
        codes: list[int] = []
        at: list[int] = []
        texts: list[str | None] = []
        files = {item.entry.path: item.file for item in live}
        for entry in (*(item.entry for item in live), *base.shards):
            if entry.partition not in partitions or entry.path in todo.removed:
                continue
            source = files.get(entry.path, self.root / entry.path)
            table = shard_columns.read_columns(
                source.parent, dataclasses.replace(entry, path=source.name), columns[:-1]
            )
            cells = (table[name].to_pylist() for name in schema.key_names())
            for row, key in enumerate(zip(*cells, strict=True)):
                if key in labels:
                    codes.append(len(names))
                    at.append(row)
                    texts.append(labels.pop(key))
            names.append(entry.path)
        if not texts:
            return None, 0
        draft = staging / _OVERLAY
        write_overlay(draft, names, np.array(codes), np.array(at), texts)
        digest, size = sha256_of(draft)
        path = f"{layout.LABELS}/{layout.new_transaction()}.parquet"
        return LabelEntry(path=path, rows=len(texts), bytes=size, sha256=digest), len(texts)


@dataclass(frozen=True, slots=True)
class _NewShard:
    """A shard that comes new."""

    piece: WantedShard
    entry: ShardEntry
    file: Path
    dropped: int
    """Rows of the piece that the store has from elsewhere."""
