"""All rows' metadata as one Parquet file, labels applied: derived, cached, rebuilt in part."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actstore import schema
from actstore.errors import CorruptStoreError, StoreError
from actstore.storage import layout
from actstore.storage.manifest import LabelEntry, Manifest, ShardEntry
from actstore.storage.threads import pool

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

GROUP_ROWS = 8_192
"""Rows per row group, DuckDB's unit of parallel work: small, since each row may bring a vector."""
_KEPT = 3
_KEY = b"actstore:metadata"
_AHEAD = 32
_MAGIC = b"PAR1"


def read_columns(root: Path, entry: ShardEntry, columns: list[str]) -> pa.Table:
    """Read some metadata columns of one shard.

    Raises:
        CorruptStoreError: the shard is missing, damaged or not what the manifest says.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(root / entry.path) as file:
            table = file.read(columns=columns, use_threads=False)
    except FileNotFoundError as error:
        raise CorruptStoreError(
            f"shard {entry.path} is missing from {root}: restore it from a copy"
        ) from error
    except (OSError, pa.ArrowException) as error:
        raise CorruptStoreError(
            f"shard {entry.path} of {root} is damaged ({error}): restore it from a copy"
        ) from error
    if table.num_rows != entry.rows or set(table.column_names) != set(columns):
        raise CorruptStoreError(
            f"shard {entry.path} holds {table.num_rows} rows of {', '.join(table.column_names)}; "
            f"the manifest says {entry.rows} rows: restore it from a copy"
        )
    return table.select(columns)


def cached_file(root: Path, manifest: Manifest) -> Path:
    """Return the metadata file of a commit, made now if it is not there yet.

    Raises:
        CorruptStoreError: a shard or label file is missing or damaged.
        StoreError: there is no room for the file, in the store nor in the temporary folder.
    """
    name = _file_name(manifest)
    try:
        return _cached_in(_folder_in_store(root), name, root, manifest)
    except OSError:  # read-only, or full
        pass
    try:
        return _cached_in(_temporary_folder(root), name, root, manifest)
    except OSError as error:
        raise StoreError(
            f"the metadata of {root} could be kept neither in {root / layout.CACHE} nor in "
            f"{tempfile.gettempdir()}: {error}; make room or set TMPDIR"
        ) from error


def _cached_in(folder: Path, name: str, root: Path, manifest: Manifest) -> Path:
    path = folder / name
    if not _is_whole(path):
        draft = folder / f".{name}.{secrets.token_hex(4)}"
        try:
            _make(draft, folder, root, manifest)
            layout.sync_file(draft)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        _remove_old(folder, path)
    return path


def _make(draft: Path, folder: Path, root: Path, manifest: Manifest) -> None:
    import pyarrow as pa

    previous = _best_previous(folder, manifest)
    if previous is not None:
        try:
            with previous:
                _write(draft, root, manifest, previous)
            return
        except (OSError, pa.ArrowException):
            pass  # it is derived and may be damaged: do without
    _write(draft, root, manifest, None)


def _is_whole(path: Path) -> bool:
    """Say whether a Parquet file ends as one does."""
    try:
        with path.open("rb") as file:
            file.seek(-len(_MAGIC), os.SEEK_END)
            return file.read() == _MAGIC
    except OSError:
        return False


def _file_name(manifest: Manifest) -> str:
    parts = [shard.path for shard in manifest.shards] + [entry.path for entry in manifest.labels]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return f"metadata-{digest}.parquet"


def _folder_in_store(root: Path) -> Path:
    folder = root / layout.CACHE
    folder.mkdir(exist_ok=True)
    return folder


def _temporary_folder(root: Path) -> Path:
    """Return a folder for the derived files of a store that is read-only."""
    mark = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    home = Path(tempfile.gettempdir()) / f"actstore-{os.getuid()}"
    home.mkdir(exist_ok=True, mode=0o700)
    found = home.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        home = Path(tempfile.mkdtemp(prefix="actstore-"))  # somebody else could write there
    folder = home / mark
    folder.mkdir(exist_ok=True)
    return folder


def _remove_old(folder: Path, newest: Path) -> None:
    others = [path for path in _newest_first(folder) if path != newest]
    for path in others[_KEPT - 1 :]:
        path.unlink(missing_ok=True)


def _newest_first(folder: Path) -> list[Path]:
    found: list[tuple[float, Path]] = []
    for path in folder.glob("metadata-*.parquet"):
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found, reverse=True)]


def _best_previous(folder: Path, manifest: Manifest) -> pq.ParquetFile | None:
    """Return the newest cached file that the new one can be made from.

    Its label overlays must be the first of the commit's, since labels once applied cannot
    be taken back, and it must share shards with the commit.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = [entry.path for entry in manifest.labels]
    shards = {entry.path for entry in manifest.shards}
    for path in _newest_first(folder):
        try:
            file = pq.ParquetFile(path)
            origin = json.loads(file.schema_arrow.metadata[_KEY])
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
            continue
        applied = origin["labels"]
        if labels[: len(applied)] == applied and shards & {name for name, _ in origin["shards"]}:
            return file
        file.close()
    return None


