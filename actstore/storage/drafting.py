"""A draft: a store that goes on from a commit of another one, whose rows will be one commit there.

Several processes write to it, one commit after the other, as to any store, and none of it is
visible in the other store until all its shards are taken over at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from actstore.storage import backing, card, dropping, layout, shard_columns
from actstore.storage import manifest as manifests
from actstore.storage.backing import Backing
from actstore.storage.disk_errors import writing
from actstore.storage.manifest import LabelEntry, Manifest, Run, ShardEntry
from actstore.storage.mapping import open_shard
from actstore.storage.partition import StoredRows
from actstore.storage.piece_writer import PieceWriter
from actstore.storage.rebase import without_rows_of
from actstore.storage.rewriting import Replacement
from actstore.storage.shard_reader import ShardReader
from actstore.storage.transaction import Build, Transaction

if TYPE_CHECKING:
    import pyarrow as pa


PART = "part"
"""Kind of the run that stands for a part of a draft."""
_COMMIT = "commit"


class DraftBacking:
    """Has the files of a draft's base: they lie in the store that it goes on from.

    Args:
        root: folder of the draft.
        base_root: folder of that store.
        base: number of the commit of it that the draft goes on from.
        inner: who has the draft's own files, where they are not in its folder either; then the
            base's manifest is.
    """

    def __init__(self, root: Path, base_root: Path, base: int, inner: Backing | None) -> None:
        self._root, self._base_root, self._base, self._inner = root, base_root, base, inner

    @cached_property
    def _lent(self) -> set[str]:
        return lent_shards(self._root, self._base)

    def _own(self, entry: ShardEntry) -> Backing | None:
        return None if self._inner is None or entry.path in self._lent else self._inner

    def open_shard(self, entry: ShardEntry) -> ShardReader:
        own = self._own(entry)
        return open_shard(self._base_root, entry) if own is None else own.open_shard(entry)

    def columns(self, entry: ShardEntry, names: list[str]) -> pa.Table:
        own = self._own(entry)
        if own is None:
            return shard_columns.read_columns(self._base_root, entry, names)
        return own.columns(entry, names)

    def labels(self, entry: LabelEntry) -> pa.Table:
        return shard_columns.read_labels(self._base_root, entry)

    def fetched(self, path: str) -> contextlib.AbstractContextManager[None]:
        if self._inner is not None:
            return self._inner.fetched(path)
        return contextlib.nullcontext()

    def cache_folders(self) -> Sequence[Callable[[], Path]]:
        return ()  # nobody asks a draft for derived files

    def newest(self) -> contextlib.AbstractContextManager[Path]:
        raise NotImplementedError("no capture goes into a draft")

    def stored_files(self) -> list[str]:
        raise NotImplementedError("a draft is never pruned")

    def replace(self, path: str) -> None:
        raise NotImplementedError("no file of a draft is replaced")

    def put_aside(self, path: str, name: str, instead: bytes) -> None:
        raise NotImplementedError("no file of a draft is repaired")

    def publish(self, manifest: Manifest, files: Collection[str], staging: Path) -> bool:
        if self._inner is not None:
            return self._inner.publish(manifest, files, staging)
        return manifests.publish(self._root, manifest, staging)


@contextlib.contextmanager
def going_on_from(root: Path, base_root: Path, base: int) -> Iterator[None]:
    """Let a folder be a draft while the block runs; see :class:`DraftBacking`."""
    made = DraftBacking(root, base_root, base, backing.of(root))
    with backing.standing_for(root, made):
        yield


def lent_shards(root: Path, base: int) -> set[str]:
    """Return the shards of a draft that are the base's."""
    return {entry.path for entry in manifests.load(root, base).shards} if base else set()


class AlreadyThereError(Exception):
    """The draft has this part already: another process has stored it meanwhile."""


