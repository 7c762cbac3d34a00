"""Selected rows as tables: Arrow, Polars and pandas, vectors included if wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from actstore import schema
from actstore.storage import arrow_numbers

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from actstore.querying.selected import SelectedRows

_AT_ONCE = 1_024


def to_arrow(rows: SelectedRows, columns: Sequence[str] | None, *, vectors: bool) -> pa.Table:
    """Return rows as a table, see ``Selection.to_arrow``."""
    import pyarrow as pa

    table = rows.table(columns).replace_schema_metadata(None)  # of the file it was read from
    if not vectors:
        return table
    matrix = rows.numpy(mixed=True)  # rows of a table may be of several places
    flat = arrow_numbers.array(matrix.reshape(-1))
    width = matrix.shape[1]
    column = pa.FixedSizeListArray.from_arrays(flat, width)
    field = pa.field(schema.VECTOR, pa.list_(pa.field("element", flat.type, False), width), False)
    return table.append_column(field, column.cast(field.type))


def to_polars(rows: SelectedRows, columns: Sequence[str] | None, *, vectors: bool) -> pl.DataFrame:
    """Return rows as a Polars frame; the vectors are an ``Array`` of their type and width."""
    import polars as pl

    frame = pl.from_arrow(to_arrow(rows, columns, vectors=False))
    assert isinstance(frame, pl.DataFrame)
    if not vectors:
        return frame
    matrix = rows.numpy(mixed=True)
    value = pl.Float16 if matrix.dtype.itemsize == 2 else pl.Float32
    vector = pl.Series(schema.VECTOR, matrix, dtype=pl.Array(value, matrix.shape[1]))
    return frame.with_columns(vector)


def to_pandas(rows: SelectedRows, columns: Sequence[str] | None, *, vectors: bool) -> pd.DataFrame:
    """Return rows as a pandas frame; each vector is a NumPy array."""
    import pandas as pd

    frame: pd.DataFrame = to_arrow(rows, columns, vectors=False).to_pandas()
    if vectors:
        frame[schema.VECTOR] = pd.Series(list(rows.numpy(mixed=True)), index=frame.index)
    return frame


def one_by_one(rows: SelectedRows) -> Iterator[dict[str, Any]]:
    """Yield each row as a dict of its metadata and its vector, read some at a time."""
    for start in range(0, len(rows), _AT_ONCE):
        part = rows.take(slice(start, start + _AT_ONCE))
        matrix = part.numpy(mixed=True)
        for row, vector in zip(part.table().to_pylist(), matrix, strict=True):
            yield {**row, schema.VECTOR: vector}
