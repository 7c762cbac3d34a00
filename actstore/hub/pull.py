"""Pulling a store from the Hub: only what was asked for, resumed, checked, one commit."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata as packages
from pathlib import Path
from typing import TypedDict, Unpack

from actstore.errors import ActstoreError, CommitError, UsageError
from actstore.hub import origin
from actstore.hub.fetch import Fetch
from actstore.hub.origin import Key, Origin
from actstore.hub.pull_commit import Merged, Merger
from actstore.hub.pull_diff import PullDiff, had_whole, last_met, pull_diff, recall
from actstore.hub.row_merge import CommonRows, partition_of
from actstore.hub.wanted import PullChoice, WantedShard, together, wanted_shards
from actstore.remote import cache as caches
from actstore.remote import resolve
from actstore.remote.address import Address, parse
from actstore.remote.cache import RangeCache
from actstore.remote.client import MAIN, Client
from actstore.remote.files import RemoteFiles
from actstore.remote.hub_source import HubSource
from actstore.remote.resolve import ResolvedStore
from actstore.storage import card, card_text, layout
from actstore.storage import manifest as manifests
from actstore.storage.disk_errors import writing
from actstore.storage.manifest import Run, now
from actstore.storage.snapshot import Snapshot
from actstore.storage.staging import prepare

_MOST_CARD = 1 << 20
_WORK = "pull"
_LOCK = "lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """What a pull did."""

    repository: str
    revision: str
    commit: str
    """Of the repository."""
    number: int
    """Of the store that the repository holds."""
    store: str
    """Path of the store on this machine."""
    local_commit: int
    """Its latest commit."""
    changed: bool
    """Whether the pull made it."""
    rows: int
    """Rows of the store now."""
    shards: int
    fetched: int
    """Shards that came new."""
    received: int
    """Bytes that were transferred."""
    removed: int
    """Shards that were given up, because the repository no longer holds them."""
    duplicates: int
    """Rows that were left out, because the store has them from elsewhere, bit for bit."""
    relabelled: int
    """Labels set in the store that were carried over to rows that came anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PullSettings:
    """What the caller of :func:`pull` chose."""

    layers: Sequence[int | None] = ()
    models: Sequence[str] = ()
    sites: Sequence[str] = ()
    where: str | None = None
    revision: str | None = None
    at: int | None = None


class PullOptions(TypedDict, total=False):
    """The fields of :class:`PullSettings` as keywords, for editors and type checkers."""

    layers: Sequence[int | None]
    models: Sequence[str]
    sites: Sequence[str]
    where: str | None
    revision: str | None
    at: int | None


def pull(
    source: str | Address,
    folder: str | Path,
    *,
    client: Client | None = None,
    cache: RangeCache | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Unpack[PullOptions],
) -> Pulled:
    """Bring a store in a repository, or part of it, into the store in ``folder``.

    Only the shards that are needed are fetched, several at a time; each is checked against
    its SHA-256, and all appear in one commit. An interrupted pull, run again, goes on where
    it stopped. A later pull brings the store up to date with the repository, for all that
    was ever asked for; what the repository does not know of stays as it is.

    Args:
        source: ``org/name``, or an address with ``hf://``.
        folder: the store, made when missing.
        client: the Hub; the usual one, with the user's token, when missing.
        cache: where byte ranges are kept; in the user's cache folder when missing.
        progress: called with the bytes done and the bytes in all.
        options: fields of :class:`PullSettings`; one by one:
        layers: only these; None is the unknown layer.
        models: only these.
        sites: only these.
        where: only rows that meet this SQL condition; byte ranges of them are fetched.
        revision: branch, tag, ``refs/pr/N`` or commit; ``main`` when missing.
        at: the store's commit ``at``, looked for in the revision's history.

    Raises:
        RemoteStoreError: the repository holds no store, or a damaged or hostile one.
        NotInStoreError: it has no such layer, model or site.
        SqlError: ``where`` is not one condition.
        SnapshotNotFoundError: it has never held commit ``at``.
        ConflictError: the store in ``folder`` holds one of the rows with a different vector.
        StoreError: ``folder`` holds other things than a store.
        CommitError: the disk is full or failed; what was committed before stands.
        HubError: the Hub cannot be asked; the leaf says why.
    """
    asked = PullSettings(**options)
    address = _address(source, asked.revision)
    root = Path(folder)
    client = client or Client()
    choice = PullChoice(
        layers=tuple(asked.layers),
        models=tuple(asked.models),
        sites=tuple(asked.sites),
        where=asked.where,
    )
    held = resolve.look_up(client, address, asked.at)
    older = asked.at is not None and held.commit != client.head(
        address.repository, address.revision
    )
    cache = cache or caches.default()
    files = RemoteFiles(HubSource(client, address, held), cache)
    remote = Snapshot(files, held.manifest)
    # Nothing is made before it is known that the repository holds what is asked for.
    wanted = _wanted(remote, choice, root, client, address)
    prepare(root)
    with _alone(root) as work, writing(root):
        return _Pull(
            client=client,
            address=address,
            root=root,
            choice=choice,
            held=held,
            older=older,
            remote=remote,
            cache=cache,
            wanted=wanted,
            work=work,
            progress=progress,
        ).run()


