"""Rows on their way into a smaller type: those that it can hold, those that it cannot, the loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from actstore.storage import floats, quantised
from actstore.storage.entries import Rounding
from actstore.storage.rows import Narrow, RowBatch

_BLOCK = 1 << 18
LARGEST_HALF = 65504.0


def narrowed(batch: RowBatch) -> Iterator[RowBatch]:
    """Yield a batch in the type that it wants, and behind it the rows that this cannot hold.

    float16 cannot hold a value that overflows, int8 no NaN or infinity: such rows stay what
    they are. NaN and infinity are themselves in float16 too.
    """
    assert batch.wanted is not None
    fitting = fits(batch.vectors, batch.wanted)
    whole = bool(fitting.all())
    part = batch if whole else _rows(batch, np.flatnonzero(fitting))
    if len(part):
        if batch.wanted == "int8":
            numbers, scales = quantised.quantise(part.vectors)
            lost = difference(part.vectors, quantised.restore(numbers, scales))
            yield dataclasses.replace(
                part, vectors=numbers, scales=scales, wanted=None, rounding=lost
            )
        elif part.vectors.dtype == np.float16:
            yield dataclasses.replace(part, wanted=None)
        else:
            half = as_half(part.vectors)
            lost = difference(part.vectors, floats.widen(half))
            yield dataclasses.replace(part, vectors=half, wanted=None, rounding=lost)
    if not whole:
        yield dataclasses.replace(_rows(batch, np.flatnonzero(~fitting)), wanted=None)


def fits(vectors: np.ndarray, wanted: Narrow) -> np.ndarray:
    """Say which float16 or float32 rows a type can hold: bool ``[rows]``."""
    if wanted == "int8":
        return quantised.fit(vectors)
    found = np.ones(len(vectors), bool)
    if vectors.dtype == np.float16:
        return found
    step = max(1, _BLOCK // max(1, vectors.shape[1]))
    for start in range(0, len(vectors), step):
        block = vectors[start : start + step]
        over = np.isinf(as_half(block))
        if over.any():
            found[start : start + step] = ~(over & np.isfinite(block)).any(axis=1)
    return found


def as_half(vectors: np.ndarray) -> np.ndarray:
    """Return the nearest float16 values; what is too large for them becomes infinite."""
    with np.errstate(over="ignore"):
        return vectors.astype(np.float16)


def difference(before: np.ndarray, after: np.ndarray) -> Rounding | None:
    """Return what values lost, both float16 or float32; None where that is nothing."""
    values = 0
    greatest = 0.0
    step = max(1, _BLOCK // max(1, before.shape[1]))
    with np.errstate(invalid="ignore", over="ignore"):  # infinity less infinity
        for start in range(0, len(before), step):
            gap = np.abs(
                before[start : start + step].astype(np.float32) - after[start : start + step]
            )
            finite = gap > 0
            count = int(np.count_nonzero(finite))
            if count:
                values += count
                greatest = max(greatest, float(gap[finite].max()))
    return Rounding(values, greatest) if values else None


def _rows(batch: RowBatch, rows: np.ndarray) -> RowBatch:
    chosen = rows.tolist()
    columns = {name: [cells[row] for row in chosen] for name, cells in batch.columns.items()}
    return dataclasses.replace(batch, vectors=batch.vectors[rows], columns=columns)
