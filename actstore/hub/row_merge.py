"""Rows of shards that store and repository have both replaced: what each of the two did to them.

Shards are compared by name everywhere else. Where one side dropped a row of a shard, or compacted
it, and the other one relabelled it, no name is left that both know: what they had in common is
read once more, and compared row by row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actstore import schema
from actstore.errors import ActstoreError, RemoteStoreError, RevisionError
from actstore.hub.origin import Key, Origin
from actstore.hub.pull_diff import recall
from actstore.hub.wanted import PullChoice, WantedShard
from actstore.remote import resolve
from actstore.remote.address import Address
from actstore.remote.cache import RangeCache
from actstore.remote.client import Client
from actstore.remote.files import RemoteFiles
from actstore.remote.hub_source import HubSource
from actstore.storage import key_hashes, shard_columns
from actstore.storage import manifest as manifests
from actstore.storage.manifest import Manifest, ShardEntry
from actstore.storage.partition import StoredRows
from actstore.storage.renaming import COMPUTED
from actstore.storage.snapshot import Snapshot

if TYPE_CHECKING:
    import pyarrow as pa

    Common = tuple[ShardEntry, pa.Table]
    """A shard, and the metadata of its rows."""

Partition = tuple[str, str, "int | None"]
Labels = dict[Key, Any]
"""The label of each row, by its key."""


class Row(NamedTuple):
    """What tells a row from what became of it."""

    label: str | None
    beside: int
    """Hash of all that was said of it beside its key and its label."""


Rows = dict[Key, Row]
_ODD = np.uint64(0x9E3779B97F4A7C15)
_IN_KEY = [schema.key_names().index(name) for name in ("model", "site", "layer")]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowMerge:
    """What a pull does to single rows; nothing, where no shard was replaced on both sides."""

    dropped: frozenset[Key] = frozenset()
    """Rows that the store had from the repository and gave up: they do not come back."""
    shared: frozenset[Key] = frozenset()
    """Rows that both had, of the shards that both have replaced."""
    given_up: tuple[StoredRows, ...] = ()
    """Rows of the store's own shards that go: the repository gave them up, or has them renamed."""
    labels: Labels = field(default_factory=dict)
    """Labels to set: what the repository made of those that are in the store as they were."""
    left: frozenset[str] = frozenset()
    """Shards that neither names any more, and that are still to be brought together: nobody has
    asked for all that came in their place."""
    folders: frozenset[str] = frozenset()
    """Folders of shards of which this pull takes rows away: other branches may hold them yet."""


class CommonRows:
    """Reads shards that a store had in common with a repository, as they were then.

    Args:
        root: the store.
        client: the Hub.
        repository: ``org/name``.
        cache: where byte ranges are kept.
    """

    def __init__(self, root: Path, client: Client, repository: str, cache: RangeCache) -> None:
        self._root = root
        self._client = client
        self._repository = repository
        self._cache = cache
        self._known: dict[str, Common | None] = {}
        self._commits: dict[str, tuple[RemoteFiles, dict[str, ShardEntry]] | None] = {}

    def of(self, path: str, origin: Origin) -> Common | None:
        """Return a shard and its metadata; None where neither side has it any more."""
        if path not in self._known:
            self._known[path] = of_store(self._root, path) or self._there(path, origin)
        return self._known[path]

    def _there(self, path: str, origin: Origin) -> Common | None:
        commit = origin.since.get(path, origin.commit)
        if commit not in self._commits:
            self._commits[commit] = self._open(commit)
        opened = self._commits[commit]
        at = origin.replaced.get(path, path)
        if opened is None or at not in opened[1]:
            return None
        files, entries = opened
        return entries[at], files.columns(entries[at], list(schema.metadata_names()))

    def _open(self, commit: str) -> tuple[RemoteFiles, dict[str, ShardEntry]] | None:
        address = Address(repository=self._repository, revision=commit)
        try:
            held = resolve.look_up(self._client, address, memory=self._cache)
        except (RevisionError, RemoteStoreError):  # its history was squashed
            return None
        files = RemoteFiles(HubSource(self._client, address, held), self._cache)
        return files, {entry.path: entry for entry in held.manifest.shards}


def of_store(root: Path, path: str, piece_of: str | None = None) -> Common | None:
    """Return a shard of any commit of a store; None where it is gone.

    Args:
        root: the store.
        path: of the shard.
        piece_of: name of a pull's run: only a shard that it made of a repository's rows is meant.
    """
    if not (root / path).exists():
        return None
    for number in reversed(manifests.numbers(root)):
        try:
            commit = manifests.load(root, number)
            entry = next((each for each in commit.shards if each.path == path), None)
            if entry is not None and piece_of and path not in recall(commit, piece_of).made:
                return None
            if entry is not None:
                return entry, shard_columns.read_columns(root, entry, list(schema.metadata_names()))
        except ActstoreError:  # damaged, or just pruned
            return None
    return None


