"""`actstore push`: puts a store on the Hugging Face Hub, as one commit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from actstore.commands import output
from actstore.commands.options import bucket_store_argument, bundle, format_options
from actstore.commands.progress import bar
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.hub.push import Pushed, PushOptions


settings_options = bundle(
    "settings",
    dict,
    click.option("--private", is_flag=True, help="If the repository is made now, make it private."),
    click.option(
        "--revision",
        metavar="BRANCH",
        help="Push to this branch instead of main; made from main when there is none.",
    ),
    click.option(
        "--create-pr", is_flag=True, help="Open a pull request instead of pushing to main."
    ),
    click.option(
        "--config",
        "only",
        multiple=True,
        metavar="NAME",
        help="Push only these configs, as the card names them: MODEL or MODEL.SITE.layer_012, "
        "with * if wanted; may be repeated. What else the repository holds stays.",
    ),
    click.option(
        "--archive",
        is_flag=True,
        help="Compress the vectors. Smaller, but every reader has to decode them; the store stays "
        "as it is.",
    ),
    click.option("--message", metavar="TEXT", help="Title of the commit."),
    click.option("--license", metavar="ID", help="License on the card, such as apache-2.0."),
    click.option("--pretty-name", metavar="TEXT", help="Name of the data set on the card."),
    click.option("--dry-run", is_flag=True, help="Change nothing; say what would be pushed."),
)


@click.command("push")
@bucket_store_argument
@click.argument("to", metavar="ORG/NAME")
@settings_options
@format_options
def command(store: str | Path, to: str, settings: PushOptions, as_json: bool) -> None:
    """Push STORE to the data set ORG/NAME on the Hugging Face Hub.

    One push is one commit: readers see the repository as it was or as it is now. Labels are
    written into their shards first; only shards that are not there yet are sent; an
    interrupted push, run again, goes on. Shards that others have pushed stay.

    The access token is the one of `hf auth login`, or the variable HF_TOKEN.

    \b
    Examples:
      actstore push runs.store org/llava-amber-activations --license cc-by-4.0
      actstore push runs.store org/llava-amber-activations --dry-run
      actstore push runs.store org/llava-amber-layers --config '*.layer_012' --private
    """
    from actstore.hub.push import push
    from actstore.remote.working import working

    if settings["create_pr"] and settings["revision"]:
        raise click.UsageError("--create-pr opens a pull request on main: leave out --revision")
    # All commits: what the store held before tells its shards up there from those of others.
    dry = settings.get("dry_run", False)
    with working(store, there=True, history=True, dry=dry) as root, bar("pushing") as report:
        done = push(root, to, progress=lambda sent, total: report(sent, total=total), **settings)
    if as_json:
        output.print_json(dataclasses.asdict(done))
    else:
        _print(done)


def _print(done: Pushed) -> None:
    if done.commit is None and not done.dry_run:
        click.echo(f"nothing to push: {done.url} holds commit {done.number} already")
        return
    sent, removed, holds = ("would send", "would remove", "would hold")
    if not done.dry_run:
        sent, removed, holds = ("sent", "removed", "holds")
    others = counted(done.duplicates, "row")
    labels = counted(done.folded, "row")
    output.print_pairs(
        {
            "repository": f"{done.url}{' (new)' if done.created else ''}",
            "branch": done.revision if done.revision != "main" else None,
            "pull request": done.pull_request,
            "commit": done.commit,
            sent: f"{counted(done.sent, 'shard')}, {output.size(done.sent_bytes)}",
            removed: counted(done.removed, "file") if done.removed else None,
            holds: f"{counted(done.rows, 'row')} in {counted(done.shards, 'shard')}",
            "from others": counted(done.theirs, "shard") if done.theirs else None,
            "left out": f"{others} that others had pushed before" if done.duplicates else None,
            "labels": f"of {labels} written into the shards" if done.folded else None,
        }
    )
    if not done.dry_run and done.pull_request is None:
        pinned = f', revision="{done.revision}"' if done.revision != "main" else ""
        click.echo(f'\nload_dataset("{done.repository}"{pinned})')