class DraftWriter(PieceWriter):
    """Writes to a draft: stored rows that are to be replaced stay, and :meth:`replaced` names them.

    Args:
        base: number of the commit that the draft goes on from.
        others: as of a StoreWriter.
    """

    def __init__(self, root: Path | str, *, base: int, **others: Any) -> None:
        super().__init__(root, checkpoint_bytes=None, **others)
        # Whoever made them, all shards of a draft are of one run. They may be very many.
        self.own = _AllBut(lent_shards(self.root, base))

    def commit_part(
        self,
        name: str,
        note: Callable[[], Mapping[str, Any]],
        *,
        number: int,
        operation: str,
        message: str,
    ) -> Part:
        """Commit what was added as one part of the draft, be it nothing.

        Args:
            name: of the part.
            note: makes what is to be known of it, once it is known what is left out of it.
            number: of the commit; all parts before it must be there.
            operation: as of a commit.
            message: as of a commit.

        Raises:
            AlreadyThereError: the draft has a commit of this number.
            ConflictError, LayoutError, CommitError: as :meth:`commit`.
        """
        known: dict[str, Any] = {}
        before = set(self.own)

        def record(_: Run, overtaken: int) -> Run:
            latest = self._change.base
            if latest.number >= number:
                raise AlreadyThereError
            # Where it is smaller, one that is known of a bucket is not the latest: it is made anew.
            known.update({**note(), _COMMIT: latest.number + 1})
            return Run(run_id=name, kind=PART, started_at=manifests.now(), settings=known)

        self.recorded = record
        made = self.commit(operation=operation, message=message)
        self._replaced.clear()
        if made is None:

            def build(latest: Manifest) -> Manifest:
                run = record(self.run, self.overtaken)
                return latest.adding((), run=run, operation=operation, message=message)

            self._change.commit({}, build)
        return Part(known, frozenset(set(self.own) - before))

    def close(self) -> None:
        self.commits.clear()  # a draft has no card, and nobody asks it for metadata
        super().close()

    def _replaces(self, entry: ShardEntry, row: int) -> bool:
        # A row of another part is no stored one: the source contradicts itself.
        return entry.path not in self.own and super()._replaces(entry, row)

    def _replacement(self) -> Replacement:
        base = self._change.base
        return Replacement(root=self.root, base=base, made={}, labels=base.labels, files={})


class _AllBut(set[str]):
    """Every path but some."""

    def __init__(self, others: Collection[str]) -> None:
        super().__init__()
        self._others = others

    def __contains__(self, path: object) -> bool:
        return path not in self._others


class Part(NamedTuple):
    """A part of a draft."""

    note: Mapping[str, Any]
    """What is known of it."""
    shards: frozenset[str]
    """Paths of those that it brought."""


