"""`actstore query`: asks a store in SQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from actstore.commands import formats, output
from actstore.commands.opening import open_store, skip_damaged_option
from actstore.commands.options import (
    at_option,
    output_option,
    pairs,
    readable_store_argument,
    report_traffic,
    row_format_options,
)
from actstore.wording import counted


@click.command("query")
@readable_store_argument
@click.argument("sql", required=False)
@click.option("--name", metavar="NAME", help="Run a named query (`actstore queries` lists them).")
@click.option(
    "--param",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="A value for $NAME in the query; may be repeated.",
)
@row_format_options
@output_option("Write the result to FILE, which appears whole or not at all.")
@at_option()
@skip_damaged_option
@click.option(
    "--allow-external", is_flag=True, help="Let the SQL read and write files outside the store."
)
def command(
    store: str | Path,
    sql: str | None,
    name: str | None,
    parameters: tuple[str, ...],
    format: str | None,
    target: Path | None,
    at: int | None,
    allow_external: bool,
) -> None:
    """Ask STORE in SQL, or by the name of a stored query.

    The view `activations` has one row for each vector: all columns of the schema, the
    labels as they are now, and row_id. The SQL is DuckDB's; it can neither write nor
    reach other files unless --allow-external is given. STORE is a folder, or
    hf://datasets/ORG/NAME: then only what the query needs is transferred.

    \b
    Examples:
      actstore query runs.store "SELECT label, layer, count(*) FROM activations GROUP BY ALL"
      actstore query runs.store --name label-counts --param layer=12
      actstore query runs.store "FROM activations WHERE layer = 12" -o layer12.parquet
      actstore query hf://datasets/org/name "SELECT DISTINCT model, site FROM activations"
    """
    from actstore.querying import named

    if (sql is None) == (name is None):
        raise click.UsageError("give the SQL, or --name NAME, one of the two")
    values: dict[str, Any] = dict(pairs(parameters, "--param"))
    if name is not None:
        query = named.find(name)
        sql, values = query.sql, query.bind(values)
    assert sql is not None
    with open_store(store, at) as opened:
        reader = opened.stream(sql, values or None, allow_external=allow_external)
        rows = formats.write_rows(reader, format, target)
        report_traffic(opened.traffic)
    if target is not None:
        output.note(f"{counted(rows, 'row')} written to {target}")
