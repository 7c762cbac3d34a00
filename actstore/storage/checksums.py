"""Checksums of vectors, block by block: a few rows are checked without reading a whole page.

A Parquet page has one CRC-32, and a page of vectors has up to 32 MB. Behind the vectors of a
shard stands therefore a table that no other reader knows of: the CRC-32 of each block of
16 KiB, or of each row where that is longer. The table belongs to what the manifest calls the
shard's tail, whose SHA-256 it names. Where a shard has no such table, its pages are the blocks.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
from isal import isal_zlib

from actstore.storage import pages
from actstore.storage.pages import VectorPage

Check = Literal["lazy", "always", "never"]
"""When vectors are held against their checksums: when a process first reads them, at each
reading, or not at all."""
BLOCK_BYTES = 16 << 10
_MAGIC = b"ACTSUMS1"
_HEAD = struct.Struct("<8sII")
_CHUNK = 1 << 20


def block_rows(row_bytes: int) -> int:
    """Return how many rows a block has; each row group begins with a new one."""
    return max(1, BLOCK_BYTES // row_bytes)


class BlockSums:
    """Checksums of the rows of a shard that grows.

    Args:
        row_bytes: bytes of a row.
        group_rows: rows of each row group but the last.
    """

    def __init__(self, row_bytes: int, group_rows: int) -> None:
        self.rows = 0
        self._row_bytes = row_bytes
        self._group_rows = group_rows
        self._block_rows = block_rows(row_bytes)
        self._sums = array("I")
        self._part = 0  # of the rows behind the last whole block

    def of(self, data: memoryview, row: int) -> list[tuple[int, int]]:
        """Return rows and checksum of each part of ``data`` that lies in one block.

        Args:
            data: rows of one row group.
            row: number of the first of them.
        """
        size = self._row_bytes
        rows = len(data) // size
        first = self._block_rows - row % self._group_rows % self._block_rows
        bounds = [0, *range(first, rows, self._block_rows), rows]
        crc32 = isal_zlib.crc32  # short blocks: a layer of 8 MB has 500
        return [
            (stop - start, crc32(data[start * size : stop * size]))
            for start, stop in pairwise(bounds)
        ]

    def extend(self, parts: Sequence[tuple[int, int]]) -> None:
        """Take note of the next parts of one row group, as :meth:`of` returns them."""
        if parts and self.rows % self._group_rows % self._block_rows:
            self.add(*parts[0])
            parts = parts[1:]
        whole = parts[:-1]
        self._sums.extend([crc for _, crc in whole])
        self.rows += len(whole) * self._block_rows
        if parts:
            self.add(*parts[-1])

    def add(self, rows: int, crc: int) -> None:
        """Take note of the next rows, all of one block."""
        within = self.rows % self._group_rows
        if within % self._block_rows:
            crc = isal_zlib.crc32_combine(self._part, crc, rows * self._row_bytes)
        within += rows
        self.rows += rows
        if within % self._block_rows and within < self._group_rows:
            self._part = crc
        else:
            self._sums.append(crc)

    def truncate(self, rows: int, read: Callable[[int, int], int]) -> None:
        """Forget every row from ``rows`` on; ``read`` gives the checksum of the rows of a span."""
        group, within = divmod(rows, self._group_rows)
        left = within % self._block_rows
        del self._sums[group * self._per_group + within // self._block_rows :]
        self._part = read(rows - left, rows) if left else 0
        self.rows = rows

    def pages(self) -> Iterator[tuple[int, list[int]]]:
        """Yield rows and checksums of each row group; there are no rows to come."""
        if self.rows % self._group_rows % self._block_rows:
            self._sums.append(self._part)
        for group, first in enumerate(range(0, self.rows, self._group_rows)):
            start = group * self._per_group
            rows = min(self._group_rows, self.rows - first)
            yield rows, self._sums[start : start + -(-rows // self._block_rows)].tolist()

    @property
    def _per_group(self) -> int:
        return -(-self._group_rows // self._block_rows)


def joined(crc: int, sums: list[int], rows: int, row_bytes: int) -> int:
    """Return the checksum of some bytes, whose own is ``crc``, and the blocks behind them."""
    step = block_rows(row_bytes)
    for number, block in enumerate(sums):
        size = min(step, rows - number * step) * row_bytes
        crc = isal_zlib.crc32_combine(crc, block, size)
    return crc


def table(sums: list[int], row_bytes: int) -> bytes:
    """Return the table of all blocks of a shard."""
    head = _HEAD.pack(_MAGIC, block_rows(row_bytes), len(sums))
    return head + np.array(sums, "<u4").tobytes()


def read_table(
    memory: np.ndarray, row_bytes: int, placed: tuple[tuple[int, int], ...]
) -> list[np.ndarray] | None:
    """Return the checksums of each row group's blocks; None where there is no such table.

    Args:
        memory: the whole file, uint8.
        row_bytes: bytes of a row.
        placed: offset and rows of each row group's vectors.
    """
    offset, rows = placed[-1]
    return _table_at(memory, pages.align(offset + rows * row_bytes), row_bytes, placed)


def table_in_tail(
    tail: bytes, row_bytes: int, placed: tuple[tuple[int, int], ...]
) -> list[np.ndarray] | None:
    """Return the same of all that stands behind the vectors, without these."""
    end = max(offset + rows * row_bytes for offset, rows in placed)
    memory = np.frombuffer(tail, np.uint8)
    return _table_at(memory, pages.align(end) - end, row_bytes, placed)


def _table_at(
    memory: np.ndarray, start: int, row_bytes: int, placed: tuple[tuple[int, int], ...]
) -> list[np.ndarray] | None:
    step = block_rows(row_bytes)
    counts = [-(-rows // step) for _, rows in placed]
    head = memory[start : start + _HEAD.size].tobytes()
    if head != _HEAD.pack(_MAGIC, step, sum(counts)):
        return None
    sums = np.frombuffer(memory, "<u4", sum(counts), start + _HEAD.size)
    return np.split(sums.copy(), np.cumsum(counts)[:-1])


def of_file(descriptor: int, groups: list[VectorPage], row_bytes: int) -> list[int]:
    """Return the checksums of all blocks of a shard, read from its file."""
    found = []
    for page in groups:
        sums = BlockSums(row_bytes, page.rows)
        step = max(1, _CHUNK // row_bytes)
        for first in range(0, page.rows, step):
            size = min(step, page.rows - first) * row_bytes
            data = os.pread(descriptor, size, page.values + first * row_bytes)
            sums.extend(sums.of(memoryview(data), first))
        found += [crc for _, some in sums.pages() for crc in some]
    return found


def page_sum(
    memory: np.ndarray, offset: int, rows: int, width: int, item_size: int
) -> tuple[int, int] | None:
    """Return where a page's levels begin, and the CRC-32 of them and the values behind them.

    None where what stands before the values is not what this program writes there.

    Args:
        memory: the whole file, uint8.
        offset: of the values.
        rows: of the page.
        width: of the vectors.
        item_size: bytes of a value.
    """
    level_bytes = len(pages.levels(rows, width))
    start = offset - level_bytes
    if start < 0:
        return None
    before = memory[max(0, start - pages.LONGEST_HEADER) : start].tobytes()
    crc = pages.crc_of_header(before, rows, width, level_bytes + rows * width * item_size)
    return None if crc is None else (start, crc)
