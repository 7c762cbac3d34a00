"""Labels that outlast a pull: those set in the store, given to the rows that come anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from actstore import schema
from actstore.hub.origin import Key
from actstore.hub.row_merge import keys_of, partition_of
from actstore.storage import layout, shard_columns
from actstore.storage.file_hashes import sha256_of
from actstore.storage.labels import write_overlay
from actstore.storage.manifest import LabelEntry, Manifest, ShardEntry

OVERLAY = "labels.parquet"


class ShardFile(NamedTuple):
    """A shard that a commit is to name, and where its file is."""

    entry: ShardEntry
    file: Path


def set_here(root: Path, base: Manifest, removed: Collection[str]) -> dict[Key, Any]:
    """Return the labels that were set in this store, of rows in shards that go.

    A label counts as set here when it differs from the one in the shard that goes: that is what
    both sides had when they last met.
    """
    overlays = shard_columns.overlays(root, base.labels) if removed else {}
    labels: dict[Key, Any] = {}
    for entry in base.shards:
        changes = overlays.get(entry.path)
        if entry.path not in removed or not changes:
            continue
        table = shard_columns.read_columns(root, entry, [*schema.key_names(), "label"])
        rows = sorted(changes)
        for row, key in zip(rows, keys_of(table.take(rows)), strict=True):
            if changes[row] != table["label"][row].as_py():
                labels[key] = changes[row]
    return labels


def overlay_of(
    labels: Mapping[Key, Any], shards: Collection[ShardFile], folder: Path
) -> LabelEntry | None:
    """Write an overlay, ``OVERLAY`` in a folder; None where none of the rows is there.

    Args:
        labels: by the row's key.
        shards: where the rows may be.
        folder: where the overlay goes.
    """
    left = dict(labels)
    partitions = {partition_of(key) for key in labels}
    names: list[str] = []
    codes: list[int] = []
    at: list[int] = []
    texts: list[str | None] = []
    for entry, file in shards:
        if entry.partition not in partitions:
            continue
        table = shard_columns.read_columns(
            file.parent, dataclasses.replace(entry, path=file.name), list(schema.key_names())
        )
        for row, key in enumerate(keys_of(table)):
            if key in left:
                codes.append(len(names))
                at.append(row)
                texts.append(left.pop(key))
        names.append(entry.path)
    if not texts:
        return None
    draft = folder / OVERLAY
    write_overlay(draft, names, np.array(codes), np.array(at), texts)
    digest, size = sha256_of(draft)
    path = f"{layout.LABELS}/{layout.new_transaction()}.parquet"
    return LabelEntry(path=path, rows=len(texts), bytes=size, sha256=digest)
