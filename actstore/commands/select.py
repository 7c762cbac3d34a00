"""`actstore select`: rows by layer, site, label and the like, as a table or as a matrix file."""

from __future__ import annotations

from pathlib import Path

import click

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
from actstore.wording import counted

MATRIX_SUFFIXES = (".safetensors", ".npz", ".pt", ".parquet")


@click.command("select")
@readable_store_argument
@row_options()
@output_option(
    "Save vectors and metadata to FILE: .safetensors, .npz, .pt or .parquet. With --format, "
    "write the metadata table there instead."
)
@row_format_options
@columns_option
@mixed_option
@at_option()
@skip_damaged_option
def command(
    store: str | Path,
    rows: Rows,
    target: Path | None,
    format: str | None,
    columns: tuple[str, ...] | None,
    mixed: bool,
    at: int | None,
) -> None:
    """Select rows of STORE, by options and by WHERE, a SQL condition over the metadata.

    With -o the vectors go to a file as one matrix, rows in the store's order; without it
    the metadata of the rows is printed. A layer, site, model or label that the store does
    not have is an error that names what it has. A matrix (.safetensors, .npz, .pt) holds
    rows of one model, site, pooling, region and layer, unless options list several values
    (--layers 12,18) or --mixed takes them as they are; .parquet is a table and holds
    any rows.

    \b
    Examples:
      actstore select runs.store --layers 12 --label faithful
      actstore select runs.store "norm > 50" --layers 12,18 --format csv
      actstore select runs.store --layers 12 -o layer12.safetensors
      actstore select hf://datasets/org/name --layers 12 -o layer12.safetensors
    """
    if target is not None and format is None and target.suffix not in MATRIX_SUFFIXES:
        raise click.UsageError(
            f"-o {target}: a matrix is saved as {', '.join(MATRIX_SUFFIXES)}; "
            "for the metadata alone add --format"
        )
    with open_store(store, at) as opened:
        selection = rows.select(opened)
        if target is None or format is not None:
            table = selection.table(columns)
            if columns is None:
                table = formats.without_empty(table, format, target)
            written = formats.write_rows(table.to_reader(), format, target)
        else:
            selection.save(target, columns, mixed=mixed)
            written = len(selection)
        if not len(selection):
            output.note(f"no row of {opened.name} fits {rows.text or 'anything'}")
        report_traffic(opened.traffic)
    if target is not None:
        output.note(f"{counted(written, 'row')} written to {target}")
