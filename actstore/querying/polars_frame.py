"""A store as a Polars LazyFrame that reads only the rows, columns and vectors a query needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from actstore import schema
from actstore.querying import vector_math
from actstore.querying.metadata import ROW_ID
from actstore.storage import floats
from actstore.storage.disk_errors import reading

if TYPE_CHECKING:
    import polars as pl

    from actstore.storage.snapshot import Snapshot

_BATCH_BYTES = 32 << 20
_OWN = {"bool": "Boolean", "int64": "Int64", "double": "Float64", "string": "String"}


def frame(snapshot: Snapshot) -> pl.LazyFrame:
    """Return all rows, in row order, as a LazyFrame.

    Columns are the schema's, labels as they stand in the snapshot, ``row_id``, and the fields of
    ``extra`` as ``extra.NAME``. The
    vector is ``Array(Float16 or Float32, width)``, or ``List(Float32)`` where widths
    differ. Filters, column choice and ``head`` reach the metadata first; vectors are read
    from the map for the rows that are left, and only if asked for.
    """
    from polars.io.plugins import register_io_source

    source = _FrameSource(snapshot)
    return register_io_source(
        source.read, schema=source.schema, explain_name=f"actstore {snapshot.name}"
    )


class _FrameSource:
    def __init__(self, snapshot: Snapshot) -> None:
        import polars as pl

        self._snapshot = snapshot
        self._widths = sorted({shard.width for shard in snapshot.shards})
        types: dict[str, type[pl.DataType]] = {
            "string": pl.String,
            "int32": pl.Int32,
            "int64": pl.Int64,
            "float32": pl.Float32,
        }
        if len(self._widths) == 1:
            width, dtype = snapshot.shape()
            value = pl.Float16 if dtype == "float16" else pl.Float32
            self._vector: pl.DataType = pl.Array(value, width)
            self._dtype = np.dtype(dtype)
        else:
            self._vector = pl.List(pl.Float32)
            self._dtype = np.dtype(np.float32)
        own: dict[str, Any] = {}
        for name, kind in snapshot.own_columns.items():
            own[name] = getattr(pl, _OWN[str(kind)])
        self._file = snapshot.own_columns_file if own else snapshot.metadata_file
        self.schema = pl.Schema(
            {
                column.name: self._vector if column.name == schema.VECTOR else types[column.type]
                for column in schema.columns()
            }
            | {ROW_ID: pl.Int64}
            | own
        )

    def read(
        self,
        with_columns: list[str] | None,
        predicate: pl.Expr | None,
        n_rows: int | None,
        batch_size: int | None,
    ) -> Iterator[pl.DataFrame]:
        """Yield frames, as Polars asks its sources to: first ``n_rows``, then the predicate."""
        import polars as pl

        names = self.schema.names() if with_columns is None else with_columns
        asked = set() if predicate is None else set(predicate.meta.root_names())
        path = self._file()
        rows = pl.scan_parquet(path, row_index_name=ROW_ID).with_columns(
            pl.col(ROW_ID).cast(pl.Int64)
        )
        if n_rows is not None:
            rows = rows.head(n_rows)
        late = predicate if schema.VECTOR in asked else None
        if predicate is not None and late is None:
            rows = rows.filter(predicate)
        needed = {*names, ROW_ID, *(asked if late is not None else ())} - {schema.VECTOR}
        with reading(path, derived=True):
            table = rows.select([name for name in self.schema if name in needed]).collect()
        if schema.VECTOR not in names and late is None:
            yield table.select(names)
            return
        for start in range(0, max(1, len(table)), self._batch_rows()):
            part = table[start : start + self._batch_rows()]
            part = part.with_columns(self._vectors(part[ROW_ID].to_numpy()))
            if late is not None:
                part = part.filter(late)
            yield part.select(names)

    def _batch_rows(self) -> int:
        return max(1, _BATCH_BYTES // (self._dtype.itemsize * max([1, *self._widths])))

    def _vectors(self, rows: np.ndarray) -> pl.Series:
        import polars as pl

        if not len(rows):
            return pl.Series(schema.VECTOR, [], dtype=self._vector)
        if len(self._widths) == 1:
            matrix = self._snapshot.gather(rows)
            if matrix.dtype != self._dtype:
                matrix = floats.widen(matrix)
            return pl.Series(schema.VECTOR, matrix, dtype=self._vector)
        return pl.Series(schema.VECTOR, vector_math.lists(self._snapshot, rows), dtype=self._vector)
