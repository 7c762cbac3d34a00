"""The rule of the stored type: nothing is rounded, cut off or not finite in silence.

float16 stays float16, float32 stays float32, bfloat16 comes as float32 (which holds it
exactly); float64 and whole numbers become float32 only where every value survives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from actstore.errors import LayoutError, NonFiniteError, PrecisionError
from actstore.ingestion.options import Options
from actstore.storage import floats
from actstore.storage.narrowing import narrow_of


class Stored(NamedTuple):
    """Vectors in the type they are stored in, and what that took."""

    vectors: np.ndarray
    """float16 or float32 ``[rows, width]``, C-contiguous."""
    rounded: int = 0
    """Values that are not what the source holds (only where the user allowed it)."""
    nonfinite: int = 0
    """Values that are NaN or infinite (only where the user allowed it)."""


def stored(vectors: np.ndarray, options: Options, describe: Callable[[int], str]) -> Stored:
    """Return vectors in the type to store.

    Args:
        vectors: any real type, ``[rows, width]``.
        options: ``storage_dtype``, ``allow_rounding`` and ``allow_nonfinite`` are looked at.
        describe: says what a row is, for messages.

    Raises:
        NonFiniteError: NaN or infinity among the values.
        PrecisionError: a value overflows, or would be rounded.
        LayoutError: the values are no numbers.
    """
    kind = vectors.dtype.kind
    if kind not in "fiub":
        raise LayoutError(f"{describe(0)}: values of type {vectors.dtype} are no vector")
    nonfinite = _nonfinite(vectors, options, describe) if kind == "f" else 0
    wanted = options.storage_dtype
    rounded = 0
    if vectors.dtype == np.float16:
        if wanted == "float32":
            vectors = floats.widen(vectors)
    elif wanted == "float16":
        vectors, rounded = _narrow(vectors, options, describe)
    else:
        if vectors.dtype != np.float32:
            vectors, rounded = _as_single(vectors, options, describe)
        if wanted == "auto":
            vectors = _narrow_where_exact(vectors)
    return Stored(np.ascontiguousarray(vectors), rounded, nonfinite)


def _nonfinite(vectors: np.ndarray, options: Options, describe: Callable[[int], str]) -> int:
    if vectors.dtype in (np.float16, np.float32):
        if floats.finite(vectors):
            return 0
    elif np.isfinite(vectors).all():
        return 0
    bad = ~np.isfinite(vectors)
    count = int(np.count_nonzero(bad))
    if options.allow_nonfinite:
        return count
    raise NonFiniteError(
        f"{_first(vectors, bad, describe)}: {_counted(count, 'value is', 'values are')} "
        "NaN or infinite; repair the source, or store them as they are with --allow-nonfinite"
    )


def _as_single(
    vectors: np.ndarray, options: Options, describe: Callable[[int], str]
) -> tuple[np.ndarray, int]:
    with np.errstate(over="ignore"):
        single = vectors.astype(np.float32)
    _refuse_overflow(vectors, single, "float32", describe)
    lost = _differing(vectors, single)
    allowed = narrow_of(options.storage_dtype) is not None or (
        options.allow_rounding and options.storage_dtype == "float32"
    )
    return single, _rounded(vectors, lost, "float32", allowed, describe)


def _narrow(
    vectors: np.ndarray, options: Options, describe: Callable[[int], str]
) -> tuple[np.ndarray, int]:
    with np.errstate(over="ignore"):
        half = vectors.astype(np.float16)
    _refuse_overflow(vectors, half, "float16", describe)
    lost = _differing(vectors, half)
    return half, _rounded(vectors, lost, "float16", options.allow_rounding, describe)


def _narrow_where_exact(vectors: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = vectors.astype(np.float16)
    return vectors if _differing(vectors, half).any() else half


def _differing(vectors: np.ndarray, narrow: np.ndarray) -> np.ndarray:
    """Return where ``narrow`` is not bit for bit what ``vectors`` holds."""
    if vectors.dtype == np.float32:
        back = floats.widen(narrow) if narrow.dtype == np.float16 else narrow
        left = np.ascontiguousarray(vectors).view(np.uint32)
        # The payload of a NaN may change with the type; that it is one does not.
        different: np.ndarray = (left != back.view(np.uint32)) & ~(
            np.isnan(vectors) & np.isnan(back)
        )
        return different
    if vectors.dtype.kind == "f":
        wide = narrow.astype(vectors.dtype)
        return np.asarray((wide != vectors) & ~np.isnan(vectors))
    # Whole numbers of 64 bits need more than a float64 to be compared exactly.
    return np.asarray(narrow.astype(np.longdouble) != vectors.astype(np.longdouble))


def _refuse_overflow(
    vectors: np.ndarray, narrow: np.ndarray, name: str, describe: Callable[[int], str]
) -> None:
    over = np.isinf(narrow)
    if vectors.dtype.kind == "f":
        over &= ~np.isinf(vectors)
    count = int(np.count_nonzero(over))
    if count:
        limit = floats.LARGEST_HALF if name == "float16" else float(np.finfo(np.float32).max)
        many = _counted(count, "value overflows", "values overflow")
        raise PrecisionError(
            f"{_first(vectors, over, describe)}: {many} {name} (largest {limit:g}); "
            + (
                "leave out --storage-dtype to keep the source's type"
                if name == "float16"
                else "float32 is the widest type that is stored"
            )
        )


def _rounded(
    vectors: np.ndarray,
    lost: np.ndarray,
    name: str,
    allowed: bool,
    describe: Callable[[int], str],
) -> int:
    count = int(np.count_nonzero(lost))
    if count and not allowed:
        raise PrecisionError(
            f"{_first(vectors, lost, describe)}: {name} would round "
            f"{_counted(count, 'value', 'values')} of {vectors.size:,} ({vectors.dtype}); "
            + (
                "leave out --storage-dtype to keep them, or add --allow-rounding"
                if name == "float16"
                else "--storage-dtype float32 --allow-rounding accepts it"
            )
        )
    return count


def _first(vectors: np.ndarray, where: np.ndarray, describe: Callable[[int], str]) -> str:
    row, column = np.unravel_index(int(np.argmax(where)), where.shape)
    value: Any = vectors[row, column]
    return f"{describe(int(row))}, column {int(column)} = {value!s}"


def _counted(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"
