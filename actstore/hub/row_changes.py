"""What a store did to rows that it pulled without the rest of their shards.

Rows that were chosen by a condition lie in shards that the store does not have. Labels and other
metadata that it gives them are written into those shards, and what it dropped is left out.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actstore import schema
from actstore.errors import HubError, RemoteChangedError
from actstore.hub.label_folding import Folded
from actstore.hub.origin import Key, Origin, run_id
from actstore.hub.overlap import FETCHED, Fresh, fetch
from actstore.hub.row_merge import Partition, keys_of, of_store
from actstore.remote.client import Client
from actstore.remote.state import State, read_state
from actstore.storage import manifest as manifests
from actstore.storage import rewriting, shard_columns
from actstore.storage.manifest import ShardEntry
from actstore.storage.renaming import COMPUTED
from actstore.storage.rewriting import Destination, Wanted

if TYPE_CHECKING:
    import pyarrow as pa

_CHANGED = "changed"


Cells = dict[Key, dict[str, Any]]
"""Metadata of rows, by their keys."""


@dataclass(slots=True)
class RowChanges:
    """Changes of rows of one model, site and layer since store and repository met."""

    cells: Cells = field(default_factory=dict)
    """The columns of each row that have other values."""
    dropped: set[Key] = field(default_factory=set)


def row_changes(
    store: Folded, origin: Origin | None, chosen: Sequence[ShardEntry]
) -> dict[Partition, RowChanges]:
    """Return what became of rows that are among others' shards, as far as it is to be pushed.

    Args:
        store: what is pushed.
        origin: what it remembers of the repository.
        chosen: the shards that are to be pushed.
    """
    shards = store.manifest.shards
    live = {entry.path for entry in shards}
    whole = len(chosen) == len(shards)
    touched = {entry.partition for entry in chosen}
    before: defaultdict[Partition, Cells] = defaultdict(dict)
    if origin is not None:
        pulled = run_id(origin.endpoint, origin.repository)
        for path, at in origin.replaced.items():
            found = of_store(store.root, path, pulled) if at is None and path not in live else None
            if found is not None and (whole or found[0].partition in touched):
                before[found[0].partition] |= _cells(found[1])
    overlays = shard_columns.overlays(store.root, store.manifest.labels) if before else {}
    changes = {}
    for partition, rows in before.items():
        now: Cells = {}
        for entry in shards:
            if entry.partition == partition:
                table = shard_columns.read_columns(
                    store.folder(entry), entry, list(schema.metadata_names())
                )
                more = overlays.get(entry.path)
                now |= _cells(shard_columns.with_labels(table, more) if more else table, rows)
        change = RowChanges(dropped=rows.keys() - now.keys())
        for key in rows.keys() & now.keys():
            cells = {n: new for n, new in now[key].items() if new != rows[key][n]}
            if cells:
                change.cells[key] = cells
        changes[partition] = change
    return changes


def rewritten(
    client: Client,
    state: State,
    origin: Origin | None,
    theirs: Sequence[ShardEntry],
    changes: dict[Partition, RowChanges],
    folder: Path,
) -> dict[str, list[Fresh]]:
    """Return others' shards with the changes in them, by the path of the shard they replace.

    Args:
        client: the Hub.
        state: the repository.
        origin: what the store remembers of it.
        theirs: shards of the repository that came from elsewhere.
        changes: what the store did to their rows.
        folder: temporary folder.

    Raises:
        RemoteChangedError: somebody has changed one of them since the two met.
        HubError: as :meth:`Client.call`.
    """
    found: dict[str, list[Fresh]] = {}
    remote = state.remote_files(client) if changes else None
    for entry in theirs:
        change = changes.get(entry.partition)
        if change is None or remote is None:
            continue
        table = remote.columns(entry, list(schema.metadata_names()))
        keys = list(keys_of(table))
        keep = np.array([key not in change.dropped for key in keys], bool)
        old = _cells(table, change.cells)
        new = {
            key: more
            for key, more in change.cells.items()
            if key in old and more.items() - old[key].items()
        }
        cells = {row: new[key] for row, key in enumerate(keys) if key in new}
        if keep.all() and not cells:
            continue
        if origin is not None and _came_since(client, state, origin, entry):
            raise RemoteChangedError(
                f"rows of {entry.path} were changed in this store, and somebody else has pushed "
                f"that shard since the two met. Nothing was pushed; bring them together with: "
                f"actstore pull {state.repository} STORE, then push again"
            )
        found[entry.path] = _write(client, state, entry, cells, keep, folder)
    return found


def _cells(table: pa.Table, wanted: Container[Key] | None = None) -> Cells:
    """Return the metadata of rows of a table; of all, where none are named."""
    keys = list(keys_of(table))
    rows = [row for row, key in enumerate(keys) if wanted is None or key in wanted]
    said = [n for n in table.column_names if n == "label" or n not in COMPUTED]
    cells = table.select(said).take(rows).to_pylist() if rows else []
    return {keys[row]: more for row, more in zip(rows, cells, strict=True)}


def _came_since(client: Client, state: State, origin: Origin, entry: ShardEntry) -> bool:
    if state.commit == origin.commit:
        return False
    try:
        then = read_state(client, state.repository, commit=origin.commit).manifest
    except HubError:  # its history was squashed
        return False
    return then is not None and entry.path not in {each.path for each in then.shards}


def _write(
    client: Client,
    state: State,
    entry: ShardEntry,
    cells: dict[int, dict[str, Any]],
    keep: np.ndarray,
    folder: Path,
) -> list[Fresh]:
    import pyarrow as pa

    root = folder / FETCHED
    fetch(client, state, entry, root)
    table = shard_columns.read_columns(root, entry, list(schema.metadata_names()))
    for name in {name for more in cells.values() for name in more}:
        values = table[name].to_pylist()
        for row, more in cells.items():
            values[row] = more.get(name, values[row])
        at = table.column_names.index(name)
        field = table.schema.field(at)
        table = table.set_column(at, field, pa.array(values, field.type))
    rows = np.flatnonzero(keep)
    places = [Destination(entry.partition, rows)] if len(rows) else []
    drafts = folder / _CHANGED
    drafts.mkdir(exist_ok=True)
    wanted = [Wanted(entry, table, places)]
    base = dataclasses.replace(manifests.EMPTY, shards=(entry,))
    made = rewriting.replace(root, base, drafts, wanted)
    found = []
    for new in made.made[entry.path]:
        target = root / new.path
        target.parent.mkdir(parents=True, exist_ok=True)
        made.files[new.path].rename(target)
        found.append(Fresh(new, new, root))
    return found
