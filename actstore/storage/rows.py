"""Rows on their way into a store: metadata and vectors side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np

from actstore import schema
from actstore.errors import UsageError
from actstore.storage.entries import Rounding

Narrow = Literal["compact16", "int8"]
"""Types that values are rounded to, with a note of what that cost. Rows that do not fit keep the
type they have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBatch:
    """Some rows in the schema, not yet stored.

    ``run_id`` and ``norm`` are filled in by the writer; a schema column that is in
    neither mapping is null.
    """

    vectors: np.ndarray
    """Float16 or float32, shape ``[rows, width]``; the writer keeps nothing of it. Int8 with
    ``scales``."""
    constants: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Columns with one value for all rows."""
    columns: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    """Columns with one value per row."""

    scales: np.ndarray | None = None
    """Of vectors of int8: what each row is multiplied by, float32 ``[rows]``."""
    rounding: Rounding | None = None
    """What the values lost on the way into the type that they have."""

    def __len__(self) -> int:
        return len(self.vectors)


class Added(NamedTuple):
    """What became of a batch."""

    written: int
    """Rows that are new."""
    present: int
    """Rows that the store already holds, bit for bit, or that came before in this session."""
    differing: int = 0
    """Rows among ``present`` whose metadata (say, the label) differ from what is stored."""
    repeated: int = 0
    """Rows among ``present`` that came before in this session: the source repeats them."""
    bytes: int = 0
    """Of the written rows' vectors, as they are stored."""


_REQUIRED = ("example_id", "model", "site", "pooling")
_WORDS = ("pooling", "region", "token_role")
_BITS = {"int32": 31, "int64": 63}
_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "int32": (int, np.integer),
    "int64": (int, np.integer),
    "float32": (int, float, np.integer, np.floating),
}
_NONE = type(None)


def check(
    vectors: np.ndarray,
    constants: Mapping[str, Any],
    columns: Mapping[str, Sequence[Any]],
    scales: np.ndarray | None = None,
) -> None:
    """Refuse rows that do not fit the schema.

    Raises:
        UsageError: names the column, what it holds and what it should hold.
    """
    kinds = (np.float16, np.float32) if scales is None else (np.int8,)
    if vectors.ndim != 2 or vectors.dtype not in kinds or not vectors.shape[1]:
        raise UsageError(
            f"vectors must be float16 or float32 [rows, width], got {vectors.dtype} "
            f"{list(vectors.shape)}"
        )
    types = _types()
    for name in (*constants, *columns):
        if name not in types:
            raise UsageError(
                f"column {name!r} is not in the schema; put what it holds into extra "
                f"(columns: {', '.join(types)})"
            )
    for name, cells in columns.items():
        if len(cells) != len(vectors):
            raise UsageError(f"column {name} has {len(cells)} values for {len(vectors)} vectors")
        _check_cells(name, types[name], cells)
    for name, value in constants.items():
        if name not in columns:
            _check_cells(name, types[name], (value,))
    for name in _REQUIRED:
        cells = columns.get(name, (constants.get(name),))
        if None in cells or "" in cells:
            raise UsageError(f"column {name} is required and missing in some row")


@cache
def _types() -> dict[str, str]:
    return {column.name: column.type for column in schema.columns() if column.type != "vector"}


def _check_cells(name: str, type_: str, cells: Sequence[Any]) -> None:
    if not _plainly_fits(type_, cells):
        import pyarrow as pa

        field = schema.metadata_schema().field(name)
        # Arrow would take 2.5 for 2, and bytes for text; their keys would hash otherwise.
        kinds = _KINDS[type_]
        for cell in cells:
            if cell is not None and (not isinstance(cell, kinds) or isinstance(cell, bool)):
                raise UsageError(f"column {name} must hold {field.type}, got {cell!r}")
        try:
            pa.array(cells, field.type)
        except (pa.ArrowException, TypeError, UnicodeEncodeError, OverflowError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"column {name} must hold {field.type}: {reason}") from error
    if name in _WORDS:
        for word in set(cells):
            schema.check_choice(name, word)


def _plainly_fits(type_: str, cells: Sequence[Any]) -> bool:
    """Say whether the cells surely fit; making Arrow arrays of small batches takes longer."""
    kinds = set(map(type, cells))
    kinds.discard(_NONE)
    if type_ == "string":
        return kinds <= {str} and "".join(filter(None, cells)).isascii()
    bits = _BITS.get(type_)
    if bits is None or not kinds <= {int}:
        return False
    numbers = [cell for cell in cells if cell is not None]
    return not numbers or -(1 << bits) <= min(numbers) <= max(numbers) < 1 << bits
