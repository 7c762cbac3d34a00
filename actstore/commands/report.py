"""`actstore report`: a store on one page that any browser opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from actstore.commands import output
from actstore.commands.options import (
    at_option,
    filter_options,
    given_filters,
    json_option,
    readable_store_argument,
    report_traffic,
    where_argument,
)
from actstore.wording import counted


@click.command("report")
@readable_store_argument
@where_argument
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    default=Path("report.html"),
    show_default=True,
    help="Where to: one HTML file, replaced if it exists.",
)
@click.option(
    "--by",
    metavar="COLUMN",
    default="label",
    show_default=True,
    help="Metadata column whose values are told apart.",
)
@filter_options
@json_option
@at_option
def command(
    store: str | Path,
    where: str | None,
    target: Path,
    by: str,
    as_json: bool,
    at: int | None,
    **filters: Any,
) -> None:
    """Describe STORE, or its rows that meet WHERE, on one HTML page.

    It shows what the store holds, its labels, norms and AUROC by layer, principal
    components with the question, oracle and prediction of each point, and what stands out.
    The page holds everything it needs. Of the vectors a sample of each layer is read.

    \b
    Examples:
      actstore report runs.store -o report.html
      actstore report runs.store "task = 'mazenav'" --by mode -o mazes.html
    """
    import actstore
    from actstore.analysis import report

    with actstore.open(store, at=at) as opened:
        found = report.collect(opened.select(where, **given_filters(filters)), by)
        report.write(found, target)
        report_traffic(opened.traffic)
    size = target.stat().st_size
    if as_json:
        output.print_json(
            {"path": str(target), "bytes": size, "rows": found.rows, "places": len(found.places)}
        )
    else:
        click.echo(f"{target}: {counted(found.rows, 'row')}, {output.size(size)}")
