"""Products and squares of rows of halves by numkong's SIMD kernels; None where there are none."""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

_SEGMENT = 1_024
"""Squares of so many values at most are added in float32: a few lanes take turns there, and
would round a long sum of equal values again and again in one direction."""
_SCALED = 15
"""Binary exponent that a query's largest value is brought to: the top of what float16 holds."""
_PART = 11
"""Bits of a value that one part of a query holds."""
_PARTS = 3
"""Parts of a float32 at most: 24 bits."""
_LANES = 4
"""Values that any SIMD adds up side by side at least."""
_ROUNDING = 2.0**-24
"""By how much a float32 is rounded at most, of its own size."""


@cache
def library() -> ModuleType | None:
    """Return numkong; None where it is missing, or knows no SIMD of this processor.

    Its serial kernels are slower than what NumPy does.
    """
    try:
        import numkong
    except ImportError:
        return None
    known = numkong.get_capabilities()
    return numkong if any(has for name, has in known.items() if name != "serial") else None


class Halves(NamedTuple):
    """A vector as a sum of a few float16 vectors, which products with float16 rows can take.

    The kernels multiply equal types only. A product of two halves is exact in float32, so
    parts lose nothing that float32 arithmetic would keep.
    """

    first: np.ndarray
    """The largest part, float16 ``[width]``."""
    packed: Any
    """All parts, as the kernel for several vectors takes them; None of one part."""
    weights: np.ndarray
    """What the parts' products are multiplied by, float64 ``[parts]``."""


def halves(vector: np.ndarray) -> Halves | None:
    """Return a vector's parts; None without kernels, and of one that is not finite.

    Args:
        vector: float32 or float64 ``[width]``.
    """
    numkong = library()
    found = None if numkong is None else _parts(vector)
    if numkong is None or found is None:
        return None
    parts, weights = found
    packed = numkong.dots_pack(parts) if len(parts) > 1 else None
    return Halves(parts[0], packed, weights)


def _parts(vector: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return parts, float16 ``[parts, width]``, and what each is multiplied by."""
    largest = float(np.abs(vector).max(initial=0))
    if not np.isfinite(largest):
        return None
    exponent = _SCALED - int(np.frexp(largest)[1]) if largest else 0
    rest = np.ldexp(vector.astype(np.float64), exponent)
    parts: list[np.ndarray] = []
    while not parts or (len(parts) < _PARTS and rest.any()):
        parts.append(rest.astype(np.float16))
        rest = np.ldexp(rest - parts[-1], _PART)
    shifts = -exponent - _PART * np.arange(len(parts))
    return np.stack(parts), np.ldexp(1.0, shifts)


class HalvesBySegment(NamedTuple):
    """A vector as :class:`Halves`, cut into segments whose sums the kernels take one by one.

    What a product of a row with it is wrong by is at most both lengths times :attr:`error`.
    """

    packs: list[Any]
    """The segments in order: all parts of each."""
    size: int
    """Values of each."""
    weights: np.ndarray
    """What the parts' products are multiplied by, float64 ``[parts]``."""
    error: float


def halves_by_segment(vector: np.ndarray) -> HalvesBySegment | None:
    """Return a vector's parts by segment; None without kernels, and of one that is not finite.

    Args:
        vector: float32 ``[width]``.
    """
    numkong = library()
    found = None if numkong is None else _parts(vector)
    if numkong is None or found is None:
        return None
    parts, weights = found
    size = _segment(len(vector))
    packs = [
        numkong.dots_pack(np.ascontiguousarray(parts[:, start : start + size]))
        for start in range(0, len(vector), size)
    ]
    return HalvesBySegment(packs, size, weights, sum_error(size))


def products_by_segment(rows: np.ndarray, vector: HalvesBySegment) -> np.ndarray | None:
    """Return the dot product of each row with a vector, float64 ``[rows]``.

    Sums of segments are in float32, those of these in float64. Where a row is not finite, its
    product is not either. None where the kernels do not take such rows.
    """
    numkong = library()
    if numkong is None or not _fits(rows):
        return None
    total = np.zeros((len(rows), len(vector.weights)))
    for number, pack in enumerate(vector.packs):
        part = rows[:, number * vector.size : (number + 1) * vector.size]
        total += np.asarray(numkong.dots_packed(part, pack))
    with np.errstate(invalid="ignore"):  # infinity less infinity
        found: np.ndarray = total @ vector.weights
    return found


def sum_error(width: int) -> float:
    """Return what the kernels' products may be wrong by, in lengths of the one times the other.

    Products of halves are exact in float32. A lane adds up its share of them one after the other,
    and each sum may be rounded in the same direction.
    """
    return (width / _LANES + 2 * _LANES) * _ROUNDING * 1.01  # the rounded vector may be longer


def products(rows: np.ndarray, vector: Halves) -> np.ndarray | None:
    """Return the dot product of each row with a vector, float64 ``[rows]``.

    Where a row or a product is not finite, so is the result, but it need not be the same
    that float32 arithmetic gives. None where the kernels do not take such rows.
    """
    numkong = library()
    if numkong is None or not _fits(rows):
        return None
    if vector.packed is None:
        out = np.empty(len(rows))
        numkong.dot(rows, vector.first, out=out)
        out *= vector.weights[0]
        return out
    several: np.ndarray = np.asarray(numkong.dots_packed(rows, vector.packed))
    with np.errstate(invalid="ignore"):  # infinity less infinity
        result: np.ndarray = several @ vector.weights
    return result


def squares(rows: np.ndarray) -> np.ndarray | None:
    """Return the sum of squares of each row, float64 ``[rows]``; None without kernels for them."""
    numkong = library()
    if numkong is None or not _fits(rows):
        return None
    count, width = rows.shape
    segment = _segment(width) if rows.flags.c_contiguous else width
    pieces = rows.reshape(-1, segment)
    out = np.empty(len(pieces))
    numkong.dot(pieces, pieces, out=out)
    return out if segment == width else out.reshape(count, -1).sum(axis=1)


def distances(rows: np.ndarray, point: np.ndarray) -> np.ndarray | None:
    """Return the squared distance of each row to a point, float64 ``[rows]``.

    Args:
        rows: float16 ``[rows, width]``.
        point: float16 ``[width]``.
    """
    numkong = library()
    if numkong is None or not _fits(rows):
        return None
    out = np.empty(len(rows))
    numkong.sqeuclidean(rows, point, out=out)
    return out


def widen(flat: np.ndarray, out: np.ndarray) -> bool:
    """Fill float32 ``out`` from float16 ``flat``, both in one piece; say whether that was done.

    All values are exact. A signalling NaN becomes a quiet one.
    """
    numkong = library()
    if numkong is None or not flat.size or not flat.flags.aligned:
        return False
    numkong.astype(flat, "float32", out=out)
    return True


def _fits(rows: np.ndarray) -> bool:
    """Say whether the kernels take these rows: native halves, each row in one piece."""
    return (
        rows.dtype == np.float16
        and rows.dtype.isnative
        and rows.flags.aligned
        and rows.size > 0
        and (rows.shape[1] == 1 or rows.strides[1] == rows.itemsize)
        and rows.strides[0] >= 0
    )


@cache
def _segment(width: int) -> int:
    """Return the largest part of a row, no longer than a segment, that it is a multiple of."""
    if width <= _SEGMENT:
        return width
    # A prime width, say, has none that is long enough to be worth a call of the kernel.
    longest = (size for size in range(_SEGMENT, 63, -1) if width % size == 0)
    return next(longest, width)
