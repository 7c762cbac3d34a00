"""`actstore verify`: checks every byte of a store."""

from __future__ import annotations

from pathlib import Path

import click

from actstore.commands import output
from actstore.commands.exits import Exit
from actstore.commands.options import at_option, json_option, store_argument
from actstore.commands.progress import bar


@click.command("verify")
@store_argument
@at_option
@json_option
def command(store: Path, at: int | None, as_json: bool) -> int:
    """Check STORE: hashes, page checksums, schema, unique keys, finite values.

    Every bad file is named with what is wrong with it, and the exit code is 4.

    \b
    Examples:
      actstore verify runs.store
      actstore verify runs.store --json
    """
    from actstore.storage.snapshot import open_snapshot
    from actstore.storage.verification import verify

    snapshot = open_snapshot(store, at)
    size = sum(shard.bytes for shard in snapshot.shards)
    with bar("verifying", size) as report:
        problems = verify(snapshot, progress=lambda done: report(done, 0))
    snapshot.close()
    if as_json:
        output.print_json(
            {
                "commit": snapshot.manifest.number,
                "shards": len(snapshot.shards),
                "rows": snapshot.rows,
                "bytes": size,
                "problems": [problem._asdict() for problem in problems],
            }
        )
    elif problems:
        for problem in problems:
            click.echo(f"{problem.path}: {problem.reason}")
    else:
        click.echo(
            f"sound: {output.count(len(snapshot.shards), 'shard')}, "
            f"{output.count(snapshot.rows, 'row')}, {output.size(size)} checked"
        )
    return Exit.DAMAGED if problems else Exit.DONE
