"""What a push must change: compares the store, its last sync and the repository."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from actstore.errors import RemoteChangedError
from actstore.hub.origin import Origin
from actstore.storage.manifest import Manifest, ShardEntry, in_row_order


@dataclass(frozen=True, slots=True, kw_only=True)
class PushDiff:
    """How the repository's shards and the store's become one."""

    kept: tuple[ShardEntry, ...]
    """Entries of the repository that stay, in its order."""
    missing: tuple[ShardEntry, ...]
    """Shards of the store that the repository lacks, in the store's order."""
    removed: tuple[ShardEntry, ...]
    """Entries of the repository that this store once shared and has since replaced or dropped."""
    theirs: tuple[ShardEntry, ...]
    """Among the kept: those that came from elsewhere."""


def push_diff(
    repository: str,
    local: Manifest,
    chosen: tuple[ShardEntry, ...],
    remote: Manifest,
    *,
    origin: Origin | None,
    once_local: Collection[str],
    archive: bool,
) -> PushDiff:
    """Work out what a push changes.

    A shard never changes under its name, so equal paths hold equal rows. What the two had in
    common is what the store remembers of the last push or pull; where it remembers nothing,
    the shards that any of its own commits names.

    Args:
        repository: what is pushed to, for messages.
        local: the store's commit.
        chosen: the shards of it that are to be pushed; others are neither sent nor removed.
        remote: what the repository holds.
        origin: what the store remembers of the repository.
        once_local: paths of all shards that any commit of the store names.
        archive: whether shards that are there uncompressed are to be replaced.

    Raises:
        RemoteChangedError: others have replaced shards that the two had in common.
    """
    there = {entry.path: entry for entry in remote.shards}
    replaced = origin.replaced if origin is not None else {}
    common = set(origin.shards) if origin is not None else once_local & there.keys()
    _refuse_replaced(repository, common, replaced, there, remote)
    if origin is not None and origin.dropped:
        raise RemoteChangedError(
            f"{len(origin.dropped):,} rows were dropped here before this store was taken to an "
            f"earlier state of {repository} or to another branch, and {origin.revision} may hold "
            "them yet. Nothing was pushed; bring the two together first with: actstore pull "
            f"{repository} STORE --revision {origin.revision}, then push again"
        )
    chosen_paths = {entry.path for entry in chosen}
    live = {entry.path for entry in local.shards}
    # Of a choice only what is being pushed may take the place of what was there; a store that
    # is pushed whole may also have dropped all rows of a layer.
    whole = len(chosen) == len(local.shards)
    touched = {entry.partition for entry in chosen}
    ours = {replaced.get(path, path) for path in live}
    # What a shard of the store is called there has not gone, whatever else was called so.
    gone = {replaced.get(path, path) for path in common - live} - ours
    removed = {p for p in gone if p in there and (whole or there[p].partition in touched)}
    # Rows that were there already were left out of others, and may have been in those that go.
    shrinking = {there[path].partition for path in removed}
    missing = []
    for entry in local.shards:
        at = replaced.get(entry.path, entry.path)
        if entry.path not in chosen_paths:
            continue
        less = at is None or (at in there and there[at].rows < entry.rows)
        if less and entry.partition in shrinking:
            missing.append(entry)
            removed |= {at} if at is not None else set()
            continue
        if at is None:
            continue
        held = there.get(at)
        if held is None or (archive and held.pages and at == entry.path):
            missing.append(entry)
        elif at == entry.path and not same_rows(entry, held):
            raise RemoteChangedError(
                f"the repository holds another file as {entry.path} than this store: it was "
                "changed by hand; restore it from the repository's history, then push again"
            )
    renewed = {entry.path for entry in missing}
    return PushDiff(
        kept=tuple(e for e in remote.shards if e.path not in removed and e.path not in renewed),
        missing=tuple(missing),
        removed=tuple(e for e in remote.shards if e.path in removed),
        theirs=tuple(e for e in remote.shards if e.path not in ours and e.path not in removed),
    )


def in_order(
    local: Manifest, diff: PushDiff, sent: tuple[ShardEntry, ...]
) -> tuple[ShardEntry, ...]:
    """Return all shards of the repository in row order.

    Without shards from elsewhere it is the store's own order, so that row numbers agree;
    else what was there comes first within each model, site and layer.

    Args:
        local: the store's commit.
        diff: what stays.
        sent: what comes.
    """
    together = {entry.path: entry for entry in (*diff.kept, *sent)}
    if {entry.path for entry in local.shards} == together.keys():
        return tuple(together[entry.path] for entry in local.shards)
    return in_row_order((*diff.kept, *sent))


def same_rows(left: ShardEntry, right: ShardEntry) -> bool:
    """Say whether two entries of one path can be the same rows, one of them perhaps archived."""
    kind = (left.partition, left.width, left.dtype, left.rows)
    other = (right.partition, right.width, right.dtype, right.rows)
    return kind == other and (left.sha256 == right.sha256 or not left.pages or not right.pages)


def _refuse_replaced(
    repository: str,
    common: Collection[str],
    replaced: dict[str, str | None],
    there: dict[str, ShardEntry],
    remote: Manifest,
) -> None:
    places = (replaced.get(path, path) for path in common)
    lost = [place for place in places if place is not None and place not in there]
    if lost or remote.labels:
        what = (
            f"{len(lost)} shards that this store had in common with it are no longer there: "
            "somebody has relabelled or compacted them and pushed the result"
            if lost
            else "it holds labels beside the shards, which another program put there"
        )
        raise RemoteChangedError(
            f"the repository was changed in a way that this push would undo: {what} (commit "
            f"{remote.number}, {remote.operation}: {remote.message}). Nothing was pushed; bring it "
            f"together with: actstore pull {repository} STORE, then push again"
        )
