"""Turns tensors and what a Python reader knows about them into row batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from actstore import schema
from actstore.ingestion.axes import Grid, blocks, limited
from actstore.ingestion.expression import compile_expression
from actstore.ingestion.options import model_unknown
from actstore.ingestion.readers.scope import FileScope, column_value
from actstore.ingestion.recipe import ColumnSource
from actstore.ingestion.source_file import SourceFile
from actstore.storage.rows import RowBatch

if TYPE_CHECKING:
    from actstore.ingestion.readers import Context


def constants(context: Context, file: SourceFile, document: Any, **columns: Any) -> dict[str, Any]:
    """Return the columns that hold for all rows, with what the user fixed put over them.

    The data set is the cache's folder where the source holds several caches. ``--map``
    reads values of the file as a whole.
    """
    options = context.options
    given = {
        "dataset": options.dataset or file.cache,
        "model": options.model,
        "site": options.site,
    }
    fixed = {name: value for name, value in given.items() if value is not None}
    scope = FileScope(file, document, {}, context)
    for name, where in options.map.items():
        if name != schema.VECTOR and name not in fixed:
            source = where if "{" in where else f"{{file.{where}}}"
            column = ColumnSource(expression=compile_expression(source))
            fixed[name] = column_value(name, column, scope)
    return {**columns, **fixed}


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
        context: what the user chose: pooling, fixed columns, the first examples.
        grid: the tensor and the meaning of its axes.
        constant: what :func:`constants` returned; ``source`` among it. Pooling and region
            hold where the tensor has no token axis.
        columns: one value per row of the grid; those that the user fixed are left out.
        pooled_region: region of vectors that are pooled here, over the token axis.
        token_columns: one value per token, for rows that are tokens.

    Raises:
        UsageError: nothing says which model the vectors are from.
    """
    options = context.options
    if context.shapes is not None:
        context.shapes[constant["source"]] = (grid.tensor.shape, grid.tensor.dtype)
    if options.first_k is not None:
        grid = limited(grid, "example", options.first_k)
    fixed = {*options.map, *(n for n in ("dataset", "model", "site") if n in constant)}
    own = {name: values for name, values in (columns or {}).items() if name not in fixed}
    _check_model(constant, own)
    shared = dict(constant)
    if grid.count == 1:  # what is said once is hashed and kept once
        shared |= {name: values[0] for name, values in own.items()}
        own = {}
    if grid.tokens is not None:
        shared["pooling"] = options.pool or "none"
        shared["region"] = pooled_region if options.pool else None
    elif options.pool is not None:
        context.notes.say(f"--pool {options.pool} changes nothing where there is no token axis")
    for block in blocks(grid, pool=options.pool):
        rows = range(block.row, block.row + block.rows)
        each = len(block.vectors) // block.rows
        varying: dict[str, Sequence[Any]] = {
            name: [values[row] for row in rows for _ in range(each)] for name, values in own.items()
        }
        if block.positions is not None:
            varying["position"] = block.positions
            for name, values in (token_columns or {}).items():
                varying[name] = [values[position] for position in block.positions]
        if block.counts is not None:
            varying["token_count"] = block.counts
        yield RowBatch(vectors=block.vectors, constants=shared, columns=varying)


def _check_model(constant: Mapping[str, Any], columns: Mapping[str, Sequence[Any]]) -> None:
    found = columns["model"] if "model" in columns else [constant.get("model")]
    if None in found:
        raise model_unknown()
