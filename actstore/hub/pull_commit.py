"""Makes what a pull fetched part of a store, as one commit: a three-way merge.

What the store and the repository had in common when they last met, what the repository holds
now, and what the store holds now.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from actstore import schema
from actstore.errors import CommitError
from actstore.hub import carried_labels
from actstore.hub.carried_labels import OVERLAY, ShardFile
from actstore.hub.fetch import Fetched
from actstore.hub.origin import Key, Origin
from actstore.hub.overlap import Direction, less
from actstore.hub.pull_diff import PullDiff, PullMemory, last_met, pull_diff, recall
from actstore.hub.row_merge import CommonRows, RowMerge, keys_of, row_merge
from actstore.hub.wanted import PullChoice, WantedShard
from actstore.storage import dropping, layout, shard_columns
from actstore.storage import manifest as manifests
from actstore.storage.disk_errors import writing
from actstore.storage.manifest import LabelEntry, Manifest, Run, ShardEntry
from actstore.storage.rewriting import Replacement
from actstore.storage.snapshot import Snapshot
from actstore.storage.transaction import Transaction

_ATTEMPTS = 5


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
    rows: RowMerge
    """What was brought together row by row."""
    adopted: frozenset[str] = frozenset()
    """Shards of the repository all of whose rows the store has, or has given up: not as they are
    there."""


@dataclass(kw_only=True)
class Merger:
    """Commits one pull, as often as it takes until no other writer comes in between."""

    root: Path
    run: Run
    """Of this pull; its settings get what is to be remembered."""
    remote: Snapshot
    """What the repository holds."""
    common: CommonRows
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
                self.remote.manifest,
                memory,
                self.origins,
                choices=self.choices,
                revision=self.run.settings["revision"],
            )
            known = {item[0].key: item for item in arrived}
            if not {piece.key for piece in todo.missing} <= known.keys():
                break
            chosen = [known[piece.key] for piece in todo.missing]
            rows = row_merge(
                self.root,
                base,
                self.remote,
                self.wanted,
                todo.removed,
                origin=last_met(self.origins, memory, self.run.settings["revision"]),
                dropped={key for origin in self.origins for key in origin.dropped},
                choices=self.choices,
                common=self.common,
            )
            with tempfile.TemporaryDirectory(dir=self.folder, prefix="merge-") as workspace:
                merged = self._attempt(base, memory, todo, rows, chosen, Path(workspace))
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
        rows: RowMerge,
        chosen: Sequence[Fetched],
        workspace: Path,
    ) -> Merged | None:
        with Transaction(self.root, base, cards=False) as change:  # the pull writes the card
            with writing(self.root):
                own = Replacement(root=self.root, base=base, made={}, labels=base.labels, files={})
                if rows.given_up:
                    own = dropping.without(self.root, base, rows.given_up, change.folder)
                staying = [
                    ShardFile(entry, own.files.get(entry.path, self.root / entry.path))
                    for entry in _kept(base, todo, own)
                ]
                fresh = self._fresh(staying, rows, chosen, workspace)
                gone = todo.removed | own.made.keys()
                remembered = PullMemory(
                    choices=self.choices,
                    revision=self.run.settings["revision"],
                    made=self._made(base, memory, gone, fresh),
                    covered=self._covered(memory, own, fresh),
                    taken=self._taken(base, memory, gone, fresh),
                )
                adopted = frozenset(item.piece.key for item in fresh if item.adopted)
                duplicates = sum(item.dropped for item in fresh)
                labels = carried_labels.set_here(self.root, base, todo.removed)
                if (
                    not (fresh or todo.removed or own.made or rows.labels)
                    and remembered == memory
                    and base.number
                ):
                    return Merged(
                        manifest=base,
                        changed=False,
                        removed=0,
                        duplicates=0,
                        relabelled=0,
                        rows=rows,
                    )
                live = [item for item in fresh if item.entry.rows]
                files = {**own.files, **self._to_place(live, change.folder)}
                places = [*(ShardFile(item.entry, item.file) for item in live), *staying]
                overlay = carried_labels.overlay_of(labels, places, change.folder)
                relabelled = overlay.rows if overlay is not None else 0
                if rows.labels:
                    both = {**rows.labels, **labels}
                    overlay = carried_labels.overlay_of(both, places, change.folder)
                if overlay is not None:
                    files[overlay.path] = change.folder / OVERLAY
            beside = own.labels if overlay is None else (*own.labels, overlay)
            kept = [entry for entry, _ in staying]
            following = self._following(base, kept, live, beside, remembered)
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
            rows=rows,
            adopted=adopted,
        )

    def _fresh(
        self,
        staying: Sequence[ShardFile],
        rows: RowMerge,
        chosen: Sequence[Fetched],
        workspace: Path,
    ) -> list[_NewShard]:
        """Return the shards that come new, without rows that the store has from elsewhere."""
        shared = {entry.path for entry in self.remote.manifest.shards}
        found = []
        transaction = layout.new_transaction()
        named: set[str] = set()
        for piece, entry, file in chosen:
            # Whole shards of a repository never meet; chosen rows may be here in theirs.
            others = [
                (e, at)
                for e, at in staying
                if e.partition == entry.partition
                and (piece.rows is not None or e.path not in shared)
            ]
            kept, source, adopted = entry, file, False
            keys = _keys(entry, file) if rows.shared or rows.dropped else frozenset()
            given_up = rows.dropped & keys
            if others or given_up:
                kept, source = less(entry, file, others, self._direction, workspace, given_up)
                adopted = piece.rows is None and bool(given_up or rows.shared & keys)
            target = self.root / kept.path
            taken = target != source and target.exists()
            if kept.rows and (kept.rows < entry.rows or taken):
                # Other rows need another name, and so does a file that is not the one there.
                kept = dataclasses.replace(kept, path=kept.named_anew(transaction, named))
                named.add(kept.path)
            left_out = entry.rows - kept.rows
            adopted = adopted and bool(left_out)
            found.append(_NewShard(piece, kept, source, left_out - len(given_up), adopted))
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
        self,
        base: Manifest,
        memory: PullMemory,
        gone: Collection[str],
        fresh: Sequence[_NewShard],
    ) -> dict[str, str]:
        """Return the shards that are not the repository's own, and the pieces they are."""
        live = {entry.path for entry in base.shards}.difference(gone)
        made = {path: key for path, key in memory.made.items() if path in live}
        for item in fresh:
            if item.entry.rows and item.entry.path != item.piece.key and not item.adopted:
                made[item.entry.path] = item.piece.key
        return made

    def _covered(
        self, memory: PullMemory, own: Replacement, fresh: Sequence[_NewShard]
    ) -> frozenset[str]:
        wanted = {piece.key for piece in self.wanted} - {item.piece.key for item in fresh}
        covered = memory.covered | {key for path, key in memory.made.items() if path in own.made}
        come = {i.piece.key for i in fresh if i.adopted or not i.entry.rows}
        return covered & wanted | come

    def _taken(
        self,
        base: Manifest,
        memory: PullMemory,
        gone: Collection[str],
        fresh: Sequence[_NewShard],
    ) -> frozenset[str]:
        """Return the shards that only conditions chose, each all of one of the repository's."""
        live = {entry.path for entry in base.shards}.difference(gone)
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
        kept: Sequence[ShardEntry],
        live: Sequence[_NewShard],
        labels: tuple[LabelEntry, ...],
        remembered: PullMemory,
    ) -> Manifest:
        order = {entry.path: number for number, entry in enumerate(self.remote.manifest.shards)}
        places = dict(order)
        by_key = {piece.key: order[piece.entry.path] for piece in self.wanted}
        places |= {path: by_key[k] for path, k in remembered.made.items() if k in by_key}
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
        theirs = [known for known in self.remote.manifest.runs if known.run_id not in ids]
        return base.next(
            operation="pull",
            message=f"pull {self.run.settings['repository']} at {self.run.settings['commit'][:8]}",
            shards=tuple(together_),
            labels=labels,
            runs=(*own, *theirs, run),
        )


def _kept(base: Manifest, todo: PullDiff, own: Replacement) -> list[ShardEntry]:
    """Return the store's shards that stay, or what takes their place."""
    return [
        new
        for entry in base.shards
        if entry.path not in todo.removed
        for new in own.made.get(entry.path, (entry,))
    ]


def _keys(entry: ShardEntry, file: Path) -> frozenset[Key]:
    placed = dataclasses.replace(entry, path=file.name)
    return frozenset(
        keys_of(shard_columns.read_columns(file.parent, placed, list(schema.key_names())))
    )


@dataclass(frozen=True, slots=True)
class _NewShard:
    """A shard that comes new."""

    piece: WantedShard
    entry: ShardEntry
    file: Path
    dropped: int
    """Rows of the piece that the store has from elsewhere."""
    adopted: bool
    """Whether some of its rows were left out because the store had them of what this replaces."""
