"""Compaction: folds labels in, joins small shards, and on request forgets old commits."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from actstore.errors import CommitError
from actstore.storage import layout, pruning, shard_columns, soundness
from actstore.storage import manifest as manifests
from actstore.storage.disk_errors import writing
from actstore.storage.file_hashes import tail_of
from actstore.storage.manifest import Manifest, ShardEntry, together
from actstore.storage.mapping import open_shard
from actstore.storage.rewriting import copy_rows, has_tail, with_labels
from actstore.storage.shard import ShardWriter, Written
from actstore.storage.staging import prepare
from actstore.storage.transaction import Transaction
from actstore.storage.writer import SHARD_BYTES

_ATTEMPTS = 3
_BLOCK_BYTES = 32 << 20


class Compacted(NamedTuple):
    """What a compaction did."""

    commit: int | None
    """Number of the new commit; None when there was nothing to do."""
    shards_before: int
    shards_after: int
    labels_folded: int
    """Rows whose label moved from an overlay into their shard."""
    hashed: int = 0
    """Shards of an earlier version that got a hash of their metadata, so that they can be
    checked in parts."""


class Pruned(NamedTuple):
    """What pruning removed."""

    commits: int
    files: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """Shards written anew, in a folder of a transaction, that are to take the place of others."""

    base: Manifest
    """The commit that they were made from."""
    made: dict[str, ShardEntry]
    """By path of the first shard that each takes the place of."""
    files: dict[str, Path]
    """Their files, by the path they are to have."""
    replaced: frozenset[str]
    """Shards whose place they take."""
    labels: int
    """Rows whose label is in its shard now."""
    tails: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """By path of shards that stay as they are: what the manifest did not say yet."""

    def following(self, latest: Manifest) -> Manifest | None:
        """Return the commit on top of ``latest``; None if it changed the same rows."""
        if latest.labels != self.base.labels:
            return None
        if not self.replaced <= {shard.path for shard in latest.shards}:
            return None
        shards = [
            self.made.get(shard.path) or self._with_tail(shard)
            for shard in latest.shards
            if shard.path in self.made or shard.path not in self.replaced
        ]
        folding = len(self.replaced) == len(self.made)
        message = f"{len(self.replaced)} shards became {len(self.made)}"
        if not self.made:
            message = f"hashes of the metadata of {len(self.tails)} shards"
        elif folding:
            message = f"labels of {self.labels} rows written into {len(self.made)} shards"
        return latest.next(
            operation="fold" if folding and self.made else "compact",
            message=message,
            shards=tuple(shards),
            labels=(),
        )

    def _with_tail(self, shard: ShardEntry) -> ShardEntry:
        tail = self.tails.get(shard.path)
        return shard if tail is None else dataclasses.replace(shard, tail=tail)


def shards_after(manifest: Manifest) -> int:
    """Return how many shards a compaction of a commit would leave."""
    joined = _to_join(manifest, {}, SHARD_BYTES)
    return len(manifest.shards) - sum(len(run) - 1 for run in joined)


def compact(
    root: Path | str,
    *,
    join: bool = True,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int], None] | None = None,
) -> Compacted:
    """Join small shards and fold label overlays in, as one commit; rows keep their order.

    Shards of earlier versions, which are checked as a whole, get what lets them be checked in
    parts.

    Args:
        root: folder of the store.
        join: join small shards too; otherwise only those with new labels are written anew,
            and all others stay the files they are.
        shard_bytes: vector bytes up to which shards are joined.
        progress: called with the vector bytes rewritten so far.

    Raises:
        StoreNotFoundError: there is no store at ``root``.
        DamageError: a shard or label file is not what the manifest says; nothing changed.
        CommitError: other writers kept changing the same rows, or the disk failed.
    """
    path = Path(root)
    most = shard_bytes if join else 0
    base = manifests.load(path)
    prepare(path)
    for _ in range(_ATTEMPTS):
        before = len(base.shards)
        old = [entry for entry in base.shards if entry.pages and entry.tail is None]
        if not base.labels and not _to_join(base, {}, most) and not old:
            return Compacted(None, before, before, 0)
        with Transaction(path, base) as change:
            if change.base.number != base.number:  # it was pruned away meanwhile
                base = change.base
                continue
            new = rewrite(path, base, change.folder, shard_bytes=most, progress=progress)
            tails = _tails(path, [entry for entry in old if entry.path not in new.replaced])
            new = dataclasses.replace(new, tails=tails)
            if not (new.made or tails or base.labels):
                return Compacted(None, before, before, 0)
            commit = change.commit(new.files, new.following)
        if commit is not None:
            return Compacted(commit.number, before, len(commit.shards), new.labels, len(tails))
        base = change.base
    raise CommitError(
        f"{path} was changed by others {_ATTEMPTS} times while it was compacted; "
        "nothing is lost, try again when they are done"
    )


def _tails(root: Path, entries: Sequence[ShardEntry]) -> dict[str, str]:
    """Return the hashes of shards' metadata, by path, where it can be hashed apart."""
    soundness.check(root, entries, fetching=True)
    found = {}
    for entry in entries:
        with soundness.fetched(root, entry):
            if has_tail(root, entry):
                found[entry.path] = tail_of(root, entry)
    return found


