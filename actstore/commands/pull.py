"""`actstore pull`: fetches a store, or part of one, from the Hugging Face Hub."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actstore.commands import output
from actstore.commands.exit_codes import Exit
from actstore.commands.ingest import print_summary
from actstore.commands.options import json_option, pairs
from actstore.commands.progress import bar
from actstore.errors import NoRemoteStoreError
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.hub.pull import Pulled

_UNKNOWN = "unknown"


@click.command("pull")
@click.argument("source", metavar="ORG/NAME")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--layers",
    metavar="12,18,…",
    callback=lambda ctx, param, text: _layers(text),
    help="Only these layers; -1 is the embeddings, `unknown` a layer that was not recorded.",
)
@click.option("--models", metavar="A,B,…", help="Only these models.")
@click.option("--sites", metavar="A,B,…", help="Only these sites.")
@click.option(
    "--where",
    metavar="SQL",
    help="Only rows that meet this condition over the metadata; of the vectors just theirs are "
    "transferred.",
)
@click.option("--revision", metavar="R", help="A branch, tag, refs/pr/N or commit instead of main.")
@click.option(
    "--at",
    type=click.IntRange(min=1),
    metavar="N",
    help="The store as its commit N left it, looked for in the repository's history.",
)
@click.option(
    "--map",
    "mapping",
    multiple=True,
    metavar="COLUMN=KEY",
    help="Where a data set that is no store holds a column of the schema; may be repeated.",
)
@click.option(
    "--model",
    metavar="NAME",
    help="Model of all rows, where a data set that is no store says none.",
)
@click.option("--recipe", metavar="NAME|FILE", help="The layout of a data set that is no store.")
@json_option
def command(
    source: str,
    folder: Path,
    layers: tuple[int | None, ...],
    models: str | None,
    sites: str | None,
    where: str | None,
    revision: str | None,
    at: int | None,
    mapping: tuple[str, ...],
    model: str | None,
    recipe: str | None,
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

    part: dict[str, Any] = {
        "layers": layers,
        "models": _names(models),
        "sites": _names(sites),
        "where": where,
        "at": at,
    }
    other = {"map": pairs(mapping, "--map"), "model": model, "recipe": recipe}
    try:
        with bar("pulling") as report:
            done = pull(
                source,
                folder,
                revision=revision,
                progress=lambda here, total: report(here, total=total),
                **part,
            )
    except NoRemoteStoreError:
        if any(part.values()):
            raise
        return _adopt(source, folder, revision, other, as_json)
    if as_json:
        output.print_json(dataclasses.asdict(done))
    else:
        _print(done)
        if any(other.values()):
            output.note("it is a store: --map, --model and --recipe were not needed")
    return Exit.DONE


def _adopt(
    source: str, folder: Path, revision: str | None, other: dict[str, Any], as_json: bool
) -> int:
    """Make a store of what is none."""
    from actstore.ingestion.ingest import ingest
    from actstore.remote.address import parse

    address = parse(source)
    address = dataclasses.replace(address, revision=revision or address.revision)
    with bar("ingesting") as report:
        summary = ingest(
            str(address),
            folder,
            progress=lambda done: report(done.bytes, done.rows, done.bytes_total),
            **other,
        )
    if as_json:
        output.print_json(summary.as_dict())
    else:
        print_summary(summary)
    return Exit.REFUSED if summary.refused else Exit.DONE


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _layers(text: str | None) -> tuple[int | None, ...]:
    found: list[int | None] = []
    for name in _names(text):
        try:
            found.append(None if name == _UNKNOWN else int(name))
        except ValueError:
            raise click.BadParameter(
                f"{name!r} is no layer: give numbers, or {_UNKNOWN}, with commas between them"
            ) from None
    return tuple(found)


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
