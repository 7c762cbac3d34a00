"""`actstore pull`: fetches a store, or part of one, from the Hugging Face Hub."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from actstore.commands import output
from actstore.commands.exit_codes import Exit
from actstore.commands.ingest import print_summary
from actstore.commands.options import (
    LocalPath,
    at_option,
    bundle,
    cleared_store,
    format_options,
    pairs,
    words,
)
from actstore.commands.progress import bar
from actstore.commands.row_options import layers_option, sites_option, where_options
from actstore.errors import NoRemoteStoreError, UsageError
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.hub.pull import Pulled, PullOptions
    from actstore.ingestion.inference import FolderMapping
    from actstore.ingestion.options import IngestOptions


def _part(
    *,
    where: str | None,
    layers: list[int | None] | None,
    models: str | None,
    sites: tuple[str, ...],
    revision: str | None,
    at: int | None,
) -> PullOptions:
    return {
        "layers": layers or (),
        "models": words(models),
        "sites": sites,
        "where": where,
        "revision": revision,
        "at": at,
    }


part_options = bundle(
    "part",
    _part,
    where_options,
    layers_option,
    click.option("--models", metavar="A,B,…", help="Only these models."),
    sites_option,
    click.option(
        "--revision", metavar="R", help="A branch, tag, refs/pr/N or commit instead of main."
    ),
    at_option(help="The store as its commit N left it, looked for in the repository's history."),
)


def _other(*, mapping: Sequence[str], model: str | None, recipe: str | None) -> IngestOptions:
    return {"map": pairs(mapping, "--map"), "model": model, "recipe": recipe}


other_options = bundle(
    "other",
    _other,
    click.option(
        "--map",
        "mapping",
        multiple=True,
        metavar="COLUMN=KEY",
        help="Where a data set that is no store holds a column of the schema; may be repeated.",
    ),
    click.option(
        "--model",
        metavar="NAME",
        help="Model of all rows, where a data set that is no store says none.",
    ),
    click.option(
        "--recipe", metavar="NAME|FILE", help="The layout of a data set that is no store."
    ),
)


@click.command("pull")
@click.argument("source", metavar="ORG/NAME")
@click.argument("folder", type=LocalPath(file_okay=False), callback=cleared_store)
@part_options
@other_options
@format_options
def command(
    source: str,
    folder: Path,
    part: PullOptions,
    other: IngestOptions,
    as_json: bool,
) -> int:
    """Pull the store in the data set ORG/NAME on the Hugging Face Hub into FOLDER.

    FOLDER becomes a store like any other. Only the shards that are needed are fetched, each
    is checked, and an interrupted pull goes on when it is run again. A later pull brings
    FOLDER up to date, for all that was pulled into it before; rows and labels of your own
    stay.

    A data set that is no store (Parquet with a column of vectors, a SAELens or lmprobe cache,
    raw .pt files) is ingested into FOLDER; `actstore ingest hf://datasets/ORG/NAME` does the
    same, with more options.

    The access token is the one of `hf auth login`, or the variable HF_TOKEN.

    \b
    Examples:
      actstore pull org/llava-amber-activations amber.store
      actstore pull org/llava-amber-activations amber.store --layers 12,18
      actstore pull org/runs runs.store --where "label = 'unfaithful'" --revision v1.0
      actstore pull org/other-activations other.store --map label=answer --model gpt2
    """
    from actstore.hub.pull import pull

    try:
        with bar("pulling") as report:
            done = pull(
                source,
                folder,
                progress=lambda here, total: report(here, total=total),
                **part,
            )
    except NoRemoteStoreError:
        if any(value for name, value in part.items() if name != "revision"):
            raise
        return _adopt(source, folder, part["revision"], other, as_json)
    if as_json:
        output.print_json(dataclasses.asdict(done))
    else:
        _print(done)
        if any(other.values()):
            output.note("it is a store: --map, --model and --recipe were not needed")
    return Exit.DONE


def _adopt(
    source: str, folder: Path, revision: str | None, other: IngestOptions, as_json: bool
) -> int:
    """Make a store of what is none.

    Raises:
        UsageError: something about it would be guessed, which only `ingest` has options for.
    """
    from actstore.ingestion.ingest import ingest
    from actstore.remote.address import parse

    address = parse(source)
    address = dataclasses.replace(address, revision=revision or address.revision)

    def refuse(mapping: FolderMapping) -> NoReturn:
        command = f"actstore ingest {shlex.quote(str(address))} --store {shlex.quote(str(folder))}"
        raise UsageError(f"{mapping.problem()}: these are options of `{command}`")

    with bar("ingesting") as report:
        other["progress"] = lambda done: report(done.bytes, done.rows, done.bytes_total)
        summary = ingest(str(address), folder, confirm=refuse, **other)
    if as_json:
        output.print_json(summary.as_dict())
    else:
        print_summary(summary)
    return Exit.REFUSED if summary.refused else Exit.DONE


def _print(done: Pulled) -> None:
    named = f" ({done.revision})" if done.revision != "main" else ""
    output.print_pairs(
        {
            "repository": f"{done.repository}{named} at {done.commit[:8]}, commit {done.number}",
            "fetched": f"{counted(done.fetched, 'shard')}, "
            f"{output.size(done.received)} transferred",
            "removed": f"{counted(done.removed, 'shard')} that the repository no longer holds"
            if done.removed
            else None,
            "left out": f"{counted(done.duplicates, 'row')} that were here already"
            if done.duplicates
            else None,
            "labels": f"{counted(done.relabelled, 'row')} kept the label set here"
            if done.relabelled
            else None,
            "store": f"{done.store}: {counted(done.rows, 'row')} in "
            f"{counted(done.shards, 'shard')}",
            "commit": done.local_commit if done.changed else f"{done.local_commit}, as before",
        }
    )
