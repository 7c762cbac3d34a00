"""Archived shards: compressed Parquet, smaller on disk, decoded where others are memory-mapped."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

from actstore import schema
from actstore.errors import CorruptStoreError, ReadError
from actstore.storage import layout
from actstore.storage.column_chunks import NO_STATISTICS
from actstore.storage.disk_errors import reading
from actstore.storage.file_hashes import sha256_of
from actstore.storage.manifest import ShardEntry

_VALUES = f"{schema.VECTOR}.list.element"


def write_archived(root: Path, entry: ShardEntry, target: Path) -> ShardEntry:
    """Write a shard compressed to ``target`` and return the entry of that file.

    Same rows, same order, same row groups, bit for bit the same values; only the vectors'
    place can no longer be mapped, so the entry has no pages. float32 values are split into
    their bytes first, which compresses better; float16 is left whole, because DuckDB cannot
    read it split.

    Raises:
        CorruptStoreError: the shard is missing or damaged.
        ReadError: it cannot be read.
        OSError: the disk is full or failed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow_schema = schema.arrow_schema(entry.width, entry.dtype)
    split = entry.dtype == "float32"
    whole = entry.dtype == "int8"  # plain, each would take 32 bits
    path = root / entry.path
    try:
        with contextlib.ExitStack() as opened:
            with reading(path):
                source = opened.enter_context(pq.ParquetFile(path, page_checksum_verification=True))
            writer = pq.ParquetWriter(
                target,
                arrow_schema,
                compression="zstd",
                use_dictionary=[*schema.metadata_names(), *([_VALUES] if whole else [])],
                column_encoding={_VALUES: "BYTE_STREAM_SPLIT"} if split else None,
                write_statistics=[n for n in schema.metadata_names() if n not in NO_STATISTICS],
                write_page_checksum=True,
                # Xet then recognizes what two versions of a shard have in common.
                use_content_defined_chunking=True,
                version="2.6",
                store_schema=True,
            )
            opened.enter_context(writer)
            if source.metadata.num_rows != entry.rows:
                raise CorruptStoreError(
                    f"shard {entry.path} holds {source.metadata.num_rows} rows, the manifest says "
                    f"{entry.rows}: restore it from a copy"
                )
            for group in range(source.metadata.num_row_groups):
                with reading(path):
                    table = source.read_row_group(group, use_threads=False)
                writer.write_table(table.cast(arrow_schema), row_group_size=table.num_rows)
    except FileNotFoundError as error:
        raise CorruptStoreError(
            f"shard {entry.path} is missing from {root}: restore it from a copy"
        ) from error
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk, not the shard: what Arrow finds wrong in a file has no number
        why = error.reason if isinstance(error, ReadError) else error
        raise CorruptStoreError(
            f"shard {entry.path} of {root} is damaged ({why}): restore it from a copy"
        ) from error
    layout.sync_file(target)
    digest, size = sha256_of(target)
    return dataclasses.replace(entry, bytes=size, sha256=digest, pages=(), tail=None)
