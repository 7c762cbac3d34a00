"""One shard file: written row by row in bounded memory, read back through a memory map."""

from __future__ import annotations

import contextlib
import errno
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from isal import isal_zlib

from actstore import schema
from actstore.errors import CommitError
from actstore.storage import floats, pages, quantised, writeback
from actstore.storage.checksums import BlockSums, joined
from actstore.storage.disk_errors import named
from actstore.storage.file_hashes import of_written
from actstore.storage.manifest import PoolingRegion, Rounding
from actstore.storage.metadata_table import (
    Fragment,
    in_order,
    metadata_table,
    pools_of,
    with_scales,
)
from actstore.storage.pages import VectorPage
from actstore.storage.shard_tail import MetadataColumns, append_metadata, write_at
from actstore.storage.threads import Task, disk, give_up, in_parallel, submit, wait

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_BYTES = 32 << 20
"""Vector bytes per row group: readers that do not map cannot split a page."""
_CHUNK = 1 << 20
_FEW_ROWS = 1_000
_FEW_BYTES = 256 << 10
"""Bytes of a file that a sync takes no longer for than asking beforehand."""
_OPEN_AT_ONCE = 128
"""Completed shards that are flushed together, while as many are completed: a process may have
1,024 files open."""
_WORTH = 16
"""Vectors are moved in the file if that saves at least one part in so many of their bytes."""
_SYNC_BYTES = 4 << 20
"""Bytes after which the disk is asked to take what was placed."""


class Written(NamedTuple):
    """What a finished shard file is, in the words of a manifest's entry."""

    rows: int
    bytes: int
    sha256: str
    pages: tuple[tuple[int, int], ...]
    """Offset of the values and number of rows, per row group."""
    pools: tuple[PoolingRegion, ...]
    """Pooling and region of its rows, each pair once."""
    tail: str
    """SHA-256 of all that stands behind the vectors."""
    rounding: Rounding | None = None
    """What was lost on the way into its type."""


