"""Opens the store that a command reads, without its damaged shards where that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from actstore.commands import output

if TYPE_CHECKING:
    from actstore.api.store import Store

SKIP_DAMAGED = "--skip-damaged"
_ASKED = "actstore.skip_damaged"


def _keep(ctx: click.Context, param: click.Parameter, given: bool) -> None:
    ctx.meta[_ASKED] = given


skip_damaged_option = click.option(
    SKIP_DAMAGED,
    is_flag=True,
    expose_value=False,
    callback=_keep,
    help="Read all bytes of the store first and leave out shards that are damaged or missing; "
    "each is named on standard error. Row numbers are those of the rows that are left.",
)
"""For commands that only read, which then open stores with :func:`open_store`."""


def open_store(store: str | Path, at: int | None = None) -> Store:
    """Open a store to read from, and name the damaged shards that are left out.

    Raises:
        ActstoreError: as :func:`actstore.open`.
    """
    import actstore

    asked = click.get_current_context().meta.get(_ASKED)
    opened = actstore.open(store, at, skip_damaged=bool(asked))
    for each in opened.skipped:
        output.note(f"left out, damaged: {each}")
    return opened
