"""`actstore label`: gives rows labels after capture, from a table or by SQL."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from actstore.commands import output
from actstore.commands.options import LocalPath, bucket_store_argument, format_options
from actstore.commands.row_options import where_option
from actstore.wording import counted


@click.command("label")
@bucket_store_argument
@click.argument("table", required=False, type=LocalPath())
@click.option(
    "--on",
    "on",
    multiple=True,
    metavar="COLUMN[=THEIRS]",
    help="Column that joins the table to the rows; =THEIRS where the table calls it otherwise. "
    "May be repeated: all must be equal.",
)
@click.option(
    "--column",
    default="label",
    show_default=True,
    metavar="NAME",
    help="Column of the table that holds the label; an empty one takes the label away.",
)
@click.option(
    "--set",
    "expression",
    metavar="SQL",
    help="Compute the label of every row: a SQL expression over the columns.",
)
@where_option
@format_options
def command(
    store: str | Path,
    table: Path | None,
    on: tuple[str, ...],
    column: str,
    expression: str | None,
    where: str | None,
    as_json: bool,
) -> None:
    """Label the rows of STORE from TABLE (csv, jsonl, json, parquet), or with --set.

    No vector is rewritten: the labels form one new commit that query, select and Python
    see at once. `actstore compact` writes them into the shards for `load_dataset`.

    \b
    Examples:
      actstore label runs.store labels.csv --on example_id
      actstore label runs.store graded.jsonl --on example_id=id --on mode --column verdict
      actstore label runs.store --set "CASE WHEN contains(lower(prediction), lower(oracle))
                                       THEN 'correct' ELSE 'incorrect' END"
    """
    from actstore.ingestion import labeling
    from actstore.remote.working import working

    if (table is None) == (expression is None):
        raise click.UsageError("give a table with --on COLUMN, or --set SQL, one of the two")
    if table is not None and not on:
        raise click.UsageError("say with --on which column joins the table to the rows")
    if expression is not None and on:
        raise click.UsageError("--on joins a table; with --set there is none")
    with working(store, there=True) as root:
        if table is not None:
            done = labeling.label_by_table(root, table, on=on, column=column, where=where)
        else:
            assert expression is not None
            done = labeling.label_by_expression(root, expression, where=where)
    if as_json:
        output.print_json(dataclasses.asdict(done))
        return
    if done.commit is None:
        output.say(f"nothing to do: {counted(done.rows, 'row')} had that label already")
    else:
        output.say(f"commit {done.commit}: {counted(done.changed, 'label')} changed")
    table_of = [(label, rows, done.examples[label]) for label, rows in done.labels.items()]
    output.print_table(("label", "rows", "examples"), table_of)
    if done.unmatched:
        examples = "; ".join(done.unmatched_examples)
        output.note(
            f"{counted(done.unmatched, 'row')} of {table} fit no row of the store: {examples}"
        )
