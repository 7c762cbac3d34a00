"""`actstore export`: writes rows as files again, in the layouts of the originals and others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from actstore.commands import output
from actstore.commands.opening import open_store, skip_damaged_option
from actstore.commands.options import (
    LocalPath,
    at_option,
    bundle,
    format_options,
    outside_stores,
    readable_store_argument,
    report_traffic,
)
from actstore.commands.progress import bar
from actstore.commands.row_options import Rows, row_options
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.exporting.run import SettingOptions

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


settings_options = bundle(
    "settings",
    dict,
    click.option(
        "--dtype",
        type=click.Choice(("bfloat16", "float16", "float32", "float64")),
        help="Type to write; one that cannot hold every value exactly is refused. By default the "
        "type that was ingested.",
    ),
    click.option(
        "--targets",
        type=click.IntRange(min=1),
        metavar="N",
        help="clt: later outputs in each file, which are taken from wherever they are. By default "
        "as ingested, or 16.",
    ),
    click.option(
        "--context",
        type=click.IntRange(min=1),
        metavar="N",
        help="saelens: cut examples into contexts of N tokens.",
    ),
    click.option(
        "--compression",
        type=click.Choice(("none", "snappy", "zstd", "gzip", "lz4", "brotli")),
        default="zstd",
        show_default=True,
        help="parquet: how columns are compressed.",
    ),
    click.option(
        "--metadata",
        type=click.Choice(("parquet", "jsonl")),
        default="parquet",
        show_default=True,
        help="safetensors and npz: the table beside each matrix.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace an earlier export in FOLDER."),
)


@click.command("export")
@readable_store_argument
@click.argument("folder", type=LocalPath(), callback=outside_stores)
@click.option("--to", required=True, type=click.Choice(LAYOUTS), help="The layout to write.")
@row_options()
@settings_options
@at_option()
@skip_damaged_option
@format_options
def command(
    store: str | Path,
    folder: Path,
    to: str,
    rows: Rows,
    settings: SettingOptions,
    at: int | None,
    as_json: bool,
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
    from actstore.exporting.run import export

    with open_store(store, at) as opened, bar("exporting") as report:
        done = export(
            opened,
            to,
            folder,
            rows.where,
            progress=lambda size, count, total: report(size, count, total),
            **settings,
            **rows.equals,
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
