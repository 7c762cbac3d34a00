"""Checks a store against its manifest: hashes, checksums, schema, keys, finiteness, norms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore import schema
from actstore.errors import (
    ActstoreError,
    CorruptStoreError,
    MissingFileError,
    SnapshotNotFoundError,
)
from actstore.storage import (
    backing,
    card,
    floats,
    key_hashes,
    layout,
    pages,
    shard_columns,
    soundness,
)
from actstore.storage import manifest as manifests
from actstore.storage.disk_errors import content_of
from actstore.storage.file_hashes import tail_of
from actstore.storage.manifest import LabelEntry, ShardEntry
from actstore.storage.mapping import open_shard
from actstore.storage.metadata_table import pools_of
from actstore.storage.segments import SegmentEntry
from actstore.storage.snapshot import Snapshot
from actstore.storage.threads import in_parallel

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK_ROWS = 4096
_AT_ONCE = 64
"""Shards that are checked side by side, at most."""
_ROWS_AT_ONCE = 1 << 16
_CHECKED = ("model", "site", "layer", "pooling", "region", "norm")
"""Columns that are held against the manifest and the vectors."""


class Problem(NamedTuple):
    """One thing that is not as it should be."""

    path: str
    """The file, relative to the store."""
    reason: str


def verify(snapshot: Snapshot, *, progress: Callable[[int], None] | None = None) -> list[Problem]:
    """Check every file of a commit and return all problems, an empty list for a sound store.

    Args:
        snapshot: the commit to check.
        progress: called with the number of bytes checked so far.
    """
    problems: list[Problem] = []
    hashes: dict[tuple[str, str, int | None], list[tuple[ShardEntry, np.ndarray]]] = {}
    checked = 0
    nonfinite = any(run.settings.get("allow_nonfinite") for run in snapshot.manifest.runs)
    for some in _portions(snapshot.shards):
        results = in_parallel(lambda e: _fetched_and_checked(snapshot.root, e, nonfinite), some)
        sound: list[tuple[ShardEntry, pa.Table]] = []
        for entry, found in zip(some, results, strict=True):
            problems += [Problem(entry.path, reason) for reason in found.reasons]
            if found.metadata is not None and not found.reasons:
                sound.append((entry, found.metadata))
            checked += entry.bytes
            if progress:
                progress(checked)
        for entry, keys in _key_hashes(sound):
            hashes.setdefault(entry.partition, []).append((entry, keys))
    for overlay in snapshot.manifest.labels:
        with backing.fetched(snapshot.root, overlay.path):
            problems += _check_labels(snapshot.root, overlay)
    for shards in hashes.values():
        problems += _repeated_keys(snapshot.root, shards)
    return [*problems, *_check_history(snapshot.root)]


def _check_labels(root: Path, overlay: LabelEntry) -> Iterator[Problem]:
    """Yield what is wrong with one label overlay."""
    reason = soundness.problem(root, overlay)
    if reason is None:
        try:
            shard_columns.read_labels(root, overlay)
        except CorruptStoreError as error:
            reason = str(error)
    if reason is not None:
        yield Problem(overlay.path, reason)


def _check_history(root: Path) -> Iterator[Problem]:
    """Check the manifests of all commits, and that each stands on the one that it was made on."""
    digests: dict[int, str] = {}
    manifests.forget()
    about = 0 if backing.of(root) is not None else card.commit(root)  # before others can commit
    newest = manifests.newest(root)
    if about > newest:
        lost = layout.manifest_path(root, about).relative_to(root).as_posix()
        yield Problem(
            lost,
            f"it is missing: {layout.CARD} is about commit {about}, and commit {newest} is the "
            "latest that is there; bring it back from a copy before anything is written",
        )
    seen: set[SegmentEntry] = set()
    for number in manifests.numbers(root):
        path = layout.manifest_path(root, number)
        name = path.relative_to(root).as_posix()
        try:
            found = manifests.load(root, number, lazily=True)
            if not seen.issuperset(found.segments):  # most commits share theirs with others
                found = manifests.load(root, number)
                seen.update(found.segments)
            odd = manifests.unknown_keys(content_of(path)) if not found.sealed else []
        except (SnapshotNotFoundError, MissingFileError):
            continue  # pruned meanwhile
        except ActstoreError as error:
            yield Problem(name, str(error))
            continue
        if odd:
            yield Problem(name, f"it says {odd[0]!r}, which no manifest without its SHA-256 does")
        digests[number] = found.sha256
        before = digests.get(found.parent or 0)
        if before is not None and found.parent_sha256 not in (None, before):
            parent = layout.manifest_path(root, found.parent or 0).relative_to(root).as_posix()
            yield Problem(parent, f"it is another than the one that commit {number} was made on")


class Checked(NamedTuple):
    """What a look at one shard brought."""

    reasons: list[str]
    """What is wrong with it."""
    metadata: pa.Table | None = None
    """The columns of its rows' keys; None where they cannot be read."""


