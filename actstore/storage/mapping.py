"""Shard files opened for reading: matrices over a memory map, rows gathered from them."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Protocol, TypeVar

import numpy as np

from actstore import schema
from actstore.errors import CorruptStoreError
from actstore.storage.manifest import ShardEntry

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

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


# A forked process (a data loader's worker) has none of its parent's threads.
os.register_at_fork(after_in_child=pool.cache_clear)


def in_parallel(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Return ``work`` of each item, done in several threads; not to be called in one of them.

    Whatever happens, an error or Ctrl-C, none of the threads works on when this is left.
    """
    futures = [pool().submit(work, item) for item in items]
    try:
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()
        wait(futures)


def open_shard(root: Path, entry: ShardEntry) -> ShardReader:
    """Open a shard for reading vectors.

    Raises:
        CorruptStoreError: the file is missing, of another size, or lies about its pages.
    """
    path = root / entry.path
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            raise CorruptStoreError(
                f"shard {entry.path} has {size} bytes, the manifest says {entry.bytes}: "
                "restore it from a copy"
            )
        return MappedShard(path, entry) if entry.pages else DecodedShard(path, entry)
    except FileNotFoundError as error:
        raise CorruptStoreError(
            f"shard {entry.path} is missing from {root}: restore it from a copy"
        ) from error
    except OSError as error:
        raise CorruptStoreError(f"shard {entry.path} of {root} cannot be read: {error}") from error


class MappedShard:
    """A shard whose vectors are read from where they lie in the file."""

    _descriptor = -1

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
            in_parallel(piece, range(0, len(target), _PIECE))

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
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._entry = entry
        self._lock = Lock()  # the file has one position
        self._last: tuple[int, np.ndarray] | None = None
        try:
            self._file = pq.ParquetFile(path)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(error) from error
        footer = self._file.metadata
        counts = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
        self._starts = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=self._starts[1:])
        if self._starts[-1] != entry.rows:
            raise self._damaged(f"{self._starts[-1]} rows, the manifest says {entry.rows}")

    def close(self) -> None:
        self._file.close()

    def view(self, start: int, stop: int) -> np.ndarray | None:
        return None

    def run(self, start: int, out: np.ndarray) -> None:
        np.copyto(out, self.take(np.arange(start, start + len(out))))

    def take(self, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), self._entry.width), self._entry.dtype)
        groups = np.searchsorted(self._starts, rows, "right") - 1
        for group in np.unique(groups):
            chosen = groups == group
            out[chosen] = self._group(int(group))[rows[chosen] - self._starts[group]]
        return out

    def _group(self, group: int) -> np.ndarray:
        """Return the vectors of one row group; the last one asked for is kept."""
        with self._lock:
            if self._last is None or self._last[0] != group:
                self._last = group, self._decode(group)
            return self._last[1]

    def _decode(self, group: int) -> np.ndarray:
        import pyarrow as pa
        import pyarrow.compute as pc

        try:
            column = self._file.read_row_group(group, columns=[schema.VECTOR])[schema.VECTOR]
        except (OSError, KeyError, pa.ArrowException) as error:
            raise self._damaged(error) from error
        lengths = set(pc.unique(pc.list_value_length(column)).to_pylist())
        values = pc.list_flatten(column)
        dtype = {"halffloat": "float16", "float": "float32"}.get(str(values.type))
        if lengths != {self._entry.width} or values.null_count or dtype != self._entry.dtype:
            raise self._damaged(
                f"vectors of {values.type} x {', '.join(map(str, lengths))} with "
                f"{values.null_count} nulls, the manifest says {self._entry.dtype} x "
                f"{self._entry.width}"
            )
        matrix: np.ndarray = values.to_numpy().reshape(-1, self._entry.width)
        return matrix

    def _damaged(self, what: object) -> CorruptStoreError:
        return CorruptStoreError(
            f"shard {self._entry.path} is not what the manifest says ({what}): "
            "restore it from a copy"
        )
