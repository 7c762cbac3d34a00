"""`actstore nearest`: the rows most similar to a vector or to a row of the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actstore import paths
from actstore.commands import formats, output
from actstore.commands.opening import open_store, skip_damaged_option
from actstore.commands.options import (
    at_option,
    columns_option,
    output_option,
    readable_store_argument,
    report_traffic,
    row_format_options,
)
from actstore.commands.row_options import Rows, mixed_option, row_options
from actstore.errors import PathError, UsageError
from actstore.wording import counted

if TYPE_CHECKING:
    import numpy as np


@click.command("nearest")
@readable_store_argument
@click.option(
    "--example",
    "examples",
    metavar="ID",
    multiple=True,
    help="Search around the vector of this example_id; repeat it for several at once.",
)
@click.option("--row", type=int, metavar="N", help="Search around the vector of this row_id.")
@click.option(
    "--vector",
    metavar="FILE|JSON",
    help="Search around a vector of your own, or each row of a matrix: a .npy file, a .json file, "
    "or a JSON list.",
)
@click.option(
    "-k",
    "k",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="How many rows, for each query.",
)
@click.option(
    "--metric",
    type=click.Choice(("cosine", "dot", "l2")),
    default="cosine",
    show_default=True,
    help="cosine and dot put the largest first, l2 (the distance) the smallest.",
)
@click.option(
    "--index",
    is_flag=True,
    help="Ask the index that `actstore index` built: faster on large layers, and it may miss rows.",
)
@row_options()
@mixed_option
@columns_option
@row_format_options
@output_option("Write the result to FILE, which appears whole or not at all.")
@at_option()
@skip_damaged_option
def command(
    store: str | Path,
    examples: tuple[str, ...],
    row: int | None,
    vector: str | None,
    k: int,
    metric: Any,
    index: bool,
    rows: Rows,
    mixed: bool,
    columns: tuple[str, ...] | None,
    format: str | None,
    target: Path | None,
    at: int | None,
) -> None:
    """Find the rows of STORE nearest to an example, a row, or a vector of your own.

    The search is exact: every row that meets the conditions is compared. With --example
    they also say which of the example's rows is meant (one per layer, say); the row itself
    is left out of the result. Rows of several layers, sites, models, poolings or regions are
    refused, unless options list these values or --mixed takes them as they are.

    Several queries are answered in one pass over the rows; the column "query" then says which
    of them a row was found for, counted from 0.

    \b
    Examples:
      actstore nearest runs.store --example num_000 --layers 12
      actstore nearest runs.store --vector direction.npy --layers 12 --metric dot -k 20
    """
    queries: list[Any] = [query for query in (row, vector) if query is not None]
    if examples:
        queries.append(examples[0] if len(examples) == 1 else list(examples))
    if len(queries) != 1:
        raise click.UsageError("say what to search around: --example, --row or --vector")
    query = _vector(vector) if vector is not None else queries[0]
    with open_store(store, at) as opened:
        table = opened.nearest(
            query,
            k,
            rows.where,
            metric=metric,
            columns=columns,
            mixed=mixed,
            index=index,
            **rows.equals,
        )
        if columns is None:
            table = formats.without_empty(table, format, target)
        written = formats.write_rows(table.to_reader(), format, target)
        report_traffic(opened.traffic)
    if target is not None:
        output.note(f"{counted(written, 'row')} written to {target}")


def _vector(text: str) -> np.ndarray:
    import numpy as np

    from actstore.querying import vector_math

    told = f"--vector {output.cell(text, 40)}"
    try:
        if text.lstrip().startswith("["):
            values = json.loads(text)
        elif text.endswith(".npy"):
            with paths.open_file(paths.local(text)) as file:
                values = np.load(file, allow_pickle=False)
        else:
            values = json.loads(paths.read_text(paths.local(text)))
    except PathError as error:
        raise PathError(f"{told}: {error}; give a .npy or .json file, or a JSON list") from error
    except (ValueError, TypeError) as error:
        raise UsageError(f"{told}: no list of numbers: {error}") from error
    try:
        found = vector_math.as_queries(values)
    except UsageError as error:
        raise UsageError(f"{told}: {error}") from error
    return found[0] if found.ndim == 2 and len(found) == 1 else found
