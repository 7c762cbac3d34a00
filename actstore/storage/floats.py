"""Fast, exact float16 and float32 arithmetic on blocks of vectors."""

from __future__ import annotations

import numpy as np

from actstore.storage import kernels

# Exponent distance between the two formats: float32's bias 127 minus float16's 15.
_RESCALE = np.float32(2.0**112)
# After sign-extending to 32 bits and shifting by 13, bits 28-30 are copies of the sign.
_KEEP = np.int32(-0x70000001)  # 0x8fffffff
_HALF_INFINITY, _HALF_SIGN = 0x7C00, 0x8000
LARGEST_HALF = 65504.0
"""The largest finite float16."""
SHORT = 1e-30
"""Length of a vector below which float32 loses digits of its norm and of its products."""
# Values per block: 256 KiB of float32, which stays in the second-level cache.
_BLOCK = 1 << 16
# Halves that are looked at for infinity and NaN at a time: 512 KiB.
_LOOKED_AT = 1 << 18


def widen(source: np.ndarray, out: np.ndarray | None = None, *, quiet: bool = False) -> np.ndarray:
    """Return float16 ``source`` as float32, bit for bit what ``astype`` gives.

    NumPy converts element by element (0.7 GB/s where this was measured), the processor's own
    instruction, through numkong, at 13 to 20 GB/s. Without it, moving the bits as integers and
    rescaling by an exact power of two runs at 4 to 5 GB/s. Subnormal halves pass through
    subnormal floats there, so the processor must not flush those to zero.

    Args:
        source: float16, any shape; float32 is copied.
        out: float32 of the same shape, C-contiguous; made when missing.
        quiet: whether a signalling NaN may become a quiet one, as all arithmetic makes it: then
            nobody looks for infinity and NaN where the processor converts.
    """
    if out is None:
        out = np.empty(source.shape, np.float32)
    if source.dtype == np.float32:
        np.copyto(out, source)
        return out
    flat_out = out.reshape(-1)
    flat = np.ascontiguousarray(source).reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        half = flat[start : start + _BLOCK]
        single = flat_out[start : start + _BLOCK]
        converted = kernels.widen(half, single)
        if converted and quiet:
            continue
        if not converted:
            _rescale(half, single)
        if not _finite_halves(half):  # no rescaled form, and kernels change a signalling NaN
            np.copyto(single, half)
    return out


def _rescale(half: np.ndarray, single: np.ndarray) -> None:
    bits = single.view(np.int32)
    np.copyto(bits, half.view(np.int16))
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, _KEEP, out=bits)
    np.multiply(single, _RESCALE, out=single)


def _finite_halves(half: np.ndarray) -> bool:
    # Infinity and NaN are the largest numbers of either sign, read as integers of 16 bits.
    if not half.size:
        return True
    positive, negative = half.view(np.int16).max(), half.view(np.uint16).max()
    return bool(positive < _HALF_INFINITY and negative < _HALF_INFINITY + _HALF_SIGN)


def finite(values: np.ndarray) -> bool:
    """Say whether all float16 or float32 ``values`` are finite."""
    flat = np.ascontiguousarray(values).reshape(-1)
    step = _LOOKED_AT if flat.dtype == np.float16 else _BLOCK
    for start in range(0, flat.size, step):
        block = flat[start : start + step]
        if block.dtype == np.float16:
            if not _finite_halves(block):
                return False
        elif not np.isfinite(block).all():
            return False
    return True


def norms(vectors: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return the L2 norm of each row as float32 ``[rows]``.

    Squares are summed in float32 and, where they overflow or underflow, again in
    float64, so a norm is infinite or NaN only if the vector is, or if float32 cannot
    hold the norm itself. Squares of halves can do neither.

    Args:
        vectors: float16 or float32 ``[rows, width]``.
        out: float32 ``[rows]`` to fill instead of a new array.
    """
    rows, width = vectors.shape
    result = np.empty(rows, np.float32) if out is None else out
    exact = kernels.squares(vectors)
    if exact is not None:
        np.sqrt(exact, out=result, casting="same_kind")
        return result
    squares = np.empty(rows, np.float32)
    step = max(1, _BLOCK // max(1, width))
    buffer = np.empty((min(step, rows), width), np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for start in range(0, rows, step):
            block = vectors[start : start + step]
            if block.dtype == np.float16:
                block = widen(block, buffer[: len(block)])
            np.vecdot(block, block, out=squares[start : start + len(block)])
        np.sqrt(squares, out=result)
        doubtful = np.flatnonzero(~np.isfinite(squares) | (squares < np.float32(1e-30)))
        if doubtful.size:
            wide = vectors[doubtful].astype(np.float64)
            result[doubtful] = np.sqrt(np.vecdot(wide, wide))
    return result


def same_bits(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Compare rows bit for bit, float16 as float32 where the types differ: bool ``[rows]``."""
    if left.shape[1] != right.shape[1]:
        return np.zeros(len(left), bool)
    if left.dtype != right.dtype:
        left, right = widen(left), widen(right)
    unsigned = np.uint16 if left.dtype == np.float16 else np.uint32
    equal = np.ascontiguousarray(left).view(unsigned) == np.ascontiguousarray(right).view(unsigned)
    return np.asarray(equal.all(axis=1))
