"""`actstore info`: what a store holds, in numbers."""

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
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.querying.info import OwnColumn
    from actstore.storage.fencing import Skipped

_SHOWN = 12
"""Own columns that are listed."""
_MANY, _WORTH = 100, 4
"""A compaction is advised from as many shards on, and where it leaves one of as many."""


@click.command("info")
@readable_store_argument
@at_option()
@skip_damaged_option
@format_options
def command(store: str | Path, at: int | None, as_json: bool) -> None:
    """Say what STORE holds: rows, models, sites, poolings, layers, labels, bytes, commits.

    \b
    Examples:
      actstore info runs.store
      actstore info runs.store --at 3 --json
      actstore info hf://datasets/org/name
    """
    with open_store(store, at) as opened:
        found = opened.info()
        report_traffic(opened.traffic)
    if as_json:
        output.print_json(found.as_dict())
        return
    several = found.examples < found.rows
    labels = [
        f"{'none' if label is None else label} {rows:,}"
        + (f" ({counted(found.label_examples[label], 'example')})" if several else "")
        for label, rows in sorted(found.labels.items(), key=lambda item: item[0] is None)
    ]
    output.print_pairs(
        {
            "store": found.path,
            "rows": f"{found.rows:,} of {counted(found.examples, 'example')}",
            "labels": ", ".join(labels),
            **_own_columns(found.extra),
            **_skipped(found.skipped),
            "size": f"{output.size(found.bytes)} in {counted(found.shards, 'shard')}, "
            f"{output.size(found.vector_bytes)} of vectors",
            **_many(found.shards, found.shards_compacted),
            **_smaller(found.vector_bytes_as),
            "commit": f"{found.commit} of {found.created_at}, {found.commits:,} can be opened",
        },
        aside=bool(found.partitions),
    )
    if found.partitions:
        output.say()
        output.print_table(
            ("model", "site", "pooling", "region", "layer", "width", "dtype", "rows", "size"),
            [
                (
                    *(p.model, p.site, p.pooling, p.region, p.layer, p.width, p.dtype, p.rows),
                    output.size(p.bytes),
                )
                for p in found.partitions
            ],
        )


def _many(shards: int, compacted: int) -> dict[str, str]:
    """Return the line about small shards, where there are enough of them to slow things down."""
    if shards < _MANY or shards < _WORTH * compacted:
        return {}
    text = f"{shards:,} small shards would become {compacted:,}: run `actstore compact`"
    return {"compaction": text}


def _smaller(found: dict[str, int]) -> dict[str, str]:
    """Return the line about smaller types, where vectors are of float32."""
    if "compact16" not in found:
        return {}
    told = [f"{output.size(size)} as {name}" for name, size in found.items()]
    text = f"vectors would take {' or '.join(told)} (actstore convert --dry-run says the cost)"
    return {"smaller": text}


def _own_columns(found: tuple[OwnColumn, ...]) -> dict[str, str]:
    """Return the line about fields of ``extra``, if there are any."""
    told = [f"{one.name} ({one.type}, {one.rows:,})" for one in found[:_SHOWN]]
    if len(found) > _SHOWN:
        told.append(f"and {len(found) - _SHOWN} more (--json)")
    return {"own columns": ", ".join(told)} if told else {}


def _skipped(found: tuple[Skipped, ...]) -> dict[str, str]:
    """Return the line about damaged shards, if there are any."""
    rows = sum(one.rows for one in found)
    shards = counted(len(found), "damaged shard")
    return {"left out": f"{counted(rows)} in {shards}"} if found else {}
