"""Shows what a command would change and asks before it does: `--yes` answers, `--dry-run` stops."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click

from actstore.commands import output
from actstore.commands.exit_codes import Exit
from actstore.commands.progress import aside

if TYPE_CHECKING:
    from actstore.querying.changes import RowGroup
    from actstore.storage.pruning import Erased


class Declined(click.ClickException):
    """Whoever was asked said no."""

    exit_code = Exit.ERROR

    def __init__(self) -> None:
        super().__init__("not confirmed: nothing changed")


SHOWN = 40
"""Groups of rows that a table shows."""

yes_option = click.option(
    "--yes", "-y", is_flag=True, help="Do it without asking; needed where there is no terminal."
)
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Change nothing; say what would be done."
)


def check_can_ask(*, yes: bool, dry_run: bool) -> None:
    """Refuse to go on where nobody can be asked and nobody has answered.

    Raises:
        click.UsageError: standard input is no terminal.
    """
    if not (yes or dry_run or sys.stdin.isatty()):
        raise click.UsageError(
            "this changes the store, and there is no terminal to ask on: add --yes to do it, or "
            "--dry-run to see what it would do"
        )


def confirm(question: str, show: Callable[[], None], *, yes: bool, as_json: bool) -> None:
    """Show what would be done and ask whether it is to be done.

    Under ``--json`` what is shown goes to standard error, out of the document's way, and only
    where there is a question.

    Raises:
        Declined: it is not to be done.
    """
    with aside():
        if not as_json:
            show()
        elif not yes:
            with contextlib.redirect_stdout(sys.stderr):
                show()
        if not (yes or click.confirm(question, err=True)):
            raise Declined


def print_groups(groups: Iterable[RowGroup]) -> None:
    """Print rows by model, site, layer and label."""
    found = list(groups)
    names = ("model", "site", "layer", "label", "rows")
    output.print_table(names, [[getattr(each, name) for name in names] for each in found[:SHOWN]])
    if len(found) > SHOWN:
        click.echo(f"… and {len(found) - SHOWN:,} more; --json lists all")


def tell_held(erased: Erased) -> None:
    """Say which commits could not be removed, since they are being read."""
    if erased.held:
        named = ", ".join(map(str, erased.held))
        several = len(erased.held) > 1
        click.echo(
            f"{'commits' if several else 'commit'} {named} {'are' if several else 'is'} being read "
            f"by a process that has the store open: {'they stay' if several else 'it stays'}, with "
            "all files; prune again once that has ended",
            err=True,
        )
