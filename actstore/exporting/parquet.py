"""Plain Parquet: one file per model, site and layer, metadata and vectors in one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from actstore import schema
from actstore.errors import ExportError
from actstore.exporting.export_context import ExportContext
from actstore.exporting.layer_matrices import LayerMatrix, blocks, layer_matrices
from actstore.exporting.planned_files import File, Gather, Stream

_ROW_GROUP = 16 << 20
"""Bytes of vectors in one row group: what a reader takes in at once."""


def plan(context: ExportContext) -> Iterator[File]:
    """Yield one file for each matrix: the columns of the schema and the store's own ones
    (``extra.NAME``), the vector as a list.

    Raises:
        ExportError: bfloat16, which Parquet does not have.
    """
    if context.dtype == "bfloat16":
        raise ExportError("Parquet has no bfloat16: leave out --dtype, or export to safetensors")
    for matrix in layer_matrices(context):
        yield Stream(f"{matrix.stem}.parquet", len(matrix.rows), _writer(context, matrix))


def _writer(context: ExportContext, matrix: LayerMatrix) -> Callable[[Path, Gather], None]:
    def write(path: Path, gather: Gather) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        none = context.store.rows_at(matrix.rows[:0])
        names = [*schema.metadata_names(), *none.own_columns]
        element = pa.from_numpy_dtype(np.dtype(matrix.dtype))
        fields = list(none.table(names).schema)
        vector = pa.field(schema.VECTOR, pa.list_(pa.field("element", element, False)), False)
        arrow = pa.schema([*fields, vector])
        texts = [field.name for field in fields if pa.types.is_string(field.type)]
        group = max(1, _ROW_GROUP // (matrix.width * np.dtype(matrix.dtype).itemsize))
        with pq.ParquetWriter(
            path,
            arrow,
            compression=context.compression,
            use_dictionary=texts,
            write_statistics=[field.name for field in fields],
        ) as writer:
            start = 0
            for block in blocks(matrix, gather):
                rows = matrix.rows[start : start + len(block)]
                start += len(block)
                table = context.store.rows_at(rows).table(names).cast(pa.schema(fields))
                ends = np.arange(0, block.size + 1, matrix.width, dtype=np.int32)
                values = pa.array(block.reshape(-1))
                lists = pa.ListArray.from_arrays(pa.array(ends), values, type=vector.type)
                writer.write_table(table.append_column(vector, lists), row_group_size=group)

    return write
