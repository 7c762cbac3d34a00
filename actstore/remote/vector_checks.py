"""Vectors from a place that does not vouch for its files: whole blocks against their checksums."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from isal import isal_zlib

from actstore.errors import ActstoreError
from actstore.storage import checksums
from actstore.storage.manifest import ShardEntry


class RemoteChecks:
    """Checks the rows of one shard as far as they make up whole blocks of 16 KiB.

    To check the others, their neighbours would have to travel too, many times what was asked for.

    Args:
        entry: what the manifest says of the shard; it has a tail.
        tail: returns all that stands behind the vectors, held against the manifest.
        damaged: makes the error, and forgets what is kept of the file.
    """

    def __init__(
        self,
        entry: ShardEntry,
        tail: Callable[[], bytes],
        damaged: Callable[[str], ActstoreError],
    ) -> None:
        self._entry = entry
        self._tail = tail
        self._damaged = damaged
        self._lock = threading.Lock()
        self._known: list[np.ndarray] | None = None
        self._read = False
        self._step = checksums.block_rows(entry.row_bytes)
        counts = [rows for _, rows in entry.pages]
        self._starts = np.concatenate([[0], np.cumsum(counts)])

    def check(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Check rows.

        Args:
            rows: their numbers in the shard, ascending and each once: int64 ``[n]``.
            vectors: ``[n, width]``.

        Raises:
            ActstoreError: names the rows that are not what was written.
        """
        page = np.searchsorted(self._starts, rows, "right") - 1
        within = rows - self._starts[page]
        block = within // self._step
        begins = np.flatnonzero(np.diff(page, prepend=-1) | np.diff(block, prepend=-1))
        ends = np.append(begins[1:], len(rows))
        left = self._starts[page[begins] + 1] - self._starts[page[begins]]
        sizes = np.minimum(self._step, left - block[begins] * self._step)
        whole = np.flatnonzero(ends - begins == sizes)
        if not len(whole):
            return
        sums = self._sums()
        if sums is None:
            return
        for number in whole.tolist():
            first, last = int(begins[number]), int(ends[number])
            found = isal_zlib.crc32(np.ascontiguousarray(vectors[first:last]).view(np.uint8).data)
            if found != int(sums[int(page[first])][int(block[first])]):
                raise self._damaged(
                    f"the vectors of its rows {rows[first]} to {rows[last - 1]} are not those that "
                    "were written (CRC-32)"
                )

    def _sums(self) -> list[np.ndarray] | None:
        with self._lock:
            if not self._read:
                self._known = checksums.table_in_tail(
                    self._tail(), self._entry.row_bytes, self._entry.pages
                )
                self._read = True
            return self._known
