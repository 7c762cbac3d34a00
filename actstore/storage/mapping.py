"""Shard files opened for reading: matrices over a memory map, rows gathered from them."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actstore import schema
from actstore.errors import CorruptStoreError
from actstore.storage import backing, floats, shard_columns
from actstore.storage.checks import VectorChecks, check_whole
from actstore.storage.checksums import Check, block_rows
from actstore.storage.decoded_shard import DecodedShard
from actstore.storage.disk_errors import unread
from actstore.storage.manifest import ShardEntry
from actstore.storage.quantised_shard import QuantisedShard
from actstore.storage.shard_reader import ShardReader as ShardReader
from actstore.storage.threads import share

_PIECE = 2 << 20
"""Bytes that one thread copies at a time: two threads share a layer of 8 MB."""
_BLOCK = 256 << 10
"""Bytes gathered at a time into memory that is there: they pass through the cache."""
_PAST_THE_MAP = 512 << 10
"""Bytes from which on rows that nobody has read yet are read without the map."""
_SPAN = 16 << 20
"""Bytes of these that one thread reads at a time."""
_FIRST_PIECES = (8 << 10, 8 << 10, 32 << 10)
_BEGINNING = 64 << 10
"""Bytes before the first vectors that are read with them, though nobody needs them."""
_UNITS = 8
"""Parts that a row is copied in at most."""
_PROBE = 8
"""Rows looked at to tell whether the file is in the page cache."""
_FROM_DISK_SECONDS = 30e-6
"""Time per row that only a disk takes."""


def open_shard(root: Path, entry: ShardEntry, check: Check = "lazy") -> ShardReader:
    """Open a shard for reading vectors.

    Args:
        root: folder of the store.
        entry: the shard.
        check: when vectors are held against their checksums.

    Raises:
        CorruptStoreError: the file is missing, of another size, or lies about its pages.
    """
    behind = backing.of_missing(root, entry.path)
    if behind is not None:
        return behind.open_shard(entry)
    path = root / entry.path
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            raise CorruptStoreError(
                f"shard {entry.path} has {size} bytes, the manifest says {entry.bytes}: "
                "restore it from a copy",
                entry.path,
            )
        if not entry.pages and check != "never":
            with path.open("rb") as file:
                check_whole(root, entry, file.fileno())
        found = MappedShard(root, entry, check) if entry.pages else DecodedShard(path, entry)
        if entry.dtype != "int8":
            return found
        return QuantisedShard(found, lambda: _scales(root, entry), entry.path)
    except FileNotFoundError as error:
        raise CorruptStoreError(
            f"shard {entry.path} is missing from {root}: restore it from a copy", entry.path
        ) from error
    except OSError as error:
        raise CorruptStoreError(
            unread(f"shard {entry.path} of {root}", error), entry.path
        ) from error


def _scales(root: Path, entry: ShardEntry) -> np.ndarray:
    table = shard_columns.read_columns(root, entry, [schema.SCALE])
    return np.asarray(table[schema.SCALE].to_numpy())


class MappedShard:
    """A shard whose vectors are read from where they lie in the file."""

    def __init__(self, root: Path, entry: ShardEntry, check: Check = "lazy") -> None:
        dtype = np.dtype(entry.dtype)
        row_bytes = entry.width * dtype.itemsize
        self._starts = np.zeros(len(entry.pages) + 1, np.int64)
        np.cumsum([rows for _, rows in entry.pages], out=self._starts[1:])
        inside = all(
            offset >= 4 and rows >= 0 and offset + rows * row_bytes <= entry.bytes
            for offset, rows in entry.pages
        )
        if not inside or self._starts[-1] != entry.rows:
            raise CorruptStoreError(
                f"the manifest places vectors of {entry.path} outside the file", entry.path
            )
        checks = None
        with (root / entry.path).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            if check != "never":
                checks = VectorChecks(root, entry, file.fileno(), mapped, check)
        place = root, entry.path
        self.matrices = tuple(
            MappedMatrix(mapped, place, dtype, offset, rows, entry.width, checks, number)
            for number, (offset, rows) in enumerate(entry.pages)
        )
        """The row groups' vectors in row order."""

    def close(self) -> None:
        # Arrays handed out keep the map alive; it goes with the last of them.
        self.matrices = ()

    def view(self, start: int, stop: int) -> np.ndarray | None:
        group = int(np.searchsorted(self._starts, start, "right")) - 1
        if stop <= start or stop > self._starts[group + 1]:
            return None
        first = int(self._starts[group])
        self.matrices[group].check_run(start - first, stop - first)
        return self.matrices[group].vectors[start - first : stop - first]

    def run(self, start: int, out: np.ndarray) -> None:
        copy(self.pairs(start, out))

    def pairs(
        self, start: int, out: np.ndarray, *, own: bool = False
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return what :func:`copy` needs to fill ``out`` with the rows from ``start`` on.

        Where they are not in memory yet, the system is asked to read them.

        Args:
            start: number of the first row.
            out: of all of them.
            own: whether nobody sees ``out`` if they are damaged. What has not been read yet is
                read into it at once then.
        """
        found = []
        for group, matrix in enumerate(self.matrices):
            first = int(self._starts[group])
            low, high = max(start, first), min(start + len(out), first + len(matrix.vectors))
            if low < high:
                target = out[low - start : high - start]
                if own and matrix.reads(low - first, target):
                    continue
                rows = matrix.vectors[low - first : high - first]
                if _comes_from_disk(rows, np.array([0])):
                    matrix.prefetch(low - first, high - low)
                matrix.check_run(low - first, high - first)
                found.append((rows, target))
        return found

    def take(self, rows: np.ndarray) -> np.ndarray:
        first = self.matrices[0].vectors
        out = np.empty((len(rows), first.shape[1]), first.dtype)
        Gatherer(self.matrices, 0).take(rows, out)
        return out

    def fetch(self, rows: np.ndarray) -> None:
        pass  # the system reads ahead by itself


class MappedMatrix:
    """The vectors of one row group, over the map."""

    __slots__ = ("_map", "_number", "_offset", "_place", "_seen", "checks", "vectors")

    def __init__(
        self,
        mapped: mmap.mmap,
        place: tuple[Path, str],
        dtype: np.dtype[Any],
        offset: int,
        rows: int,
        width: int,
        checks: VectorChecks | None,
        number: int,
    ) -> None:
        self._map = mapped
        self._place = place
        self._seen = 0  # rows from here on were not read
        self._offset = offset
        self._number = number
        self.checks = checks
        """What its vectors are to be held against before use; None: nothing."""
        self.vectors = np.frombuffer(mapped, dtype, rows * width, offset).reshape(rows, width)
        """Read-only ``[rows, width]``; keeps the map open."""

    @property
    def address(self) -> int:
        """Where the first vector lies in memory."""
        return int(self.vectors.__array_interface__["data"][0])

    @property
    def block_rows(self) -> int:
        """Rows that have one checksum together."""
        assert self.checks is not None
        return self.checks.page(self._number).block_rows

    def check_run(self, first: int, stop: int, held: tuple[int, memoryview] | None = None) -> None:
        """Hold some rows against their checksums.

        Args:
            first: number of the first row.
            stop: number behind the last one.
            held: a part of the file in memory, and where it begins.

        Raises:
            DamageError: they are not what was written.
        """
        if self.checks is not None:
            step = self.block_rows
            blocks = np.arange(first // step, (stop - 1) // step + 1)
            self.checks.check(self._number, self.checks.unchecked(self._number, blocks), held)

    def reads(self, first: int, out: np.ndarray) -> bool:
        """Fill ``out`` with rows that were not read before, past the map; say whether it was.

        A map is made page by page when it is first touched, which takes longer than to copy, and
        what the system reads ahead for it comes in small pieces.

        Raises:
            DamageError: they are not what was written; ``out`` holds them nevertheless.
            CorruptStoreError: they cannot be read.
        """
        if first < self._seen or out.nbytes < _PAST_THE_MAP or out.dtype != self.vectors.dtype:
            return False
        self.expect()
        row_bytes = self.vectors.strides[0]
        start = self._offset + first * row_bytes
        data = out.reshape(-1).view(np.uint8).data
        spans = range(0, len(data), _SPAN)
        try:
            in_turn = [(data[at : at + _SPAN], start + at) for at in spans]
            share(lambda part: _read(self._place, *part), in_turn)
        except OSError:
            return False  # a map outlives its file's name, and needs no further descriptor
        self.check_run(first, first + len(out), (start, data))
        self._seen = first + len(out)
        return True

    def check_blocks(self, blocks: np.ndarray) -> None:
        """Hold some blocks against their checksums.

        Raises:
            DamageError: they are not what was written.
        """
        assert self.checks is not None
        self.checks.check(self._number, self.checks.unchecked(self._number, blocks))

    def expect(self) -> None:
        """Ask the system to read what the vectors are held against, and do not wait for it."""
        if self.checks is not None and not self.checks.are_read:
            low = self.checks.start - self.checks.start % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, low, len(self._map) - low)

    def prefetch(self, first: int, rows: int) -> None:
        """Ask the system to read some rows from disk, and do not wait for it."""
        row_bytes = self.vectors.strides[0]
        start = self._offset + first * row_bytes
        low = start - start % mmap.PAGESIZE
        self._map.madvise(mmap.MADV_WILLNEED, low, start + rows * row_bytes - low)


def _read(place: tuple[Path, str], data: memoryview, start: int) -> None:
    """Fill ``data`` from a position of a file of a store on.

    Raises:
        OSError: it cannot be opened.
        CorruptStoreError: it cannot be read, or ends before.
    """
    root, path = place
    descriptor = os.open(root / path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        done = 0
        if start <= _BEGINNING:
            # What is read from a file's first byte on is taken for reading in order at once.
            os.preadv(descriptor, [bytearray(start)], 0)
        # Small pieces first: then the system takes this for reading in order, and reads ahead in
        # large pages while these are copied. Asked for all at once it does neither.
        for size in (*_FIRST_PIECES, len(data)):
            stop = min(len(data), done + size)
            while done < stop:
                count = os.preadv(descriptor, [data[done:stop]], start + done)
                if not count:
                    raise OSError("it ends before its vectors do")
                done += count
    except OSError as error:
        raise CorruptStoreError(unread(f"shard {path} of {root}", error), path) from error
    finally:
        os.close(descriptor)


def _comes_from_disk(memory: np.ndarray, rows: np.ndarray) -> bool:
    """Touch some rows and say whether that took as long as reading from disk."""
    start = time.perf_counter()
    _ = memory[rows]
    return time.perf_counter() - start > _FROM_DISK_SECONDS * (1 + len(rows))


def copy(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Copy the first matrix of each pair into the second, with several threads.

    Copying from the map is faster than ``preadv`` where the file is in the page cache, and
    no slower where it is not. Halves are widened where the second matrix is float32.
    """

    def piece(part: tuple[np.ndarray, np.ndarray]) -> None:
        source, target = part
        if source.dtype == np.float16 and target.dtype == np.float32 and target.flags.c_contiguous:
            floats.widen(source, target)
        else:
            np.copyto(target, source)

    parts = []
    for source, target in pairs:
        step = max(1, _PIECE // (target.shape[1] * target.itemsize))
        parts += [
            (source[start : start + step], target[start : start + step])
            for start in range(0, len(source), step)
        ]
    share(piece, parts)


class Gatherer:
    """Picks rows of several mapped matrices as if they were one.

    Args:
        matrices: at least one, all of one type and width.
        start: number of the first matrix's first row.
    """

    def __init__(self, matrices: Sequence[MappedMatrix], start: int) -> None:
        self._matrices = tuple(matrices)  # held, so that the maps stay
        counts = [len(matrix.vectors) for matrix in matrices]
        self._starts = np.cumsum([start, *counts[:-1]], dtype=np.int64)
        first = matrices[0].vectors
        self.width = first.shape[1]
        self.dtype: schema.VectorType = "float16" if first.dtype == np.float16 else "float32"
        self._row_bytes = self.width * first.itemsize
        addresses = np.array([matrix.address for matrix in matrices], np.int64)
        low, high = int(addresses.min()), int(addresses.max())
        unit = int(np.gcd.reduce([self._row_bytes, *(addresses - low).tolist()]))
        self._bases = (addresses - low) // unit
        self._step = self._row_bytes // unit
        units = (high - low) // unit + max(counts) * self._step
        # As units side by side, which `take` wants and is faster with; where those are too
        # small for that, as whole rows that overlap.
        self._in_units = self._step <= _UNITS
        if not self._in_units:
            units -= self._step - 1
        size = unit if self._in_units else self._row_bytes
        self._memory: np.ndarray = np.asarray(_AddressSpace(low, units, unit, size))
        self._checks = None
        if any(matrix.checks is not None for matrix in matrices):
            self._checks = _Blocks(self._matrices, self._row_bytes)

    def can_fill(self, out: np.ndarray) -> bool:
        """Say whether :meth:`take` can fill ``out``."""
        return out.shape[1:] == (self.width,) and out.dtype == self.dtype and out.flags.c_contiguous

    def take(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Copy the given rows into ``out``.

        Args:
            rows: row numbers in any order, int64.
            out: C-contiguous ``[len(rows), width]`` of the matrices' type.
        """
        owner = np.searchsorted(self._starts, rows, "right") - 1
        local = rows - self._starts[owner]
        where = self._bases[owner] + local * self._step
        if len(rows) > _PROBE and _comes_from_disk(self._memory, where[:_PROBE]):
            # Touched one by one they would come one by one: many at a time is 15 times as fast.
            step = 1 if self._checks is None else block_rows(self._row_bytes)
            for number, row in zip(owner.tolist(), (local // step * step).tolist(), strict=True):
                matrix = self._matrices[number]
                matrix.prefetch(row, min(step, len(matrix.vectors) - row))
            if self._checks is not None:
                for number in np.unique(owner).tolist():
                    self._matrices[number].expect()
        if self._checks is not None:
            self._checks.check(owner, local)
        target = out.view(np.uint8)
        if self._in_units:
            if self._step > 1:
                where = (where[:, None] + np.arange(self._step)).reshape(-1)
            target = target.reshape(-1, self._memory.shape[1])
            np.take(self._memory, where, axis=0, out=target, mode="clip")
            return
        block = max(1, _BLOCK // self._row_bytes)
        for start in range(0, len(where), block):
            target[start : start + block] = self._memory[where[start : start + block]]


class _Blocks:
    """Which blocks of several matrices were found sound, side by side: one look for many rows."""

    def __init__(self, matrices: Sequence[MappedMatrix], row_bytes: int) -> None:
        self._matrices = matrices
        step = block_rows(row_bytes)
        counts = [-(-len(matrix.vectors) // step) for matrix in matrices]
        self._first = np.cumsum([0, *counts[:-1]], dtype=np.int64)
        self._step = np.full(len(matrices), step, np.int64)
        self._sound = np.zeros(sum(counts), bool)
        self._always = any(m.checks is not None and m.checks.always for m in matrices)

    def check(self, owner: np.ndarray, local: np.ndarray) -> None:
        """Hold rows against their checksums: numbers of matrices, and rows within these.

        Raises:
            DamageError: they are not what was written.
        """
        left = ~self._sound[self._first[owner] + local // self._step[owner]]
        if not left.any():
            return
        owner, local = owner[left], local[left]
        order = np.argsort(owner, kind="stable")
        numbers, starts = np.unique(owner[order], return_index=True)
        for number, rows in zip(numbers.tolist(), np.split(local[order], starts[1:]), strict=True):
            matrix = self._matrices[number]
            self._step[number] = matrix.block_rows  # known from the first reading on
            blocks = np.unique(rows // self._step[number])
            matrix.check_blocks(blocks)
            if not self._always:
                self._sound[self._first[number] + blocks] = True


class _AddressSpace:
    """All memory from one address on as rows, for NumPy to pick some of them.

    One indexing call then reads from any number of maps, which is three times as fast as
    one call per map. Most of these rows lie between the maps and must not be touched: the
    only ones ever picked lie in matrices that whoever picks holds.
    """

    def __init__(self, address: int, rows: int, stride: int, row_bytes: int) -> None:
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "data": (address, True),
            "shape": (rows, row_bytes),
            "strides": (stride, 1),
        }
