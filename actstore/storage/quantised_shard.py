"""A shard of int8 opened for reading: its whole numbers, or the vectors they stand for."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Protocol

import numpy as np

from actstore.errors import CorruptStoreError
from actstore.storage import quantised
from actstore.storage.threads import share

_PIECE_BYTES = 2 << 20
"""Bytes of whole numbers that one thread restores at a time."""


class Numbers(Protocol):
    """The whole numbers of a shard, whatever way they are read."""

    def view(self, start: int, stop: int) -> np.ndarray | None:
        """Return rows as they lie, if they lie in one run."""

    def run(self, start: int, out: np.ndarray) -> None:
        """Copy ``len(out)`` rows from ``start`` on into ``out``."""

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the given rows."""

    def fetch(self, rows: np.ndarray) -> None:
        """Bring the given rows nearer."""

    def close(self) -> None:
        """Give the file back."""


class QuantisedShard:
    """Reads vectors of int8 as the float32 that they stand for.

    Args:
        numbers: reads what is stored.
        scales: returns the scales of all rows, float32; called once, when first needed.
        path: of the shard, for messages.
    """

    def __init__(self, numbers: Numbers, scales: Callable[[], np.ndarray], path: str) -> None:
        self._numbers = numbers
        self._read = scales
        self._path = path
        self._scales: np.ndarray | None = None
        self._lock = Lock()

    @property
    def scales(self) -> np.ndarray:
        """What the whole numbers of each row are multiplied by, float32.

        Raises:
            CorruptStoreError: some are none.
        """
        with self._lock:
            if self._scales is None:
                found = self._read()
                if not (np.isfinite(found).all() and (found >= 0).all()):
                    raise CorruptStoreError(
                        f"shard {self._path} has scales that are negative or no numbers: restore "
                        "it from a copy",
                        self._path,
                    )
                self._scales = found
            return self._scales

    def stored(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows as they are stored, without copying where that can be: numbers, scales."""
        found = self._numbers.view(start, stop)
        if found is None:
            found = self._numbers.take(np.arange(start, stop))
        return found, self.scales[start:stop]

    def stored_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the given rows as they are stored: numbers and scales."""
        return self._numbers.take(rows), self.scales[rows]

    def close(self) -> None:
        self._numbers.close()

    def view(self, start: int, stop: int) -> np.ndarray | None:
        return None

    def run(self, start: int, out: np.ndarray) -> None:
        step = max(1, _PIECE_BYTES // max(1, out.shape[1]))

        def piece(first: int) -> None:
            last = min(first + step, len(out))
            quantised.restore(*self.stored(start + first, start + last), out[first:last])

        _ = self.scales  # once, not in every thread
        share(piece, range(0, len(out), step))

    def take(self, rows: np.ndarray) -> np.ndarray:
        return quantised.restore(*self.stored_rows(rows))

    def fetch(self, rows: np.ndarray) -> None:
        self._numbers.fetch(rows)
