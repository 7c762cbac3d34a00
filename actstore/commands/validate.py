"""`actstore validate`: the AUROC of steering vectors on validation data."""

from __future__ import annotations

from pathlib import Path

import click

from actstore.commands import output
from actstore.commands.cells import in_sample_cell, interval, layer_cell, pooling_cells
from actstore.commands.opening import open_store, skip_damaged_option
from actstore.commands.options import (
    LocalPath,
    at_option,
    format_options,
    output_option,
    readable_store_argument,
)
from actstore.commands.probes_shown import Layer, draw_auroc
from actstore.commands.row_options import (
    Classes,
    Places,
    class_options,
    group_option,
    in_sample_option,
    place_options,
)
from actstore.errors import UsageError


@click.command("validate")
@readable_store_argument
@click.option(
    "--vectors",
    "folder",
    required=True,
    type=LocalPath(exists=True, file_okay=False),
    metavar="DIR",
    help="Folder of layer_L.pt files, or the one that `actstore steer` wrote.",
)
@place_options
@class_options
@group_option
@in_sample_option
@click.option(
    "--other-pooling",
    is_flag=True,
    help="Project rows of another pooling or region than the vectors were made for.",
)
@output_option("Folder for probe_stats_layerL.csv, report.json and the picture.", folder=True)
@click.option(
    "--visualize/--no-visualize",
    default=True,
    show_default=True,
    help="Draw AUROC by layer, where matplotlib is installed.",
)
@at_option()
@skip_damaged_option
@format_options
def command(
    store: str | Path,
    folder: Path,
    places: Places,
    classes: Classes,
    group_by: str | None,
    in_sample: bool,
    other_pooling: bool,
    target: Path | None,
    visualize: bool,
    at: int | None,
    as_json: bool,
) -> None:
    """Project the rows of STORE on steering vectors and say how well that tells classes apart.

    An example's score is the mean dot product of its rows with the vector of their layer.
    probe_stats_layerL.csv has the scores of every example: question_id, question, type,
    mean_score, max_score, min_score, std_score. Rows that the vectors were made of, and rows
    that share their example or question with one of these, are left out and counted.

    \b
    Examples:
      actstore validate validation.store --vectors steering --positive deployment --out validation
      actstore validate validation.store --vectors run/normalized_vectors --layers 10,20
      actstore validate train.store --vectors steering --in-sample
    """
    from actstore.analysis.examples import lineages
    from actstore.analysis.probes import probe_files
    from actstore.analysis.steering import validation

    if (folder / probe_files.FOLDER).is_dir() and not any(folder.glob("*.pt")):
        raise UsageError(
            f"{folder} holds probes, not steering vectors: `actstore score STORE --probe {folder}` "
            "applies them to other rows"
        )
    with open_store(store, at) as opened:
        found = validation.validate(
            opened,
            folder,
            **classes.sides,
            label=classes.label,
            choice=places.choice(),
            group_by=group_by,
            in_sample=in_sample,
            other_pooling=other_pooling,
        )
    first, second = found.classes.names
    marked = lineages.title([one.in_sample for one in found.layers])
    drawing = False
    if target is not None:
        validation.save(found, target)
        if visualize:
            drawn = [
                Layer(one.place, one.auroc, None, one.in_sample.marked) for one in found.layers
            ]
            title = f"steering vectors: {first} against {second}"
            heading = f"{title} ({marked})" if marked else title
            drawing = draw_auroc(drawn, target, heading) is not None
    if as_json:
        output.print_json(validation.summary(found))
        return
    heading = f"{first} (positive) against {second}, 95 % intervals"
    output.say(f"{heading}, {marked}" if marked else heading)
    poolings = pooling_cells([one.place for one in found.layers])
    output.print_table(
        (
            *("site", "pooling", "layer", "examples", first),
            *("in-sample" if in_sample else "left out", "auroc", "interval"),
        ),
        [
            (
                one.place.site,
                pooling,
                layer_cell(one.place.layer),
                one.examples,
                one.positives,
                in_sample_cell(one.in_sample.rows),
                round(one.auroc.value, 4),
                interval(one.auroc.low, one.auroc.high),
            )
            for one, pooling in zip(found.layers, poolings, strict=True)
        ],
    )
    for note in found.notes:
        output.note(f"note: {note}")
    if target is not None:
        shown = ", auroc.png" if drawing else ""
        output.note(f"written to {target}: probe_stats_layer*.csv, report.json{shown}")
