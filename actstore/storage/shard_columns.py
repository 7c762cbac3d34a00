"""Columns of the shards of a store on this machine, and the label overlays beside them.

pyarrow is given files of its own and none of Python's: its threads read ahead, and one that still
holds something of Python's when the interpreter ends takes the whole process down (SIGABRT).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actstore.errors import CorruptStoreError
from actstore.storage import backing
from actstore.storage.checks import check_tail, check_whole, damage
from actstore.storage.disk_errors import unread
from actstore.storage.manifest import LabelEntry, ShardEntry

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_OVERLAY = ("shard", "row", "label")


def read_columns(root: Path, entry: ShardEntry, columns: list[str]) -> pa.Table:
    """Read some metadata columns of one shard.

    Raises:
        CorruptStoreError: the shard is missing, damaged or not what the manifest says.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    behind = backing.of_missing(root, entry.path)
    if behind is not None:
        return behind.columns(entry, columns)
    try:
        with pa.OSFile(str(root / entry.path)) as raw:
            # Before pyarrow looks at it: a damaged footer can end the process.
            if entry.tail is not None:
                check_tail(root, entry, raw.fileno())
            else:
                check_whole(root, entry, raw.fileno())
            with pq.ParquetFile(raw) as file:
                return checked_columns(file, entry, columns)
    except FileNotFoundError as error:
        raise CorruptStoreError(
            f"shard {entry.path} is missing from {root}: restore it from a copy", entry.path
        ) from error
    except CorruptStoreError:
        raise
    except (OSError, pa.ArrowException, ValueError, OverflowError) as error:
        raise _unusable(f"shard {entry.path} of {root}", entry.path, error) from error


def checked_columns(file: pq.ParquetFile, entry: ShardEntry, columns: list[str]) -> pa.Table:
    """Read some metadata columns of an opened shard.

    Raises:
        CorruptStoreError: it is not what the manifest says.
        OSError, ArrowException: it is damaged.
    """
    # Before its columns are read: a few bytes can unfold to any number of rows.
    if file.metadata.num_rows != entry.rows:
        raise CorruptStoreError(
            f"shard {entry.path} holds {file.metadata.num_rows} rows; the manifest says "
            f"{entry.rows} rows: restore it from a copy",
            entry.path,
        )
    table = file.read(columns=columns, use_threads=False)
    if table.num_rows != entry.rows or set(table.column_names) != set(columns):
        raise CorruptStoreError(
            f"shard {entry.path} holds {table.num_rows} rows of {', '.join(table.column_names)}; "
            f"the manifest says {entry.rows} rows: restore it from a copy",
            entry.path,
        )
    return table.select(columns)


def read_labels(root: Path, entry: LabelEntry) -> pa.Table:
    """Read a label overlay.

    Raises:
        CorruptStoreError: it is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    behind = backing.of_missing(root, entry.path)
    if behind is not None:
        return behind.labels(entry)
    try:
        with pa.OSFile(str(root / entry.path)) as raw:
            check_whole(root, entry, raw.fileno())
            with pq.ParquetFile(raw) as file:
                table = file.read(columns=list(_OVERLAY), use_threads=False)
    except FileNotFoundError as error:
        raise CorruptStoreError(
            f"label file {entry.path} is missing from {root}: restore it from a copy", entry.path
        ) from error
    except (OSError, pa.ArrowException) as error:
        raise _unusable(f"label file {entry.path} of {root}", entry.path, error) from error
    if table.num_rows != entry.rows:
        reason = f"it holds {table.num_rows} labels, the manifest says {entry.rows}"
        raise damage(root, entry.path, reason)
    return table


def _unusable(what: str, path: str, error: Exception) -> CorruptStoreError:
    """Return the error of a file that the system or Arrow fails on: only the one has a number."""
    if isinstance(error, OSError) and error.errno is not None:
        return CorruptStoreError(unread(what, error), path)
    return CorruptStoreError(f"{what} is damaged ({error}): restore it from a copy", path)


def overlays(root: Path, entries: tuple[LabelEntry, ...]) -> dict[str, dict[int, Any]]:
    """Return, per shard path, the label of each relabelled row; later overlays win.

    Raises:
        CorruptStoreError: an overlay is missing or damaged.
    """
    return merged(read_labels(root, entry) for entry in entries)


def merged(tables: Iterable[pa.Table]) -> dict[str, dict[int, Any]]:
    """Return what overlays say together: per shard path, the label of each relabelled row."""
    found: dict[str, dict[int, Any]] = {}
    for table in tables:
        cells = (table[name].to_pylist() for name in _OVERLAY)
        for shard, row, label in zip(*cells, strict=True):
            found.setdefault(shard, {})[row] = label
    return found


def check_labelled(changes: Mapping[int, Any], rows: int) -> None:
    """Check that a shard has the rows that are given labels.

    Raises:
        CorruptStoreError: it has not.
    """
    if min(changes) < 0 or max(changes) >= rows:
        raise CorruptStoreError(
            f"a label file speaks of row {max(changes)} of a shard that has {rows}: "
            "restore both from a copy"
        )


def with_labels(table: pa.Table, changes: Mapping[int, Any]) -> pa.Table:
    """Return ``table`` with the label of the given rows replaced.

    Raises:
        CorruptStoreError: it has no such rows.
    """
    import pyarrow as pa

    check_labelled(changes, table.num_rows)
    labels = table["label"].to_pylist()
    for row, label in changes.items():
        labels[row] = label
    index = table.column_names.index("label")
    return table.set_column(index, table.schema.field(index), pa.array(labels, pa.string()))
