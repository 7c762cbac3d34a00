"""`actstore compare`: two selections, two examples or two stores side by side, layer by layer."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from actstore.commands import output
from actstore.commands.opening import open_store, skip_damaged_option
from actstore.commands.options import (
    at_option,
    format_options,
    place,
    readable_store_argument,
    report_traffic,
)
from actstore.commands.row_options import Rows, all_of, row_options, where_option
from actstore.schema import PLACE
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.analysis.statistics.comparison import Comparison, LayerComparison
    from actstore.querying.column_filters import ColumnFilters


@click.command("compare")
@readable_store_argument
@click.argument("other", required=False)
@click.option("--a", "where_a", metavar="SQL", help="Condition on the rows of A.")
@click.option("--b", "where_b", metavar="SQL", help="Condition on the rows of B.")
@click.option(
    "--example",
    "examples",
    multiple=True,
    metavar="ID",
    help="Twice: compare these two examples, by example_id.",
)
@row_options(where=where_option)
@at_option("--at-a", help="Read STORE as commit N left it.")
@at_option("--at-b", help="Read OTHER, or B of STORE, as commit N left it.")
@skip_damaged_option
@format_options
def command(
    store: str | Path,
    other: str | None,
    where_a: str | None,
    where_b: str | None,
    examples: tuple[str, ...],
    rows: Rows,
    at_a: int | None,
    at_b: int | None,
    as_json: bool,
) -> None:
    """Compare A with B, layer by layer: cosine, distance and linear CKA.

    A are the rows of STORE that meet --a, B those that meet --b; or all rows of STORE and
    of OTHER. Each model, site, pooling, region and layer is compared by itself. Rows are
    matched by example, leaving out the columns in which the two sides have nothing in
    common. Options such as --layers apply to both.

    \b
    Examples:
      actstore compare runs.store --a "label = 'faithful'" --b "label = 'unfaithful'"
      actstore compare runs.store --a "mode = 'tqa'" --b "mode = 'vqa'" --json
      actstore compare runs.store --example num_000 --example num_001
      actstore compare before.store after.store
    """
    from actstore.analysis.statistics.comparison import compare

    if examples and (len(examples) != 2 or other is not None):
        raise click.UsageError("two examples of one store are compared: give --example twice")
    if not examples and other is None and at_a == at_b and (where_a is None or where_b is None):
        raise click.UsageError(
            "say what to compare: --a and --b, --example twice, --at-a and --at-b, or OTHER"
        )
    sides: list[ColumnFilters] = [{**rows.equals, "example_id": each} for each in examples] or [
        rows.equals,
        rows.equals,
    ]
    with contextlib.ExitStack() as stack:
        left = stack.enter_context(open_store(store, at_a))
        right = left
        if other is not None or at_b != at_a:
            second = store if other is None else place(other)
            right = stack.enter_context(open_store(second, at_b))
        found = compare(
            left.select(all_of(rows.where, where_a), **sides[0]),
            right.select(all_of(rows.where, where_b), **sides[1]),
        )
        for opened in dict.fromkeys((left, right)):
            report_traffic(opened.traffic)
    if as_json:
        output.print_json(found.as_dict())
        return
    _print(found)


def _print(found: Comparison) -> None:
    from actstore.analysis.statistics.comparison import SAMPLE

    across = f"; A and B differ in {', '.join(found.across)}" if found.across else ""
    output.say(f"matched by {', '.join(found.matched_by)}{across}")
    output.say()
    columns = [
        key
        for key in PLACE
        if key == "layer" or len({(one.a[key], one.b[key]) for one in found.layers}) > 1
    ]
    header = (*columns, "rows A", "rows B", "matched", "cosine", "distance", "cosine of means")
    output.print_table(
        (*header, "distance of means", "CKA", "CKA debiased"),
        [_row(columns, one) for one in found.layers],
    )
    for side, left in (("A", found.only_a), ("B", found.only_b)):
        if left:
            count = counted(len(left), "other group")
            output.say(f"only {side} has {count} of model, site, pooling, region and layer")
    unmatched = sum(one.rows_a + one.rows_b - 2 * one.matched for one in found.layers)
    if unmatched:
        ambiguous = sum(one.ambiguous for one in found.layers)
        why = f", {ambiguous:,} of them because others share their key" if ambiguous else ""
        output.say(f"{counted(unmatched, 'row')} without a counterpart{why}")
    if any(one.cka is not None and one.matched > SAMPLE for one in found.layers):
        output.say(f"CKA is of {SAMPLE:,} matched rows of a layer at most, evenly spread")
    if values := sum(one.nonfinite_a + one.nonfinite_b for one in found.layers):
        output.say(f"left out of the means: {counted(values, 'value')} not finite")
    if broken := sum(one.matched - _finite(one) for one in found.layers):
        output.say(f"left out, for they are not finite: {counted(broken, 'matched pair')}")
    same = [one for one in found.layers if one.width_a == one.width_b]
    if zeros := sum(_finite(one) - (one.cosine.rows if one.cosine else 0) for one in same):
        output.say(
            f"left out of the cosine, which zeros have not: {counted(zeros, 'matched pair')}"
        )


def _finite(one: LayerComparison) -> int:
    """Return how many matched pairs are finite, as far as they were looked at."""
    from actstore.analysis.statistics.comparison import SAMPLE

    if one.width_a != one.width_b:
        return one.matched - min(SAMPLE, one.matched) + one.cka_rows
    return one.distance.rows if one.distance else 0


def _row(columns: list[str], one: LayerComparison) -> list[object]:
    def side_by_side(key: str) -> object:
        a, b = one.a[key], one.b[key]
        return a if a == b else f"{output.cell(a)} / {output.cell(b)}"

    def short(value: float | None) -> object:
        return "-" if value is None else float(f"{value:.4g}")

    return [
        *(side_by_side(key) for key in columns),
        one.rows_a,
        one.rows_b,
        one.matched,
        short(one.cosine.mean if one.cosine else None),
        short(one.distance.mean if one.distance else None),
        short(one.mean_cosine),
        short(one.mean_distance),
        short(one.cka),
        short(one.cka_debiased),
    ]
