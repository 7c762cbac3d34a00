"""`actstore view`: the store in a viewer in the browser, Apple's embedding-atlas."""

from __future__ import annotations

import subprocess
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import click

from actstore.commands import output
from actstore.commands.exit_codes import Exit
from actstore.commands.opening import open_store, skip_damaged_option
from actstore.commands.options import (
    at_option,
    format_options,
    output_option,
    readable_store_argument,
    report_traffic,
)
from actstore.commands.progress import bar
from actstore.commands.row_options import Rows, row_options
from actstore.errors import UsageError
from actstore.storage.layout import store_around
from actstore.storage.scratch import scratch

if TYPE_CHECKING:
    from actstore.api.selection import Selection


@click.command("view")
@readable_store_argument
@click.option("--host", default="localhost", show_default=True, help="Address to serve at.")
@click.option("--port", type=int, default=5055, show_default=True, help="Port to serve at.")
@click.option(
    "--rows",
    "most",
    type=click.IntRange(min=1),
    default=100_000,
    show_default=True,
    help="How many rows to show at most.",
)
@output_option(
    "Open nothing, write: the table as .parquet, the whole viewer as .zip or a folder.",
    metavar="FILE",
)
@row_options()
@format_options
@at_option()
@skip_damaged_option
def command(
    store: str | Path,
    rows: Rows,
    host: str,
    port: int,
    most: int,
    target: Path | None,
    as_json: bool,
    at: int | None,
) -> int:
    """Look at STORE, or at its rows that meet WHERE, in embedding-atlas.

    Every row is a point with all its metadata, to search, filter and colour by. Points lie
    along the two principal components of their layer; layers lie side by side. Needs the
    extra `view`; without it there is a report instead (see `actstore report`).

    \b
    Examples:
      actstore view runs.store
      actstore view runs.store --layers 12 --port 6000
      actstore view runs.store -o viewer.zip
    """
    from actstore.analysis import viewing

    program = viewing.program()
    only_table = target is not None and target.suffix == ".parquet"
    with open_store(store, at) as opened, scratch("view") as folder:
        selection = rows.select(opened)
        if program is None and not only_table:
            return _fall_back(selection, target, as_json)
        table = target if only_table and target is not None else folder / "rows.parquet"
        done = [0, 0]
        with bar("projecting", hidden=as_json) as report:

            def progress(read: int, count: int) -> None:
                done[0] += read
                done[1] += count
                report(done[0], done[1])

            exported = viewing.export(
                selection,
                table,
                most=most,
                text_bytes=None if only_table else viewing.TEXT_BYTES,
                progress=progress,
            )
        report_traffic(opened.traffic)
        if as_json or only_table:
            _tell(target, exported.rows, exported.note, as_json)
        if only_table or program is None:
            return Exit.DONE
        words = viewing.command_line(program, exported, host=host, port=port, site=target)
        output.note(viewing.needs(host if target is None else "localhost", port))
        if target is None:
            output.note(f"{exported.note}; Ctrl-C ends the viewer")
        code = subprocess.run(
            words, check=False, stdout=subprocess.DEVNULL if target is not None else None
        ).returncode
    if target is not None and code == 0 and not as_json:
        _tell(target, exported.rows, exported.note, False)
    return Exit.ERROR if code else Exit.DONE


def _tell(target: Path | None, rows: int, note: str, as_json: bool) -> None:
    if as_json:
        path = None if target is None else str(target)
        output.print_json({"path": path, "rows": rows, "note": note})
    else:
        click.echo(f"{target}: {note}")


def _fall_back(selection: Selection, target: Path | None, as_json: bool) -> int:
    """Write the report instead, say so in a sentence, and open it where somebody looks on."""
    from actstore.analysis import report

    page = Path("report.html") if target is None else target.with_suffix(".html")
    if around := store_around(page):
        raise UsageError(
            f"embedding-atlas is not installed (pip install 'actstore[view]'), and the report that "
            f"stands in for it cannot be written here, in the store {around.name}: name another "
            "place with -o FILE"
        )
    found = report.collect(selection)
    report.write(found, page)
    output.note(
        f"embedding-atlas is not installed (pip install 'actstore[view]'), so here is the report: "
        f"{page}"
    )
    if as_json:
        output.print_json({"path": str(page), "rows": found.rows, "note": "report"})
    elif sys.stdout.isatty():
        webbrowser.open(page.resolve().as_uri())
    return Exit.DONE
