"""Compaction: folds labels in, joins small shards, and on request forgets old commits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from actstore import schema
from actstore.errors import CommitError, UsageError
from actstore.storage import card, layout, metadata
from actstore.storage import manifest as manifests
from actstore.storage.manifest import Manifest, ShardEntry
from actstore.storage.mapping import open_shard
from actstore.storage.shard import Fragment, ShardWriter
from actstore.storage.staging import Staging, planned_paths, prepare, writing
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


class Pruned(NamedTuple):
    """What pruning removed."""

    commits: int
    files: int
    bytes: int


class _Merge(NamedTuple):
    """Shards that lie side by side in row order and become one."""

    entries: tuple[ShardEntry, ...]


def compact(
    root: Path | str,
    *,
    join: bool = True,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int], None] | None = None,
) -> Compacted:
    """Join small shards and fold label overlays in, as one commit; rows keep their order.

    Args:
        root: folder of the store.
        join: join small shards too; otherwise only those with new labels are written anew,
            and all others stay the files they are.
        shard_bytes: vector bytes up to which shards are joined.
        progress: called with the vector bytes rewritten so far.

    Raises:
        StoreNotFoundError: there is no store at ``root``.
        CommitError: other writers kept changing the same rows, or the disk failed.
    """
    path = Path(root)
    manifests.load(path)
    prepare(path)
    for _ in range(_ATTEMPTS):
        result = _attempt(path, shard_bytes if join else 0, progress)
        if result is not None:
            return result
    raise CommitError(
        f"{path} was changed by others {_ATTEMPTS} times while it was compacted; "
        "nothing is lost, try again when they are done"
    )


def _attempt(
    root: Path, shard_bytes: int, progress: Callable[[int], None] | None
) -> Compacted | None:
    base = manifests.load(root)
    overlays = metadata.overlays(root, base.labels)
    merges = _plan(base, overlays, shard_bytes)
    if not merges and not base.labels:
        return Compacted(None, len(base.shards), len(base.shards), 0)
    staging = Staging(root)
    try:
        transaction = layout.new_transaction()
        made: dict[str, ShardEntry] = {}
        files: dict[str, Path] = {}
        done = 0
        for number, merge in enumerate(merges):
            draft = staging.folder / f"{number:06d}.parquet"
            with writing(root):
                entry = _rewrite(root, merge, overlays, draft, transaction, number)
            made[merge.entries[0].path] = entry
            files[entry.path] = draft
            done += entry.vector_bytes
            if progress:
                progress(done)
        staging.place(files)
        replaced = {entry.path for merge in merges for entry in merge.entries}
        folded = sum(len(rows) for rows in overlays.values())

        def build(latest: Manifest) -> Manifest | None:
            if latest.labels != base.labels or not replaced <= {s.path for s in latest.shards}:
                return None
            shards = [
                made.get(shard.path, shard)
                for shard in latest.shards
                if shard.path in made or shard.path not in replaced
            ]
            folding = len(replaced) == len(made)
            return latest.next(
                operation="fold" if folding else "compact",
                message=f"labels of {folded} rows written into {len(made)} shards"
                if folding
                else f"{len(replaced)} shards became {len(made)}",
                shards=tuple(shards),
                labels=(),
            )

        try:
            commit = manifests.commit(root, staging.folder, build)
        except BaseException:
            staging.withdraw()
            raise
        if commit is None:
            staging.withdraw()
            return None
        staging.done()
        card.refresh(root)
        return Compacted(commit.number, len(base.shards), len(commit.shards), folded)
    finally:
        staging.close()


def _plan(base: Manifest, overlays: dict[str, dict[int, Any]], shard_bytes: int) -> list[_Merge]:
    """Choose runs of neighbouring shards of one kind to rewrite as one."""
    merges: list[_Merge] = []

    def close(run: list[ShardEntry]) -> None:
        if len(run) > 1 or any(entry.path in overlays for entry in run):
            merges.append(_Merge(tuple(run)))

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
    return merges


def _rewrite(
    root: Path,
    merge: _Merge,
    overlays: dict[str, dict[int, Any]],
    draft: Path,
    transaction: str,
    number: int,
) -> ShardEntry:
    first = merge.entries[0]
    shard = ShardWriter(draft, width=first.width, dtype=first.dtype)
    try:
        for entry in merge.entries:
            _copy(root, entry, overlays.get(entry.path), shard)
        written = shard.finish()
    except BaseException:
        shard.abort()
        raise
    path = layout.shard_path(
        model=first.model,
        site=first.site,
        layer=first.layer,
        width=first.width,
        dtype=first.dtype,
        transaction=transaction,
        number=number,
    )
    return ShardEntry(
        path=path,
        model=first.model,
        site=first.site,
        layer=first.layer,
        width=first.width,
        dtype=first.dtype,
        rows=written.rows,
        bytes=written.bytes,
        sha256=written.sha256,
        pages=tuple(written.pages),
        pools=written.pools,
        since=min(entry.since for entry in merge.entries),
    )


def _copy(root: Path, entry: ShardEntry, labels: dict[int, Any] | None, shard: ShardWriter) -> None:
    """Append all rows of ``entry`` to ``shard``, with the labels set since."""
    names = list(schema.metadata_names())
    table = metadata.read_columns(root, entry, names)
    if labels:
        table = metadata.with_labels(table, labels)
    reader = open_shard(root, entry)
    try:
        step = max(1, _BLOCK_BYTES // shard.row_bytes)
        for start in range(0, entry.rows, step):
            block = table.slice(start, step)
            vectors = np.empty((block.num_rows, entry.width), entry.dtype)
            reader.run(start, vectors)
            columns = {name: block[name].to_pylist() for name in names}
            shard.append(vectors, Fragment({}, columns, range(block.num_rows)))
            shard.settle()
    finally:
        reader.close()


def prune(root: Path | str, *, keep: int = 1) -> Pruned:
    """Remove all but the newest ``keep`` commits and the files that only those used.

    Readers that have pinned a removed commit lose their files, so prune when nobody reads.

    Raises:
        StoreNotFoundError: there is no store at ``root``.
        UsageError: ``keep`` is below one.
        CommitError: the store cannot be written.
    """
    path = Path(root)
    if keep < 1:
        raise UsageError(f"at least one commit must be kept, got {keep}")
    manifests.load(path)
    prepare(path)
    with writing(path):
        return _prune(path, keep)


def _prune(root: Path, keep: int) -> Pruned:
    found = [
        file
        for folder in (layout.ACTIVATIONS, layout.LABELS)
        for file in (root / folder).rglob("*.parquet")
    ]
    # Files are listed before plans and manifests are read: whatever a living writer had
    # placed by then is named by its plan, or meanwhile by a commit.
    used = planned_paths(root)
    numbers = manifests.numbers(root)
    for number in numbers[-keep:]:
        commit = manifests.load(root, number)
        used |= {entry.path for entry in commit.shards} | {entry.path for entry in commit.labels}
    for number in numbers[:-keep]:
        layout.manifest_path(root, number).unlink(missing_ok=True)
    removed = size = 0
    for file in found:
        if file.relative_to(root).as_posix() not in used:
            with contextlib.suppress(FileNotFoundError):  # another one prunes too
                size += file.stat().st_size
                file.unlink()
                removed += 1
    card.refresh(root)
    return Pruned(len(numbers[:-keep]), removed, size)
