"""`actstore drop`: a commit without some rows, and with --prune their bytes gone for good."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from actstore.commands import output
from actstore.commands.confirming import (
    check_can_ask,
    confirm,
    dry_run_option,
    print_groups,
    tell_held,
    yes_option,
)
from actstore.commands.exit_codes import Exit
from actstore.commands.options import bucket_store_argument, format_options
from actstore.commands.progress import bar
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.querying.changes import Dropped
    from actstore.storage.pruning import Erased

_NAMED = 5


@click.command("drop")
@bucket_store_argument
@click.argument("where")
@click.option(
    "--prune",
    is_flag=True,
    help="Remove the bytes for good, as for personal data: with all older commits, files, caches "
    "and reports that hold them. Commits that somebody is reading stay.",
)
@dry_run_option
@yes_option
@format_options
def command(
    store: str | Path, where: str, prune: bool, dry_run: bool, yes: bool, as_json: bool
) -> int:
    """Drop the rows of STORE that meet WHERE, a SQL condition over the metadata.

    The new commit is without these rows; older commits still hold them (`actstore checkout`
    brings them back) unless --prune removes them for good. What would go is shown first.
    Files are held against their SHA-256 before anything is removed; where one is damaged
    nothing is (exit code 4). Exit code 1 after --prune: a commit is being read and stays. In a
    bucket nobody can see who reads: there `actstore compact --prune` removes old commits.

    \b
    Examples:
      actstore drop runs.store "layer = 24 AND site = 'mlp_out'"
      actstore drop runs.store "example_id = 'patient-17'" --prune
      actstore drop runs.store "norm = 0" --dry-run
    """
    from actstore.querying.changes import Drop
    from actstore.remote.working import working

    check_can_ask(yes=yes, dry_run=dry_run)
    with working(store, there=True, dry=dry_run) as root:
        drop = Drop(root, where, prune=prune)
        done = drop.outlook
        if not dry_run:
            if not drop.nothing:
                confirm("Drop them?", lambda: _show(drop.outlook), yes=yes, as_json=as_json)
            with bar("dropping") as report:
                done = drop.apply(progress=report)
    if done.erased is not None:
        tell_held(done.erased)
    ending = Exit.ERROR if done.erased is not None and done.erased.held else Exit.DONE
    if as_json:
        output.print_json(done.as_dict())
        return ending
    if dry_run or drop.nothing:
        _show(done)
        return Exit.DONE
    if done.commit is not None:
        click.echo(f"commit {done.commit}: {counted(done.rows, 'row')} dropped")
    if done.erased is not None:
        _tell(store, done.erased)
    return ending


def _show(outlook: Dropped) -> None:
    """Say what would be dropped."""
    if not outlook.rows:
        click.echo("no row meets that condition" + ("" if outlook.commits else ": nothing to do"))
    else:
        anew = f"; {counted(outlook.rewritten, 'shard')} written anew" if outlook.rewritten else ""
        click.echo(
            f"drops {counted(outlook.rows, 'row')} ({output.size(outlook.bytes)} of vectors), "
            f"{outlook.left:,} stay{anew}"
        )
        print_groups(outlook.groups)
    if outlook.prune:
        click.echo(
            f"removes for good {counted(len(outlook.commits), 'older commit')} and "
            f"{output.size(outlook.pruned_bytes)} of files"
        )
    elif outlook.rows:
        click.echo("older commits keep these rows; --prune removes them for good")


def _tell(store: str | Path, erased: Erased) -> None:
    """Say what was removed, and what may hold the same rows still."""
    click.echo(
        f"removed for good: {counted(len(erased.commits), 'older commit')}, "
        f"{counted(len(erased.files), 'file')} of rows and labels ({output.size(erased.bytes)}), "
        f"{counted(len(erased.caches), 'cache file')}, {counted(len(erased.reports), 'report')}"
    )
    for name in (*erased.caches, *erased.reports):
        click.echo(f"  {name}")
    click.echo("not in our hands, look there yourself:")
    for name in erased.repositories:
        click.echo(f"  {name} on the Hub: push, and its history still holds what was pushed before")
    if erased.repositories:
        click.echo(
            "  byte ranges read from the Hub, in ~/.cache/actstore or where ACTSTORE_CACHE says"
        )
    if erased.foreign:
        more = f" and {len(erased.foreign) - _NAMED} more" if len(erased.foreign) > _NAMED else ""
        click.echo(f"  in {store}, not the store's own: {', '.join(erased.foreign[:_NAMED])}{more}")
    click.echo("  source files, exports, saved probes and pictures, copies of the store")
    click.echo("  backups, snapshots of the file system, blocks of the disk that are free now")
