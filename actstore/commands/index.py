"""`actstore index`: an approximate index of a layer, for `nearest --index` on very large stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from actstore.commands import output
from actstore.commands.options import format_options, readable_store_argument
from actstore.commands.row_options import Rows, row_options
from actstore.wording import counted


@click.command("index")
@readable_store_argument
@click.option(
    "--metric",
    type=click.Choice(("cosine", "dot", "l2")),
    default="cosine",
    show_default=True,
    help="What the index searches by.",
)
@row_options()
@format_options
def command(store: str | Path, metric: Any, rows: Rows, as_json: bool) -> None:
    """Build an approximate index of a whole layer of STORE, and say how good it is.

    `actstore nearest --index` then reads a small part of the layer. It may miss neighbours:
    recall is the share of the ten nearest rows that it found, for rows of the store as
    queries. Without --index every row is compared as ever. The index lies in the store's cache
    folder (that of a store in a bucket or on the Hub in your own), is not pushed, and has to be
    built again when the layer's rows change. It needs the
    optional extra: pip install 'actstore[index]'.

    \b
    Examples:
      actstore index runs.store --layers 12
      actstore nearest runs.store --example num_000 --layers 12 --index
    """
    import actstore

    with actstore.open(store) as opened:
        built = opened.index(rows.where, metric=metric, **rows.equals)
    if as_json:
        output.print_json(built._asdict())
        return
    output.say(
        f"{counted(built.rows)} indexed, {output.size(built.bytes)}; recall of the ten nearest "
        f"{built.recall:.3f}, from {counted(built.tried, 'vector')} of the store"
    )
