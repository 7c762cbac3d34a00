"""`actstore compact`: joins small shards, folds labels in, and drops old commits."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from actstore.commands import output
from actstore.commands.confirming import tell_held
from actstore.commands.options import Number, bucket_store_argument, format_options
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
    type=Number(min=0),
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

    In a bucket --prune also removes what writers that died have left there, and everything once
    the grace is over.

    \b
    Examples:
      actstore compact runs.store
      actstore compact runs.store --prune --keep 3
      actstore compact s3://bucket/runs.store --prune --keep 10
    """
    from actstore.remote.working import working
    from actstore.storage import compaction

    if keep is not None and not prune:
        raise click.UsageError("--keep only has a meaning with --prune")
    if grace is not None and not (prune and is_bucket(store)):
        raise click.UsageError(
            "--grace is for buckets, with --prune: in a folder those who read are seen"
        )
    with working(store, there=True) as root, bar("compacting") as report:
        done = compaction.compact(root, shard_bytes=shard_mb << 20, progress=report)
    pruned = None
    if prune and is_bucket(store):
        pruned = _prune_bucket(str(store), keep or 1, grace)
    elif prune:
        pruned = _prune_folder(Path(store), keep or 1)
    if as_json:
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
    if pruned is not None:
        click.echo(
            f"removed {counted(pruned['commits'], 'old commit')}, "
            f"{counted(pruned['files'], 'file')}, {output.size(pruned['bytes'])}"
        )
        for name in pruned.get("reports", ()):
            click.echo(f"removed {name}, which quotes rows that are in no commit any longer")
        if kept := pruned.get("kept_by_grace"):
            output.note(
                f"{counted(len(kept), 'old commit')} stayed, which somebody may still be reading: "
                f"they go {pruned['grace_hours']:g} hours after the next one was made"
            )


def _prune_folder(store: Path, keep: int) -> dict[str, Any]:
    """Remove what is no longer needed in a folder; return what that was, for JSON."""
    from actstore.storage import pruning

    removed = pruning.erase(store, keep=keep)
    tell_held(removed)
    return {
        "commits": len(removed.commits),
        "held": removed.held,
        "files": len(removed.files),
        "bytes": removed.bytes,
        "caches": removed.caches,
        "reports": removed.reports,
    }


def _prune_bucket(address: str, keep: int, grace: float | None) -> dict[str, Any]:
    """Remove what is no longer needed in a bucket; return what that was, for JSON."""
    from actstore.remote.bucket import Bucket
    from actstore.remote.bucket_pruning import GRACE, prune_bucket

    wait = GRACE if grace is None else timedelta(hours=grace)
    removed = prune_bucket(Bucket(parse_bucket(address)), keep=keep, grace=wait)
    return {
        "commits": len(removed.commits),
        "kept_by_grace": removed.kept_by_grace,
        "grace_hours": wait.total_seconds() / 3600,
        "files": len(removed.files),
        "bytes": removed.bytes,
    }
