"""Rows on their way into a smaller type: those that it can hold, those that it cannot, the loss."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np

from actstore import schema, wording
from actstore.storage import floats, quantised
from actstore.storage.entries import Rounding, together
from actstore.storage.rows import Narrow, RowBatch

HELD: Mapping[Narrow, Literal["float16", "int8"]] = {"compact16": "float16", "int8": "int8"}
"""What rows that fit are stored as."""
_BLOCK = 1 << 18


def narrow_of(storage: str | None) -> Narrow | None:
    """Return the type to round to with a note of the loss, if one was asked for."""
    return "compact16" if storage == "compact16" else "int8" if storage == "int8" else None


def narrowed(batch: RowBatch, narrow: Narrow) -> Iterator[RowBatch]:
    """Yield a batch in a smaller type, and behind it the rows that this cannot hold.

    float16 cannot hold a value that overflows, int8 no NaN or infinity: such rows stay what
    they are. NaN and infinity are themselves in float16 too.
    """
    fitting = fits(batch.vectors, narrow)
    whole = bool(fitting.all())
    part = batch if whole else _rows(batch, np.flatnonzero(fitting))
    if len(part):
        vectors, scales, lost = stored(part.vectors, HELD[narrow])
        yield dataclasses.replace(part, vectors=vectors, scales=scales, rounding=lost)
    if not whole:
        yield _rows(batch, np.flatnonzero(~fitting))


def stored(
    vectors: np.ndarray, dtype: schema.StoredType
) -> tuple[np.ndarray, np.ndarray | None, Rounding | None]:
    """Return float16 or float32 rows in a type that can hold them, their scales, and the loss."""
    if dtype == "int8":
        numbers, scales = quantised.quantise(vectors)
        return numbers, scales, difference(vectors, quantised.restore(numbers, scales))
    if dtype == "float16" and vectors.dtype == np.float32:
        half = as_half(vectors)
        return half, None, difference(vectors, floats.widen(half))
    return vectors, None, None


def fits(vectors: np.ndarray, narrow: Narrow) -> np.ndarray:
    """Say which float16 or float32 rows a type can hold: bool ``[rows]``."""
    if narrow == "int8":
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
            lost = gap[gap > 0]  # not of NaN, nor of infinity
            if len(lost):
                values += len(lost)
                greatest = max(greatest, float(lost.max()))
    return Rounding(values, greatest) if values else None


class Part(NamedTuple):
    """Rows that a session was given, in the type that they have now."""

    dtype: str
    rows: int
    rounding: Rounding | None


def note(narrow: Narrow, parts: Iterable[Part]) -> str | None:
    """Say in a sentence what rows lost on their way into a type; None where there are none."""
    parts = [part for part in parts if part.rows]
    if not parts:
        return None
    lost = together(part.rounding for part in parts)
    text = f"{narrow}: no value was rounded"
    if lost is not None:
        text = f"{narrow}: {lost.values:,} values were rounded, by at most {lost.greatest:.2g}"
    why = "NaN or infinity" if narrow == "int8" else f"values beyond {floats.LARGEST_HALF:,.0f}"
    wide: Counter[str] = Counter()
    for part in parts:
        if part.dtype != HELD[narrow]:
            wide[part.dtype] += part.rows
    for dtype, rows in wide.items():
        text += f"; {wording.counted(rows)} with {why} stayed {dtype}"
    return text


class Saving:
    """What float32 rows would take in smaller types, and lose."""

    def __init__(self) -> None:
        self._bytes = self._smaller = self._least = 0
        self._lost: Rounding | None = None

    def add(self, vectors: np.ndarray) -> None:
        """Take note of rows that are to be stored."""
        if vectors.dtype != np.float32:
            return
        fitting = fits(vectors, "compact16")
        half = int(np.count_nonzero(fitting))
        width = vectors.shape[1]
        self._bytes += vectors.nbytes
        self._smaller += (2 * half + 4 * (len(vectors) - half)) * width
        self._least += vectors.size + 4 * len(vectors)
        chosen = vectors if half == len(vectors) else vectors[fitting]
        self._lost = together((self._lost, difference(chosen, floats.widen(as_half(chosen)))))

    def note(self) -> str | None:
        """Say it in a sentence; None where no row is of float32."""
        if not self._bytes:
            return None
        cost = "and round nothing"
        if self._lost is not None:
            cost = f"and round {self._lost.values:,} values by at most {self._lost.greatest:.2g}"
        return (
            f"vectors of float32 take {wording.size(self._bytes)}; --storage-dtype compact16 would "
            f"take {wording.size(self._smaller)} {cost}, int8 {wording.size(self._least)}"
        )


def _rows(batch: RowBatch, rows: np.ndarray) -> RowBatch:
    chosen = rows.tolist()
    columns = {name: [cells[row] for row in chosen] for name, cells in batch.columns.items()}
    return dataclasses.replace(batch, vectors=batch.vectors[rows], columns=columns)
