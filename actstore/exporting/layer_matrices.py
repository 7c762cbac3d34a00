"""Rows grouped by model, site and layer: one matrix each, and the table that goes beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actstore import schema
from actstore.exporting.export_context import ExportContext
from actstore.exporting.planned_files import Gather, Stream, file_name, folder_name
from actstore.querying import mixture
from actstore.querying.metadata import ROW_ID
from actstore.storage import strict_json

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK = 32 << 20


class LayerMatrix(NamedTuple):
    """Where vectors were taken, and the rows that were."""

    model: str
    site: str
    layer: int | None
    width: int
    dtype: str
    """Of the matrix: float32 where both types meet."""
    rows: np.ndarray

    @property
    def stem(self) -> str:
        """Path of its files without the ending: ``org__name/resid_post/layer_12``.

        Layers are named as the recipes for such folders read them; the embeddings and
        unknown layers have none.
        """
        name = "unknown" if self.layer is None else str(self.layer)
        layer = "embeddings" if self.layer == -1 else f"layer_{name}"
        return f"{folder_name(self.model)}/{file_name(self.site)}/{layer}"


def layer_matrices(context: ExportContext) -> Iterator[LayerMatrix]:
    """Yield the places that have rows, in the store's order."""
    selection = context.selection
    snapshot = selection.snapshot
    shards = np.searchsorted(snapshot.offsets, selection.rows, "right") - 1
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number in np.unique(shards).tolist():
        shard = snapshot.shards[number]
        groups.setdefault((shard.model, shard.site, shard.layer, shard.width), []).append(number)
    for (model, site, layer, width), numbers in groups.items():
        rows = selection.rows[np.isin(shards, numbers)]
        dtype = context.dtype or snapshot.shape(rows)[1]
        yield LayerMatrix(model, site, layer, width, dtype, rows)


def blocks(matrix: LayerMatrix, gather: Gather) -> Iterator[np.ndarray]:
    """Yield a place's vectors in pieces, in the type of its matrix.

    bfloat16 comes as its bits in uint16.

    Raises:
        ExportError: the type cannot hold a value exactly.
    """
    from actstore.exporting.tensors import tensor

    step = max(1, _BLOCK // (4 * matrix.width))
    for start in range(0, len(matrix.rows), step):
        vectors = gather(matrix.rows[start : start + step])
        if vectors.dtype.name == matrix.dtype:
            yield np.ascontiguousarray(vectors)
            continue
        exact = tensor(vectors, matrix.dtype, vectors.shape)
        if matrix.dtype == "bfloat16":
            import torch

            yield exact.view(torch.uint16).numpy()
        else:
            yield exact.numpy()


def table_of(context: ExportContext, matrix: LayerMatrix) -> pa.Table:
    """Return the metadata of a place's rows, with ``row_id`` and without empty columns.

    The store's own columns are among them, each as ``extra.NAME``.
    """
    rows = context.store.rows_at(matrix.rows)
    table = rows.table([*schema.metadata_names(), ROW_ID, *rows.own_columns])
    kept = [name for name in table.column_names if table[name].null_count < len(table)]
    return table.select(kept)


def note_mixture(context: ExportContext, matrix: LayerMatrix) -> None:
    """Say that a matrix without columns holds vectors that were pooled in several ways."""
    rows = context.store.rows_at(matrix.rows)
    for name, values in mixture.differing(rows, ("pooling", "region")).items():
        context.notes.say(
            f"some matrices hold rows of several values of {name} ({mixture.listing(values)}); the "
            f'tables beside them say which row is which, and --where "{name} = …" chooses one'
        )


def sidecar(context: ExportContext, matrix: LayerMatrix) -> Stream:
    """Return the file of metadata that goes with a place's matrix."""

    def write(path: Path, gather: Gather) -> None:
        table = table_of(context, matrix)
        if context.metadata == "parquet":
            import pyarrow.parquet as pq

            pq.write_table(table, path, compression="zstd")
            return
        with path.open("w", encoding="utf-8", newline="") as file:
            for batch in table.to_batches(max_chunksize=10_000):
                for row in batch.to_pylist():
                    file.write(strict_json.dumps(row) + "\n")

    return Stream(f"{matrix.stem}.metadata.{context.metadata}", 0, write)
