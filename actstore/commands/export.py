"""`actstore export`: writes rows as files again, in the layouts of the originals and others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from actstore.commands import output
from actstore.commands.options import (
    at_option,
    json_option,
    readable_store_argument,
    report_traffic,
)
from actstore.commands.progress import bar
from actstore.wording import counted

LAYOUTS = (
    "clt",
    "spatialeval",
    "faithfulness",
    "contrastive",
    "amber",
    "hook-pickle",
    "safetensors",
    "npz",
    "parquet",
    "saelens",
)


@click.command("export")
@readable_store_argument
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--to", required=True, type=click.Choice(LAYOUTS), help="The layout to write.")
@click.option("--where", metavar="SQL", help="Only rows that meet a condition over the metadata.")
@click.option(
    "--layers",
    metavar="A,B-C,…",
    help="Only these layers (-1: embeddings). For clt: only these folders; later outputs are "
    "taken from wherever they are.",
)
@click.option("--site", multiple=True, metavar="NAME", help="Only this site; may be repeated.")
@click.option("--model", multiple=True, metavar="NAME", help="Only this model; may be repeated.")
@click.option(
    "--dtype",
    type=click.Choice(("bfloat16", "float16", "float32", "float64")),
    help="Type to write; one that cannot hold every value exactly is refused. By default the "
    "type that was ingested.",
)
@click.option(
    "--targets",
    type=click.IntRange(min=1),
    metavar="N",
    help="clt: later outputs in each file. By default as ingested, or 16.",
)
@click.option(
    "--context",
    type=click.IntRange(min=1),
    metavar="N",
    help="saelens: cut examples into contexts of N tokens.",
)
@click.option(
    "--compression",
    type=click.Choice(("none", "snappy", "zstd", "gzip", "lz4", "brotli")),
    default="zstd",
    show_default=True,
    help="parquet: how columns are compressed.",
)
@click.option(
    "--metadata",
    type=click.Choice(("parquet", "jsonl")),
    default="parquet",
    show_default=True,
    help="safetensors and npz: the table beside each matrix.",
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier export in FOLDER.")
@at_option
@json_option
def command(
    store: str | Path,
    folder: Path,
    to: str,
    where: str | None,
    layers: str | None,
    site: tuple[str, ...],
    model: tuple[str, ...],
    at: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Write rows of STORE to FOLDER as the files of a layout.

    The layouts of the originals come out as the files that were ingested: the same paths,
    keys, shapes, types and bits (hook-pickle as torch files that open safely). FOLDER
    appears when everything is written, and not at all if anything fails.

    \b
    Examples:
      actstore export runs.store old-layout --to faithfulness
      actstore export clt.store activations --to clt --layers 0-14
      actstore export runs.store matrices --to safetensors --where "label IS NOT NULL"
      actstore export hf://datasets/org/name tables --to parquet --compression none
    """
    import actstore
    from actstore.exporting.run import export

    with actstore.open(store, at=at) as opened, bar("exporting") as report:
        done = export(
            opened,
            to,
            folder,
            where,
            layers=_layers(layers),
            site=site or None,
            model=model or None,
            progress=lambda size, rows, total: report(size, rows, total),
            **options,
        )
        traffic = opened.traffic
    report_traffic(traffic)
    if as_json:
        output.print_json(done.as_dict())
        return
    output.print_pairs(
        {
            "wrote": f"{counted(done.files, 'file')}, {output.size(done.bytes)}",
            "from": f"{counted(done.rows, 'row')} of commit {done.commit}",
            "to": done.folder,
        }
    )
    for note in done.notes:
        output.note(f"note: {note}")


def _layers(text: str | None) -> list[int] | None:
    """Return ``0,3-5,-1`` as numbers.

    Raises:
        click.BadParameter: it is something else.
    """
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        part = part.strip()
        start, dash, end = part[1:].partition("-") if part[:1] == "-" else part.partition("-")
        start = f"-{start}" if part[:1] == "-" else start
        try:
            first, last = int(start), int(end) if dash else int(start)
        except ValueError:
            raise click.BadParameter(
                f"{part!r} is no layer; write 12, or 0-11, or 0,6,12", param_hint="--layers"
            ) from None
        if last < first:
            raise click.BadParameter(f"{part!r} ends before it starts", param_hint="--layers")
        found += range(first, last + 1)
    return found
