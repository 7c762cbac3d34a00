"""`actstore ingest`: stores folders of activation files."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from actstore.commands import output
from actstore.commands.confirming import check_can_ask, confirm, print_groups
from actstore.commands.exit_codes import Exit
from actstore.commands.options import (
    LocalPath,
    bundle,
    format_options,
    new_store_option,
    pairs,
    place,
)
from actstore.commands.progress import aside, bar
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.ingestion.inference import FolderMapping
    from actstore.ingestion.options import IngestOptions
    from actstore.ingestion.report import IngestSummary, Progress
    from actstore.storage.partition import StoredRows

ENGINES = ("local", "ray")
NAMED = 20
"""Refused and unmatched files that are named on the screen; the report names all."""


def _settings(*, mapping: Sequence[str], sidecars: Sequence[str], **given: Any) -> IngestOptions:
    return cast(
        "IngestOptions",
        {
            **given,
            "map": pairs(mapping, "--map"),
            "sidecars": pairs(sidecars, "--sidecar"),
        },
    )


settings_options = bundle(
    "settings",
    _settings,
    click.option(
        "--recipe",
        metavar="NAME|FILE",
        help="The layout: a name that `actstore recipes` lists, or a TOML file. Detected if not "
        "given.",
    ),
    click.option(
        "--model", metavar="NAME", help="Model of all rows, where the source does not say."
    ),
    click.option("--dataset", metavar="NAME", help="Data set of all rows."),
    click.option(
        "--labels",
        type=LocalPath(),
        metavar="FILE",
        help="Table (csv, jsonl, json, parquet) with a column `label`, joined with --on.",
    ),
    click.option(
        "--on",
        "labels_on",
        multiple=True,
        metavar="COLUMN",
        help="Column that joins --labels to the rows; may be repeated: all must be equal.",
    ),
    click.option(
        "--site",
        metavar="NAME",
        help="Site of all rows, such as resid_post; TransformerLens and transformers names too.",
    ),
    click.option(
        "--layer",
        type=int,
        metavar="N",
        help="Layer where the source records none; -1 for the embeddings.",
    ),
    click.option(
        "--pool",
        type=click.Choice(("last", "first", "mean", "max")),
        help="Make one vector of a sequence; without it every token is stored.",
    ),
    click.option(
        "--storage-dtype",
        type=click.Choice(("float32", "float16", "auto", "compact16", "int8")),
        help="Type to store. float16 refuses values that would change; auto takes it where none "
        "would. compact16 (float16) and int8 round and say by how much. Without it the source's "
        "type stays (bfloat16 becomes float32).",
    ),
    click.option(
        "--allow-rounding",
        is_flag=True,
        help="Let --storage-dtype float16 round values; they are counted.",
    ),
    click.option(
        "--allow-nonfinite",
        is_flag=True,
        help="Store NaN and infinity instead of refusing the file.",
    ),
    click.option(
        "--contract",
        metavar="NAME|FILE",
        help="Rules that the rows must keep (`actstore contracts` lists them), or nothing is "
        "stored.",
    ),
    click.option(
        "--first-k",
        type=click.IntRange(min=1),
        metavar="N",
        help="Only the first N examples of each folder, or of each file that holds many.",
    ),
    click.option(
        "--map",
        "mapping",
        multiple=True,
        metavar="COLUMN=KEY",
        help="Where the source holds a column of the schema; may be repeated.",
    ),
    click.option(
        "--sidecar",
        "sidecars",
        multiple=True,
        metavar="NAME=PATH",
        help="The file to read for a table that the recipe joins; may be repeated.",
    ),
    click.option(
        "--allow-parent",
        multiple=True,
        metavar="FOLDER",
        help="Let tables that the recipe names be read from FOLDER too; may be repeated. Without "
        "it nothing outside of SOURCES is opened.",
    ),
    click.option(
        "--layer-from",
        metavar="PLACE",
        help="Where a folder of no known layout has its layers: name, folder1, key1, axis0, as "
        "--dry-run calls them; key1-1 counts from the embeddings, key1=2,14,24 lists them.",
    ),
    click.option(
        "--example-from",
        metavar="PLACE",
        help="Likewise where it has its examples; another axis is then tokens or layers.",
    ),
    click.option(
        "--replace",
        is_flag=True,
        help="Let rows whose key is stored with another vector take the place of the stored ones, "
        "in one commit; shown first, and asked.",
    ),
    click.option(
        "--dry-run", is_flag=True, help="Read everything, store nothing, say what would be."
    ),
    click.option("--strict", is_flag=True, help="Store nothing at all if any file is refused."),
    click.option(
        "--engine",
        type=click.Choice(ENGINES),
        default="local",
        show_default=True,
        help="What reads the files: this process, or workers of a Ray cluster (extra ray).",
    ),
    click.option(
        "--workers", type=click.IntRange(min=1), metavar="N", help="Workers of --engine ray."
    ),
    click.option(
        "--address",
        metavar="ADDRESS",
        help="Ray cluster, such as auto; by default RAY_ADDRESS, or a Ray of this machine, which "
        "is started if there is none.",
    ),
)


@click.command("ingest")
@click.argument(
    "sources",
    nargs=-1,
    required=True,
    callback=lambda ctx, param, texts: tuple(map(place, texts)),
)
@new_store_option
@settings_options
@click.option(
    "--label-set",
    metavar="SQL",
    help="Afterwards label the rows with a SQL expression over the columns: those of this "
    "ingest, and those of the same models and data sets that have no label.",
)
@click.option(
    "--yes",
    is_flag=True,
    help="Answer yes to what would be asked: what was guessed about a folder, what is replaced.",
)
@format_options
def command(
    sources: tuple[str | Path, ...],
    store: str | Path,
    settings: IngestOptions,
    label_set: str | None,
    yes: bool,
    as_json: bool,
) -> int:
    """Store the activation files below SOURCES.

    A source is a folder of activation files, the project folder above it, a repository on the
    Hugging Face Hub, or a folder in a bucket; files from elsewhere are fetched one after the
    other. The layout is detected; the rows of one file are stored all or not at all; a bad file
    is refused by name and does not stop the rest (exit code 3). Rows that are in the store
    already are not stored twice, so an interrupted ingest is completed by the same command.

    Tables that belong to the files are looked for in SOURCES. One that lies in a folder above is
    read only where --allow-parent names a folder that holds it, or if you say so on a terminal.

    A folder of no known layout is read by its paths, keys and shapes. What was guessed is shown
    by --dry-run, and confirmed on a terminal, by --yes, or by options that say it.

    \b
    Examples:
      actstore ingest unfaithful-reasoning --store runs.store
      actstore ingest cache --store runs.store --model meta-llama/Llama-3.1-8B --site resid_pre
      actstore ingest caches/* --store runs.store --labels labels.csv --on example_id
      actstore ingest project/data/activations --store runs.store --allow-parent project
      actstore ingest vectors --store runs.store --recipe my.toml --dry-run
      actstore ingest captured-again --store runs.store --replace
      actstore ingest acts --store runs.store --model gpt2 --layer-from key1 --yes
      actstore ingest hf://datasets/org/raw-activations --store runs.store
      actstore ingest s3://bucket/raw --store s3://bucket/runs.store
      actstore ingest acts --store s3://bucket/runs.store --model gpt2
      actstore ingest /shared/acts --store /shared/runs.store --engine ray --workers 16
    """
    from actstore.ingestion.ingest import ingest

    replace, dry_run = settings.get("replace", False), settings.get("dry_run", False)
    if replace:
        check_can_ask(yes=yes, dry_run=dry_run)

    def confirm_replacing(stored: Sequence[StoredRows]) -> None:
        if not (yes or dry_run):
            _ask_to_replace(store, stored, as_json=as_json)

    with bar("ingesting") as report:

        def progress(done: Progress) -> None:
            report(done.bytes, done.rows, done.bytes_total)

        watched = sys.stdin.isatty() and sys.stderr.isatty() and not as_json
        settings["progress"] = progress
        settings["yes"] = yes
        summary = ingest(
            sources,
            store,
            label_set=label_set,
            confirm=_confirm if watched else None,
            confirm_replacing=confirm_replacing,
            confirm_parent=_confirm_parent if watched else None,
            note=output.note,
            **settings,
        )
    if as_json:
        output.print_json(summary.as_dict())
    else:
        print_summary(summary)
    return Exit.REFUSED if summary.refused else Exit.DONE


def _ask_to_replace(store: str | Path, stored: Sequence[StoredRows], *, as_json: bool) -> None:
    """Show which stored rows would be replaced and ask.

    Raises:
        Declined: the answer is no.
    """
    from actstore.querying.changes import groups_of

    def show() -> None:
        rows = sum(len(each.rows) for each in stored)
        click.echo(f"replaces {counted(rows, 'stored row')}, their labels too")
        print_groups(groups_of(store, stored))

    confirm("Replace them?", show, yes=False, as_json=as_json)


def print_summary(summary: IngestSummary) -> None:
    """Print what an ingest did."""
    rows = counted(summary.rows_written, "row")
    files = counted(summary.files_read, "file")
    output.print_pairs(
        {
            "recipe": f"{summary.recipe}{' (detected)' if summary.detected else ''}",
            "would store" if summary.dry_run else "stored": f"{rows} from {files}"
            f"{_present(summary)}, {output.size(summary.bytes)} of vectors",
            "labels": ", ".join(f"{label} {n:,}" for label, n in summary.labels.items()) or None,
            "commit": summary.commit,
            "report": summary.report,
            "took": f"{summary.seconds:.1f} s",
        },
        aside=bool(summary.groups),
    )
    if summary.groups:
        output.say()
        names = ("model", "site", "layer", "width", "dtype", "rows")
        output.print_table(names, [[group[name] for name in names] for group in summary.groups])
    if summary.dry_run and summary.mapping is not None:
        output.say()
        print_mapping(summary.mapping)
    if summary.dry_run and summary.sample_rows:
        output.say()
        _print_rows(summary.sample_rows)
    for text in summary.notes:
        output.note(f"note: {text}")
    _name("refused", len(summary.refused), [f"{r.path}: {r.reason}" for r in summary.refused])
    _name("unmatched", summary.unmatched_count, list(summary.unmatched))


def print_mapping(mapping: FolderMapping) -> None:
    """Print which part of paths, keys and shapes became what."""
    rows: dict[tuple[str, str, str, str], list[str]] = {}
    for each in mapping.assignments:
        tensors = rows.setdefault((each.role, each.place, each.how, each.why), [])
        tensors.append(each.tensors)
    table = [
        (role, place, _short(tensors), how, why)
        for (role, place, how, why), tensors in rows.items()
    ]
    header = ("column", "from", "of", "how", "why")
    output.print_table(header, table, limit=output.WIDE, whole=("why",))
    print_left_out(mapping)


def print_left_out(mapping: FolderMapping) -> None:
    """Name the tensors and files that become no rows."""
    for key, reason in mapping.left_out[:NAMED]:
        output.note(f"left out: {key}: {reason}")
    if len(mapping.left_out) > NAMED:
        output.note(f"left out: {len(mapping.left_out) - NAMED:,} more")


def _short(names: Sequence[str]) -> str:
    named = [name for name in names if name]
    return ", ".join(named[:2]) + (f" and {len(named) - 2} more" if len(named) > 2 else "")


def _print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    header = ("", *("first row", "second row", "last row")[: len(rows)])
    table = [[name, *(output.cell(row.get(name), 44) for row in rows)] for name in names]
    output.print_table(header, table)


def _confirm(mapping: FolderMapping) -> bool:
    """Show what was guessed about a folder and ask whether it is so."""
    with aside():
        print_mapping(mapping)
        return click.confirm("Is that right?", err=True)


def _confirm_parent(found: Sequence[Path]) -> bool:
    """Name tables that lie above the source and ask whether they may be read."""
    one = len(found) == 1
    lie = "This table lies" if one else "These tables lie"
    them = "it" if one else "them"
    with aside():
        output.note(f"{lie} in a folder above the source, and the recipe would read {them}:")
        for path in found[:NAMED]:
            output.note(f"  {path}")
        if len(found) > NAMED:
            output.note(f"  … {len(found) - NAMED:,} more")
        return click.confirm("May it be read?" if one else "May they be read?", err=True)


def _present(summary: IngestSummary) -> str:
    there = f", {summary.rows_present:,} were there already" if summary.rows_present else ""
    new = f", {summary.rows_replaced:,} in place of stored ones" if summary.rows_replaced else ""
    again = f", {summary.rows_repeated:,} repeated in the source" if summary.rows_repeated else ""
    return new + there + again


def _name(kind: str, number: int, lines: list[str]) -> None:
    if number:
        output.note(f"{kind}: {counted(number, 'file')}")
        for line in lines[:NAMED]:
            output.note(f"  {line}")
        if number > NAMED:
            output.note(f"  … {number - NAMED:,} more")
