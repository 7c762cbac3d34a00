"""Rows that the repository already has from elsewhere: found by their keys, left out of a push."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from actstore import schema
from actstore.errors import ConflictError, CorruptStoreError, RemoteStoreError
from actstore.hub.client import Client
from actstore.hub.folding import Folded
from actstore.hub.state import State
from actstore.hub.transfer import download
from actstore.storage import keys, layout, metadata
from actstore.storage.manifest import ShardEntry
from actstore.storage.rebase import without_rows_of


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
        theirs: shards of the repository that came from elsewhere.
        folder: temporary folder, for shards that are fetched or rewritten.

    Raises:
        ConflictError: the repository holds one of the rows with a different vector, or
            vectors of another width in its place.
        RemoteStoreError: one of their shards is damaged.
        HubError: as :meth:`Client.call`.
    """
    found = []
    hashes: dict[str, np.ndarray] = {}
    remote = state.remote_files(client)
    names = list(schema.key_names())
    transaction = layout.new_transaction()
    for number, entry in enumerate(missing):
        root = store.folder(entry)
        rivals = [other for other in theirs if other.partition == entry.partition]
        for rival in rivals:
            _check_width(state.repository, entry, rival)
            if rival.path not in hashes:
                hashes[rival.path] = keys.hash_table(remote.columns(rival, names))
        if rivals:
            own = keys.hash_table(metadata.read_columns(root, entry, names))
            rivals = [other for other in rivals if np.isin(hashes[other.path], own).any()]
        if not rivals:
            found.append(Fresh(entry, entry, root))
            continue
        for rival in rivals:
            _fetch(client, state, rival, folder)
        made = _without(state.repository, root, entry, rivals, folder)
        if made.rows == entry.rows:
            found.append(Fresh(entry, entry, root))
        elif made.rows == 0:
            found.append(Fresh(entry, made, folder))
        else:
            # Other rows, so another name: equal paths hold equal rows.
            path = layout.shard_path(
                model=made.model,
                site=made.site,
                layer=made.layer,
                width=made.width,
                dtype=made.dtype,
                transaction=transaction,
                number=number,
            )
            (folder / made.path).rename(folder / path)
            found.append(Fresh(entry, dataclasses.replace(made, path=path), folder))
    return found


def _check_width(repository: str, entry: ShardEntry, rival: ShardEntry) -> None:
    if rival.width != entry.width:
        raise ConflictError(
            f"{repository} holds vectors of width {rival.width} for "
            f"{keys.describe_partition(entry.partition)}, this store of width {entry.width}; "
            "nothing was pushed: give one of them another --site, or push to another repository"
        )


def _fetch(client: Client, state: State, rival: ShardEntry, folder: Path) -> None:
    target = folder / rival.path
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    download(
        client,
        state.repository,
        state.commit,
        rival.path,
        target,
        size=rival.bytes,
        sha256=rival.sha256,
    )


def _without(
    repository: str, root: Path, entry: ShardEntry, rivals: list[ShardEntry], folder: Path
) -> ShardEntry:
    """Rewrite a link to the store's shard, which stays as it is."""
    link = folder / entry.path
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    os.symlink((root / entry.path).resolve(), link)
    try:
        return without_rows_of(folder, entry, rivals, folder)
    except ConflictError as error:  # it says "another writer", which here is the repository
        raise ConflictError(
            f"{repository} holds this row with a different vector: {error.row}; nothing was "
            "pushed: give the new version another --dataset, or push it to another repository",
            error.row,
        ) from None
    except CorruptStoreError as error:
        path = next((rival.path for rival in rivals if rival.path in str(error)), None)
        if path is None:
            raise
        raise RemoteStoreError(
            f"{path} of {repository} is damaged: whoever pushed it must push it anew"
        ) from None
