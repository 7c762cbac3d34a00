"""A pool of buffers: the memory of freed matrices is kept for the next ones.

The system hands out fresh memory page by page and zeroes each page, which for a large matrix
takes as long as copying the vectors into it. So reading layer after layer, each into the
memory of the one before, is about twice as fast.
"""

from __future__ import annotations

import weakref
from itertools import count

import numpy as np

from actstore import schema

KEPT_BYTES = 128 << 20
"""Bytes of unused memory that one snapshot holds on to at most, until it is closed."""
_SMALL = 1 << 20


class Memory:
    """Makes matrices, preferably out of memory that earlier ones have left."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        # Blocks come back at any moment and in any thread, even while another is being
        # taken: hence single steps on a dictionary, and no lock.
        self._free: dict[int, np.ndarray] = {}
        self._numbers = count()

    def matrix(self, rows: int, width: int, dtype: schema.VectorType) -> np.ndarray:
        """Return an uninitialized matrix ``[rows, width]``."""
        size = rows * width * np.dtype(dtype).itemsize
        if size < _SMALL:
            return np.empty((rows, width), dtype)
        block = self._take(size)
        if block is None:
            block = np.empty(size, np.uint8)
        # A memoryview ends the chain of bases: whatever is cut out of the matrix, however
        # often, keeps `lent` alive, and not the block behind it.
        lent = np.frombuffer(block.data, dtype, rows * width)
        weakref.finalize(lent, self._give_back, block).atexit = False
        return lent.reshape(rows, width)

    def close(self) -> None:
        """Let go of what is unused, and of what comes back from now on."""
        self._kept_bytes = 0
        self._free.clear()

    def _take(self, size: int) -> np.ndarray | None:
        fitting = [
            (block.size, number)
            for number, block in list(self._free.items())
            if size <= block.size <= 2 * size
        ]
        return self._free.pop(min(fitting)[1], None) if fitting else None

    def _give_back(self, block: np.ndarray) -> None:
        if block.size > self._kept_bytes:
            return
        self._free[next(self._numbers)] = block
        oldest_first = list(self._free.items())
        excess = sum(block.size for _, block in oldest_first) - self._kept_bytes
        for number, old in oldest_first:
            if excess > 0 and self._free.pop(number, None) is not None:
                excess -= old.size
