"""Selected rows in portions that other processes read themselves, by row number, from the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore.querying import tables
from actstore.querying.reader import OpenStore

if TYPE_CHECKING:
    import pyarrow as pa

    from actstore.querying.selected import SelectedRows
    from actstore.schema import VectorType

BYTES = 64 << 20
"""Vector bytes of a portion, about."""


class Portion(NamedTuple):
    """Some of the selected rows: what a process needs to read them, and nothing that it reads."""

    store: OpenStore
    rows: np.ndarray
    """Int64."""
    columns: tuple[str, ...] | None
    dtype: VectorType
    """Of the vectors of all portions: halves are widened where others are not."""
    size: int
    """Bytes of the vectors."""

    def table(self) -> pa.Table:
        """Read the rows, vectors last, as ``Selection.to_arrow`` has them."""
        import pyarrow as pa

        with self.store.open() as reader:
            table = tables.to_arrow(reader.rows_at(self.rows), self.columns, vectors=True)
        last = table.num_columns - 1
        field = table.field(last)
        value = pa.field("element", pa.from_numpy_dtype(np.dtype(self.dtype)), nullable=False)
        wanted = field.with_type(pa.list_(value, field.type.list_size))
        return table.set_column(last, wanted, table.column(last).cast(wanted.type))


def portions(
    rows: SelectedRows, columns: Sequence[str] | None, *, size: int | None = None
) -> list[Portion]:
    """Cut selected rows into portions, in their order; at least one, which may be empty.

    The rows come in the order of shards: a portion reads few of them.

    Args:
        rows: what is selected.
        columns: metadata columns; the schema's and ``row_id`` when missing.
        size: vector bytes of a portion, about, instead of :data:`BYTES`.

    Raises:
        NotInStoreError: there is no such column.
        MixedVectorsError: the vectors differ in width.
    """
    tables.to_arrow(rows.at(rows.rows[:0]), columns, vectors=True)  # or each process would say it
    width = rows.shape[1] * np.dtype(rows.dtype).itemsize
    step = max(1, (BYTES if size is None else size) // max(1, width))
    store = OpenStore.of(rows.snapshot)
    return [
        Portion(
            store=store,
            rows=rows.rows[start : start + step],
            columns=None if columns is None else tuple(columns),
            dtype=rows.dtype,
            size=len(rows.rows[start : start + step]) * width,
        )
        for start in range(0, max(1, len(rows)), step)
    ]
