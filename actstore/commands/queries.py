"""`actstore queries`: lists the named queries, or prints one."""

from __future__ import annotations

import click

from actstore import resources
from actstore.commands import output
from actstore.commands.options import format_options
from actstore.errors import UsageError


@click.command("queries")
@click.argument("name", required=False)
@format_options
def command(name: str | None, as_json: bool) -> None:
    """List the named queries that come with actstore, or print the SQL of one.

    Run one with `actstore query STORE --name NAME --param …`; a query of your own is named
    by the path of its .sql file.

    \b
    Examples:
      actstore queries
      actstore queries label-counts > mine.sql
    """
    from actstore.querying import named

    if name is not None:
        paths = {path.stem: path for path in sorted(resources.folder("query").glob("*.sql"))}
        if name not in paths:
            raise UsageError(f"there is no query named {name!r}: there are {', '.join(paths)}")
        click.echo(paths[name].read_text(encoding="utf-8"), nl=False)
        return
    queries = named.available()
    if as_json:
        output.print_json(
            [
                {
                    "name": query.name,
                    "title": query.title,
                    "parameters": [
                        {
                            "name": p.name,
                            "type": p.type,
                            "required": p.required,
                            "default": p.default,
                            "description": p.description,
                        }
                        for p in query.parameters
                    ],
                }
                for query in queries
            ]
        )
        return
    output.print_table(
        ("query", "parameters", "what it answers"),
        [
            (
                query.name,
                ", ".join(p.name if p.required else f"[{p.name}]" for p in query.parameters),
                query.title,
            )
            for query in queries
        ],
        limit=output.WIDE,
    )
