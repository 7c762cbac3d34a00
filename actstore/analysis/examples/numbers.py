"""The numbers that a probe reads, found in a column: of a numeric one, or of one of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from actstore.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

_LISTED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """A column whose values are numbers that a probe is to predict."""

    column: str


def numeric(column: pa.ChunkedArray) -> bool:
    """Whether a column's type is one of numbers; truth values are none."""
    import pyarrow as pa

    kind = column.type
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def of(name: str, column: pa.ChunkedArray) -> np.ndarray:
    """Return the numbers of a column as float64 ``[rows]``; NaN of rows without a finite one.

    Args:
        name: of the column, for messages.
        column: numbers, or texts each of which is a number.

    Raises:
        UsageError: some values are no numbers.
    """
    if numeric(column):
        found = np.array(column.cast("float64").to_numpy(zero_copy_only=False), np.float64)
        found[~np.isfinite(found)] = np.nan
        return found
    values = column.to_pylist()
    numbers = np.full(len(values), np.nan)
    wrong = set()
    for row, value in enumerate(values):
        if value is None:
            continue
        try:
            numbers[row] = float(value) if isinstance(value, str) else float("nope")
        except ValueError:
            wrong.add(str(value))
    if wrong:
        told = ", ".join(map(repr, sorted(wrong)[:_LISTED])) + (
            ", …" if len(wrong) > _LISTED else ""
        )
        raise UsageError(
            f"{name} has values that are no numbers ({told}): name a column of numbers with "
            "--label, or take --task classes or binary"
        )
    numbers[~np.isfinite(numbers)] = np.nan
    return numbers
