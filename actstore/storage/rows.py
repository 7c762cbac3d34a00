"""Rows on their way into a store: metadata and vectors side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from actstore import schema
from actstore.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBatch:
    """Some rows in the schema, not yet stored.

    ``run_id`` and ``norm`` are filled in by the writer; a schema column that is in
    neither mapping is null.
    """

    vectors: np.ndarray
    """Float16 or float32, shape ``[rows, width]``, C-contiguous."""
    constants: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Columns with one value for all rows."""
    columns: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    """Columns with one value per row."""

    def __len__(self) -> int:
        return len(self.vectors)


class Added(NamedTuple):
    """What became of a batch."""

    written: int
    """Rows that are new."""
    present: int
    """Rows that the store already holds, bit for bit."""
    differing: int = 0
    """Rows among ``present`` whose metadata (say, the label) differ from what is stored."""


_REQUIRED = ("example_id", "model", "site", "pooling")
_WORDS = ("pooling", "region", "token_role")


def check(
    vectors: np.ndarray, constants: Mapping[str, Any], columns: Mapping[str, Sequence[Any]]
) -> None:
    """Refuse rows that do not fit the schema.

    Raises:
        UsageError: names the column, what it holds and what it should hold.
    """
    import pyarrow as pa

    if vectors.ndim != 2 or vectors.dtype not in (np.float16, np.float32) or not vectors.shape[1]:
        raise UsageError(
            f"vectors must be float16 or float32 [rows, width], got {vectors.dtype} "
            f"{list(vectors.shape)}"
        )
    fields = {field.name: field for field in schema.metadata_schema()}
    unknown = [name for name in (*constants, *columns) if name not in fields]
    if unknown:
        raise UsageError(
            f"column {unknown[0]!r} is not in the schema; put what it holds into extra "
            f"(columns: {', '.join(fields)})"
        )
    for name, field in fields.items():
        cells = columns.get(name, (constants.get(name),))
        if name in columns and len(cells) != len(vectors):
            raise UsageError(f"column {name} has {len(cells)} values for {len(vectors)} vectors")
        if name in _REQUIRED and any(cell is None or cell == "" for cell in cells):
            raise UsageError(f"column {name} is required and missing in some row")
        try:
            pa.array(cells, field.type)
        except (pa.ArrowException, TypeError, UnicodeEncodeError, OverflowError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"column {name} must hold {field.type}: {reason}") from error
        if name in _WORDS:
            for word in set(cells):
                schema.check_choice(name, word)
