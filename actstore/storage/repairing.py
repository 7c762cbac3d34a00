"""Repairs a store: manifests from what is sound, files byte by byte from copies elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from actstore import schema
from actstore.errors import CommitError, CorruptStoreError, SnapshotNotFoundError
from actstore.storage import backing, card, key_hashes, layout, pruning, shard_columns, soundness
from actstore.storage import manifest as manifests
from actstore.storage.described import Describer
from actstore.storage.disk_errors import is_of_this_process, writing
from actstore.storage.dropping import without
from actstore.storage.manifest import EMPTY, LabelEntry, Manifest, ShardEntry
from actstore.storage.partition import StoredRows
from actstore.storage.segments import SegmentEntry
from actstore.storage.soundness import Named
from actstore.storage.staging import Staging
from actstore.wording import counted

_ASIDE = ".damaged"
_NONE = np.empty(0, np.int64)


class Copies(Protocol):
    """Files of another store, of which some may be copies of this one's."""

    @property
    def name(self) -> str:
        """What messages call them."""

    def has(self, entry: Named) -> bool:
        """Say whether there is a file with that SHA-256."""

    def fetch(self, entry: Named, target: Path) -> None:
        """Bring the file to ``target``."""


class Left(NamedTuple):
    """What stays as it is."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What a repair does, or did."""

    base: int
    """The latest commit whose manifest is sound; 0 where there is none."""
    aside: tuple[Left, ...] = ()
    """Damaged manifests of later commits, which are put aside."""
    shards: tuple[ShardEntry, ...] = ()
    """Shards that only those can have named, described from themselves."""
    parts: tuple[StoredRows, ...] = ()
    """Likewise, with the rows of each that other shards have: the others are written anew."""
    files: tuple[ShardEntry | LabelEntry | SegmentEntry, ...] = ()
    """Damaged or missing files of which there is a sound copy."""
    salvaged: Manifest | None = None
    """What is sound of the latest of those damaged ones, where only segments of it are not."""
    superseded: tuple[str, ...] = ()
    """Other shards that no sound commit names: their rows are in those that stay."""
    renamed: tuple[str, ...] = ()
    """Those taken whose rows may be those of others under other keys: they are there twice then."""
    left: tuple[Left, ...] = ()
    """What cannot be repaired."""
    more: bool = False
    """Whether there may be more to do when this is done."""
    commit: int | None = None
    """The new commit."""

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.aside or self.files)

    @property
    def taken(self) -> dict[str, int]:
        """Rows that are taken from shards that no sound commit names, by the shards' paths."""
        whole = {entry.path: entry.rows for entry in self.shards}
        return whole | {entry.path: entry.rows - len(rows) for entry, rows in self.parts}


