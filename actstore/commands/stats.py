"""`actstore stats`: what the vectors look like, group by group."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from actstore.commands import output
from actstore.commands.opening import open_store, skip_damaged_option
from actstore.commands.options import (
    at_option,
    format_options,
    readable_store_argument,
    report_traffic,
)
from actstore.commands.progress import bar
from actstore.commands.row_options import Rows, mixed_option, row_options
from actstore.schema import PLACE

if TYPE_CHECKING:
    from actstore.analysis.statistics.summaries import Statistics

_LISTED = 5


@click.command("stats")
@readable_store_argument
@click.option(
    "--by",
    metavar="A,B,…",
    default=",".join(PLACE),
    show_default=True,
    help="Metadata columns to group the rows by; an empty text makes one group of all.",
)
@row_options()
@mixed_option
@format_options
@at_option()
@skip_damaged_option
def command(
    store: str | Path,
    rows: Rows,
    by: str,
    mixed: bool,
    as_json: bool,
    at: int | None,
) -> None:
    """Describe the vectors of STORE, or of its rows that meet WHERE, group by group.

    Mean, std, min and max are over all values of a group that are finite; the others are
    counted. Norms are those of its rows. An outlier dimension is one whose root mean square
    is at least six times that of the median dimension. Every vector is read once.

    A group whose rows differ in model, site, pooling, region or layer is refused, unless
    options list these values (--layers 12,18) or --mixed takes them as they are.

    \b
    Examples:
      actstore stats runs.store
      actstore stats runs.store --by layer,label
      actstore stats runs.store "norm > 50" --by task,layer --json
    """
    from actstore.analysis.statistics import summaries

    names = [name.strip() for name in by.split(",") if name.strip()]
    with open_store(store, at) as opened:
        selection = rows.select(opened)
        total = sum(shard.vector_bytes for shard in selection.snapshot.shards)
        share = total * len(selection) // max(1, opened.rows)
        done = [0, 0]
        with bar("reading", share, hidden=as_json) as report:

            def progress(read: int, count: int) -> None:
                done[0] += read
                done[1] += count
                report(done[0], done[1])

            found = summaries.describe(selection, names, mixed=mixed, progress=progress)
        report_traffic(opened.traffic)
    if as_json:
        output.print_json(
            {
                "by": names,
                "rows": len(selection),
                "groups": (groups := [group.as_dict() for group in found]),
            },
            rows=groups,
        )
        return
    _print(found)


def _print(found: list[Statistics]) -> None:
    if not found:
        output.say("no rows")
        return
    keys = list(found[0].group)
    same = [key for key in keys if len({group.group[key] for group in found}) == 1]
    if len(found) > 1 and same:
        first = found[0].group
        # A region that no row has is nothing to tell.
        told = [key for key in same if first[key] is not None or key != "region"]
        output.say(", ".join(f"{key} {output.cell(first[key])}" for key in told))
        output.say()
        keys = [key for key in keys if key not in same]
    header = [*keys, "rows", "mean", "std", "min", "max", "norm", "5%", "95%", "zeros"]
    output.print_table([*header, "nonfinite", "outliers"], [_row(keys, group) for group in found])
    outlying = [group for group in found if group.outliers]
    if outlying:
        output.say()
        output.say("outlier dimensions (times the median dimension's root mean square):")
    for group in outlying:
        name = " ".join(f"{key} {output.cell(group.group[key])}" for key in keys)
        listed = ", ".join(
            f"{one.dimension} ({one.ratio:.0f}x)" for one in group.outliers[:_LISTED]
        )
        more = group.outlier_count - min(_LISTED, len(group.outliers))
        rest = f" and {more:,} more" if more else ""
        output.say(f"  {name}{': ' if name else ''}{listed}{rest}")


def _row(keys: list[str], group: Statistics) -> list[object]:
    def short(value: float | None) -> float | None:
        return None if value is None else float(f"{value:.4g}")

    norm = group.norm
    return [
        *(group.group[key] for key in keys),
        group.rows,
        short(group.mean),
        short(group.std),
        short(group.minimum),
        short(group.maximum),
        short(norm.median if norm else None),
        short(norm.q05 if norm else None),
        short(norm.q95 if norm else None),
        f"{group.zeros:.2%}" if group.zeros else "0",
        group.nonfinite,
        group.outlier_count,
    ]
