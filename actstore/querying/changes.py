"""Rows to drop or rename, commits to go back to: what would change first, then the change."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actstore.errors import CorruptStoreError, UsageError
from actstore.querying import assigned
from actstore.querying.assigned import Assignments as Assignments
from actstore.querying.reader import StoreReader, opened
from actstore.storage import (
    backing,
    dropping,
    going_back,
    pruning,
    shard_columns,
    soundness,
)
from actstore.storage import manifest as manifests
from actstore.storage.partition import StoredRows
from actstore.storage.pruning import Erased
from actstore.storage.renaming import NewValues, Renaming
from actstore.storage.snapshot import Snapshot, open_snapshot
from actstore.wording import counted

if TYPE_CHECKING:
    import pyarrow as pa

Progress = Callable[[int], None]
_GROUP = ("model", "site", "layer", "label")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup:
    """Rows of one model, site, layer and label."""

    model: str
    site: str
    layer: int | None
    label: str | None
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """What a drop did, or would do."""

    rows: int
    groups: tuple[RowGroup, ...]
    """The rows by model, site, layer and label, in the store's order."""
    left: int
    """Rows that stay."""
    bytes: int
    """Of the vectors of these rows."""
    rewritten: int
    """Shards that are written anew, since other rows of theirs stay."""
    prune: bool
    commits: tuple[int, ...]
    """With pruning: the commits that go."""
    pruned_bytes: int
    """With pruning: bytes of the shards and label files that go."""
    dry_run: bool = True
    commit: int | None = None
    """Number of the new commit; None when no row fits, or nothing was done yet."""
    erased: Erased | None = None
    """With pruning: what was removed from the disk."""

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Renamed:
    """What a renaming did, or would do."""

    rows: int
    """Rows that get another value."""
    groups: tuple[RowGroup, ...]
    """The rows by model, site, layer and label as they were."""
    changes: tuple[tuple[str, Any, Any, int], ...]
    """Column, old value, new value and rows, the most frequent first."""
    rewritten: int
    """Shards that are written anew."""
    bytes: int
    """Of these."""
    dry_run: bool = True
    commit: int | None = None
    """Number of the new commit; None when no row changes, or nothing was done yet."""

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        found = dataclasses.asdict(self)
        names = ("column", "from", "to", "rows")
        found["changes"] = [dict(zip(names, change, strict=True)) for change in self.changes]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupChange:
    """Rows of one model, site, layer and label, now and at an earlier commit."""

    model: str
    site: str
    layer: int | None
    label: str | None
    now: int
    then: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedOut:
    """What going back did, or would do."""

    at: int
    """The commit that comes again."""
    changes: tuple[GroupChange, ...]
    """Where the number of rows is another."""
    rows: int
    """Rows of the store at that commit."""
    rows_now: int
    """Rows of the store now."""
    undone: int
    """Commits made since that one."""
    dry_run: bool = True
    commit: int | None = None
    """Number of the new commit; None when nothing differs, or nothing was done yet."""

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return dataclasses.asdict(self)


