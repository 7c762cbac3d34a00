"""Vectors as whole numbers of 8 bits, each row with a scale of its own, and back."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np

LARGEST = 127
"""The numbers go from its negative to it: -128 is not used, so a vector and its negative mirror."""
_MOST = np.float32(3.4028e38)
"""Beyond it, a multiple of a scale that was rounded up may be infinite."""
_BLOCK = 1 << 18
"""Values taken at a time, so that they stay in the cache between the steps."""


def quantise(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the whole numbers of finite vectors, int8 ``[rows, width]``, and their scales.

    A row's scale is its largest magnitude over 127, rounded up to a float32; each value becomes
    the nearest multiple of it, so none is off by more than half the scale. A row of zeros has
    scale 0.

    Args:
        vectors: float16 or float32 ``[rows, width]``, all finite.
    """
    rows, width = vectors.shape
    numbers = np.empty((rows, width), np.int8)
    scales = np.empty(rows, np.float32)
    step = max(1, _BLOCK // max(1, width))
    for start in range(0, rows, step):
        part = vectors[start : start + step].astype(np.float32)
        largest = np.abs(part).max(axis=1).astype(np.float64)
        scale = (largest / LARGEST).astype(np.float32)
        # Rounded down, the largest value would lie beyond 127, far so where floats get coarse.
        low = scale.astype(np.float64) * LARGEST < largest
        scale[low] = np.nextafter(scale[low], np.float32(np.inf))
        scales[start : start + step] = scale
        np.divide(part, np.where(scale > 0, scale, 1)[:, None], out=part)
        numbers[start : start + step] = np.rint(part, out=part)
    return numbers, scales


def restore(numbers: np.ndarray, scales: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return the vectors that whole numbers stand for, float32 ``[rows, width]``.

    Args:
        numbers: int8 ``[rows, width]``.
        scales: float32 ``[rows]``.
        out: matrix to fill, of any float type.
    """
    rows, width = numbers.shape
    result = np.empty((rows, width), np.float32) if out is None else out
    step = max(1, _BLOCK // max(1, width))
    with np.errstate(over="ignore"):  # into a caller's float16
        for start in range(0, rows, step):
            scale = scales[start : start + step, None]
            if result.dtype == np.float32:
                part = result[start : start + step]
                np.copyto(part, numbers[start : start + step])
                np.multiply(part, scale, out=part)
            else:
                result[start : start + step] = numbers[start : start + step] * scale
    return result


def rounded(vectors: np.ndarray) -> np.ndarray:
    """Return what vectors would be read back as, float32; rows with NaN or infinity stay."""
    wide = vectors.astype(np.float32)
    fitting = fit(wide)
    wide[fitting] = restore(*quantise(wide[fitting]))
    return wide


def fit(vectors: np.ndarray) -> np.ndarray:
    """Say which rows can be stored so: bool ``[rows]``, not those with NaN or infinity."""
    rows, width = vectors.shape
    found = np.empty(rows, bool)
    step = max(1, _BLOCK // max(1, width))
    for start in range(0, rows, step):
        largest = np.abs(vectors[start : start + step]).max(axis=1)
        np.less_equal(largest, _MOST, out=found[start : start + step])
    return found


def norms(numbers: np.ndarray, out: np.ndarray) -> None:
    """Fill ``out``, float32 ``[rows]``, with the rows' norms before they are scaled."""
    rows, width = numbers.shape
    step = max(1, _BLOCK // max(1, width))
    for start in range(0, rows, step):
        part = numbers[start : start + step].astype(np.float32)
        np.sqrt(np.vecdot(part, part), out=out[start : start + step])


class RowScales:
    """The scales of the rows of a shard that grows."""

    def __init__(self) -> None:
        self._values = array("f")

    def append(self, scales: np.ndarray) -> None:
        """Add those of the next rows."""
        self._values.frombytes(np.ascontiguousarray(scales, np.float32).tobytes())

    def truncate(self, rows: int) -> None:
        """Forget those of every row from ``rows`` on."""
        del self._values[rows:]

    def of(self, start: int, stop: int) -> np.ndarray:
        """Return those of some rows, float32."""
        return np.array(self._values[start:stop], np.float32)

    def at(self, rows: Sequence[int]) -> np.ndarray:
        """Return those of the given rows, float32."""
        return np.array([self._values[row] for row in rows], np.float32)
