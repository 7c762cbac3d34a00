"""A cache of all rows' metadata, labels applied, as one Parquet file that is rebuilt in part."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from actstore import schema
from actstore.errors import ActstoreError, StoreError
from actstore.storage import derived, own_columns, shard_columns
from actstore.storage.derived import Derived
from actstore.storage.files import LocalFiles, StoreFiles
from actstore.storage.lease import pin
from actstore.storage.manifest import LabelEntry, Manifest, ShardEntry
from actstore.storage.threads import give_up

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

GROUP_ROWS = 8_192
"""Rows per row group, DuckDB's unit of parallel work: small, since each row may bring a vector."""
_KEPT = 3
_KEY = b"actstore:metadata"
_FORM = "without statistics of floats"
"""Part of a file's name: those that earlier versions made otherwise are not taken for it."""
_AHEAD = 32
_TOGETHER = 1_024
_SMALL_ROWS = 1_024
"""Rows of shards that are read together; larger ones are read side by side."""
_PIECES = 128
"""Tables that are joined before more of them wait."""
_MANY = 64
"""Shards from which on their writer leaves their metadata behind: to read it takes a second."""
_FEW_ROWS = 100_000
"""Rows whose metadata a writer holds for that, at most."""


def cached_file(files: StoreFiles, manifest: Manifest) -> Derived:
    """Return the metadata file of a commit, made now if it is not there yet.

    Raises:
        CorruptStoreError: a shard or label file is missing or damaged.
        StoreError: there is no room for the file, in the store nor in the temporary folder.
    """
    name = _file_name(manifest)
    problems: list[str] = []
    for make in files.cache_folders():
        try:
            return _cached_in(make(), name, files, manifest)
        except OSError as error:  # read-only, full, or failing
            if isinstance(error, ActstoreError):
                raise
            problems.append(str(error))
    raise StoreError(
        f"there is no room for the metadata of {files.name}: {'; '.join(problems)}; make room, or "
        "set TMPDIR to a folder that has some and can be read and written"
    )


class Leavings:
    """The metadata of what a writer has written, for the first query to find it together.

    Of thousands of small shards it takes far longer to read than to keep: a footer each.
    """

    def __init__(self) -> None:
        self._tables: dict[str, pa.Table] = {}
        self._rows = 0

    def add(self, entry: ShardEntry, table: pa.Table | None) -> None:
        """Keep the metadata of a shard; None, or of other rows: it is in the file alone."""
        if self._rows <= _FEW_ROWS and table is not None and table.num_rows == entry.rows:
            self._tables[entry.path] = table
            self._rows += table.num_rows
        if self._rows > _FEW_ROWS:
            self._tables.clear()

    def leave(self, root: Path) -> None:
        """Make the metadata file of the latest commit, if there is much that it saves to read."""
        if len(self._tables) < _MANY:
            return
        with contextlib.suppress(OSError, ActstoreError):  # whoever asks for it makes it then
            manifest, lease = pin(root)
            with lease:
                cached_file(_Kept(root, self._tables), manifest).lease.release()


class _Kept(LocalFiles):
    """Files of a store of which some have their metadata in memory."""

    def __init__(self, root: Path, tables: Mapping[str, pa.Table]) -> None:
        super().__init__(root)
        self._tables = tables

    def table(self, entries: Sequence[ShardEntry], names: list[str]) -> pa.Table:
        import pyarrow as pa

        unread = [entry for entry in entries if entry.path not in self._tables]
        if len(unread) == len(entries):
            return super().table(entries, names)
        read = super().table(unread, names) if unread else None
        parts, start = [], 0
        for entry in entries:
            kept = self._tables.get(entry.path)
            if kept is not None:
                parts.append(kept.select(names))
            elif read is not None:
                parts.append(read.slice(start, entry.rows))
                start += entry.rows
        return pa.concat_tables(parts)


def _cached_in(folder: Path, name: str, files: StoreFiles, manifest: Manifest) -> Derived:
    found = derived.made(folder / name, lambda draft: _make(draft, folder, files, manifest))
    _remove_old(folder, found.path)
    return found


