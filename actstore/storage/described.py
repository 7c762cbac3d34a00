"""Describes shards from themselves alone, in another process: a damaged footer can end it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any, Self

from actstore import schema
from actstore.errors import CorruptStoreError
from actstore.storage import pages
from actstore.storage.file_hashes import sha256_of, tail_of
from actstore.storage.manifest import ShardEntry
from actstore.storage.metadata_table import in_order, pools_of
from actstore.storage.verification import check_shard


class Describer:
    """Says what a manifest would of shards that none names, every page of them checked.

    One process looks at one shard after the other, since starting one takes most of a second; after
    a damaged one the next has a new process.

    Args:
        root: folder of the store.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._process: subprocess.Popen[str] | None = None
        self._said: IO[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def describe(self, path: str) -> ShardEntry:
        """Return what a manifest would say of one.

        Raises:
            CorruptStoreError: it is damaged, or no shard.
        """
        answer = self._asked(path)
        if "reason" in answer:
            self._end()
            raise CorruptStoreError(answer["reason"], path)
        placed = tuple((offset, rows) for offset, rows in answer["pages"])
        pools = tuple((pooling, region) for pooling, region in answer["pools"])
        return ShardEntry(**{**answer, "pages": placed, "pools": pools})

    def _asked(self, path: str) -> dict[str, Any]:
        process = self._process or self._begin()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: so it does not answer either
            process.stdin.write(json.dumps(path) + "\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if line.endswith("\n"):
            answer: dict[str, Any] = json.loads(line)
            return answer
        assert self._said is not None
        process.wait()
        self._said.seek(0)
        reason = self._said.read().strip().splitlines()[-1:] or ["it ends whatever reads it"]
        return {"reason": reason[0]}

    def _begin(self) -> subprocess.Popen[str]:
        words = [sys.executable, "-P", "-m", "actstore.storage.described", str(self._root)]
        self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # until the end
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(BrokenPipeError):
                self._process.communicate()
            self._process = None
        if self._said is not None:
            self._said.close()
            self._said = None


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


def _answer(root: Path, path: str) -> dict[str, Any]:
    try:
        return dataclasses.asdict(_described(root, path))
    except Exception as error:  # whatever pyarrow says of it
        return {"reason": str(error).splitlines()[0] if str(error) else type(error).__name__}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(_answer(Path(sys.argv[1]), json.loads(line))), flush=True)