def row_merge(
    root: Path,
    local: Manifest,
    remote: Snapshot,
    wanted: Sequence[WantedShard],
    removed: Collection[str],
    *,
    origin: Origin | None,
    dropped: Collection[Key],
    choices: Sequence[PullChoice],
    common: CommonRows,
) -> RowMerge:
    """Compare rows where shards that both had are named by neither any more.

    Args:
        root: the store.
        local: its commit.
        remote: what the repository holds.
        wanted: what of it the store is to hold.
        removed: shards of the store that go as they are.
        origin: what both had: of the branch that the store was last at.
        dropped: rows that are known to have been given up since.
        choices: what this pull and earlier ones asked for.
        common: reads what both had.
    """
    settled: set[str] = set()
    shared: defaultdict[Partition, Rows] = defaultdict(dict)
    whole: set[Partition] = set()
    replaced = _replaced(local, remote.manifest, origin)
    for path, at in replaced.items():
        found = common.of(path, origin) if origin is not None else None
        if found is None:
            settled.add(path)
            continue
        entry, table = found
        shared[entry.partition] |= rows_of(table)
        if any(choice.covers(entry) for choice in choices):
            whole.add(entry.partition)
            if at is not None:  # what became of rows in others' shards goes up with a push
                settled.add(path)
    partitions = shared.keys() | {partition_of(key) for key in dropped}
    if not partitions:
        return RowMerge()
    overlays = shard_columns.overlays(root, local.labels)
    gone = set(dropped)
    given_up: list[StoredRows] = []
    changed: Labels = {}
    for partition in partitions:
        both = shared[partition]
        held = _there(remote, wanted, partition) if both else {}
        here: set[Key] = set()
        for entry in local.shards:
            if entry.partition != partition:
                continue
            table = shard_columns.read_columns(root, entry, list(schema.metadata_names()))
            own = rows_of(table, overlays.get(entry.path))
            here |= own.keys()
            if entry.path in removed:
                continue
            leaving = []
            for row, (key, now) in enumerate(own.items()):
                if key not in both:
                    continue
                if key not in held:
                    leaving += [row] if partition in whole else []
                elif both[key].beside == now.beside != held[key].beside:
                    leaving.append(row)  # it comes as it is there
                    if now.label != both[key].label:
                        changed[key] = now.label
                elif now.label == both[key].label != held[key].label:
                    changed[key] = held[key].label
            if leaving:
                given_up.append(StoredRows(entry, np.array(leaving, np.int64)))
        gone = (gone | both.keys()) - here
    going = [entry for entry in local.shards if entry.path in removed]
    going += [entry for entry, _ in given_up]
    return RowMerge(
        dropped=frozenset(gone),
        shared=frozenset(key for rows in shared.values() for key in rows),
        given_up=tuple(given_up),
        labels=changed,
        left=frozenset(replaced) - settled,
        folders=frozenset(entry.path.rpartition("/")[0] for entry in going),
    )


def _replaced(local: Manifest, there: Manifest, origin: Origin | None) -> dict[str, str | None]:
    """Return the shards that both had and neither names any more, and their paths up there.

    Rows that are among others' shards up there are named by none.
    """
    if origin is None:
        return {}
    live = {entry.path for entry in local.shards}
    held = {entry.path for entry in there.shards}
    places = {path: origin.replaced.get(path, path) for path in origin.shards if path not in live}
    return {path: at for path, at in places.items() if at not in held}


def partition_of(key: Key) -> Partition:
    """Return the model, site and layer of a row."""
    model, site, layer = (key[at] for at in _IN_KEY)
    return model, site, layer


def keys_of(table: pa.Table) -> Iterator[Key]:
    """Yield the key of each row of a table that has the key columns."""
    return zip(*(_shared(table[name]) for name in schema.key_names()), strict=True)


def rows_of(table: pa.Table, labels: dict[int, Any] | None = None) -> Rows:
    """Return each row of a table of all metadata, with labels that were set since."""
    table = shard_columns.with_labels(table, labels) if labels else table
    beside = np.zeros(table.num_rows, np.uint64)
    with np.errstate(over="ignore"):
        for name in table.column_names:
            if name not in (*schema.key_names(), *COMPUTED):
                beside = beside * _ODD + key_hashes.hash_column(table[name])
    cells = map(Row, _shared(table["label"]), beside.tolist())
    return dict(zip(keys_of(table), cells, strict=True))


def _shared(column: pa.ChunkedArray) -> list[Any]:
    """Return the values of a column, equal ones as one object: of a million rows most are."""
    values, codes = key_hashes.coded(column)
    return [values[code] for code in codes.tolist()]


def _there(remote: Snapshot, wanted: Sequence[WantedShard], partition: Partition) -> Rows:
    """Return the rows of a partition that are wanted of the repository."""
    overlays = shard_columns.merged(map(remote.files.labels, remote.manifest.labels))
    rows: defaultdict[int, list[np.ndarray]] = defaultdict(list)
    for piece in wanted:
        if piece.entry.partition != partition:
            continue
        if piece.rows is None:
            number = remote.shards.index(piece.entry)
            rows[number].append(np.arange(piece.entry.rows))
            continue
        numbers = np.searchsorted(remote.offsets, piece.rows, "right") - 1
        for number in np.unique(numbers).tolist():
            rows[number].append(piece.rows[numbers == number] - remote.offsets[number])
    found: Rows = {}
    for number, chosen in rows.items():
        entry = remote.shards[number]
        table = remote.files.columns(entry, list(schema.metadata_names()))
        cells = list(rows_of(table, overlays.get(entry.path)).items())
        found |= dict(cells[row] for row in np.concatenate(chosen).tolist())
    return found
