"""Joins the small shards that many small writes have left, as a part of the next one."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from actstore import schema
from actstore.errors import CorruptStoreError, ReadError
from actstore.storage import backing, layout, rewriting, shard_columns, soundness
from actstore.storage.manifest import Manifest, ShardEntry, together
from actstore.storage.mapping import open_shard
from actstore.storage.shard import ShardWriter

_FEW = 16
"""So many shards of one size are joined, and so many joined ones again: each row is written once
for every sixteenfold of the rows that its model, site and layer has."""
_MOST_BYTES = 16 << 20
"""Vector bytes that one write joins at most: what is larger is for ``actstore compact``."""
_RUN = "write-"
"""What the ids of runs begin with that have written from memory."""


class Joined(NamedTuple):
    """Shards that are to take the place of many small ones, in a folder of a transaction."""

    gone: tuple[ShardEntry, ...]
    made: tuple[ShardEntry, ...]
    files: dict[str, Path]
    """Their files, by the path they are to have."""


NOTHING = Joined((), (), {})


def join(
    root: Path, base: Manifest, folder: Path, written: Iterable[Sequence[ShardEntry]]
) -> Joined:
    """Write anew, as one, the small shards that are many; the store does not change.

    Left alone are shards with labels beside them, those that other runs than writes from memory
    have brought, and damaged ones, which whatever asks for damage names.

    Args:
        root: folder of the store.
        base: the commit.
        folder: where the files go.
        written: all shards of each model, site and layer that is being written to.

    Raises:
        OSError: the disk is full or failed.
    """
    gone: list[ShardEntry] = []
    made: list[ShardEntry] = []
    files: dict[str, Path] = {}
    transaction = layout.new_transaction()
    runs = [run for run in map(due, written) if run]
    labelled = shard_columns.overlays(root, base.labels).keys() if runs and base.labels else ()
    for number, run in enumerate(runs):
        if any(entry.path in labelled for entry in run):
            continue
        draft = folder / f"joined-{number:06d}.parquet"
        try:
            with ExitStack() as here:
                for entry in run:
                    here.enter_context(backing.fetched(root, entry.path))
                made_one = _joined(root, run, draft)
        except (CorruptStoreError, ReadError):
            continue
        if made_one is not None:
            entry = dataclasses.replace(made_one, path=made_one.named_anew(transaction, files))
            gone += run
            made.append(entry)
            files[entry.path] = draft
    return Joined(tuple(gone), tuple(made), files)


def due(entries: Sequence[ShardEntry]) -> list[ShardEntry]:
    """Return the newest shards of one model, site and layer if they should be one, in order."""
    if not entries:
        return []
    run: list[ShardEntry] = []
    tiers: Counter[int] = Counter()
    for entry in reversed(entries):
        if (entry.width, entry.dtype) != (entries[-1].width, entries[-1].dtype):
            break
        tier = _tier(entry)
        if tiers and tier > max(tiers) and tiers[max(tiers)] >= _FEW:
            break
        run.append(entry)
        tiers[tier] += 1
    # So many of the largest: else a large one would be written again with every few small ones.
    if tiers[max(tiers)] < _FEW or sum(entry.vector_bytes for entry in run) > _MOST_BYTES:
        return []
    return run[::-1]


def _tier(entry: ShardEntry) -> int:
    return (entry.rows.bit_length() - 1) // 4


def _joined(root: Path, run: Sequence[ShardEntry], draft: Path) -> ShardEntry | None:
    soundness.check(root, run)
    names = list(schema.metadata_names())
    tables = [shard_columns.read_columns(root, entry, names) for entry in run]
    if not all(
        made.startswith(_RUN) for table in tables for made in table["run_id"].unique().to_pylist()
    ):
        return None
    shard = ShardWriter(draft, width=run[0].width, dtype=run[0].dtype)
    try:
        for entry, table in zip(run, tables, strict=True):
            reader = open_shard(root, entry)
            try:
                rewriting.copy_rows(reader, table, np.arange(entry.rows), shard)
            finally:
                reader.close()
        shard.rounding = together(entry.rounding for entry in run)
        written = shard.finish()
    except BaseException:
        shard.abort()
        raise
    since = min(entry.since for entry in run)
    return dataclasses.replace(run[0], **written._asdict(), since=since)
