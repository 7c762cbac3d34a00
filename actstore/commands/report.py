"""`actstore report`: a store on one page that any browser opens."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import click

from actstore.commands import output
from actstore.commands.opening import SKIP_DAMAGED, open_store, skip_damaged_option
from actstore.commands.options import (
    at_option,
    format_options,
    output_option,
    readable_store_argument,
    report_traffic,
)
from actstore.commands.probes_shown import (
    about_places,
    found_probes,
    no_probes_option,
    probes_option,
)
from actstore.commands.row_options import Rows, row_options
from actstore.wording import counted

_OPTIONS = {"layer": "layers", "site": "sites", "pooling": "pool"}
"""Columns whose options have a name of their own."""


@click.command("report")
@readable_store_argument
@output_option(
    "Where to: one HTML file, replaced if it exists.",
    default=Path("report.html"),
    show_default=True,
)
@click.option(
    "--by",
    metavar="COLUMN",
    default="label",
    show_default=True,
    help="Metadata column whose values are told apart.",
)
@probes_option(
    help="Show the AUROC of what `actstore probe --out DIR` wrote for these rows; by default of "
    "such a run that lies beside STORE or FILE.",
)
@no_probes_option
@row_options()
@format_options
@at_option()
@skip_damaged_option
def command(
    store: str | Path,
    rows: Rows,
    target: Path,
    by: str,
    probes: Path | None,
    no_probes: bool,
    as_json: bool,
    at: int | None,
) -> None:
    """Describe STORE, or its rows that meet WHERE, on one HTML page.

    It shows what the store holds, its labels, norms and AUROC by layer, principal
    components with the question, oracle and prediction of each point, and what stands out.
    AUROC is that of trained probes where there are any for these rows, and otherwise of the
    difference of means, and the page says which. It holds everything it needs. Of the
    vectors a sample of each layer is read.

    \b
    Examples:
      actstore report runs.store -o report.html
      actstore report runs.store --probes probes -o report.html
      actstore report runs.store "task = 'mazenav'" --by mode -o mazes.html
    """
    from actstore.analysis.report import contents, page

    if probes and no_probes:
        raise click.UsageError("give --probes or --no-probes, not both")
    with open_store(store, at) as opened:
        selection = rows.select(opened)
        reports = [probes] if probes else []
        if not probes and not no_probes:
            whole = about_places(rows)
            reports = found_probes(store, target, selection, by, whole=whole)
        name = contents.shown_name(str(store))
        words = _words(name, rows, target, by, probes, no_probes, at, bool(opened.skipped))
        found = contents.collect(selection, by, probes=reports, command=shlex.join(words))
        page.write(found, target)
        report_traffic(opened.traffic)
    size = target.stat().st_size
    probed = sum(place.probes is not None for place in found.places)
    if as_json:
        output.print_json(
            {
                "path": str(target),
                "bytes": size,
                "rows": found.rows,
                "places": len(found.places),
                "probed": probed,
            }
        )
    else:
        click.echo(f"{target}: {counted(found.rows, 'row')}, {output.size(size)}")


def _words(
    name: str,
    rows: Rows,
    target: Path,
    by: str,
    probes: Path | None,
    no_probes: bool,
    at: int | None,
    skipped: bool,
) -> list[str]:
    """Return the command that writes this report, without the folders of this machine."""
    words = ["actstore", "report", name, *([] if rows.where is None else [rows.where])]
    for column, values in rows.equals.items():
        option = _OPTIONS.get(column, column)
        for value in cast("Sequence[object]", values):
            words += [f"--{option}", "unknown" if value is None else str(value)]
    words += [] if by == "label" else ["--by", by]
    words += [] if probes is None else ["--probes", probes.name]
    words += ["--no-probes"] if no_probes else []
    words += [] if at is None else ["--at", str(at)]
    words += [SKIP_DAMAGED] if skipped else []
    return [*words, "-o", target.name]
