"""`actstore score`: what saved probes say about the rows of a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actstore.commands import formats, output
from actstore.commands.cells import (
    in_sample_cell,
    interval,
    layers_cell,
    layers_heading,
    pooling_cells,
)
from actstore.commands.opening import open_store, skip_damaged_option
from actstore.commands.options import (
    LocalPath,
    at_option,
    format_options,
    output_option,
    readable_store_argument,
)
from actstore.commands.row_options import Places, in_sample_option, label_option, place_options
from actstore.errors import UsageError
from actstore.remote.address import is_address
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.analysis.probes.scoring import Scored
    from actstore.analysis.statistics.metrics import IntervalEstimate


@click.command("score")
@readable_store_argument
@click.option(
    "--probe",
    required=True,
    type=LocalPath(exists=True),
    metavar="DIR",
    help="Folder that `actstore probe` wrote, or one of its .safetensors files.",
)
@place_options
@label_option("Column that says what is right; the one that the probe was trained on by default.")
@click.option(
    "--write-label",
    type=click.Choice(("class", "score")),
    help="Make the probe's class, or its score, the rows' label, in a new commit.",
)
@in_sample_option
@output_option("Write scores and metadata of the rows to FILE (csv, jsonl, json, parquet).")
@at_option()
@skip_damaged_option
@format_options
def command(
    store: str | Path,
    probe: Path,
    places: Places,
    label: str | None,
    write_label: Any,
    in_sample: bool,
    target: Path | None,
    at: int | None,
    as_json: bool,
) -> None:
    """Apply saved probes to the rows of STORE that they were made for.

    A probe is for one model, site, layer, pooling and region, and for vectors of one width; a
    store that has no such rows is refused. Where rows are labelled, AUROC and accuracy are
    shown, and of a probe that predicts numbers R² and Spearman's rho. Rows that the probe was
    trained on, and rows that share their example or question with one of these, are left out
    and counted.

    \b
    Examples:
      actstore score new.store --probe probes
      actstore score new.store --probe probes --layers 12 -o scores.csv
      actstore score new.store --probe probes --layers 12 --write-label class
      actstore score train.store --probe probes --in-sample
    """
    from actstore.analysis.examples import joined_layers, lineages
    from actstore.analysis.probes import scoring

    if write_label and is_address(str(store)):
        raise UsageError(
            "labels are written to a store on this machine or in a bucket: pull it first"
        )
    if write_label and at is not None:
        raise UsageError("labels are written to the latest commit: leave out --at")
    commit = None
    with open_store(store, at) as opened:
        scored = scoring.score(
            opened, probe, choice=places.choice(), label=label, in_sample=in_sample
        )
        rows = sum(len(one.rows) for one in scored)
        if target is not None:
            formats.write_rows(scoring.table(opened, scored).to_reader(), None, target)
        if write_label:
            commit = scoring.write_labels(opened, scored, write_label)
    if as_json:
        output.print_json([{**_summary(one), "commit": commit} for one in scored])
        return
    of_numbers = all(one.classes is None for one in scored)
    figures = ("mean predicted", "r2", "interval", "spearman", "interval")
    taken = [one.place for one in scored]
    poolings = pooling_cells(taken)
    output.print_table(
        (
            *("site", "pooling", layers_heading(taken), "rows"),
            "in-sample" if in_sample else "left out",
            *(figures if of_numbers else ("mean score", "auroc", "interval", "accuracy")),
        ),
        [
            (
                one.place.site,
                pooling,
                layers_cell(one.place),
                len(one.rows),
                in_sample_cell(one.in_sample.rows),
                float(one.scores.mean()),
                *(
                    (*_cells(one.r2), *_cells(one.spearman))
                    if of_numbers
                    else (*_cells(one.auroc), _cells(one.accuracy)[0])
                ),
            )
            for one, pooling in zip(scored, poolings, strict=True)
        ],
    )
    for note in lineages.notes([one.in_sample for one in scored], "probe"):
        output.note(f"note: {note}")
    for note in dict.fromkeys(note for one in scored for note in one.notes):
        output.note(f"note: {note}")
    for one in scored:
        if one.lacking:
            output.note(
                f"note: {one.place.text}: "
                f"{counted(one.lacking, joined_layers.unit(one.place))} left out, without a vector "
                "at each of these layers"
            )
    if target is not None:
        output.note(f"{counted(rows, 'score')} written to {target}")
    if write_label:
        labelled = sum(one.row_ids.size for one in scored)
        output.note(
            f"commit {commit}: {counted(labelled, 'row')} labelled with the probe's "
            f"{'number' if of_numbers else write_label}"
        )


def _summary(one: Scored) -> dict[str, Any]:
    told: dict[str, Any] = {
        **one.place.named,
        "probe": one.probe.name,
        "rows": len(one.rows),
        **one.in_sample.summary,
    }
    if one.place.layers is not None:
        told["lacking"] = one.lacking
    if one.classes is None:
        told["mean_predicted"] = float(one.scores.mean())
        figures = {"r2": one.r2, "spearman": one.spearman}
    else:
        told["mean_score"] = float(one.scores.mean())
        figures = {"auroc": one.auroc}
    for name, estimate in figures.items():
        told[name] = None if estimate is None else estimate.value
        told[f"{name}_interval"] = None if estimate is None else [estimate.low, estimate.high]
    if one.classes is not None:
        told["accuracy"] = None if one.accuracy is None else one.accuracy.value
        told["notes"] = list(one.notes)
    return told


def _cells(estimate: IntervalEstimate | None) -> tuple[float | None, str | None]:
    if estimate is None:
        return None, None
    return round(estimate.value, 3), interval(estimate.low, estimate.high)