def _address(source: str | Address, revision: str | None) -> Address:
    address = parse(source) if isinstance(source, str) else source
    if address.path:
        raise UsageError(
            f"{address} names a path inside a repository: a store is a whole repository; choose "
            "parts of it with --layers, --models, --sites or --where"
        )
    if revision is not None and address.revision not in (None, revision):
        raise UsageError(f"{address} names a revision already: leave out --revision {revision}")
    return dataclasses.replace(address, revision=revision or address.revision)


def _wanted(
    remote: Snapshot, choice: PullChoice, root: Path, client: Client, address: Address
) -> list[WantedShard]:
    """Return what is asked for now and was by earlier pulls from the repository."""
    if not manifests.numbers(root):
        return wanted_shards(remote, choice, ())
    base = manifests.load(root)
    memory = recall(base, origin.run_id(client.endpoint, address.repository))
    revision = address.revision or MAIN
    origins = _origins(root, client, address, memory.revision)
    held = had_whole(base, remote.manifest, last_met(origins, memory, revision))
    return wanted_shards(remote, choice, memory.choices, held)


def _origins(root: Path, client: Client, address: Address, last: str | None) -> list[Origin]:
    """Return what the store remembers of a branch, and of the one last pulled."""
    names = dict.fromkeys([last or MAIN, address.revision or MAIN])
    known = (origin.load(root, address.repository, name, client.endpoint) for name in names)
    return [found for found in known if found is not None]


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[Path]:
    """Give the folder for what is under way, to one pull at a time."""
    work = root / layout.CACHE / _WORK
    with writing(root):
        work.mkdir(parents=True, exist_ok=True)
        lock = os.open(work / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise CommitError(
            f"another pull into {root} is under way; wait for it, then run the command again"
        ) from None
    try:
        yield work
    finally:
        os.close(lock)


@dataclass(kw_only=True)
class _Pull:
    """One pull."""

    client: Client
    address: Address
    root: Path
    choice: PullChoice
    held: ResolvedStore
    older: bool
    """Whether that is an earlier state of the revision."""
    remote: Snapshot
    cache: RangeCache
    wanted: list[WantedShard]
    work: Path
    progress: Callable[[int, int], None] | None

    def run(self) -> Pulled:
        run = self._describe()
        base = manifests.latest(self.root)
        memory = recall(base, run.run_id)
        origins = _origins(self.root, self.client, self.address, memory.revision)
        choices = together([self.choice, *memory.choices])
        todo: PullDiff = pull_diff(
            base,
            self.wanted,
            self.held.manifest,
            memory,
            origins,
            choices=choices,
            revision=run.settings["revision"],
        )
        arrival = Fetch(
            self.client,
            self.held.repository,
            self.held.commit,
            self.remote,
            self.root,
            self.work,
            self.progress,
        )
        arrived = arrival.fetch(todo.missing)
        there = self._remote_card()
        merger = Merger(
            root=self.root,
            run=run,
            remote=self.remote,
            common=CommonRows(self.root, self.client, self.held.repository, self.cache),
            wanted=self.wanted,
            choices=choices,
            origins=origins,
            folder=self.work,
        )
        merged = merger.merge(arrived)
        before = origin.load(
            self.root, self.held.repository, run.settings["revision"], self.client.endpoint
        )
        self._renew_card(before.card if before is not None else "", there, changed=merged.changed)
        self._remember(merged, {entry.path for entry in base.shards}, there)
        self._tidy()
        traffic = self.remote.files.traffic
        return Pulled(
            repository=self.held.repository,
            revision=run.settings["revision"],
            commit=self.held.commit,
            number=self.held.manifest.number,
            store=str(self.root),
            local_commit=merged.manifest.number,
            changed=merged.changed,
            rows=merged.manifest.rows,
            shards=len(merged.manifest.shards),
            fetched=len(todo.missing),
            received=arrival.received + (traffic.received if traffic else 0),
            removed=merged.removed,
            duplicates=merged.duplicates,
            relabelled=merged.relabelled,
        )

    def _describe(self) -> Run:
        return Run(
            run_id=origin.run_id(self.client.endpoint, self.address.repository),
            kind="pull",
            started_at=now(),
            settings={
                "repository": self.held.repository,
                "endpoint": self.client.endpoint,
                "revision": self.address.revision or MAIN,
                "commit": self.held.commit,
                "number": self.held.manifest.number,
            },
            versions={"actstore": packages.version("actstore")},
        )

    def _remember(self, merged: Merged, before: set[str], text: str) -> None:
        """Write down what store and repository now have in common."""
        revision = self.address.revision or MAIN
        live = {entry.path: entry for entry in merged.manifest.shards}
        gone = before - live.keys()
        there = {entry.path: entry for entry in self.held.manifest.shards}
        memory = recall(
            merged.manifest, origin.run_id(self.client.endpoint, self.address.repository)
        )
        shards = (live.keys() & there.keys()) | merged.adopted
        replaced: dict[str, str | None] = {}
        since: dict[str, str] = {}
        dropped: set[Key] = set()
        for known in origin.all_of(self.root):
            if (known.repository, known.endpoint) != (self.held.repository, self.client.endpoint):
                continue
            same = known.revision == revision
            for path in known.shards:
                at = known.replaced.get(path, path)
                # What nobody asked for is left as it is: the next pull, or push, knows of it. What
                # stands for a shard on another branch may be less than all its rows on this one.
                here = same and (path in live or path in merged.rows.left)
                held = at in there and (at == path or same)
                if path not in gone and (held or here):
                    shards.add(path)
                    if at != path:
                        replaced[path] = at
                    if same and at is not None and at not in there:
                        since[path] = known.since.get(path, known.commit)
            if same:
                dropped |= self._still_dropped(known, merged, memory.choices)
                continue
            forgotten = gone | {
                path
                for path in known.shards
                if path not in live and path.rpartition("/")[0] in merged.rows.folders
            }
            given_up = merged.rows.dropped if forgotten - gone else ()
            if forgotten & set(known.shards) or given_up:
                # Or a push to that branch would take them for removed on purpose.
                kept = tuple(path for path in known.shards if path not in forgotten)
                rows = tuple(dict.fromkeys((*known.dropped, *given_up)))
                origin.save(self.root, dataclasses.replace(known, shards=kept, dropped=rows))
        for path, key in memory.made.items():
            shards.add(path)
            whole = key in there and there[key].rows == live[path].rows
            replaced[path] = key if whole else None
        if self.older:
            dropped |= merged.rows.dropped
        origin.save(
            self.root,
            Origin(
                repository=self.held.repository,
                revision=revision,
                endpoint=self.client.endpoint,
                commit=self.held.commit,
                number=self.held.manifest.number,
                shards=tuple(sorted(shards)),
                replaced=replaced,
                since=since,
                dropped=tuple(sorted(dropped, key=str)),
                card=text,
            ),
        )

    def _still_dropped(
        self, known: Origin, merged: Merged, choices: Sequence[PullChoice]
    ) -> set[Key]:
        """Return rows that the store gave up and of which nobody knows yet what the branch did."""
        asked = {
            entry.partition
            for entry in self.remote.shards
            if any(choice.covers(entry) for choice in choices)
        }
        there = {entry.partition for entry in self.remote.shards}
        return {
            key
            for key in merged.rows.dropped.intersection(known.dropped)
            if self.older or partition_of(key) in there - asked
        }

    def _remote_card(self) -> str:
        """Return the repository's README.md; empty when there is none, or one beyond reason."""
        file = self.held.files.get(layout.CARD)
        if file is None or file.size > _MOST_CARD:
            return ""
        data = self.client.read(
            self.held.repository, layout.CARD, self.held.commit, most=_MOST_CARD
        )
        return data.decode("utf-8", "replace")

    def _renew_card(self, before: str, there: str, *, changed: bool) -> None:
        """Bring the store's card up to date, with what its owner wrote here and on the Hub."""
        own = card_text.take_apart(card.read(self.root))
        if there:
            base, theirs = card_text.take_apart(before), card_text.take_apart(there)
            joined = card_text.merge(base, own, theirs)
        else:
            joined = own
        if changed or joined != own:
            with contextlib.suppress(ActstoreError):  # the next command that writes does it
                card.refresh(self.root, own=joined)

    def _tidy(self) -> None:
        """Remove what was fetched: it is in the store now, or no longer wanted."""
        for path in self.work.iterdir():
            if path.name != _LOCK:
                with contextlib.suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
