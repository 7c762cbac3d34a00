"""Rows on their way into a store: metadata and vectors side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBatch:
    """Some rows in the schema, not yet stored.

    ``run_id`` and ``norm`` are filled in by the writer; a schema column that is in
    neither mapping is null.
    """

    vectors: np.ndarray
    """Float16 or float32, shape ``[rows, width]``, C-contiguous."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Columns with one value for all rows."""
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
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