def _make(draft: Path, folder: Path, files: StoreFiles, manifest: Manifest) -> None:
    import pyarrow as pa

    previous = _best_previous(folder, manifest)
    if previous is not None:
        try:
            with previous:
                _write(draft, files, manifest, previous)
            return
        except (OSError, pa.ArrowException) as error:
            if isinstance(error, ActstoreError):
                raise
            # It is derived and may be damaged: do without.
    _write(draft, files, manifest, None)


def _file_name(manifest: Manifest) -> str:
    parts = [_FORM, *map(_identity, manifest.shards), *map(_identity, manifest.labels)]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return f"metadata-{digest}.parquet"


def _identity(entry: ShardEntry | LabelEntry) -> str:
    """Return what tells a file from every other, of the same path in another repository too."""
    return f"{entry.sha256} {entry.path}"


def others(folder: Path, kept: Iterable[Manifest]) -> list[Path]:
    """Return the cached files in a folder, drafts too, that are not of one of these commits."""
    names = {_file_name(manifest) for manifest in kept}
    names |= {own_columns.path_of(Path(name)).name for name in names}
    patterns = ("metadata-*.parquet", "own-metadata-*.parquet", ".*metadata-*.parquet.*")
    found = [path for pattern in patterns for path in folder.glob(pattern)]
    return sorted(path for path in found if path.name not in names)


def _remove_old(folder: Path, newest: Path) -> None:
    others = [path for path in _newest_first(folder) if path != newest]
    for path in others[_KEPT - 1 :]:
        derived.discard(path)
        derived.discard(own_columns.path_of(path))


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

    labels = [_identity(entry) for entry in manifest.labels]
    shards = {_identity(entry) for entry in manifest.shards}
    for path in _newest_first(folder):
        if not derived.is_sound(path):
            continue
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


def _write(
    draft: Path, files: StoreFiles, manifest: Manifest, previous: pq.ParquetFile | None
) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    origin = {
        "shards": [(_identity(entry), entry.rows) for entry in manifest.shards],
        "labels": [_identity(entry) for entry in manifest.labels],
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
        write_statistics=derived.with_statistics(arrow_schema),
        use_dictionary=[name for name in arrow_schema.names if name not in ("row_id", "norm")],
        column_encoding={"row_id": "DELTA_BINARY_PACKED"},
    ) as writer:
        waiting: list[pa.Table] = []
        rows = 0
        first = 0
        number = 0
        for shards, table in _parts(files, manifest, previous):
            ids = _integers(np.arange(first, first + table.num_rows, dtype=np.int64))
            numbers = np.arange(number, number + len(shards), dtype=np.int32)
            of_rows = _integers(np.repeat(numbers, [entry.rows for entry in shards]))
            waiting.append(
                pa.Table.from_arrays([*table.columns, ids, of_rows], schema=arrow_schema)
            )
            first += table.num_rows
            rows += table.num_rows
            number += len(shards)
            if len(waiting) == _PIECES:  # a table of few rows takes far more room than they
                waiting = [pa.concat_tables(waiting).combine_chunks()]
            while rows >= GROUP_ROWS:
                joined = pa.concat_tables(waiting)
                writer.write_table(joined.slice(0, GROUP_ROWS), row_group_size=GROUP_ROWS)
                waiting = [joined.slice(GROUP_ROWS)]
                rows -= GROUP_ROWS
        if waiting:
            writer.write_table(pa.concat_tables(waiting), row_group_size=GROUP_ROWS)


def _integers(numbers: np.ndarray) -> pa.Array:
    """Return whole numbers as Arrow; ``pa.array`` would import pandas to look for its series."""
    import pyarrow as pa

    type_ = pa.int64() if numbers.dtype == "int64" else pa.int32()
    return pa.Array.from_buffers(type_, len(numbers), [None, pa.py_buffer(numbers)])


