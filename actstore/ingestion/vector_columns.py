"""Vector columns of tables: lists of numbers, and lists of such lists, as matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actstore.errors import LayoutError

if TYPE_CHECKING:
    import pyarrow as pa


class VectorColumn(NamedTuple):
    """A column that holds vectors."""

    name: str
    depth: int
    """1: one vector per row. 2: one vector per token."""


class Vectors(NamedTuple):
    """The vectors of some rows."""

    values: np.ndarray
    """``[vectors, width]``."""
    counts: np.ndarray | None
    """Vectors per row, where a row holds one per token."""


def vector_columns(schema: pa.Schema, wanted: str | None = None) -> list[VectorColumn]:
    """Return the columns that hold vectors of real numbers, or the one that is ``wanted``.

    Raises:
        LayoutError: the wanted column is not there, or holds no lists of numbers.
    """
    if wanted is not None:
        if wanted not in schema.names:
            raise LayoutError(f"no column {wanted!r}; the table has {', '.join(schema.names)}")
        depth = _depth(schema.field(wanted).type, numbers=True)
        if depth not in (1, 2):
            raise LayoutError(
                f"column {wanted!r} is {schema.field(wanted).type}; expected a list of numbers, "
                "or a list of such lists"
            )
        return [VectorColumn(wanted, depth)]
    found = [(field.name, _depth(field.type, numbers=False)) for field in schema]
    return [VectorColumn(name, depth) for name, depth in found if depth in (1, 2)]


def _depth(kind: Any, *, numbers: bool) -> int | None:
    import pyarrow as pa

    depth = 0
    while (
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or (pa.types.is_fixed_size_list(kind))
    ):
        kind = kind.value_type
        depth += 1
    fits = pa.types.is_floating(kind) or (numbers and pa.types.is_integer(kind))
    return depth if fits else None


def extract(column: VectorColumn, array: pa.Array, first_row: int) -> Vectors:
    """Return the vectors of a column.

    Args:
        column: what the column is.
        array: its values in one record batch.
        first_row: number of the first row, for messages.

    Raises:
        LayoutError: a row has no vector, or vectors of different width.
    """
    counts = None
    if column.depth == 2:
        counts = _lengths(column, array, first_row)
        array = array.flatten()
    widths = _lengths(column, array, None if counts is not None else first_row)
    different = np.flatnonzero(widths != widths[:1])
    if different.size:
        at = int(different[0])
        where = f"vector {at}" if counts is not None else f"row {first_row + at}"
        raise LayoutError(
            f"column {column.name!r}: {where} holds {widths[at]} values, others hold {widths[0]}"
        )
    values = array.flatten()
    if values.null_count:
        raise LayoutError(
            f"column {column.name!r}: {values.null_count} values are null; "
            "fill them in, or leave those rows out"
        )
    width = int(widths[0]) if widths.size else 0
    if not width and widths.size:
        raise LayoutError(f"column {column.name!r}: the vectors are empty")
    return Vectors(values.to_numpy(zero_copy_only=False).reshape(-1, width or 1), counts)


def _lengths(column: VectorColumn, array: pa.Array, first_row: int | None) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if array.null_count:
        at = int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
        where = f"vector {at}" if first_row is None else f"row {first_row + at}"
        raise LayoutError(f"column {column.name!r}: {where} is null; leave such rows out")
    if pa.types.is_fixed_size_list(array.type):
        return np.full(len(array), array.type.list_size)
    lengths: np.ndarray = pc.list_value_length(array).to_numpy(zero_copy_only=False)
    return lengths