def check_shard(root: Path, entry: ShardEntry, *, nonfinite: bool) -> Checked:
    """Find what is wrong with one shard; ``nonfinite`` says that NaN and infinity are not."""
    import pyarrow as pa

    other = soundness.problem(root, entry)
    if other is not None:  # a damaged footer can end the process that reads it
        return Checked([other])
    reasons: list[str] = []
    table: pa.Table | None = None
    try:
        if entry.tail is not None and tail_of(root, entry) != entry.tail:
            reasons.append("its metadata and footer are not what the manifest says")
        table = _columns(root / entry.path, entry, reasons)
        if table is not None:
            reasons += _odd_rows(root, entry, table, nonfinite)
    except (ActstoreError, pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reasons.append(f"it cannot be read: {str(error).splitlines()[0]}")
    return Checked(reasons, table)


def _fetched_and_checked(root: Path, entry: ShardEntry, nonfinite: bool) -> Checked:
    with backing.fetched(root, entry.path):
        return check_shard(root, entry, nonfinite=nonfinite)


def _portions(shards: Iterable[ShardEntry]) -> Iterator[list[ShardEntry]]:
    """Cut shards into parts to check side by side, of rows whose keys take little memory."""
    part: list[ShardEntry] = []
    for entry in shards:
        part.append(entry)
        if len(part) == _AT_ONCE or sum(each.rows for each in part) >= _ROWS_AT_ONCE:
            yield part
            part = []
    if part:
        yield part


def _columns(path: Path, entry: ShardEntry, reasons: list[str]) -> pa.Table | None:
    """Read all of a shard once and return the columns that its rows are checked by."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys([*schema.key_names(), *_CHECKED]))
    with (
        pa.OSFile(str(path)) as own,
        pq.ParquetFile(own, page_checksum_verification=True) as file,
    ):
        expected = schema.arrow_schema(entry.width, entry.dtype)
        if not file.schema_arrow.equals(expected, check_metadata=False):
            version = schema.version_of([entry.dtype])
            reasons.append(f"its schema is not version {version} of the schema")
            return None
        if file.metadata.num_rows != entry.rows:
            reasons.append(f"it has {file.metadata.num_rows} rows, the manifest says {entry.rows}")
            return None
        with path.open("rb") as raw:
            mapped = pages.mapped_pages(file.metadata, raw)
        if entry.pages and (mapped is None or tuple(mapped) != entry.pages):
            reasons.append("its vectors do not lie where the manifest says")
            return None
        groups = range(file.metadata.num_row_groups)
        # Each column is read, since that checks its pages' CRC-32.
        read = (file.read_row_group(group, use_threads=False).select(names) for group in groups)
        return pa.concat_tables(read)


def _odd_rows(root: Path, entry: ShardEntry, table: pa.Table, nonfinite: bool) -> Iterator[str]:
    """Yield what is wrong with the rows of a shard."""
    for name, value in zip(("model", "site", "layer"), entry.partition, strict=True):
        others = [found for found in table[name].unique().to_pylist() if found != value]
        if others:
            yield f"it holds {name} {others[0]!r}, the manifest says {value!r}"
    if entry.pools is not None and pools_of(table) != set(entry.pools):
        yield "it holds rows of another pooling or region than the manifest says"
    norms = table["norm"].to_numpy()
    reader = open_shard(root, entry)
    for start in range(0, entry.rows, _BLOCK_ROWS):
        rows = np.arange(start, min(start + _BLOCK_ROWS, entry.rows))
        vectors = reader.take(rows)
        if not nonfinite and not floats.finite(vectors):
            yield f"rows {rows[0]} to {rows[-1]} hold NaN or infinity"
        stored = norms[rows]
        if not np.allclose(floats.norms(vectors), stored, rtol=1e-4, equal_nan=True):
            yield f"rows {rows[0]} to {rows[-1]} have other norms than the column says"
    reader.close()


def _key_hashes(
    shards: list[tuple[ShardEntry, pa.Table]],
) -> Iterator[tuple[ShardEntry, np.ndarray]]:
    """Yield the hashes of the keys of each shard's rows, computed for all of them at once."""
    import pyarrow as pa

    if shards:
        tables = [table.select(list(schema.key_names())) for _, table in shards]
        hashes = key_hashes.hash_table(pa.concat_tables(tables))
        bounds = np.cumsum([entry.rows for entry, _ in shards])[:-1]
        for (entry, _), keys in zip(shards, np.split(hashes, bounds), strict=True):
            yield entry, keys


def _repeated_keys(root: Path, shards: list[tuple[ShardEntry, np.ndarray]]) -> Iterator[Problem]:
    """Find keys that occur twice in one (model, site, layer)."""
    everything = np.concatenate([hashes for _, hashes in shards])
    unique, counts = np.unique(everything, return_counts=True)
    suspects = set(unique[counts > 1].tolist())
    if not suspects:
        return
    seen: dict[tuple[object, ...], str] = {}
    for entry, hashes in shards:
        rows = [row for row, value in enumerate(hashes.tolist()) if value in suspects]
        if not rows:
            continue
        table = shard_columns.read_columns(root, entry, list(schema.key_names())).take(rows)
        for cells in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
            if cells in seen:
                yield Problem(
                    entry.path, f"it repeats a row of {seen[cells]}: {key_hashes.describe(cells)}"
                )
            seen[cells] = entry.path