class Drop:
    """Rows of a store's latest commit that are to go.

    Args:
        store: folder of the store, or one that stands for it.
        where: SQL condition; ``true`` means every row.
        prune: whether the bytes are to go for good, with all older commits.

    Raises:
        StoreNotFoundError: there is no store at that path.
        SqlError: ``where`` is not one condition.
        UsageError: pruning was asked for in a bucket.
    """

    def __init__(self, store: Path, where: str, *, prune: bool = False) -> None:
        if prune and backing.of(store) is not None:
            raise UsageError(
                f"{store} is in a bucket, where nobody can see who reads older commits: drop the "
                f"rows, then remove the commits that hold them with: actstore compact {store} "
                "--prune --grace HOURS"
            )
        self._store = store
        self._prune = prune
        self._snapshot = open_snapshot(store)
        self._rows, groups = _chosen(self._snapshot, where)
        by_shard = dropping.rows_by_shard(self._snapshot, self._rows)
        self.outlook = Dropped(
            rows=len(self._rows),
            groups=groups,
            left=self._snapshot.rows - len(self._rows),
            bytes=sum(len(rows) * (e.vector_bytes // e.rows) for e, rows in by_shard),
            rewritten=sum(len(rows) < entry.rows for entry, rows in by_shard),
            prune=prune,
            commits=(),
            pruned_bytes=0,
        )
        if prune:
            numbers = manifests.numbers(store)
            touched = {entry.path for entry, _ in by_shard}
            with _naming_damage(self._snapshot):
                pruned = self._pruned_bytes(touched)
            self.outlook = dataclasses.replace(
                self.outlook,
                commits=tuple(numbers if len(self._rows) else numbers[:-1]),
                pruned_bytes=pruned,
            )

    def _pruned_bytes(self, touched: set[str]) -> int:
        root, manifest = self._store, self._snapshot.manifest
        stay = {entry.path for entry in manifest.shards} - touched
        for overlay in manifest.labels:
            table = shard_columns.read_labels(root, overlay)
            if not touched & set(table["shard"].unique().to_pylist()):
                stay.add(overlay.path)
        gone = [root / path for path in pruning.stored_files(root) if path not in stay]
        return sum(path.stat().st_size for path in gone)

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to do."""
        return not self.outlook.rows and not (
            self._prune and (self.outlook.commits or self.outlook.pruned_bytes)
        )

    def apply(self, *, progress: Progress | None = None) -> Dropped:
        """Drop the rows; with pruning then remove every byte of them.

        Raises:
            DamageError: a file is not what the manifest says; nothing was removed.
            CommitError: another writer changed the same shards meanwhile, or the disk failed.
        """
        commit = dropping.drop_rows(
            self._snapshot, self._rows, check_all=self._prune, progress=progress
        )
        erased = None
        if self._prune:
            known = {e.path for e in self._snapshot.shards} if commit is not None else set()
            self._snapshot.close()
            erased = pruning.erase(self._store, checked=known, caches=True)
        return dataclasses.replace(
            self.outlook,
            dry_run=False,
            commit=commit.number if commit is not None else None,
            erased=erased,
            commits=erased.commits if erased else (),
            pruned_bytes=erased.bytes if erased else 0,
        )


class Rename:
    """Rows of a store's latest commit that are to get other values.

    Args:
        store: folder of the store, or one that stands for it.
        set: ``column = expression`` in SQL, one or several; or columns and plain values.
        where: SQL condition; all rows when missing.

    Raises:
        StoreNotFoundError: there is no store at that path.
        UsageError: a column cannot be set, or a value does not fit the schema.
        SqlError: an expression or the condition is refused or fails.
        ConflictError: rows would share a key afterwards; the message names them.
    """

    def __init__(self, store: Path, set: Assignments, where: str | None = None) -> None:
        expressions = assigned.expressions(set)
        snapshot = open_snapshot(store)
        with _naming_damage(snapshot), StoreReader(snapshot) as reader:
            rows, old, new = assigned.values(snapshot, where, expressions)
            differs = np.zeros(len(rows), bool)
            for name in expressions:
                pairs = zip(old[name], new[name], strict=True)
                differs |= np.array([before != after for before, after in pairs], bool)
            chosen = np.flatnonzero(differs)
            groups = _groups(reader.rows_at(rows[chosen]).table(_GROUP))
        columns = {name: [new[name][at] for at in chosen] for name in expressions}
        with _naming_damage(snapshot):
            self._renaming = Renaming(snapshot, NewValues(rows=rows[chosen], columns=columns))
        self._text = ", ".join(f"{name} = {text}" for name, text in expressions.items())
        touched = self._renaming.touched
        self.outlook = Renamed(
            rows=len(chosen),
            groups=groups,
            changes=_changes(old, columns, chosen),
            rewritten=len(touched),
            bytes=sum(entry.bytes for entry in touched),
        )

    def apply(self, *, progress: Progress | None = None) -> Renamed:
        """Make the change.

        Raises:
            DamageError: a file is not what the manifest says; nothing changed.
            ConflictError: another writer has brought a row of the same key meanwhile.
            CommitError: another writer changed the same shards meanwhile, or the disk failed.
        """
        message = f"{self._text} for {counted(self.outlook.rows, 'row')}"
        commit = self._renaming.commit(message, progress=progress)
        return dataclasses.replace(
            self.outlook, dry_run=False, commit=commit.number if commit is not None else None
        )


class Checkout:
    """A commit that is to come again.

    Args:
        store: folder of the store, or one that stands for it.
        at: its number.

    Raises:
        StoreNotFoundError: there is no store at that path.
        SnapshotNotFoundError: it has no such commit.
    """

    def __init__(self, store: Path, at: int) -> None:
        self._store = store
        now, then = open_snapshot(store), open_snapshot(store, at)
        self.nothing = going_back.holds_the_same(now.manifest, then.manifest)
        """Whether there is nothing to do."""
        self.outlook = CheckedOut(
            at=at,
            changes=() if self.nothing else _group_changes(now, then),
            rows=then.rows,
            rows_now=now.rows,
            undone=now.manifest.number - at,
        )

    def apply(self, *, progress: Progress | None = None) -> CheckedOut:
        """Make the commit.

        Raises:
            DamageError: a file of that commit is not what its manifest says; nothing changed.
            CommitError: another writer has committed meanwhile, or the disk failed.
        """
        commit = going_back.go_back(self._store, self.outlook.at, progress=progress)
        return dataclasses.replace(
            self.outlook, dry_run=False, commit=commit.number if commit is not None else None
        )


@contextlib.contextmanager
def _naming_damage(snapshot: Snapshot) -> Iterator[None]:
    """Name every file that is not what the manifest says, where one cannot be read."""
    try:
        yield
    except CorruptStoreError:
        soundness.check(snapshot.root, [*snapshot.shards, *snapshot.manifest.labels])
        raise


def _chosen(snapshot: Snapshot, where: str | None) -> tuple[np.ndarray, tuple[RowGroup, ...]]:
    with _naming_damage(snapshot), StoreReader(snapshot) as reader:
        chosen = reader.select(where)
        return chosen.rows, _groups(chosen.table(_GROUP))


def _groups(table: pa.Table) -> tuple[RowGroup, ...]:
    counts = table.group_by(list(_GROUP), use_threads=False).aggregate([([], "count_all")])
    cells = (counts[name].to_pylist() for name in (*_GROUP, "count_all"))
    return _in_order(
        RowGroup(model=model, site=site, layer=layer, label=label, rows=rows)
        for model, site, layer, label, rows in zip(*cells, strict=True)
    )


def groups_of(store: str | Path, stored: Iterable[StoredRows]) -> tuple[RowGroup, ...]:
    """Return rows of the latest commit's shards by model, site, layer and label.

    Raises:
        CorruptStoreError: a shard or label file is missing or damaged.
    """
    snapshot, _ = opened(store, None)
    firsts = dict(zip((e.path for e in snapshot.shards), snapshot.offsets.tolist(), strict=False))
    rows = [each.rows + firsts[each.entry.path] for each in stored if each.entry.path in firsts]
    with StoreReader(snapshot) as reader:
        return _groups(reader.rows_at(np.concatenate(rows)).table(_GROUP))


def _group_changes(now: Snapshot, then: Snapshot) -> tuple[GroupChange, ...]:
    """Return the groups of which two commits hold another number of rows."""
    counts: dict[RowGroup, list[int]] = {}
    for at, snapshot in enumerate((now, then)):
        for group in _chosen(snapshot, None)[1]:
            counts.setdefault(dataclasses.replace(group, rows=0), [0, 0])[at] = group.rows
    return tuple(
        GroupChange(
            model=group.model,
            site=group.site,
            layer=group.layer,
            label=group.label,
            now=counts[group][0],
            then=counts[group][1],
        )
        for group in _in_order(counts)
        if counts[group][0] != counts[group][1]
    )


def _in_order(groups: Iterable[RowGroup]) -> tuple[RowGroup, ...]:
    def order(group: RowGroup) -> tuple[Any, ...]:
        layer, label = group.layer, group.label
        return group.model, group.site, layer is None, layer or 0, label is None, label or ""

    return tuple(sorted(groups, key=order))


def _changes(
    old: Mapping[str, list[Any]], new: Mapping[str, list[Any]], chosen: np.ndarray
) -> tuple[tuple[str, Any, Any, int], ...]:
    counts: dict[tuple[str, Any, Any], int] = {}
    for name, values in new.items():
        for at, value in zip(chosen.tolist(), values, strict=True):
            before = old[name][at]
            if before != value:
                counts[name, before, value] = counts.get((name, before, value), 0) + 1
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return tuple((*change, rows) for change, rows in ordered)
