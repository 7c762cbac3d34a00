"""Rows that the other side of a push or a pull already has: found by their keys, left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from actstore import schema
from actstore.errors import ConflictError, CorruptStoreError, RemoteStoreError
from actstore.hub.label_folding import Folded
from actstore.hub.origin import Key
from actstore.remote.client import Client
from actstore.remote.download import download
from actstore.remote.state import State
from actstore.storage import key_hashes, layout, shard_columns, soundness
from actstore.storage.manifest import ShardEntry
from actstore.storage.rebase import without_rows_of

FETCHED = "fetched"
_KEPT = "kept"


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """A push or a pull, in the words of messages."""

    holder: str
    """Who has rows already: a repository or the folder of a store."""
    sender: str
    """From whom rows come."""
    undone: str
    """That nothing has happened."""
    other_vector: str
    """What to do about a row that differs."""
    other_width: str
    """What to do about vectors of another width."""


def less(
    entry: ShardEntry,
    file: Path,
    others: Sequence[tuple[ShardEntry, Path]],
    direction: Direction,
    folder: Path,
    gone: Collection[Key] = (),
) -> tuple[ShardEntry, Path]:
    """Return a shard without the rows that others hold, bit for bit, and its file.

    No file is changed: what has rows left out is a new one.

    Args:
        entry: the shard.
        file: where it is.
        others: shards of the same model, site and layer, and their files.
        direction: for messages.
        folder: where the new file goes, and links to the others.
        gone: rows to leave out although nobody holds them.

    Raises:
        ConflictError: one of them holds a row with a different vector, or vectors of another
            width.
        CorruptStoreError: one of the files is damaged; ``path`` says which.
    """
    check_widths(entry, [other for other, _ in others], direction)
    for path, source in [(entry.path, file), *((other.path, at) for other, at in others)]:
        link = folder / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(source.resolve())
    try:
        kept = without_rows_of(folder, entry, [other for other, _ in others], folder, gone)
    except ConflictError as error:  # it says "another writer", which here is the other side
        raise ConflictError(
            f"{direction.holder} holds this row with a different vector: {error.row}; "
            f"{direction.undone}: {direction.other_vector}",
            error.row,
        ) from None
    return (entry, file) if kept.rows == entry.rows else (kept, folder / entry.path)


def check_widths(entry: ShardEntry, others: Sequence[ShardEntry], direction: Direction) -> None:
    """Refuse to bring vectors together that differ in width.

    Raises:
        ConflictError: names the widths.
    """
    widths = sorted({other.width for other in others} - {entry.width})
    if widths:
        raise ConflictError(
            f"{direction.holder} holds vectors of width {', '.join(map(str, widths))} for "
            f"{key_hashes.describe_partition(entry.partition)}, {direction.sender} of width "
            f"{entry.width}; {direction.undone}: {direction.other_width}"
        )


class Fresh(NamedTuple):
    """A shard to push, less the rows that are there already."""

    original: ShardEntry
    """As it is in the store."""
    entry: ShardEntry
    """As it is to be in the repository; no rows when all are there."""
    folder: Path
    """Where its file lies: the store, or a temporary folder if it was written anew."""


def leave_out(
    client: Client,
    state: State,
    store: Folded,
    missing: tuple[ShardEntry, ...],
    theirs: tuple[ShardEntry, ...],
    folder: Path,
) -> list[Fresh]:
    """Return the shards to push without rows that ``theirs`` hold, bit for bit.

    Only the key columns of their shards of the same model, site and layer are read; a shard
    is fetched whole only if keys meet. The store itself is not touched.

    Args:
        client: the Hub.
        state: the repository.
        store: what is pushed.
        missing: shards of the store that the repository lacks.
        theirs: shards of the repository that came from elsewhere; of those that were written anew
            the files are in ``folder``.
        folder: temporary folder, for shards that are fetched or rewritten.

    Raises:
        ConflictError: the repository holds one of the rows with a different vector, or
            vectors of another width in its place.
        RemoteStoreError: one of their shards is damaged.
        HubError: as :meth:`Client.call`.
    """
    direction = Direction(
        holder=state.repository,
        sender="this store",
        undone="nothing was pushed",
        other_vector="give the new version another --dataset, or push it to another repository",
        other_width="give one of them another --site, or push to another repository",
    )
    found = []
    hashes: dict[str, np.ndarray] = {}
    remote = state.remote_files(client)
    there = {entry.path for entry in state.manifest.shards} if state.manifest else set()
    names = list(schema.key_names())
    transaction = layout.new_transaction()
    named: set[str] = set()
    for entry in missing:
        source = store.folder(entry)
        others = [other for other in theirs if other.partition == entry.partition]
        check_widths(entry, others, direction)
        for other in others:
            if other.path not in hashes:
                table = (
                    shard_columns.read_columns(folder / FETCHED, other, names)
                    if other.path not in there
                    else remote.columns(other, names)
                )
                hashes[other.path] = key_hashes.hash_table(table)
        if others:
            own = key_hashes.hash_table(shard_columns.read_columns(source, entry, names))
            others = [other for other in others if np.isin(hashes[other.path], own).any()]
        if not others:
            found.append(Fresh(entry, entry, source))
            continue
        held = [(other, fetch(client, state, other, folder / FETCHED)) for other in others]
        try:
            with soundness.fetched(source, entry):
                made, file = less(entry, source / entry.path, held, direction, folder / _KEPT)
        except CorruptStoreError as error:
            if error.path not in {other.path for other in others}:
                raise
            raise RemoteStoreError(
                f"{error.path} of {state.repository} is damaged: whoever pushed it must push it "
                "anew"
            ) from None
        if made.rows == entry.rows:
            found.append(Fresh(entry, entry, source))
            continue
        if made.rows:
            # Other rows, so another name: equal paths hold equal rows.
            made = dataclasses.replace(made, path=made.named_anew(transaction, named))
            named.add(made.path)
            file.rename(folder / _KEPT / made.path)
        found.append(Fresh(entry, made, folder / _KEPT))
    return found


def fetch(client: Client, state: State, entry: ShardEntry, folder: Path) -> Path:
    target = folder / entry.path
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        download(
            client,
            state.repository,
            state.commit,
            entry.path,
            target,
            size=entry.bytes,
            sha256=entry.sha256,
        )
    return target
