"""Mean and scale of each dimension over training rows, which probes standardise by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_BLOCK = 256


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
