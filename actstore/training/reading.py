"""Reads the vectors of a batch: row by row from the memory map, or out of fetched windows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore import schema
from actstore.storage import floats
from actstore.storage.threads import Task, share, submit
from actstore.training.order import Blocks, Ordering
from actstore.training.prefetch import window_pool

if TYPE_CHECKING:
    from actstore.storage.snapshot import Snapshot
    from actstore.training.normalisation import Normalisation

BLOCK_BYTES = 1 << 20
"""Vectors in a block that travels as one, where none is asked for."""
WINDOW_BYTES = 64 << 20
"""Vectors that are in memory at a time and mixed with one another."""
_PIECE_BYTES = 4 << 20
"""Vectors that one thread gathers at a time."""
_WINDOWS = 3
"""Windows held: a batch may need two, and the next is on its way."""


class ReadWindow(NamedTuple):
    """Rows of one window."""

    members: np.ndarray
    """Places in the selection, int64."""
    vectors: np.ndarray
    """As stored, ``[len(members), width]``."""


class MatrixMaker:
    """Makes matrices of the wanted type, normalised if that is wanted.

    Args:
        snapshot: where the vectors are.
        width: of each.
        stored: the type that all of them are stored in; None where there are two.
        dtype: of what is returned; float16 only where all of them are stored so.
        normalisation: applied to each vector; the result is then float32.
        pinned: in memory that a GPU copies from directly.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        width: int,
        stored: schema.VectorType | None,
        dtype: schema.VectorType,
        normalisation: Normalisation | None = None,
        pinned: bool = False,
    ) -> None:
        self._snapshot = snapshot
        self._width = width
        # From afar, rows are best asked for all at once.
        self._stored = stored if snapshot.files.portion is None else None
        self._dtype: schema.VectorType = dtype
        self.normalisation = normalisation
        self._pinned = pinned

    def gather(self, row_ids: np.ndarray) -> np.ndarray:
        """Return the vectors of rows of the store."""
        if self._stored is None:
            return self.finish(self._snapshot.gather(row_ids))
        done = self._stored == self._dtype
        out = self._matrix(len(row_ids), self._stored, pinned=done and self._pinned)
        self._fill(row_ids, out)
        if not done:
            return self.finish(out)
        return out if self.normalisation is None else self.normalisation.apply(out)

    def finish(self, stored: np.ndarray) -> np.ndarray:
        """Return vectors as they are stored in the wanted form; theirs may be the same memory."""
        if self.normalisation is None and stored.dtype == self._dtype and not self._pinned:
            return stored
        out = self._matrix(len(stored), self._dtype, pinned=self._pinned)
        if stored.dtype == out.dtype:
            np.copyto(out, stored)
        else:
            floats.widen(stored, out)
        return out if self.normalisation is None else self.normalisation.apply(out)

    def _fill(self, row_ids: np.ndarray, out: np.ndarray) -> None:
        """Gather in several threads; a run of rows is copied in several anyway."""
        rows = len(row_ids)
        step = max(1, _PIECE_BYTES // max(1, self._width * out.itemsize))
        if rows <= step or row_ids[-1] - row_ids[0] == rows - 1:
            self._snapshot.gather(row_ids, out)
            return

        def gather(start: int) -> None:
            self._snapshot.gather(row_ids[start : start + step], out[start : start + step])

        share(gather, range(0, rows, step))

    def _matrix(self, rows: int, dtype: schema.VectorType, *, pinned: bool) -> np.ndarray:
        if not pinned:
            return self._snapshot.matrix(rows, self._width, dtype)
        import torch

        # Torch keeps pinned memory that was let go, and hands it out again.
        kind = torch.float16 if dtype == "float16" else torch.float32
        return np.asarray(torch.empty((rows, self._width), dtype=kind, pin_memory=True).numpy())


def stored_type(snapshot: Snapshot, shards: Iterable[int]) -> schema.VectorType | None:
    """Return the type that all these shards hand out; None where there are two."""
    found = {snapshot.shards[number].dtype for number in shards}
    if found == {"float16"}:
        return "float16"
    return "float32" if found <= {"float32", "int8"} and found else None


class OrderReader:
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
        vectors: MatrixMaker,
        *,
        end: int,
    ) -> None:
        self._snapshot = snapshot
        self._rows = rows
        self._ordering = ordering
        self._vectors = vectors
        self._end = end
        self._windows: OrderedDict[tuple[int, int], Task[ReadWindow]] = OrderedDict()
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

    def _window(self, order: Blocks, epoch: int, number: int) -> Task[ReadWindow]:
        with self._lock:
            found = self._windows.get((epoch, number))
            if found is None or found.has_failed:
                found = submit(window_pool, self._load, order, number)
                self._windows[epoch, number] = found
                while len(self._windows) > _WINDOWS:
                    # Not cancelled: another batch may be waiting for it.
                    self._windows.popitem(last=False)
            return found

    def _load(self, order: Blocks, number: int) -> ReadWindow:
        members = order.members(number)
        return ReadWindow(members, self._snapshot.gather(self._rows[members]))
