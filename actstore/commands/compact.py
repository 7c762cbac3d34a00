"""`actstore compact`: joins small shards, folds labels in, and drops old commits."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path

import click

from actstore.commands import output
from actstore.commands.confirming import tell_held
from actstore.commands.options import bucket_store_argument, format_options
from actstore.commands.progress import bar
from actstore.remote.bucket_address import is_bucket, parse_bucket
from actstore.wording import counted


@click.command("compact")
@bucket_store_argument
@click.option(
    "--shard-mb",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    metavar="N",
    help="Join shards up to N megabytes of vectors.",
)
@click.option(
    "--prune",
    is_flag=True,
    help="Afterwards remove old commits and every file that only they use. Commits that "
    "somebody is reading stay.",
)
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --prune: how many of the newest commits stay; 1 unless given.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    metavar="HOURS",
    help="With --prune in a bucket, where nobody can see who reads: leave alone what was still "
    "needed, or written, within the last HOURS; 24 unless given.",
)
@format_options
def command(
    store: str | Path,
    shard_mb: int,
    prune: bool,
    keep: int | None,
    grace: float | None,
    as_json: bool,
) -> None:
    """Join the small shards of STORE and write labels into them.

    Labels set by `actstore label` are seen at once by query, select and Python;
    `load_dataset` and other readers of the files see them after compact. Rows keep their
    order, and the new commit holds the same rows as the last.

    In a bucket shards are not joined; with --prune old commits and what writers that died have
    left are removed there, once the grace is over.

    \b
    Examples:
      actstore compact runs.store
      actstore compact runs.store --prune --keep 3
      actstore compact s3://bucket/runs.store --prune --keep 10
    """
    from actstore.storage import compaction, pruning

    if keep is not None and not prune:
        raise click.UsageError("--keep only has a meaning with --prune")
    if is_bucket(store):
        _in_bucket(str(store), prune, keep or 1, grace, as_json)
        return
    if grace is not None:
        raise click.UsageError("--grace is for buckets: in a folder those who read are seen")
    store = Path(store)
    with bar("compacting") as report:
        done = compaction.compact(store, shard_bytes=shard_mb << 20, progress=report)
    removed = pruning.erase(store, keep=keep or 1) if prune else None
    if removed is not None:
        tell_held(removed)
    if as_json:
        pruned = None
        if removed is not None:
            pruned = {
                "commits": len(removed.commits),
                "held": removed.held,
                "files": len(removed.files),
                "bytes": removed.bytes,
                "caches": removed.caches,
                "reports": removed.reports,
            }
        output.print_json({**done._asdict(), "pruned": pruned})
        return
    if done.commit is None:
        click.echo(f"nothing to do: {counted(done.shards_after, 'shard')}, no labels apart")
    else:
        click.echo(
            f"commit {done.commit}: {counted(done.shards_before, 'shard')} became "
            f"{done.shards_after:,}, {counted(done.labels_folded, 'label')} folded in"
        )
        if done.hashed:
            click.echo(
                f"{counted(done.hashed, 'shard')} of an earlier version can be checked in parts "
                "from now on, and so read sooner"
            )
    if removed is not None:
        click.echo(
            f"removed {counted(len(removed.commits), 'old commit')}, "
            f"{counted(len(removed.files), 'file')}, {output.size(removed.bytes)}"
        )
        for name in removed.reports:
            click.echo(f"removed {name}, which quotes rows that are in no commit any longer")


def _in_bucket(address: str, prune: bool, keep: int, grace: float | None, as_json: bool) -> None:
    """Remove what is no longer needed in a bucket."""
    from actstore.remote.bucket import Bucket
    from actstore.remote.bucket_pruning import GRACE, prune_bucket

    if not prune:
        raise click.UsageError(
            f"shards are joined on this machine only: copy the store (actstore sync {address} "
            "FOLDER), compact that, and sync it to another place; --prune works in a bucket"
        )
    wait = GRACE if grace is None else timedelta(hours=grace)
    done = prune_bucket(Bucket(parse_bucket(address)), keep=keep, grace=wait)
    if as_json:
        output.print_json({**dataclasses.asdict(done), "grace_hours": wait.total_seconds() / 3600})
        return
    click.echo(
        f"removed {counted(len(done.commits), 'old commit')}, "
        f"{counted(len(done.files), 'file')}, {output.size(done.bytes)}"
    )
    if done.kept_by_grace:
        output.note(
            f"{counted(len(done.kept_by_grace), 'old commit')} stayed, which somebody may still be "
            f"reading: they go {wait.total_seconds() / 3600:g} hours after the next one was made"
        )