class ShardWriter:
    """Writes one shard file.

    Vectors go to their final place in the file at once (in chunks of a MiB); each row
    group's page header, levels and checksum are filled in at the end, when its row count
    is known. So memory stays bounded while any number of shards grow side by side.
    """

    def __init__(self, path: Path, *, width: int, dtype: schema.StoredType) -> None:
        self.path = path
        self.rows = 0
        self.rounding: Rounding | None = None
        """What the rows that were appended lost on the way into the shard's type."""
        self.row_bytes = width * np.dtype(dtype).itemsize
        self.width = width
        self.dtype: schema.StoredType = dtype
        # A page counts its values in 31 bits.
        most = ((1 << 31) - 1) // (4 * width)
        self._group_rows = max(1, min(GROUP_BYTES // self.row_bytes, most))
        self._prefix = pages.prefix_space(self._group_rows, width, dtype)
        self._fragments: deque[Fragment] = deque()
        self._flushed = 0  # rows whose metadata is in the metadata file
        self._placed = 0  # rows whose vectors are in the shard file
        self._buffer = np.empty((0, width), dtype)  # what follows them
        self._norms: deque[np.ndarray] = deque()  # of the rows placed and not flushed
        self._scales = quantised.RowScales() if dtype == "int8" else None
        self._sums = BlockSums(self.row_bytes, self._group_rows)
        self._descriptor = -1
        self._closed = 0  # bytes moved to close the gap before the values
        self._unsynced = 0  # bytes placed since the disk was last asked to take them
        self._asked: list[Task[None]] = []
        self._columns: MetadataColumns | None = None
        self._pools: set[PoolingRegion] = set()
        self.metadata: pa.Table | None = None
        """All rows' metadata, as it is in the completed file, of a shard of few rows."""

    def append(
        self, vectors: np.ndarray, fragment: Fragment, scales: np.ndarray | None = None
    ) -> None:
        """Add ``vectors`` ``[n, width]`` of the shard's dtype and their metadata.

        The vectors are copied, so that a few rows do not keep a large tensor alive.

        Args:
            vectors: as they are stored.
            fragment: their metadata.
            scales: of vectors of int8, float32 ``[n]``.
        """
        count = len(vectors)
        waiting = self.waiting
        if self._scales is not None:
            assert scales is not None
            self._scales.append(scales)
        self.rows += count
        self._fragments.append(fragment)
        if (waiting + count) * self.row_bytes > _CHUNK:
            self._place(self._buffer[:waiting], map)
            waiting = 0
            if count * self.row_bytes >= _CHUNK:
                self._place(np.ascontiguousarray(vectors), in_parallel)
                return
        if waiting + count > len(self._buffer):
            rows = min(max(2 * len(self._buffer), waiting + count), _CHUNK // self.row_bytes)
            grown = np.empty((rows, self.width), self.dtype)
            grown[:waiting] = self._buffer[:waiting]
            self._buffer = grown
        self._buffer[waiting : waiting + count] = vectors

    @property
    def waiting(self) -> int:
        """Rows whose vectors are in memory still."""
        return self.rows - self._placed

    def place(self, *, keep: bool = False) -> None:
        """Write the vectors in memory to their place in the file.

        Args:
            keep: keep the buffer for the rows to come.
        """
        # One after the other: this may itself run in one of the pool's threads.
        self._place(self._buffer[: self.waiting], map)
        if not keep:
            self._buffer = np.empty((0, self.width), self.dtype)

    def truncate(self, rows: int) -> None:
        """Forget every row from ``rows`` on; they must not have been settled."""
        excess = self.rows - rows
        while excess > 0:
            last = self._fragments.pop()
            if len(last.rows) > excess:
                kept = last.rows[: len(last.rows) - excess]
                self._fragments.append(last._replace(rows=kept))
            excess -= len(last.rows)
        excess = self._placed - rows
        while excess > 0:
            norms = self._norms.pop()
            if len(norms) > excess:
                self._norms.append(norms[: len(norms) - excess])
            excess -= len(norms)
        if rows < self._placed:
            self._placed = rows
            self._sums.truncate(rows, self._checksum)
        if self._scales is not None:
            self._scales.truncate(rows)
        self.rows = rows

    @property
    def can_settle(self) -> bool:
        """Whether a row group is full."""
        return self.rows - self._flushed >= self._group_rows

    def settle(self) -> None:
        """Take all rows so far as final, so that full row groups' metadata can be let go."""
        while self.can_settle:
            self._flush_metadata(self._group_rows)

    def vectors(self, rows: Sequence[int]) -> np.ndarray:
        """Read back rows that were appended, ``[n, width]``, as they are handed out."""
        out = np.empty((len(rows), self.width), self.dtype)
        with named(self.path):
            for slot, row in enumerate(rows):
                if row < self._placed:
                    os.preadv(self._descriptor, [out[slot]], self._offset(row))
                else:
                    out[slot] = self._buffer[row - self._placed]
        return out if self._scales is None else quantised.restore(out, self._scales.at(rows))

    def same(self, rows: Sequence[int], vectors: np.ndarray) -> np.ndarray:
        """Compare vectors with rows that were appended, bit for bit: bool ``[n]``."""
        return floats.same_bits(vectors, self.vectors(rows))

    def fragment(self, row: int) -> tuple[Fragment, int] | None:
        """Return the metadata of a row that is not settled yet, and its place in it."""
        at = row - self._flushed
        if at < 0:
            return None
        for fragment in self._fragments:
            if at < len(fragment.rows):
                return fragment, fragment.rows[at]
            at -= len(fragment.rows)
        return None

    def finish(self) -> Written:
        """Complete the file, flush it to disk and return what it is.

        Raises:
            as :meth:`complete` and :meth:`sync`.
        """
        written = self.complete()
        self.sync()
        return written

    def sync(self) -> None:
        """Flush the completed file to disk, and close it.

        Raises:
            OSError: the disk failed.
        """
        os.fsync(self._descriptor)
        self._close()

    def complete(self) -> Written:
        """Complete the file and return what it is; it is not surely on the disk yet.

        Raises:
            OSError: the disk is full or failed; nothing refers to the file yet.
            CommitError: an interrupt came at such a moment that rows lack their metadata.
        """
        if self._placed == 0:  # everything still in memory: no space need be reserved
            self._group_rows = min(self._group_rows, self.rows)
            self._prefix = pages.prefix_space(self._group_rows, self.width, self.dtype)
            self._sums = BlockSums(self.row_bytes, self._group_rows)
        self.place()
        described = sum(len(fragment.rows) for fragment in self._fragments)
        if not described == sum(map(len, self._norms)) == self.rows - self._flushed:
            raise CommitError(
                f"{self.rows - self._flushed} rows came with metadata for {described}, because "
                "they were interrupted; nothing was committed, run it again"
            )
        while self._flushed < self.rows:
            self._flush_metadata(min(self._group_rows, self.rows - self._flushed))
        assert self._columns is not None
        if self.rows < self._group_rows:
            self._close_gap()
        groups, sums = self._write_pages()
        append_metadata(self._descriptor, self._columns, groups, sums, self.width, self.dtype)
        if self._unsynced > _FEW_BYTES:
            self._ask_disk()
        with named(self.path):
            hashes = of_written(self._descriptor, groups[-1].end)
        placed = tuple((page.values, page.rows) for page in groups)
        pools = in_order(self._pools)
        return Written(
            self.rows, hashes.bytes, hashes.sha256, placed, pools, hashes.tail, self.rounding
        )

    def abort(self) -> None:
        """Remove everything written."""
        if self._columns is not None:
            self._columns.abort()
        self._close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        wait(self._asked)
        self._asked.clear()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _ask_disk(self) -> None:
        """Let the disk begin with what was placed, so that there is less to wait for later."""
        self._asked.append(submit(disk, writeback.begin, self._descriptor))
        self._unsynced = 0

    def _offset(self, row: int) -> int:
        """Return where the values of ``row`` start."""
        group, within = divmod(row, self._group_rows)
        stride = pages.align(self._prefix + self._group_rows * self.row_bytes)
        return pages.ALIGNMENT + group * stride + self._prefix + within * self.row_bytes

    def _close_gap(self) -> None:
        """Move the values of a row group that is not full to where those of so few rows belong.

        Before them is room for the levels of all rows that a group can have: of narrow vectors
        that may be more than the values take themselves. An interrupted move goes on where it
        was.
        """
        prefix = pages.prefix_space(self.rows, self.width, self.dtype)
        gap = self._prefix - prefix
        size = self._placed * self.row_bytes
        if gap * _WORTH < size:
            return
        start = self._offset(0)
        with named(self.path):
            while self._closed < size:
                # No more than the gap: what is not moved yet stays whole.
                few = min(_CHUNK, gap, size - self._closed)
                data = os.pread(self._descriptor, few, start + self._closed)
                if not data:
                    raise OSError(errno.EIO, "what was written is not there any more")
                write_at(self._descriptor, memoryview(data), start - gap + self._closed)
                self._closed += len(data)
            os.ftruncate(self._descriptor, start - gap + size)
        self._prefix = prefix

    def _place(
        self, vectors: np.ndarray, run: Callable[..., Iterable[list[tuple[int, int]]]]
    ) -> None:
        """Write the rows that follow those already placed.

        Args:
            vectors: the rows, C-contiguous.
            run: ``map``, or one that works in several threads.
        """
        if self._descriptor < 0:
            self._descriptor = os.open(
                self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644
            )
        norms = np.empty(len(vectors), np.float32)
        norms_of = floats.norms if self._scales is None else quantised.norms
        step = max(1, 2 * _CHUNK // self.row_bytes)
        pieces: list[tuple[int, int]] = []
        done = 0
        while done < len(vectors):
            room = self._group_rows - (self._placed + done) % self._group_rows
            stop = min(done + step, done + room, len(vectors))
            pieces.append((done, stop))
            done = stop

        def write(piece: tuple[int, int]) -> list[tuple[int, int]]:
            block = vectors[piece[0] : piece[1]]
            norms_of(block, out=norms[piece[0] : piece[1]])
            data = block.data.cast("B")
            write_at(self._descriptor, data, self._offset(self._placed + piece[0]))
            return self._sums.of(data, self._placed + piece[0])

        for some in list(run(write, pieces)):  # all of them, or none counts
            self._sums.extend(some)
        self._norms.append(norms)
        self._placed += len(vectors)
        self._unsynced += vectors.nbytes
        if self._unsynced >= _SYNC_BYTES:
            self._ask_disk()

    def _flush_metadata(self, rows: int) -> None:
        if self._placed < self._flushed + rows:
            self.place()
        taken = []
        missing = rows
        while missing > 0:
            fragment = self._fragments.popleft()
            if len(fragment.rows) > missing:
                self._fragments.appendleft(fragment._replace(rows=fragment.rows[missing:]))
                fragment = fragment._replace(rows=fragment.rows[:missing])
            taken.append(fragment)
            missing -= len(fragment.rows)
        norms = self._take_norms(rows)
        if self._scales is None:
            table = metadata_table(taken, norms)
        else:
            scales = self._scales.of(self._flushed, self._flushed + rows)
            with np.errstate(over="ignore"):
                table = with_scales(metadata_table(taken, norms * scales), scales)
        self._pools |= pools_of(table)
        if rows == self.rows <= _FEW_ROWS:
            self.metadata = table
        if self._columns is None:
            all_there_is = rows == self.rows
            path = None if all_there_is else self.path.with_suffix(".metadata")
            self._columns = MetadataColumns(path)
        self._columns.add(table)
        self._flushed += rows

    def _take_norms(self, rows: int) -> np.ndarray:
        """Remove and return the norms of the next rows to flush."""
        joined = np.concatenate(list(self._norms))
        self._norms = deque([joined[rows:]])
        return joined[:rows]

    def _write_pages(self) -> tuple[list[VectorPage], list[int]]:
        """Put header and levels before each row group's values; return the blocks' checksums."""
        found = []
        every: list[int] = []
        for group, (rows, sums) in enumerate(self._sums.pages()):
            values = self._offset(group * self._group_rows)
            end = values + rows * self.row_bytes
            lead = pages.lead(rows, self.width, self.dtype)
            filling = bytes(pages.padding(rows, self.width, self.dtype))
            crc = joined(isal_zlib.crc32(lead), sums, rows, self.row_bytes)
            crc = isal_zlib.crc32(filling, crc)
            body = len(lead) + end - values + len(filling)
            head = pages.head(rows, self.width, self.dtype, body, crc)
            write_at(self._descriptor, memoryview(head), values - len(head))
            write_at(self._descriptor, memoryview(filling), end)
            found.append(VectorPage(values - len(head), values, rows, end))
            every += sums
        return found, every

    def _checksum(self, start: int, stop: int) -> int:
        """Return the checksum of the rows of a block, read back from the file."""
        size = (stop - start) * self.row_bytes
        with named(self.path):
            return isal_zlib.crc32(os.pread(self._descriptor, size, self._offset(start)))


def finished(shards: Sequence[ShardWriter]) -> list[Written]:
    """Complete shards and flush them to disk, many at a time: then the disk flushes once.

    While the disk flushes some, the next are completed.
    """
    files: list[Written] = []
    flushing: list[Task[None]] = []
    try:
        for first in range(0, len(shards), _OPEN_AT_ONCE):
            some = shards[first : first + _OPEN_AT_ONCE]
            files += in_parallel(ShardWriter.complete, some)
            for future in flushing:
                future.result()
            flushing.clear()
            for shard in some:  # an interrupt may come between two of them
                flushing.append(submit(disk, shard.sync))
        for future in flushing:
            future.result()
    finally:  # whatever happens, no thread works on
        give_up(flushing)
    return files