def rewrite(
    root: Path,
    base: Manifest,
    folder: Path,
    *,
    shard_bytes: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Rewritten:
    """Write shards anew, with their labels in them; the store does not change.

    Args:
        root: folder of the store.
        base: the commit whose rows are to be written.
        folder: where the files go.
        shard_bytes: vector bytes up to which shards are joined; 0 joins none.
        progress: called with the vector bytes rewritten so far.

    Raises:
        DamageError: a shard or label file is not what the manifest says.
        CommitError: the disk is full or failed.
    """
    soundness.check(root, base.labels, fetching=True)
    overlays = shard_columns.overlays(root, base.labels)
    runs = _to_join(base, overlays, shard_bytes)
    soundness.check(root, [entry for run in runs for entry in run], fetching=True)
    transaction = layout.new_transaction()
    made: dict[str, ShardEntry] = {}
    files: dict[str, Path] = {}
    done = 0
    for number, run in enumerate(runs):
        draft = folder / f"{number:06d}.parquet"
        with writing(root), contextlib.ExitStack() as here:
            for each in run:
                here.enter_context(soundness.fetched(root, each))
            written = _write_together(root, run, overlays, draft)
        entry = dataclasses.replace(
            run[0],
            path=run[0].named_anew(transaction, files),
            **written._asdict(),
            since=min(entry.since for entry in run),
        )
        made[run[0].path] = entry
        files[entry.path] = draft
        done += entry.vector_bytes
        if progress:
            progress(done)
    return Rewritten(
        base=base,
        made=made,
        files=files,
        replaced=frozenset(entry.path for run in runs for entry in run),
        labels=sum(len(rows) for rows in overlays.values()),
    )


def _to_join(
    base: Manifest, overlays: dict[str, dict[int, Any]], shard_bytes: int
) -> list[list[ShardEntry]]:
    """Choose runs of neighbouring shards of one kind to write as one."""
    chosen: list[list[ShardEntry]] = []

    def close(run: list[ShardEntry]) -> None:
        if len(run) > 1 or any(entry.path in overlays for entry in run):
            chosen.append(run)

    def kind(entry: ShardEntry) -> tuple[Any, ...]:
        return (*entry.partition, entry.width, entry.dtype)

    for _, neighbours in groupby(base.shards, kind):
        run: list[ShardEntry] = []
        size = 0
        for entry in neighbours:
            if run and size + entry.vector_bytes > shard_bytes:
                close(run)
                run, size = [], 0
            run.append(entry)
            size += entry.vector_bytes
        close(run)
    return chosen


def _write_together(
    root: Path, run: list[ShardEntry], overlays: dict[str, dict[int, Any]], draft: Path
) -> Written:
    """Write the rows of some shards as one."""
    shard = ShardWriter(draft, width=run[0].width, dtype=run[0].dtype)
    try:
        for entry in run:
            _copy(root, entry, overlays.get(entry.path), shard)
        shard.rounding = together(entry.rounding for entry in run)
        return shard.finish()
    except BaseException:
        shard.abort()
        raise


def _copy(root: Path, entry: ShardEntry, labels: dict[int, Any] | None, shard: ShardWriter) -> None:
    """Append all rows of ``entry`` to ``shard``, with the labels set since."""
    table = with_labels(root, entry, labels)
    reader = open_shard(root, entry)
    try:
        copy_rows(reader, table, np.arange(entry.rows), shard, _BLOCK_BYTES)
    finally:
        reader.close()


def prune(root: Path | str, *, keep: int = 1) -> Pruned:
    """Remove all but the newest ``keep`` commits and the files that only those used.

    A commit that somebody has open stays, with its files.

    Raises:
        StoreNotFoundError: there is no store at ``root``.
        DamageError: a file of a commit that stays is not what the manifest says; nothing is
            removed, since an older commit may hold the last sound copy.
        UsageError: ``keep`` is below one.
        CommitError: the store cannot be written.
    """
    gone = pruning.erase(Path(root), keep=keep)
    return Pruned(len(gone.commits), len(gone.files), gone.bytes)