def _write(draft: Path, root: Path, manifest: Manifest, previous: pq.ParquetFile | None) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    origin = {
        "shards": [(entry.path, entry.rows) for entry in manifest.shards],
        "labels": [entry.path for entry in manifest.labels],
    }
    arrow_schema = (
        schema.metadata_schema()
        .append(pa.field("row_id", pa.int64(), nullable=False))
        .append(pa.field("shard", pa.int32(), nullable=False))
        .with_metadata({_KEY: json.dumps(origin).encode()})
    )
    with pq.ParquetWriter(
        draft,
        arrow_schema,
        compression="snappy",
        use_dictionary=[name for name in arrow_schema.names if name not in ("row_id", "norm")],
        column_encoding={"row_id": "DELTA_BINARY_PACKED"},
    ) as writer:
        waiting: list[pa.Table] = []
        rows = 0
        first = 0
        for number, table in enumerate(_tables(root, manifest, previous)):
            ids = pa.array(np.arange(first, first + table.num_rows))
            shard = pa.repeat(pa.scalar(number, pa.int32()), table.num_rows)
            waiting.append(pa.Table.from_arrays([*table.columns, ids, shard], schema=arrow_schema))
            first += table.num_rows
            rows += table.num_rows
            while rows >= GROUP_ROWS:
                joined = pa.concat_tables(waiting)
                writer.write_table(joined.slice(0, GROUP_ROWS), row_group_size=GROUP_ROWS)
                waiting = [joined.slice(GROUP_ROWS)]
                rows -= GROUP_ROWS
        if waiting:
            writer.write_table(pa.concat_tables(waiting), row_group_size=GROUP_ROWS)


def _tables(root: Path, manifest: Manifest, previous: pq.ParquetFile | None) -> Iterator[pa.Table]:
    """Yield each shard's metadata in row order, with current labels."""
    names = list(schema.metadata_names())
    known: set[str] = set()
    stream: Iterator[tuple[str, pa.Table]] = iter(())
    applied = 0
    if previous is not None:
        origin = json.loads(previous.schema_arrow.metadata[_KEY])
        known = {path for path, _ in origin["shards"]}
        applied = len(origin["labels"])
        stream = _slices(previous, origin["shards"], names)
    live = {entry.path for entry in manifest.shards}
    old = (item for item in stream if item[0] in live)
    fresh_labels = overlays(root, manifest.labels[applied:])
    all_labels = overlays(root, manifest.labels) if applied else fresh_labels
    fresh = iter([entry for entry in manifest.shards if entry.path not in known])
    pending = [pool().submit(read_columns, root, entry, names) for entry in islice(fresh, _AHEAD)]
    for entry in manifest.shards:
        if entry.path in known:
            path, table = next(old)
            assert path == entry.path  # both follow the same order
            changes = fresh_labels.get(entry.path)
        else:
            table = pending.pop(0).result()
            pending += [
                pool().submit(read_columns, root, following, names)
                for following in islice(fresh, 1)
            ]
            changes = all_labels.get(entry.path)
        yield with_labels(table, changes) if changes else table


def _slices(
    file: pq.ParquetFile, shards: list[tuple[str, int]], names: list[str]
) -> Iterator[tuple[str, pa.Table]]:
    """Cut a metadata file into its shards' tables, reading it once from front to back."""
    import pyarrow as pa

    batches = file.iter_batches(columns=names, use_threads=False)
    held = pa.Table.from_batches([], schema=schema.metadata_schema())
    for path, rows in shards:
        parts = [held]
        have = held.num_rows
        while have < rows:
            following = next(batches, None)
            if following is None:
                raise pa.ArrowInvalid("the metadata file ends early")
            batch = pa.Table.from_batches([following]).cast(schema.metadata_schema())
            parts.append(batch)
            have += batch.num_rows
        joined = pa.concat_tables(parts)
        yield path, joined.slice(0, rows)
        held = joined.slice(rows)


def overlays(root: Path, entries: tuple[LabelEntry, ...]) -> dict[str, dict[int, Any]]:
    """Return, per shard path, the label of each relabelled row; later overlays win.

    Raises:
        CorruptStoreError: an overlay is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: dict[str, dict[int, Any]] = {}
    for entry in entries:
        try:
            table = pq.read_table(root / entry.path)
            shards, rows, labels = (table[name] for name in ("shard", "row", "label"))
        except (OSError, KeyError, pa.ArrowException) as error:
            raise CorruptStoreError(
                f"label file {entry.path} of {root} is missing or damaged ({error}): "
                "restore it from a copy"
            ) from error
        for shard, row, label in zip(
            shards.to_pylist(), rows.to_pylist(), labels.to_pylist(), strict=True
        ):
            found.setdefault(shard, {})[row] = label
    return found


def with_labels(table: pa.Table, changes: dict[int, Any]) -> pa.Table:
    """Return ``table`` with the label of the given rows replaced."""
    import pyarrow as pa

    labels = table["label"].to_pylist()
    for row, label in changes.items():
        labels[row] = label
    index = table.column_names.index("label")
    return table.set_column(index, table.schema.field(index), pa.array(labels, pa.string()))
