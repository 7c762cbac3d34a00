"""`actstore checkout`: back to an earlier commit, as a new one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from actstore.commands import output
from actstore.commands.confirming import (
    SHOWN,
    check_can_ask,
    confirm,
    dry_run_option,
    yes_option,
)
from actstore.commands.exit_codes import Exit
from actstore.commands.options import bucket_store_argument, format_options
from actstore.commands.progress import bar
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.querying.changes import CheckedOut


@click.command("checkout")
@bucket_store_argument
@click.option(
    "--at",
    type=click.IntRange(min=1),
    required=True,
    metavar="N",
    help="The commit to go back to (`actstore log` lists them).",
)
@dry_run_option
@yes_option
@format_options
def command(store: str | Path, at: int, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Go back to commit N of STORE: a new commit that holds what N held.

    The history stays, so that this too can be undone. The files of N are held against their
    SHA-256 first. To only read the store as it was, give `--at N` to the reading command.

    \b
    Examples:
      actstore log runs.store
      actstore checkout runs.store --at 3
    """
    from actstore.querying.changes import Checkout
    from actstore.remote.working import working

    check_can_ask(yes=yes, dry_run=dry_run)
    with working(store, there=True, at=at, dry=dry_run) as root:
        checkout = Checkout(root, at)
        done = checkout.outlook
        if not dry_run:
            if not checkout.nothing:
                confirm("Go back?", lambda: _show(checkout.outlook), yes=yes, as_json=as_json)
            with bar("checking") as report:
                done = checkout.apply(progress=report)
    if as_json:
        output.print_json(done.as_dict())
    elif done.commit is not None:
        click.echo(f"commit {done.commit}: as commit {done.at} was, {counted(done.rows, 'row')}")
    elif checkout.nothing:
        click.echo(f"nothing to do: the store is as commit {at} left it")
    else:
        _show(done)
    return Exit.DONE


def _show(outlook: CheckedOut) -> None:
    """Say what would change."""
    click.echo(
        f"goes back to commit {outlook.at} with {counted(outlook.rows, 'row')} "
        f"({outlook.rows_now:,} now); "
        f"{counted(outlook.undone, 'later commit')} undone and kept in the log"
    )
    if outlook.changes:
        names = ("model", "site", "layer", "label", "now", "then")
        rows = [[getattr(each, name) for name in names] for each in outlook.changes[:SHOWN]]
        output.print_table(names, rows)
    else:
        click.echo("no model, site, layer and label gets more rows or fewer")
    if len(outlook.changes) > SHOWN:
        click.echo(f"… and {len(outlook.changes) - SHOWN:,} more; --json lists all")
