"""Mean and spread of each dimension of many vectors, taken block by block in float64."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from actstore.querying import vector_math
from actstore.storage import floats

if TYPE_CHECKING:
    from collections.abc import Callable

    from actstore.storage.snapshot import Snapshot

_BLOCK = 1 << 17
"""Values per block: one MiB as float64, whatever the number of rows."""


@dataclass(slots=True)
class Moments:
    """What is known of each dimension of the vectors seen so far.

    Blocks are merged as Chan, Golub and LeVeque do it, so that a mean far from zero does
    not swallow a small spread. Values that are not finite are counted and left out.
    """

    width: int
    rows: int = 0
    nonfinite: int = 0
    """Values that are NaN or infinite."""
    zeros: int = 0
    """Values that are zero, of either sign."""
    minimum: float = np.inf
    maximum: float = -np.inf
    counts: np.ndarray = field(init=False)
    """Finite values of each dimension, float64 ``[width]``."""
    mean: np.ndarray = field(init=False)
    """Float64 ``[width]``."""
    squares: np.ndarray = field(init=False)
    """Sum of squared deviations from the mean, float64 ``[width]``."""

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.width)
        self.mean = np.zeros(self.width)
        self.squares = np.zeros(self.width)

    def add(self, stored: np.ndarray) -> None:
        """Take in float16 or float32 vectors ``[rows, width]``."""
        if not len(stored):
            return
        self.rows += len(stored)
        self.zeros += stored.size - int(np.count_nonzero(_magnitudes(stored)))
        block = floats.widen(stored).astype(np.float64)
        if floats.finite(stored):
            counts = np.full(self.width, float(len(block)))
            mean = block.mean(axis=0)
            low, high = float(block.min()), float(block.max())
            block -= mean
        else:
            known = np.isfinite(block)
            self.nonfinite += int(block.size - np.count_nonzero(known))
            counts = known.sum(axis=0).astype(np.float64)
            low = float(np.min(block, where=known, initial=np.inf))
            high = float(np.max(block, where=known, initial=-np.inf))
            block[~known] = 0
            mean = block.sum(axis=0) / np.maximum(counts, 1)
            block -= mean
            block[~known] = 0
        self.minimum = min(self.minimum, low)
        self.maximum = max(self.maximum, high)
        self._merge(counts, mean, np.einsum("ij,ij->j", block, block))

    def _merge(self, counts: np.ndarray, mean: np.ndarray, squares: np.ndarray) -> None:
        total = self.counts + counts
        safe = np.maximum(total, 1)
        apart = mean - self.mean
        self.squares += squares + apart * apart * (self.counts * counts / safe)
        self.mean += apart * (counts / safe)
        self.counts = total

    @property
    def std(self) -> np.ndarray:
        """Standard deviation of each dimension (divided by n), float64 ``[width]``."""
        return np.asarray(np.sqrt(self.squares / np.maximum(self.counts, 1)))

    @property
    def rms(self) -> np.ndarray:
        """Root mean square of each dimension, float64 ``[width]``."""
        return np.asarray(np.sqrt(self.squares / np.maximum(self.counts, 1) + self.mean**2))

    def pooled(self) -> tuple[float, float, float]:
        """Return number, mean and sum of squared deviations of all values together."""
        count = float(self.counts.sum())
        if not count:
            return 0.0, float("nan"), 0.0
        mean = float((self.counts * self.mean).sum() / count)
        return count, mean, float((self.squares + self.counts * (self.mean - mean) ** 2).sum())


def _magnitudes(stored: np.ndarray) -> np.ndarray:
    """Return the bits without the sign: minus zero is zero, and integers compare fast."""
    flat = np.ascontiguousarray(stored)
    if flat.dtype == np.float16:
        return flat.view(np.uint16) & np.uint16(0x7FFF)
    return flat.view(np.uint32) & np.uint32(0x7FFFFFFF)


def measure(
    snapshot: Snapshot,
    rows: np.ndarray,
    progress: Callable[[int, int], None] | None = None,
) -> list[Moments]:
    """Return the moments of ``rows``' vectors, one for each width among them, ascending.

    Each vector is read once, in bounded blocks: views of the map where rows are consecutive.

    Args:
        snapshot: where the vectors are.
        rows: int64 row numbers.
        progress: called with the bytes and rows read since the last call.
    """
    found = []
    numbers = np.searchsorted(snapshot.offsets, rows, "right") - 1
    widths = np.array([shard.width for shard in snapshot.shards], np.int64)[numbers]
    for width in np.unique(widths).tolist():
        moments = Moments(width)
        chosen = rows[widths == width]
        for block in vector_math.blocks(snapshot, chosen, max(1, _BLOCK // width)):
            moments.add(block.vectors)
            if progress is not None:
                progress(block.vectors.nbytes, len(block.vectors))
        found.append(moments)
    return found
