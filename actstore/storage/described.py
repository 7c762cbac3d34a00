"""Describes a shard from itself alone, in a process of its own: a damaged footer can end it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

from actstore import schema
from actstore.errors import CorruptStoreError
from actstore.storage import pages
from actstore.storage.file_hashes import sha256_of, tail_of
from actstore.storage.manifest import ShardEntry
from actstore.storage.metadata_table import in_order, pools_of
from actstore.storage.verification import check_shard


def describe(root: Path, path: str) -> ShardEntry:
    """Return what a manifest would say of a shard that none names, every page of it checked.

    Raises:
        CorruptStoreError: it is damaged, or no shard.
    """
    words = [sys.executable, "-P", "-m", "actstore.storage.described", str(root.resolve()), path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or ["it ends whatever reads it"]
        raise CorruptStoreError(reason[0], path)
    found = json.loads(done.stdout)
    placed = tuple((offset, rows) for offset, rows in found["pages"])
    pools = tuple((pooling, region) for pooling, region in found["pools"])
    return ShardEntry(**{**found, "pages": placed, "pools": pools})


def _described(root: Path, path: str) -> ShardEntry:
    import pyarrow.parquet as pq

    file = root / path
    digest, size = sha256_of(file)
    names = ["model", "site", "layer"]
    with pq.ParquetFile(file, page_checksum_verification=True) as opened, file.open("rb") as raw:
        vector = opened.schema_arrow.field(schema.VECTOR).type
        placed = pages.mapped_pages(opened.metadata, raw)
        table = opened.read(columns=[*names, "pooling", "region"])
    place = [table[name].unique().to_pylist() for name in names]
    if any(len(values) != 1 for values in place):
        raise CorruptStoreError("it holds several models, sites or layers", path)
    dtype = pages.stored_type(vector)
    if dtype is None:
        raise CorruptStoreError(f"its vectors are {vector}", path)
    entry = ShardEntry(
        path=path,
        model=place[0][0],
        site=place[1][0],
        layer=place[2][0],
        width=vector.list_size,
        dtype=dtype,
        rows=table.num_rows,
        bytes=size,
        sha256=digest,
        pages=tuple(placed or ()),
        pools=in_order(pools_of(table)),
    )
    for reason in check_shard(root, entry, nonfinite=True).reasons:
        raise CorruptStoreError(reason, path)
    return dataclasses.replace(entry, tail=tail_of(root, entry)) if placed else entry


if __name__ == "__main__":
    try:
        print(json.dumps(dataclasses.asdict(_described(Path(sys.argv[1]), sys.argv[2]))))
    except Exception as error:  # whatever pyarrow says of it
        sys.exit(str(error).splitlines()[0] if str(error) else type(error).__name__)