def _parts(
    files: StoreFiles, manifest: Manifest, previous: pq.ParquetFile | None
) -> Iterator[tuple[list[ShardEntry], pa.Table]]:
    """Yield the metadata of all shards in row order, of several together, with current labels."""

    names = list(schema.metadata_names())
    places: dict[str, int] = {}
    counts: list[int] = []
    applied = 0
    if previous is not None:
        origin = json.loads(previous.schema_arrow.metadata[_KEY])
        places = {name: place for place, (name, _) in enumerate(origin["shards"])}
        counts = [rows for _, rows in origin["shards"]]
        applied = len(origin["labels"])
    fresh_labels = shard_columns.merged(map(files.labels, manifest.labels[applied:]))
    all_labels = (
        shard_columns.merged(map(files.labels, manifest.labels)) if applied else fresh_labels
    )
    runs = list(_runs(manifest.shards, places, files.portion is None))
    unread = iter([run for run in runs if run.place is None])
    pending = [files.submit(files.table, run.shards, names) for run in islice(unread, _AHEAD)]
    kept = None if previous is None else _Slices(previous, counts, names)
    try:
        for run in runs:
            if run.place is not None:
                assert kept is not None
                table = kept.read(run.place, len(run.shards))
                changes = fresh_labels
            else:
                table = pending.pop(0).result()
                pending += [
                    files.submit(files.table, following.shards, names)
                    for following in islice(unread, 1)
                ]
                changes = all_labels
            yield run.shards, _relabelled(run.shards, table, changes)
    finally:
        give_up(pending)


class _Run(NamedTuple):
    """Consecutive shards that are read together."""

    shards: list[ShardEntry]
    place: int | None
    """Where an older metadata file has the first of them; None: it has none of them."""


def _runs(shards: Iterable[ShardEntry], places: Mapping[str, int], near: bool) -> Iterator[_Run]:
    """Cut shards, in row order, into runs that an older file has in one piece, or not at all."""
    run = _Run([], None)
    rows = 0
    for entry in shards:
        place = places.get(_identity(entry))
        if place is None:
            # Large ones, and those from afar, are read side by side.
            goes_on = near and run.place is None and entry.rows <= _SMALL_ROWS
            full = len(run.shards) == _TOGETHER or rows > _SMALL_ROWS
        else:
            goes_on = run.place is not None and place == run.place + len(run.shards)
            full = rows >= GROUP_ROWS
        if run.shards and (full or not goes_on):
            yield run
            run, rows = _Run([], place), 0
        elif not run.shards:
            run = _Run([], place)
        run.shards.append(entry)
        rows += entry.rows
    if run.shards:
        yield run


def _relabelled(
    shards: list[ShardEntry], table: pa.Table, changes: Mapping[str, dict[int, Any]]
) -> pa.Table:
    """Return the metadata of some shards with the labels that overlays give their rows."""
    import pyarrow as pa

    if not any(entry.path in changes for entry in shards):
        return table
    parts = []
    start = 0
    for entry in shards:
        part = table.slice(start, entry.rows)
        own = changes.get(entry.path)
        parts.append(shard_columns.with_labels(part, own) if own else part)
        start += entry.rows
    return pa.concat_tables(parts)


class _Slices:
    """Shards of an older metadata file, which is read once from front to back."""

    def __init__(self, file: pq.ParquetFile, counts: list[int], names: list[str]) -> None:
        import pyarrow as pa

        self._batches = file.iter_batches(columns=names, use_threads=False)
        self._counts = counts
        self._place = 0
        self._held = pa.Table.from_batches([], schema=schema.metadata_schema())

    def read(self, place: int, count: int) -> pa.Table:
        """Return the metadata of ``count`` shards, the first of them at ``place``.

        Raises:
            ArrowInvalid: the file ends before them, or was read beyond them.
        """
        import pyarrow as pa

        if place < self._place:
            raise pa.ArrowInvalid("the metadata file has shards in another order")
        skipped = sum(self._counts[self._place : place])
        rows = sum(self._counts[place : place + count])
        self._place = place + count
        parts = [self._held]
        have = self._held.num_rows
        while have < skipped + rows:
            following = next(self._batches, None)
            if following is None:
                raise pa.ArrowInvalid("the metadata file ends early")
            part = pa.Table.from_batches([following]).cast(schema.metadata_schema())
            parts.append(part)
            have += part.num_rows
            # What is passed over is let go of at once.
            if have <= skipped:
                parts, skipped, have = [], skipped - have, 0
        joined = pa.concat_tables(parts)
        self._held = joined.slice(skipped + rows)
        return joined.slice(skipped, rows)
