"""Two writers at once: the second leaves out of its shards the rows that the first has stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from actstore import schema
from actstore.errors import ConflictError, LayoutError
from actstore.storage import comparing, key_hashes, layout, shard_columns
from actstore.storage.manifest import ShardEntry
from actstore.storage.mapping import ShardReader, open_shard
from actstore.storage.rewriting import copy_rows
from actstore.storage.shard import ShardWriter


def without_rows_of(
    root: Path,
    entry: ShardEntry,
    rivals: list[ShardEntry],
    staging: Path,
    gone: Collection[tuple[Any, ...]] = (),
) -> ShardEntry:
    """Return ``entry``, a placed and uncommitted shard, less the rows that ``rivals`` hold.

    Rows whose keys are ``gone`` are left out too, whatever their vectors.

    When rows are left out the file is replaced; when none remain it is removed and the
    entry has zero rows.

    Raises:
        ConflictError: a rival holds one of its keys with a different vector.
        LayoutError: a rival's vectors have another width.
    """
    names = list(schema.key_names())
    own_keys = shard_columns.read_columns(root, entry, names)
    own_hashes = key_hashes.hash_table(own_keys)
    reader = open_shard(root, entry)
    drop = np.zeros(entry.rows, bool)
    if gone:
        keys = zip(*(own_keys[name].to_pylist() for name in names), strict=True)
        drop |= np.array([key in gone for key in keys], bool)
    for rival in rivals:
        if rival.width != entry.width:
            raise LayoutError(
                f"another writer has just stored vectors of width {rival.width} for "
                f"{key_hashes.describe_partition(entry.partition)}, these have width "
                f"{entry.width}; this commit is given up, nothing stored is lost"
            )
        rival_keys = shard_columns.read_columns(root, rival, names)
        ours, theirs = _pairs(own_hashes, key_hashes.hash_table(rival_keys))
        if not len(ours):
            continue
        rival_reader = open_shard(root, rival)
        coarse = entry.dtype == "int8", rival.dtype == "int8"
        equal = comparing.same(reader.take(ours), rival_reader.take(theirs), *coarse)
        rival_reader.close()
        drop[ours[equal]] = True
        for mine, other in zip(ours[~equal].tolist(), theirs[~equal].tolist(), strict=True):
            key = tuple(own_keys[name][mine].as_py() for name in names)
            if key == tuple(rival_keys[name][other].as_py() for name in names):
                row = key_hashes.describe(key)
                raise ConflictError(
                    "another writer has just stored this row with a different vector: "
                    f"{row}; this commit is given up, nothing stored is lost",
                    row,
                )
    try:
        return _without(root, entry, reader, drop, staging) if drop.any() else entry
    finally:
        reader.close()


def _pairs(own: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of all equal values of two arrays, which may repeat values."""
    order = np.argsort(own, kind="stable")
    low, high = (np.searchsorted(own[order], other, side) for side in ("left", "right"))
    theirs = np.repeat(np.arange(len(other)), high - low)
    within = np.arange(len(theirs)) - np.repeat(np.cumsum(high - low) - (high - low), high - low)
    return order[np.repeat(low, high - low) + within], theirs


def _without(
    root: Path,
    entry: ShardEntry,
    reader: ShardReader,
    drop: np.ndarray,
    staging: Path,
) -> ShardEntry:
    kept = np.flatnonzero(~drop)
    path = root / entry.path
    if not len(kept):
        path.unlink()
        return dataclasses.replace(entry, rows=0, pages=(), pools=(), tail=None)
    table = shard_columns.read_columns(root, entry, list(schema.metadata_names()))
    shard = ShardWriter(staging / path.name, width=entry.width, dtype=entry.dtype)
    copy_rows(reader, table, kept, shard)
    shard.rounding = entry.rounding
    written = shard.finish()
    shard.path.replace(path)
    layout.sync_folder(path.parent)
    return dataclasses.replace(entry, **written._asdict())
