"""Shard files opened for reading: matrices over a memory map, rows gathered from them."""

from __future__ import annotations

import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from actstore import schema
from actstore.errors import CorruptStoreError
from actstore.storage.manifest import ShardEntry

_PIECE = 4 << 20
"""Bytes one thread reads at a time."""


class ShardReader(Protocol):
    """Vectors of one shard, whatever way they are read."""

    def view(self, start: int, stop: int) -> np.ndarray | None:
        """Return rows as a read-only matrix without copying, if they lie in one run."""

    def run(self, start: int, out: np.ndarray) -> None:
        """Copy ``len(out)`` rows from ``start`` on into ``out``, of any float type."""

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the given rows (int64, any order) as a new matrix."""

    def close(self) -> None:
        """Give the file back."""


@cache
def pool() -> ThreadPoolExecutor:
    """Return the threads that copy in parallel; copying releases the interpreter lock."""
    return ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="actstore")


def open_shard(root: Path, entry: ShardEntry) -> ShardReader:
    """Open a shard for reading vectors.

    Raises:
        CorruptStoreError: the file is missing, of another size, or lies about its pages.
    """
    path = root / entry.path
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CorruptStoreError(
            f"shard {entry.path} is missing from {root}: restore it from a copy"
        ) from error
    if size != entry.bytes:
        raise CorruptStoreError(
            f"shard {entry.path} has {size} bytes, the manifest says {entry.bytes}: "
            "restore it from a copy"
        )
    return MappedShard(path, entry) if entry.pages else DecodedShard(path, entry)


class MappedShard:
    """A shard whose vectors are read from where they lie in the file."""

    def __init__(self, path: Path, entry: ShardEntry) -> None:
        dtype = np.dtype(entry.dtype)
        row_bytes = entry.width * dtype.itemsize
        self._starts = np.zeros(len(entry.pages) + 1, np.int64)
        np.cumsum([rows for _, rows in entry.pages], out=self._starts[1:])
        inside = all(
            offset >= 4 and rows >= 0 and offset + rows * row_bytes <= entry.bytes
            for offset, rows in entry.pages
        )
        if not inside or self._starts[-1] != entry.rows:
            raise CorruptStoreError(f"the manifest places vectors of {entry.path} outside the file")
        self._row_bytes = row_bytes
        self._pages = entry.pages
        self._dtype = dtype
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        mapped = mmap.mmap(self._descriptor, 0, prot=mmap.PROT_READ)
        self._groups = [
            np.frombuffer(mapped, dtype, rows * entry.width, offset).reshape(rows, entry.width)
            for offset, rows in entry.pages
        ]

    def close(self) -> None:
        # Arrays handed out keep the map alive; it goes with the last of them.
        self._groups = []
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()

    def view(self, start: int, stop: int) -> np.ndarray | None:
        group = int(np.searchsorted(self._starts, start, "right")) - 1
        if stop <= start or stop > self._starts[group + 1]:
            return None
        first = int(self._starts[group])
        return self._groups[group][start - first : stop - first]

    def run(self, start: int, out: np.ndarray) -> None:
        same = out.dtype == self._dtype and out.flags.c_contiguous
        for group, rows in enumerate(self._groups):
            first = int(self._starts[group])
            low, high = max(start, first), min(start + len(out), first + len(rows))
            if low >= high:
                continue
            target = out[low - start : high - start]
            if same:
                offset = self._pages[group][0] + (low - first) * self._row_bytes
                self._read(target.data.cast("B"), offset)
            else:
                np.copyto(target, rows[low - first : high - first])

    def _read(self, target: memoryview, offset: int) -> None:
        """Read bytes into memory; large runs by several threads."""

        def piece(at: int) -> None:
            part = target[at : at + _PIECE]
            position = offset + at
            while part:
                got = os.preadv(self._descriptor, [part], position)
                if got == 0:
                    raise CorruptStoreError("a shard file was cut short while it was read")
                part = part[got:]
                position += got

        if len(target) <= _PIECE:
            piece(0)
        else:
            # Consumed, so that an error in a thread is raised here.
            list(pool().map(piece, range(0, len(target), _PIECE)))

    def take(self, rows: np.ndarray) -> np.ndarray:
        if len(self._groups) == 1:
            return np.asarray(self._groups[0][rows])
        out = np.empty((len(rows), self._groups[0].shape[1]), self._dtype)
        groups = np.searchsorted(self._starts, rows, "right") - 1
        for group in np.unique(groups):
            chosen = groups == group
            out[chosen] = self._groups[group][rows[chosen] - self._starts[group]]
        return out


class DecodedShard:
    """A shard that cannot be mapped (compressed, foreign): read through pyarrow."""

    def __init__(self, path: Path, entry: ShardEntry) -> None:
        import pyarrow.parquet as pq

        self._entry = entry
        self._file = pq.ParquetFile(path)
        counts = [
            self._file.metadata.row_group(group).num_rows
            for group in range(self._file.metadata.num_row_groups)
        ]
        self._starts = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=self._starts[1:])
        if self._starts[-1] != entry.rows:
            raise CorruptStoreError(
                f"shard {entry.path} has {self._starts[-1]} rows, the manifest says {entry.rows}"
            )
        self._cached: tuple[int, np.ndarray] | None = None

    def close(self) -> None:
        self._file.close()

    def view(self, start: int, stop: int) -> np.ndarray | None:
        return None

    def _group(self, group: int) -> np.ndarray:
        if self._cached is None or self._cached[0] != group:
            column = self._file.read_row_group(group, columns=[schema.VECTOR])[0]
            values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
            matrix = values.reshape(-1, self._entry.width).astype(self._entry.dtype, copy=False)
            self._cached = group, matrix
        return self._cached[1]

    def run(self, start: int, out: np.ndarray) -> None:
        out[...] = self.take(np.arange(start, start + len(out)))

    def take(self, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), self._entry.width), self._entry.dtype)
        groups = np.searchsorted(self._starts, rows, "right") - 1
        for group in np.unique(groups):
            chosen = groups == group
            out[chosen] = self._group(int(group))[rows[chosen] - self._starts[group]]
        return out
