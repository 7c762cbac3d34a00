"""Reads the vectors of a batch: from the map row by row, or out of windows fetched whole."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore import schema
from actstore.storage import floats
from actstore.storage.memory import Memory
from actstore.training.order import Blocks, Ordering
from actstore.training.prefetch import window_pool

if TYPE_CHECKING:
    from actstore.storage.snapshot import Snapshot
    from actstore.training.normalisation import Normalisation

BLOCK_BYTES = 1 << 20
"""Vectors in a block that travels as one, where none is asked for."""
WINDOW_BYTES = 64 << 20
"""Vectors that are in memory at a time and mixed with one another."""
_WINDOWS = 3
"""Windows held: a batch may need two, and the next is on its way."""


class Window(NamedTuple):
    """Rows of one window."""

    members: np.ndarray
    """Places in the selection, int64."""
    vectors: np.ndarray
    """As stored, ``[len(members), width]``."""


class Vectors:
    """Makes matrices of the wanted type, normalised if that is wanted.

    Args:
        snapshot: where the vectors are.
        width: of each.
        dtype: of what is returned; float16 only where all of them are stored so.
        normalisation: applied to each vector; the result is then float32.
        pinned: in memory that a GPU copies from directly.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        width: int,
        dtype: schema.VectorType,
        normalisation: Normalisation | None = None,
        pinned: bool = False,
    ) -> None:
        self._snapshot = snapshot
        self.width = width
        self.dtype: schema.VectorType = dtype
        self.normalisation = normalisation
        self._pinned = pinned
        self._memory = Memory()

    def gather(self, row_ids: np.ndarray) -> np.ndarray:
        """Return the vectors of rows of the store."""
        if self._pinned and self.normalisation is None:
            _, stored = self._snapshot.shape(row_ids) if len(row_ids) else (0, self.dtype)
            if stored == self.dtype:
                return self._snapshot.gather(row_ids, self._matrix(len(row_ids)))
        return self.finish(self._snapshot.gather(row_ids))

    def pick(self, stored: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Return some rows of a matrix that was read."""
        return self.finish(stored[places])

    def finish(self, stored: np.ndarray) -> np.ndarray:
        """Return vectors as they are stored in the wanted form."""
        if self.normalisation is None and stored.dtype == self.dtype and not self._pinned:
            return stored
        out = self._matrix(len(stored))
        if stored.dtype == out.dtype:
            np.copyto(out, stored)
        else:
            floats.widen(stored, out)
        if self.normalisation is not None:
            self.normalisation.apply(out)
        return out

    def _matrix(self, rows: int) -> np.ndarray:
        if not self._pinned:
            return self._memory.matrix(rows, self.width, self.dtype)
        import torch

        # Torch keeps pinned memory that was let go, and hands it out again.
        dtype = torch.float16 if self.dtype == "float16" else torch.float32
        return np.asarray(torch.empty((rows, self.width), dtype=dtype, pin_memory=True).numpy())


class Reader:
    """Reads any run of the order of a pass.

    Args:
        snapshot: where the vectors are.
        rows: the selection's row numbers, int64.
        ordering: how each pass is ordered.
        vectors: makes the matrices.
        end: number in a pass's order from which on nothing will be asked for.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        rows: np.ndarray,
        ordering: Ordering,
        vectors: Vectors,
        *,
        end: int,
    ) -> None:
        self._snapshot = snapshot
        self._rows = rows
        self._ordering = ordering
        self._vectors = vectors
        self._end = end
        self._windows: OrderedDict[tuple[int, int], Future[Window]] = OrderedDict()
        self._lock = Lock()

    def read(self, epoch: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return which places of the selection come as ``start`` to ``stop``, and their vectors."""
        order = self._ordering.of(len(self._rows), epoch)
        if not isinstance(order, Blocks):
            chosen = order.at(start, stop)
            return chosen, self._vectors.gather(self._rows[chosen])
        places: list[np.ndarray] = []
        parts: list[np.ndarray] = []
        for number in range(start // order.window, -(-stop // order.window)):
            low, high = number * order.window, (number + 1) * order.window
            mixed = order.mixed(number, max(start, low), min(stop, high))
            window = self._window(order, epoch, number).result()
            if high < self._end:
                self._window(order, epoch, number + 1)  # on its way while this one is used
            places.append(window.members[mixed])
            parts.append(window.vectors[mixed])
        if len({part.dtype for part in parts}) > 1:
            parts = [floats.widen(part) for part in parts]
        stored = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return np.concatenate(places), self._vectors.finish(stored)

    def _window(self, order: Blocks, epoch: int, number: int) -> Future[Window]:
        with self._lock:
            found = self._windows.get((epoch, number))
            if found is None:
                found = window_pool().submit(self._load, order, number)
                self._windows[epoch, number] = found
                while len(self._windows) > _WINDOWS:
                    self._windows.popitem(last=False)[1].cancel()
            return found

    def _load(self, order: Blocks, number: int) -> Window:
        members = order.members(number)
        return Window(members, self._snapshot.gather(self._rows[members]))
