"""`actstore diff`: which rows, vectors and labels differ between two stores."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from actstore.commands import output
from actstore.commands.exit_codes import Exit
from actstore.commands.options import (
    at_option,
    format_options,
    place,
    readable_store_argument,
    report_traffic,
)
from actstore.commands.progress import bar
from actstore.commands.row_options import Rows, row_options, where_option
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.analysis.statistics.difference import PartitionDifference, StoreDifference

_WHERE = ("model", "site", "layer")
_CHANGES = 20
"""Pairs of labels that are listed."""
_COUNTS = ("rows A", "rows B", "only A", "only B", "vectors")


@click.command("diff")
@readable_store_argument
@click.argument("other", required=False)
@at_option("--at-a", help="Read STORE as commit N left it.")
@at_option("--at-b", help="Read OTHER as commit N left it.")
@row_options(where=where_option)
@format_options
def command(
    store: str | Path,
    other: str | None,
    at_a: int | None,
    at_b: int | None,
    rows: Rows,
    as_json: bool,
) -> int:
    """Hold the rows of STORE (A) and OTHER (B) against each other, by their keys.

    Without OTHER two commits of STORE are compared: --at-a and --at-b, of which one may be
    left out and is the latest.

    Told are rows that only one has, vectors that differ and by how much, and labels and
    other metadata that differ. How rows lie in files does not matter, nor when and from
    where they came. The exit code is 0 if nothing differs and 5 if something does.

    \b
    Examples:
      actstore diff before.store after.store
      actstore diff runs.store --at-a 1 --at-b 4
      actstore diff runs.store hf://datasets/org/name --json
    """
    import actstore
    from actstore.analysis.statistics.difference import diff

    if other is None and at_a == at_b:
        raise click.UsageError(
            "name the store to hold this one against, or two commits of this one with --at-a and "
            "--at-b"
        )
    with contextlib.ExitStack() as stack:
        left = stack.enter_context(actstore.open(store, at=at_a))
        right = stack.enter_context(
            actstore.open(store if other is None else place(other), at=at_b)
        )
        a = rows.select(left)
        b = rows.select(right)
        total = sum(shard.vector_bytes for shard in a.snapshot.shards)
        done = [0, 0]
        with bar("comparing", total, hidden=as_json) as report:

            def progress(read: int, count: int) -> None:
                done[0] += read
                done[1] += count
                report(done[0], done[1])

            found = diff(a, b, progress=progress)
        report_traffic(left.traffic)
        report_traffic(right.traffic)
    if as_json:
        output.print_json(found.as_dict())
    elif found.equal:
        total = sum(one.rows_a for one in found.partitions)
        types = sum(one.types is not None for one in found.partitions)
        of_types = f"; the stored type differs in {counted(types, 'layer')}" if types else ""
        output.say(f"equal: {counted(total, 'row')} with the same vectors and labels{of_types}")
    else:
        _print(found)
    return Exit.DONE if found.equal else Exit.DIFFERENT


def _print(found: StoreDifference) -> None:
    differing = [one for one in found.partitions if not one.equal]
    output.print_table(
        (*_WHERE, *_COUNTS, "labels", "metadata", "max abs", "max relative", "min cosine"),
        [_row(one) for one in differing],
    )
    same = len(found.partitions) - len(differing)
    if same:
        output.say(f"{counted(same, 'other layer')} equal")
    for widths in {one.widths for one in differing if one.widths}:
        output.say(f"widths differ: {widths[0]} in A, {widths[1]} in B")
    _list("only in A", found.only_a, sum(one.only_a for one in differing))
    _list("only in B", found.only_b, sum(one.only_b for one in differing))
    _list(
        "vectors that differ most",
        [
            f"{one.row}: max abs {one.max_abs:.4g}, relative {one.relative:.4g}, "
            f"cosine {one.cosine:.6f}"
            for one in found.vectors
        ],
        sum(one.vectors for one in differing if one.widths is None),
    )
    _list(
        "labels that differ",
        [f"{_label(one.a)} -> {_label(one.b)}  {one.rows:,}" for one in found.labels[:_CHANGES]],
        len(found.labels),
    )
    _list(
        "values that differ",
        [
            f"{one.row}: {one.column} {output.cell(one.a)} in A, {output.cell(one.b)} in B"
            for one in found.values
        ],
        sum(sum(one.columns.values()) for one in differing),
    )


def _label(label: str | None) -> str:
    return "(none)" if label is None else label


def _row(one: PartitionDifference) -> list[object]:
    labels = one.columns.get("label", 0)
    return [
        *(one.model, one.site, one.layer),
        *(one.rows_a, one.rows_b, one.only_a, one.only_b, one.vectors),
        labels,
        sum(one.columns.values()) - labels,
        *(
            "-" if value is None else float(f"{value:.4g}")
            for value in (one.max_abs, one.max_relative, one.min_cosine)
        ),
    ]


def _list(title: str, lines: tuple[str, ...] | list[str], total: int) -> None:
    if not lines:
        return
    output.say()
    output.say(f"{title}:")
    for line in lines:
        output.say(f"  {output.cell(line, 2 * output.WIDE)}")
    if total > len(lines):
        output.say(f"  … and {total - len(lines):,} more")
