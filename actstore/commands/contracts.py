"""`actstore contracts`: lists the built-in contracts, or prints one."""

from __future__ import annotations

import click

from actstore.commands import output
from actstore.commands.options import format_options


@click.command("contracts")
@click.argument("name", required=False)
@format_options
def command(name: str | None, as_json: bool) -> None:
    """List the contracts that ingest and verify can enforce, or print one.

    A contract is a JSON file of rules: classes, rows per class, width, types, layers. Print
    one, change it, and pass it to `actstore ingest --contract my.json`.

    \b
    Examples:
      actstore contracts
      actstore contracts faithfulness-v1 > my.json
    """
    from actstore.errors import UsageError
    from actstore.ingestion import contract

    known = contract.known()
    if name is not None:
        if name not in known:
            raise UsageError(f"no contract {name!r}: built in are {', '.join(known)}")
        click.echo(known[name].read_text(encoding="utf-8"), nl=False)
        return
    rules = [contract.load(each) for each in known]
    if as_json:
        output.print_json([{"name": each.name, "title": each.title} for each in rules])
    else:
        output.print_table(
            ("contract", "title"), [(each.name, each.title) for each in rules], limit=output.WIDE
        )
