"""Turns tensors and what a Python reader knows about them into row batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from actstore.ingestion.axes import Grid, blocks
from actstore.storage.rows import RowBatch

if TYPE_CHECKING:
    from actstore.ingestion.discovery import SourceFile
    from actstore.ingestion.readers import Context


def constants(context: Context, file: SourceFile, **columns: Any) -> dict[str, Any]:
    """Return the columns that hold for all rows, with what the user fixed put over them.

    The data set is the cache's folder where the source holds several caches.
    """
    options = context.options
    fixed = {
        "dataset": options.dataset or file.cache,
        "model": options.model,
        "site": options.site,
        "layer": options.layer,
    }
    return {**columns, **{name: value for name, value in fixed.items() if value is not None}}


def batches(
    context: Context,
    grid: Grid,
    constant: Mapping[str, Any],
    columns: Mapping[str, Sequence[Any]] | None = None,
    *,
    pooled_region: str | None = None,
    token_columns: Mapping[str, Sequence[Any]] | None = None,
) -> Iterator[RowBatch]:
    """Yield the rows of a tensor.

    Args:
        context: what the user chose: pooling and the first examples.
        grid: the tensor and the meaning of its axes.
        constant: columns of all rows; ``source`` among them. Pooling and region hold where
            the tensor has no token axis.
        columns: one value per row of the grid.
        pooled_region: region of vectors that are pooled here, over the token axis.
        token_columns: one value per token, for rows that are tokens.
    """
    options = context.options
    if context.shapes is not None:
        context.shapes[constant["source"]] = (grid.tensor.shape, grid.tensor.dtype)
    shared = dict(constant)
    if grid.tokens is not None:
        shared["pooling"] = options.pool or "none"
        shared["region"] = pooled_region if options.pool else None
    for block in blocks(grid, pool=options.pool, stop=options.first_k):
        rows = range(block.row, block.row + block.rows)
        each = len(block.vectors) // block.rows
        varying: dict[str, Sequence[Any]] = {
            name: [values[row] for row in rows for _ in range(each)]
            for name, values in (columns or {}).items()
        }
        if block.positions is not None:
            varying["position"] = block.positions
            for name, values in (token_columns or {}).items():
                varying[name] = [values[position] for position in block.positions]
        if block.counts is not None:
            varying["token_count"] = block.counts
        yield RowBatch(vectors=block.vectors, constants=shared, columns=varying)
