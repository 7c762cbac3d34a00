"""Metadata columns of many small shards, read by Polars at once.

pyarrow takes 1.5 ms of the processor for a shard of 25 columns, however few its rows, most of it in
Python's lock; Polars a quarter of it, on all cores.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from actstore import schema
from actstore.storage import backing, shard_columns
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


def read_columns(root: Path, entries: Sequence[ShardEntry], names: list[str]) -> list[pa.Table]:
    """Read some metadata columns of several shards, each as ``shard_columns.read_columns`` does.

    Raises:
        CorruptStoreError: a shard is missing, damaged or not what the manifest says.
    """
    enough = len(entries) >= (_FEW if "polars" in sys.modules else _MANY)
    near = backing.of(root) is None and not _threads_are_gone
    found = _together(root, entries, names) if enough and near else None
    if found is None:
        return [shard_columns.read_columns(root, entry, names) for entry in entries]
    return found


def _together(root: Path, entries: Sequence[ShardEntry], names: list[str]) -> list[pa.Table] | None:
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
        table = table.cast(wanted)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException):
        return None
    bounds = [0, *accumulate(entry.rows for entry in entries)]
    return [table.slice(start, stop - start) for start, stop in pairwise(bounds)]
