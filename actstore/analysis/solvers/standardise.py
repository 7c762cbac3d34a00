"""Rows standardised by the mean and scale of training rows, and products of them.

Products are in float64, whatever the rows are stored in. Rows stay as they are: a block of
them at a time is widened, and mean and scale are applied to what it is multiplied by. So no
product suffers from rounding a standardised value to float32, which ill-conditioned weights
would magnify.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

_BLOCK = 256
_BLOCK_BYTES = 1 << 20


class Standard(NamedTuple):
    """Mean and scale of the training rows, float32 ``[width]``."""

    mean: np.ndarray
    scale: np.ndarray

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Return float32 vectors standardised."""
        result: np.ndarray = vectors - self.mean
        result /= self.scale
        return result


def standards_of(vectors: np.ndarray, parts: Sequence[np.ndarray]) -> list[Standard]:
    """Return mean and standard deviation of each dimension over some parts of the rows.

    The deviation is given as 1 where a dimension does not vary.

    Args:
        vectors: float32 ``[rows, width]``.
        parts: positions of the rows of each part, none empty.
    """
    member = np.zeros((len(parts), len(vectors)), np.float32)
    for number, part in enumerate(parts):
        member[number, part] = 1
    counts = member.sum(1, dtype=np.float64)[:, None]
    # Moments about a value in the midst of each dimension: squares of offsets would drown it.
    # The median is in the midst even where a few rows are far out.
    centre = np.median(vectors[:: max(1, len(vectors) // 64)], axis=0).astype(np.float32)
    sums = np.zeros((len(parts), vectors.shape[1]))
    squares = np.zeros_like(sums)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK] - centre
        chosen = member[:, start : start + _BLOCK]
        # Squares of values from 1e19 on are beyond float32.
        with np.errstate(over="ignore", invalid="ignore"):
            sums += chosen @ block
            squares += chosen @ np.square(block, out=block)
    beyond = ~np.isfinite(squares)
    squares[beyond] = sums[beyond] = 0
    means = sums / counts
    squares /= counts
    deviations = np.sqrt(np.maximum(squares - np.square(means), 0))
    means += centre
    # Where a part lies far from the midst for its own width, float32 did lose digits.
    for number, lost in enumerate(beyond | (deviations < 1e-2 * np.sqrt(squares))):
        if lost.any():
            exact = vectors[np.ix_(parts[number], np.flatnonzero(lost))].astype(np.float64)
            means[number, lost], deviations[number, lost] = exact.mean(0), exact.std(0)
    # A constant comes out with the deviation of its rounding error, which a large one's
    # deviation must not let loom large.
    least = 1e-6 * np.abs(means)
    scales = np.where(deviations > least, deviations, np.maximum(least, 1))
    return [
        Standard(mean.astype(np.float32), scale.astype(np.float32))
        for mean, scale in zip(means, scales, strict=True)
    ]


def neutral(width: int) -> Standard:
    """Return what leaves vectors as they are."""
    return Standard(np.zeros(width, np.float32), np.ones(width, np.float32))


class StandardisedRows:
    """Rows, each column of weights standardised in a way of its own.

    Args:
        vectors: float32 or float64 ``[rows, width]``, not standardised.
        means: ``[width, ways]``.
        inverses: what to multiply by after the mean is taken off, ``[width, ways]``: one over
            the scale, or 0 where a dimension has no say.
        places: positions of the rows that are meant; all when missing.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        means: np.ndarray,
        inverses: np.ndarray,
        places: np.ndarray | None = None,
    ) -> None:
        self._vectors = vectors
        self._places = None if places is None or len(places) == len(vectors) else places
        self._means = means.astype(np.float64)
        self._inverses = inverses.astype(np.float64)

    @classmethod
    def of(
        cls, vectors: np.ndarray, standards: Sequence[Standard], places: np.ndarray | None = None
    ) -> StandardisedRows:
        """Return rows that are standardised on each of some standards."""
        means = np.column_stack([each.mean for each in standards])
        scales = np.column_stack([each.scale for each in standards])
        return cls(vectors, means, 1 / scales.astype(np.float64), places)

    def __len__(self) -> int:
        return len(self._vectors if self._places is None else self._places)

    def scores(self, weights: np.ndarray, ways: Sequence[int] = (0,)) -> np.ndarray:
        """Return ``rows @ weights``, float64 ``[rows, columns]``.

        Args:
            weights: ``[width, columns]``.
            ways: how each column's rows are standardised; one way may serve all.
        """
        scaled = weights * self._inverses[:, ways]
        found = np.empty((len(self), scaled.shape[1]))
        for part, block in self._blocks():
            np.matmul(block, scaled, out=found[part])
        found -= (self._means[:, ways] * scaled).sum(0)
        return found

    def combined(self, weights: np.ndarray, ways: Sequence[int] = (0,)) -> np.ndarray:
        """Return ``rows.T @ weights``, float64 ``[width, columns]``, of weights of the rows."""
        found = np.zeros((self._vectors.shape[1], weights.shape[1]))
        for part, block in self._blocks():
            found += block.T @ weights[part]
        found -= self._means[:, ways] * weights.sum(0, dtype=np.float64)
        found *= self._inverses[:, ways]
        return found

    def moments(self, counts: np.ndarray) -> np.ndarray:
        """Return ``rows.T @ (counts * rows)`` with a column of ones after the rows' own.

        Args:
            counts: how much each row counts, none negative; ``[rows]``.

        Returns:
            float64 ``[width + 1, width + 1]``.
        """
        width = self._vectors.shape[1]
        found = np.zeros((width + 1, width + 1))
        # Adding up whole matrices must not cost more than making them.
        for part, block in self._blocks(width // 2):
            ready = np.empty((len(block), width + 1))
            np.subtract(block, self._means[:, 0], out=ready[:, :-1])
            ready[:, :-1] *= self._inverses[:, 0]
            ready[:, -1] = 1
            ready *= np.sqrt(counts[part])[:, None]
            found += ready.T @ ready
        return found

    def ready(self, way: int = 0) -> np.ndarray:
        """Return the rows standardised, in the type of the vectors, ``[rows, width]``."""
        found = np.empty((len(self), self._vectors.shape[1]), self._vectors.dtype)
        for part, block in self._blocks():
            found[part] = (block - self._means[:, way]) * self._inverses[:, way]
        return found

    def gram(self, way: int = 0) -> np.ndarray:
        """Return the inner products of the rows, float64 ``[rows, rows]``."""
        found = np.zeros((len(self), len(self)))
        size = max(8, _BLOCK_BYTES // (8 * max(1, len(self))))
        vectors = self._vectors if self._places is None else self._vectors[self._places]
        for start in range(0, vectors.shape[1], size):
            part = slice(start, start + size)
            ready = vectors[:, part] - self._means[part, way]
            ready *= self._inverses[part, way]
            found += ready @ ready.T
        return found

    def _blocks(self, least: int = 0) -> Iterator[tuple[slice, np.ndarray]]:
        size = max(8, least, _BLOCK_BYTES // (8 * max(1, self._vectors.shape[1])))
        for start in range(0, len(self), size):
            part = slice(start, min(start + size, len(self)))
            block = self._vectors[part if self._places is None else self._places[part]]
            yield part, block.astype(np.float64, copy=False)
