"""`actstore sync`: copies a store between a folder, a bucket and the Hub."""

from __future__ import annotations

import dataclasses

import click

from actstore.commands import output
from actstore.commands.options import format_options
from actstore.commands.progress import bar
from actstore.wording import counted


@click.command("sync")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.option(
    "--snapshots",
    is_flag=True,
    help="Copy all older commits too. Without it an empty DST gets the newest commit alone.",
)
@click.option("--dry-run", is_flag=True, help="Change nothing, say what would be copied.")
@format_options
def command(source: str, target: str, snapshots: bool, dry_run: bool, as_json: bool) -> None:
    """Bring DST up to the newest commit of the store SRC.

    Each is a folder or an address in a bucket (s3://, gs://, az://); SRC may be a store on the
    Hub (hf://datasets/ORG/NAME) as well, which stores are put on with `actstore push`. DST becomes
    the same store, commit for commit. Only what it lacks is copied, each file checked against its
    SHA-256 on the way; an interrupted sync goes on when it is run again. A DST with commits of its
    own is refused.

    \b
    Examples:
      actstore sync runs.store s3://bucket/runs.store
      actstore sync s3://bucket/runs.store runs.store
      actstore sync s3://bucket/runs.store gs://other/runs.store --snapshots
    """
    from actstore.remote.syncing import sync

    with bar("copying", hidden=as_json) as report:
        done = sync(
            source,
            target,
            snapshots=snapshots,
            dry_run=dry_run,
            progress=lambda here, total: report(here, total=total),
        )
    if as_json:
        output.print_json(dataclasses.asdict(done))
        return
    copied = f"{counted(done.files, 'file')}, {output.size(done.bytes)}"
    output.print_pairs(
        {
            "from": done.source,
            "to": done.target,
            "would copy" if done.dry_run else "copied": f"{copied}, {done.there:,} were there",
            "commits": ", ".join(map(str, done.commits[-8:])) or "none, as before",
            "commit": done.commit,
            "rows": f"{done.rows:,}",
        }
    )
