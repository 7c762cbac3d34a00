"""`actstore log`: lists the commits of a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actstore.commands import output
from actstore.commands.options import bucket_store_argument, format_options

if TYPE_CHECKING:
    from actstore.storage.manifest import Manifest


@click.command("log")
@bucket_store_argument
@click.option(
    "--last", type=click.IntRange(min=1), metavar="N", help="Only the N most recent commits."
)
@format_options
def command(store: str | Path, last: int | None, as_json: bool) -> None:
    """List the commits of STORE, the most recent first.

    Every commit stays readable: `actstore query STORE … --at N` asks the store as
    commit N left it, until `actstore compact --prune` removes what only old commits use.

    \b
    Examples:
      actstore log runs.store
      actstore log runs.store --last 5 --json
      actstore log s3://bucket/runs.store
    """
    from actstore.remote.working import looking
    from actstore.storage import manifest

    with looking(store, history=True) as root:
        newest = manifest.load(root)
        numbers = sorted(manifest.numbers(root), reverse=True)[:last]
        commits = [
            _summary(newest if n == newest.number else manifest.load(root, n)) for n in numbers
        ]
    if as_json:
        output.print_json(commits)
        return
    columns = ("commit", "created_at", "operation", "rows", "shards", "message")
    output.print_table(columns, [[commit[name] for name in columns] for commit in commits])


def _summary(found: Manifest) -> dict[str, Any]:
    return {
        "commit": found.number,
        "parent": found.parent,
        "created_at": found.created_at,
        "operation": found.operation,
        "message": found.message,
        "rows": found.rows,
        "shards": len(found.shards),
        "bytes": sum(shard.bytes for shard in found.shards),
    }
