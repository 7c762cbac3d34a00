"""Metadata columns of many small shards, read by Polars at once.

pyarrow takes 1.5 ms of the processor for a shard of 25 columns, however few its rows, most of it in
Python's lock; Polars a quarter of it, on all cores.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actstore import schema
from actstore.storage import alike_shards, arrow_numbers, backing, shard_columns
from actstore.storage.checks import check_tail
from actstore.storage.manifest import ShardEntry

if TYPE_CHECKING:
    import pyarrow as pa

_MANY = 64
"""Shards from which on importing Polars pays."""
_FEW = 8
"""Shards from which on Polars pays once it is there."""
_PATH = "actstore:path"
_threads_are_gone = False


def _note_fork() -> None:
    global _threads_are_gone
    _threads_are_gone = True


# Polars would wait for ever for threads that its parent had.
os.register_at_fork(after_in_child=_note_fork)


def read_columns(root: Path, entries: Sequence[ShardEntry], names: list[str]) -> pa.Table:
    """Read some metadata columns of several shards, one behind the other.

    Raises:
        CorruptStoreError: a shard is missing, damaged or not what the manifest says.
    """
    import pyarrow as pa

    near = backing.of(root) is None
    alike = alike_shards.read_columns(root, entries, names) if near else []
    if len(alike) == 1 and alike[0].numbers == list(range(len(entries))):
        return alike[0].table
    numbers = [number for part in alike for number in part.numbers]
    others = sorted({*range(len(entries))}.difference(numbers))
    numbers += others
    tables = [part.table for part in alike]
    tables += _read(root, [entries[number] for number in others], names, near)
    found = pa.concat_tables(tables)
    if not alike:
        return found
    rows = np.array([entries[number].rows for number in numbers])
    starts = np.empty(len(entries), np.int64)
    starts[numbers] = np.cumsum(rows) - rows
    order = [
        np.arange(start, start + entry.rows) for start, entry in zip(starts, entries, strict=True)
    ]
    return found.combine_chunks().take(arrow_numbers.array(np.concatenate(order)))


def _read(
    root: Path, entries: Sequence[ShardEntry], names: list[str], near: bool
) -> list[pa.Table]:
    enough = len(entries) >= (_FEW if "polars" in sys.modules else _MANY)
    found = None
    if enough and near and not _threads_are_gone:
        found = _together(root, entries, names)
    if found is None:
        return [shard_columns.read_columns(root, entry, names) for entry in entries]
    return [found]


def _together(root: Path, entries: Sequence[ShardEntry], names: list[str]) -> pa.Table | None:
    """Return what all files hold; None where one of them wants to be looked at alone."""
    import polars as pl
    import pyarrow as pa

    wanted = pa.schema([schema.metadata_schema().field(name) for name in names])
    try:
        for entry in entries:
            with (root / entry.path).open("rb", buffering=0) as file:
                if entry.tail is None:
                    return None
                # Before anybody looks at it: a damaged footer is nothing to read.
                check_tail(root, entry, file.fileno())
        paths = [str(root / entry.path) for entry in entries]
        frame = pl.scan_parquet(
            paths,
            schema=pl.Schema(wanted),
            extra_columns="ignore",
            glob=False,
            hive_partitioning=False,
            include_file_paths=_PATH,
        )
        read = frame.collect().rechunk()  # Arrow would be given each file's rows by themselves
        if read[_PATH].to_list() != [
            path for path, entry in zip(paths, entries, strict=True) for _ in range(entry.rows)
        ]:
            return None
        table = read.select(names).to_arrow(compat_level=pl.CompatLevel.oldest())
        return table.cast(wanted)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException):
        return None