def parts_of(manifest: Manifest) -> dict[str, Part]:
    """Return the parts that a draft has, by name, in the order in which they came."""
    notes = {run.run_id: run.settings for run in manifest.runs if run.kind == PART}
    shards: dict[int, set[str]] = {}
    for entry in manifest.shards:
        shards.setdefault(entry.since, set()).add(entry.path)
    return {
        name: Part(note, frozenset(shards.get(note[_COMMIT], ()))) for name, note in notes.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Takeover:
    """What of a draft is to become a commit, and how its files come over."""

    entries: Sequence[ShardEntry]
    """Its shards, in the order in which their rows came."""
    replaced: Sequence[StoredRows]
    """Rows of the base whose place they take."""
    run: Run
    fetch: Callable[[str, Path], None]
    """Brings a shard of the draft, by its path there, into a file on this machine."""
    send: Callable[[str, str], None] | None = None
    """Copies a shard of the draft to its new path in the store, where that is not here."""
    unsend: Callable[[Sequence[str]], None] = field(default=lambda paths: None)
    """Removes such copies again."""


def take_over(
    change: Transaction, draft: Takeover, *, operation: str, message: str
) -> tuple[Manifest | None, int]:
    """Commit the shards of a draft to the store that it goes on from, all at once.

    Args:
        change: of that store; its base is the commit that the draft goes on from.
        draft: what is taken over.
        operation: what the log calls it.
        message: what the log says.

    Returns:
        The commit (None where nothing is new), and how many rows others had brought meanwhile.

    Raises:
        ConflictError: another writer stored one of the keys with a different vector.
        LayoutError: another writer stored vectors of another width there.
        CommitError: others have changed the shards that rows are replaced in, or the disk failed.
    """
    base = change.base
    transaction = layout.new_transaction()
    moved = {
        entry.path: dataclasses.replace(entry, path=entry.named(transaction, number), since=0)
        for number, entry in enumerate(_as_of_one(draft.entries))
    }
    here = set() if draft.send is not None else set(moved)
    """Those that come by this machine; the others are copied where the store is."""
    sent: set[str] = set()
    try:
        while True:
            attempt = _Attempt(change.root, base, moved, here, change.folder)
            files = attempt.files(draft.replaced)
            for old, new in moved.items():
                if old in here:
                    files[new.path] = change.folder / Path(new.path).name
                    with writing(change.root):
                        draft.fetch(old, files[new.path])
                elif new.path not in sent and draft.send is not None:
                    sent.add(new.path)
                    draft.send(old, new.path)
            made = change.commit(files, attempt.build(draft.run, operation, message))
            if not attempt.missing:
                break
            here |= attempt.missing  # rows of theirs have come meanwhile: they are written anew
        sent -= {entry.path for entry in attempt.live}
    finally:
        with contextlib.suppress(Exception):  # what is left there is pruned one day
            draft.unsend(sorted(sent))
    card.catch_up(change.root, closely=True)
    rows = sum(new.rows for new in moved.values())
    return made, rows - sum(entry.rows for entry in attempt.live)


class _Attempt:
    """One attempt to take shards over.

    Args:
        root: folder of the store.
        base: the commit that the draft goes on from.
        moved: the shards as they are to be, by their path in the draft.
        here: paths in the draft of those that are in the folder by the time of the commit.
        folder: where files are written.
    """

    def __init__(
        self,
        root: Path,
        base: Manifest,
        moved: Mapping[str, ShardEntry],
        here: Collection[str],
        folder: Path,
    ) -> None:
        self._root, self._base, self._folder = root, base, folder
        self._checked = base
        self._here = here
        self._entries = dict(moved)
        self._replacement = Replacement(root=root, base=base, made={}, labels=base.labels, files={})
        self.missing: set[str] = set()
        """Those that must be in the folder first."""

    @property
    def live(self) -> list[ShardEntry]:
        """The shards that have rows which nobody else has brought."""
        return [entry for entry in self._entries.values() if entry.rows]

    def files(self, replaced: Sequence[StoredRows]) -> dict[str, Path]:
        """Write the shards anew that rows are replaced in, without those; return their files."""
        if replaced:
            self._replacement = dropping.without(self._root, self._base, replaced, self._folder)
        return dict(self._replacement.files)

    def build(self, run: Run, operation: str, message: str) -> Build:
        """Return what makes of the latest commit the next one."""

        def build(latest: Manifest) -> Manifest | None:
            self._replacement.check(latest)
            others = [] if latest is self._checked else latest.more_than(self._checked)
            for old, entry in self._entries.items():
                rivals = [each for each in others if each.partition == entry.partition]
                if rivals and entry.rows and old not in self._here:
                    self.missing.add(old)
                elif rivals and entry.rows:
                    kept = without_rows_of(self._root, entry, rivals, self._folder)
                    self._entries[old] = kept
            self._checked = latest
            if self.missing or not self.live:
                return None
            return self._replacement.following(
                latest, operation=operation, message=message, run=run, more=self.live
            )

        return build


def _as_of_one(entries: Sequence[ShardEntry]) -> list[ShardEntry]:
    """Put shards in the order that one writer's have, who keeps one open of each type."""
    found: dict[Any, list[ShardEntry]] = {}
    for entry in entries:
        found.setdefault((entry.partition, entry.width, entry.dtype), []).append(entry)
    return [entry for same in found.values() for entry in same]