def survey(
    root: Path,
    copies: Copies | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> Repair:
    """Return what can be repaired, and what cannot; nothing is changed.

    Args:
        root: folder of the store, or one that stands for it with the manifests of all commits.
        copies: where sound files may be.
        progress: called with the bytes checked so far.

    Raises:
        StoreNotFoundError: there is no store at ``root``.
        CorruptStoreError: this process may not read a manifest, or has no descriptor left.
    """
    numbers = manifests.numbers(root)
    if not numbers:
        manifests.load(root)  # says what is there instead
    manifests.forget()
    segments = _damaged_segments(root, numbers)
    if copies is not None and (there := [each for each in segments if copies.has(each)]):
        # What they name is looked at when they are back.
        return Repair(base=manifests.newest(root), files=tuple(there), more=True)
    sound: list[Manifest] = []
    damaged: list[tuple[int, Left]] = []
    for number in reversed(numbers):
        try:
            sound.append(manifests.load(root, number))
        except CorruptStoreError as error:
            if is_of_this_process(error):  # put aside it would be lost for nothing
                raise
            name = layout.manifest_path(root, number).relative_to(root).as_posix()
            damaged.append((number, Left(name, str(error))))
    base = sound[0] if sound else EMPTY
    aside = tuple(left for number, left in damaged if number > base.number)
    left = [
        Left(
            one.path, "an old commit, which nothing rebuilds; `actstore compact --prune` forgets it"
        )
        for number, one in damaged
        if number < base.number
    ]
    rest = _salvaged(root, base) if aside else None
    going_on = base if rest is None else rest
    files: list[ShardEntry | LabelEntry | SegmentEntry] = []
    entries = going_on.files
    broken = soundness.problems(root, entries.values(), progress=progress)
    for path, reason in broken:
        if copies is not None and copies.has(entries[path]):
            files.append(entries[path])
        else:
            where = "" if copies is None else f", and {copies.name} has no sound copy of it"
            left.append(Left(path, reason + where))
    found = Repair(base=base.number, aside=aside, files=tuple(files), salvaged=rest)
    if aside:
        # Shards of damaged segments may be named by earlier commits too, and are taken again.
        named = [*sound] if rest is None else []
        paths = {path for one in (going_on, *named) for path in one.files}
        found = _with_unnamed(found, root, going_on, paths, broken)
    if rest is not None:
        expected = manifests.load(root, rest.number, lazily=True).rows
        got = rest.rows + sum(found.taken.values())
        if got != expected:
            name = layout.manifest_path(root, rest.number).relative_to(root).as_posix()
            left.append(Left(name, f"it had {counted(expected, 'row')}, {got:,} are there"))
    return dataclasses.replace(found, left=(*left, *found.left))


def _damaged_segments(root: Path, numbers: Sequence[int]) -> list[SegmentEntry]:
    """Return the segments of manifests that are missing or not what the manifests say."""
    found: dict[str, SegmentEntry] = {}
    for number in numbers:
        with contextlib.suppress(CorruptStoreError, SnapshotNotFoundError):
            manifest = manifests.load(root, number, lazily=True)
            found |= {each.path: each for each in manifest.segments}
    broken = {path for path, _ in soundness.problems(root, found.values())}
    return [entry for path, entry in found.items() if path in broken]


def _salvaged(root: Path, base: Manifest) -> Manifest | None:
    """Return what is sound of the latest damaged commit, where its own text is."""
    for number in reversed(manifests.numbers(root)):
        if number <= base.number:
            return None
        with contextlib.suppress(CorruptStoreError, SnapshotNotFoundError):
            return manifests.salvaged(manifests.load(root, number, lazily=True))
    return None


def _with_unnamed(
    found: Repair,
    root: Path,
    base: Manifest,
    named: Collection[str],
    broken: Sequence[tuple[str, str]],
) -> Repair:
    """Return a repair with the shards that no sound commit names: with new rows, and without."""
    damaged = {path for path, _ in broken}
    sound = [entry for entry in base.shards if entry.path not in damaged]
    known: dict[tuple[object, ...], list[np.ndarray]] = {}
    taken: list[ShardEntry] = []
    parts: list[StoredRows] = []
    superseded: list[str] = []
    left: list[Left] = []
    for entry in sound:
        known.setdefault(entry.partition, []).append(_keys(root, entry))
    # The later of two that hold the same rows first: it is what became of the earlier one.
    behind = backing.of(root)
    stored = pruning.stored_files(root) if behind is None else behind.stored_files()
    stored.sort(key=lambda path: path.split("-")[-2:], reverse=True)
    with Describer(root) as describer:
        for path in stored:
            if path in named:
                continue
            if path.startswith(f"{layout.LABELS}/"):
                left.append(Left(path, "nothing says when these labels were set: set them again"))
                continue
            try:
                with backing.fetched(root, path):
                    entry = describer.describe(path)
            except CorruptStoreError as error:
                left.append(Left(path, str(error)))
                continue
            hashes = _keys(root, entry)
            held = known.setdefault(entry.partition, [])
            there = np.isin(hashes, np.concatenate([hashes[:0], *held]))
            if there.all():
                superseded.append(path)
                continue
            held.append(hashes)
            if there.any():
                parts.append(StoredRows(entry, np.flatnonzero(there)))
            else:
                taken.append(entry)
    renamed = _renamed(root, sound, [*(StoredRows(each, _NONE) for each in taken), *parts])
    return dataclasses.replace(
        found,
        shards=tuple(taken),
        parts=tuple(parts),
        superseded=tuple(superseded),
        renamed=tuple(renamed),
        left=tuple(left),
    )


def _keys(root: Path, entry: ShardEntry) -> np.ndarray:
    names = list(schema.key_names())
    return key_hashes.hash_table(shard_columns.read_columns(root, entry, names))


def _renamed(root: Path, sound: Sequence[ShardEntry], taken: Sequence[StoredRows]) -> Iterator[str]:
    """Yield the shards taken whose rows others may have under other keys, as a renaming leaves
    them: each is of the same run as a row there, and its vector is as long."""
    known = {row for entry in sound for row in _lengths(root, entry)} if taken else set()
    for entry, there in taken:
        rows = _lengths(root, entry)
        new = {rows[row] for row in np.delete(np.arange(entry.rows), there).tolist()}
        if new <= known:
            yield entry.path
        known |= new


def _lengths(root: Path, entry: ShardEntry) -> list[tuple[str, float]]:
    table = shard_columns.read_columns(root, entry, ["run_id", "norm"])
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def apply(root: Path, repair: Repair, copies: Copies | None = None) -> Repair:
    """Do what :func:`survey` has found, files first.

    Damaged manifests stay beside the others under names that nothing reads.

    Raises:
        CommitError: somebody else has committed meanwhile, or the disk failed.
        HubError: a copy could not be fetched.
    """
    commit = None
    behind = backing.of(root)
    with writing(root):
        staging = Staging(root)
        try:
            for number, entry in enumerate(repair.files):
                assert copies is not None
                draft = staging.folder / f"{number:06d}.parquet"
                copies.fetch(entry, draft)
                soundness.check(staging.folder, [dataclasses.replace(entry, path=draft.name)])
                layout.sync_file(draft)
                target = root / entry.path
                target.parent.mkdir(parents=True, exist_ok=True)
                draft.replace(target)
                layout.sync_folder(target.parent)
                if behind is not None:
                    behind.replace(entry.path)
            if repair.aside:
                commit = _commit(root, repair, staging)
        finally:
            staging.close()
    card.refresh(root)
    return dataclasses.replace(repair, commit=commit)


def _commit(root: Path, repair: Repair, staging: Staging) -> int:
    sound = manifests.load(root, repair.base) if repair.base else EMPTY
    base = sound if repair.salvaged is None else repair.salvaged
    new = without(root, EMPTY, repair.parts, staging.folder)
    parts = [entry for made in new.made.values() for entry in made]
    made = base.next(
        operation="repair",
        message=f"{len(repair.aside)} damaged commits put aside",
        shards=(*base.shards, *repair.shards, *parts),
    )
    later = [number for number in manifests.numbers(root) if number > repair.base]
    made = dataclasses.replace(made, number=later[-1] + 1)
    overtaken = len(later) != len(repair.aside)
    if parts and not overtaken:
        staging.place(dict(new.files))
    behind = backing.of(root)
    if behind is None:
        if overtaken or not manifests.publish(root, made, staging.folder):
            raise _overtaken(root)
        staging.done()
        for one in repair.aside:
            path = root / one.path
            os.replace(path, path.with_name(path.name + _ASIDE))
        return made.number
    # What takes the damaged ones' places, and what all of them stand on.
    instead = sound.next(
        operation="repair", message="in the place of a damaged commit", shards=sound.shards
    )
    made = dataclasses.replace(made, parent=instead.parent, parent_sha256=instead.parent_sha256)
    if overtaken or not behind.publish(made, staging.placed, staging.folder):
        raise _overtaken(root)
    staging.done()
    for one in repair.aside:
        number = int((root / one.path).stem)
        content = dataclasses.replace(instead, number=number).encode()
        behind.put_aside(one.path, one.path + _ASIDE, content)
    return made.number


def _overtaken(root: Path) -> CommitError:
    return CommitError(f"{root} got a commit meanwhile; nothing changed, run the command again")
