"""`actstore convert`: stores vectors in a smaller type, and says first what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from actstore.commands import output
from actstore.commands.confirming import dry_run_option
from actstore.commands.options import Number, bucket_store_argument, format_options, output_option
from actstore.commands.progress import bar

if TYPE_CHECKING:
    from actstore.analysis.harm import Harm
    from actstore.storage.converting import Target

MAX_HARM = 0.005


@click.command("convert")
@bucket_store_argument
@click.option(
    "--to",
    type=click.Choice(("int8", "compact16", "float16")),
    required=True,
    help="int8: one byte per value and a scale per row. compact16: float16, and float32 for rows "
    "that overflow it. float16: the same, refused where a row overflows.",
)
@output_option("Write another store there; without it the store gets a new commit.", folder=True)
@click.option(
    "--max-harm",
    type=Number(min=0),
    metavar="X",
    help=f"The most that the AUROC of a probe may fall; {MAX_HARM} unless given. Given, the "
    "conversion is refused too where no probe can be trained.",
)
@click.option(
    "--label",
    default="label",
    show_default=True,
    metavar="COLUMN",
    help="Column whose values the probes tell apart.",
)
@dry_run_option
@format_options
def command(
    store: str | Path,
    to: Target,
    target: Path | None,
    max_harm: float | None,
    label: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Store the vectors of STORE in a smaller type.

    First it is measured what that costs, for each layer, site and pooling: the error of the
    values, the cosine of each vector with what is left of it, and how probes of the store's own
    labels change, trained and tested on the same rows before and after. A conversion that costs
    a probe more than --max-harm is refused (exit code 1) and changes nothing. The report goes
    into the store, its worst figures into the manifest.

    Older commits keep the vectors as they were until `actstore compact --prune`.

    \b
    Examples:
      actstore convert runs.store --to compact16
      actstore convert runs.store --to int8 --max-harm 0.005
      actstore convert runs.store --to int8 --out runs-int8.store
      actstore convert runs.store --to int8 --dry-run
    """
    from actstore.analysis import conversion, harm
    from actstore.querying.reader import open_reader
    from actstore.remote.working import working

    with (
        working(store, there=True, dry=dry_run or target is not None) as root,
        open_reader(root) as reader,
    ):
        with bar("measuring") as report:
            found = harm.measure(reader, to, label=label, progress=report)
        if not as_json:
            _show(found)
        most = MAX_HARM if max_harm is None else max_harm
        if found.bytes_after == found.bytes_before:
            _end(found, None, as_json, f"nothing to do: no vector gets smaller as {to}")
            return
        harm.check(found, most, asked=max_harm is not None)
        if dry_run:
            _end(found, None, as_json, "nothing was converted: --dry-run")
            return
        with bar("converting") as report:
            done = conversion.convert(reader, found, out=target, max_harm=most, progress=report)
    _end(
        found,
        done,
        as_json,
        f"commit {done.commit} of {target or store}: {output.size(found.bytes_before)} of vectors "
        f"became {output.size(found.bytes_after)}; report: {done.report}",
    )


def _show(found: Harm) -> None:
    if not found.places:
        return
    probed = [each for each in found.places if each.score]
    kind = probed[0].score if probed else "AUROC"
    output.print_table(
        ["layer", "site", "pooling", "rows", "error", "largest", "cosine", "lowest"]
        + ([kind or "", "after", "change"] if probed else []),
        [
            [
                each.place.layer,
                each.place.site,
                each.place.pooling,
                each.rows,
                f"{each.relative_error:.2e}",
                f"{each.greatest_error:.2e}",
                f"{each.cosine:.6f}",
                f"{each.lowest_cosine:.6f}",
                *(_probe_cells(each.before, each.after, each.change) if probed else []),
            ]
            for each in found.places
        ],
    )


def _probe_cells(*values: float | None) -> list[str]:
    texts = ["" if value is None else f"{value:.4f}" for value in values]
    return [*texts[:2], texts[2] if not texts[2] or texts[2].startswith("-") else f"+{texts[2]}"]


def _end(found: Harm, done: object, as_json: bool, text: str) -> None:
    from actstore.analysis.conversion import Converted

    if as_json:
        made = done._asdict() if isinstance(done, Converted) else {"commit": None, "report": None}
        output.print_json({**found.as_dict(), **made})
        return
    for note in found.notes:
        output.note(f"note: {note}")
    click.echo(text)
