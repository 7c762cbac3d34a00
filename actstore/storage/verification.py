"""Checks a store against its manifest: hashes, checksums, schema, keys, finiteness, norms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from actstore import schema
from actstore.errors import ActstoreError, CorruptStoreError, SnapshotNotFoundError
from actstore.storage import backing, floats, key_hashes, layout, pages, shard_columns
from actstore.storage import manifest as manifests
from actstore.storage.manifest import LabelEntry, ShardEntry
from actstore.storage.mapping import open_shard
from actstore.storage.metadata_table import pools_of
from actstore.storage.segments import SegmentEntry
from actstore.storage.shard import sha256_of, tail_of
from actstore.storage.snapshot import Snapshot

_BLOCK_ROWS = 4096


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
    for entry in snapshot.shards:
        with backing.fetched(snapshot.root, entry):
            found = list(check_shard(snapshot.root, entry, nonfinite=_allows_nonfinite(snapshot)))
        problems += [Problem(entry.path, reason) for reason in found]
        if not found:
            table = shard_columns.read_columns(snapshot.root, entry, list(schema.key_names()))
            hashes.setdefault(entry.partition, []).append((entry, key_hashes.hash_table(table)))
        checked += entry.bytes
        if progress:
            progress(checked)
    for overlay in snapshot.manifest.labels:
        with backing.fetched(snapshot.root, overlay):
            problems += _check_labels(snapshot.root, overlay)
    for shards in hashes.values():
        problems += _repeated_keys(snapshot.root, shards)
    return [*problems, *_check_history(snapshot.root)]


def _check_labels(root: Path, overlay: LabelEntry) -> Iterator[Problem]:
    """Yield what is wrong with one label overlay."""
    path = root / overlay.path
    if not path.is_file():
        yield Problem(overlay.path, "the file is missing")
    elif sha256_of(path) != (overlay.sha256, overlay.bytes):
        yield Problem(overlay.path, "its SHA-256 is not what the manifest says")
    else:
        try:
            shard_columns.read_labels(root, overlay)
        except CorruptStoreError as error:
            yield Problem(overlay.path, str(error))


def _check_history(root: Path) -> Iterator[Problem]:
    """Check the manifests of all commits, and that each stands on the one that it was made on."""
    digests: dict[int, str] = {}
    manifests.forget()
    seen: set[SegmentEntry] = set()
    for number in manifests.numbers(root):
        path = layout.manifest_path(root, number)
        name = path.relative_to(root).as_posix()
        try:
            found = manifests.load(root, number, lazily=True)
            if not seen.issuperset(found.segments):  # most commits share theirs with others
                found = manifests.load(root, number)
                seen.update(found.segments)
            odd = manifests.unknown_keys(path.read_bytes()) if not found.sealed else []
        except SnapshotNotFoundError:
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


def _allows_nonfinite(snapshot: Snapshot) -> bool:
    return any(run.settings.get("allow_nonfinite") for run in snapshot.manifest.runs)


def check_shard(root: Path, entry: ShardEntry, *, nonfinite: bool) -> Iterator[str]:
    """Yield what is wrong with one shard; ``nonfinite`` says that NaN and infinity are not."""
    import pyarrow as pa

    path = root / entry.path
    if not path.is_file():
        yield "the file is missing"
        return
    digest, size = sha256_of(path)
    if size != entry.bytes:
        yield f"it has {size} bytes, the manifest says {entry.bytes}"
        return
    if digest != entry.sha256:
        yield "its SHA-256 is not what the manifest says: the content was changed"
        return  # a damaged footer can end the process that reads it
    if entry.tail is not None and tail_of(root, entry) != entry.tail:
        yield "its metadata and footer are not what the manifest says"
    try:
        yield from _check_content(root, entry, nonfinite)
    except (ActstoreError, pa.ArrowException, OSError, ValueError, OverflowError) as error:
        yield f"it cannot be read: {str(error).splitlines()[0]}"


def _check_content(root: Path, entry: ShardEntry, nonfinite: bool) -> Iterator[str]:
    import pyarrow.parquet as pq

    path = root / entry.path
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        expected = schema.arrow_schema(entry.width, entry.dtype)
        if not file.schema_arrow.equals(expected, check_metadata=False):
            yield f"its schema is not version {schema.version_of([entry.dtype])} of the schema"
            return
        if file.metadata.num_rows != entry.rows:
            yield f"it has {file.metadata.num_rows} rows, the manifest says {entry.rows}"
            return
        with path.open("rb") as raw:
            mapped = pages.mapped_pages(file.metadata, raw)
        if entry.pages and (mapped is None or tuple(mapped) != entry.pages):
            yield "its vectors do not lie where the manifest says"
            return
        for group in range(file.metadata.num_row_groups):
            file.read_row_group(group)  # checks each page's CRC
    table = shard_columns.read_columns(
        root, entry, ["model", "site", "layer", "pooling", "region", "norm"]
    )
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
