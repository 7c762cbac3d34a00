"""`actstore rename`: other metadata for stored rows, keys among them."""

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
    print_groups,
    yes_option,
)
from actstore.commands.exit_codes import Exit
from actstore.commands.options import bucket_store_argument, format_options
from actstore.commands.progress import bar
from actstore.commands.row_options import where_options
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.querying.changes import Renamed


@click.command("rename")
@bucket_store_argument
@where_options
@click.option(
    "--set",
    "assignments",
    multiple=True,
    required=True,
    metavar="COLUMN=SQL",
    help="Column and its new value, a SQL expression over the columns; may be repeated.",
)
@dry_run_option
@yes_option
@format_options
def command(
    store: str | Path,
    where: str | None,
    assignments: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Set columns of the rows of STORE that meet WHERE, a SQL condition; of all rows without.

    Any column but the vector, its norm, the run and the label: model, site, layer, dataset,
    split, mode, variant, pooling, region and the others. Vectors are copied as the bytes they
    are. Rows that would share a key afterwards are named and nothing changes. What would
    change is shown first; older commits keep the old names.

    \b
    Examples:
      actstore rename runs.store --set "site='resid_post'" "site = 'hook_7'"
      actstore rename runs.store --set "model='org/model-v2'" --set "split='test'"
      actstore rename runs.store --set "layer = layer - 1" "site = 'resid_pre'" --dry-run
    """
    from actstore.querying.changes import Rename
    from actstore.remote.working import working

    check_can_ask(yes=yes, dry_run=dry_run)
    with working(store, there=True, dry=dry_run) as root:
        rename = Rename(root, assignments, where)
        done = rename.outlook
        if not dry_run:
            if done.rows:
                confirm("Change them?", lambda: _show(rename.outlook), yes=yes, as_json=as_json)
            with bar("renaming") as report:
                done = rename.apply(progress=report)
    if as_json:
        output.print_json(done.as_dict())
    elif done.commit is None:
        _show(done)
    else:
        click.echo(f"commit {done.commit}: {counted(done.rows, 'row')} changed")
    return Exit.DONE


def _show(outlook: Renamed) -> None:
    """Say what would change."""
    if not outlook.rows:
        click.echo("nothing to do: no row has another value there")
        return
    click.echo(
        f"changes {counted(outlook.rows, 'row')}; {counted(outlook.rewritten, 'shard')} "
        f"({output.size(outlook.bytes)}) written anew, vectors as they are"
    )
    output.print_table(("column", "from", "to", "rows"), outlook.changes[:SHOWN])
    if len(outlook.changes) > SHOWN:
        click.echo(f"… and {len(outlook.changes) - SHOWN:,} more; --json lists all")
    print_groups(outlook.groups)
