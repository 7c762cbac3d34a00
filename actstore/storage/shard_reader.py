"""What reads the vectors of one shard, whatever way: from a map, decoded, or from afar."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class ShardReader(Protocol):
    """Vectors of one shard, whatever way they are read."""

    def view(self, start: int, stop: int) -> np.ndarray | None:
        """Return rows as a read-only matrix without copying, if they lie in one run."""

    def run(self, start: int, out: np.ndarray) -> None:
        """Copy ``len(out)`` rows from ``start`` on into ``out``, of any float type."""

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the given rows (int64, any order) as a new matrix."""

    def fetch(self, rows: np.ndarray) -> None:
        """Bring the given rows nearer, because they will be read; needless where they are here."""

    def close(self) -> None:
        """Give the file back."""
