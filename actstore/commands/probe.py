"""`actstore probe`: how well a label can be read off each layer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actstore.commands import output, progress
from actstore.commands.cells import interval
from actstore.commands.opening import open_store, skip_damaged_option
from actstore.commands.options import (
    Number,
    at_option,
    bundle,
    format_options,
    output_option,
    place,
    readable_store_argument,
    seed_option,
)
from actstore.commands.row_options import (
    Classes,
    Places,
    class_options,
    group_option,
    place_options,
)
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.analysis.probes.number_results import NumberReport, NumberResult
    from actstore.analysis.probes.results import ClassesReport, ProbeReport, TestedPlace
    from actstore.analysis.probes.tasks import Task

_TASKS = ("auto", "binary", "classes", "number")
_METHODS = ("logistic", "mean-difference", "ridge", "mlp")

settings_options = bundle(
    "settings",
    dict,
    click.option(
        "--method",
        type=click.Choice(_METHODS),
        default="logistic",
        show_default=True,
        help="What is trained, on vectors standardised by the training rows; of numbers it is "
        "ridge regression.",
    ),
    click.option(
        "--strength",
        type=Number(min=0, min_open=True),
        help="Inverse of the L2 penalty: scikit-learn's C, and 1 / alpha of ridge and mlp. 1 by "
        "default; of numbers what the training rows of each fold choose.",
    ),
    click.option(
        "--folds",
        type=click.IntRange(min=2),
        default=5,
        show_default=True,
        help="Folds of the cross-validation, stratified, groups kept whole.",
    ),
    click.option(
        "--permutations",
        type=click.IntRange(min=0),
        default=100,
        show_default=True,
        help="Runs with shuffled labels that the result is held against; mlp does 20 at most.",
    ),
    seed_option(),
)
"""Fields of the analysis' own settings."""


@click.command("probe")
@readable_store_argument
@place_options
@class_options
@click.option(
    "--task",
    type=click.Choice(_TASKS),
    default="auto",
    show_default=True,
    help="binary tells two classes apart, classes each of several from the rest, number predicts "
    "a number; auto is binary where there are two values or --positive names a class, and number "
    "where a column of numbers has more.",
)
@settings_options
@click.option(
    "--join-layers",
    is_flag=True,
    help="One probe per site and pooling on the vectors of all chosen layers, those of an example "
    "one after the other, instead of one for each layer.",
)
@click.option("--train", metavar="SQL", help="Train on rows that meet this condition, with --test.")
@click.option("--test", metavar="SQL", help="Test on these rows instead of on folds.")
@click.option(
    "--test-store",
    callback=lambda ctx, param, text: None if text is None else place(text),
    metavar="STORE",
    help="Test on the rows of this store instead of on folds.",
)
@group_option
@output_option(
    "Folder for the probes, report.json, scores by question and the picture.", folder=True
)
@at_option()
@skip_damaged_option
@format_options
def command(
    store: str | Path,
    places: Places,
    classes: Classes,
    task: Task,
    settings: Mapping[str, Any],
    join_layers: bool,
    train: str | None,
    test: str | None,
    test_store: str | Path | None,
    group_by: str | None,
    target: Path | None,
    at: int | None,
    as_json: bool,
) -> None:
    """Train one probe per layer, site and pooling of STORE, and say what it is worth.

    AUROC and accuracy are those of rows that the probe was not trained on, nor any other
    row of the same example or question, with 95 % intervals. Beside them stand what the words
    of the questions alone come to, the accuracy of always naming the more frequent class, and
    what shuffled labels come to: p of the row's own AUROC, p_family of the largest of all rows.

    Where a column has more than two values, each has a probe of its own that tells it from the
    rest: the macro AUROC is the mean of theirs, the class named for a row the one with the
    largest score, and a second table has the figures and confusions of the best place's classes.

    Of a column of numbers, ridge regression predicts the number: R² and Spearman's rho are those
    of rows that it was not trained on, held against the mean, the questions' words and shuffled
    numbers. The penalty is chosen within the training rows.

    With --join-layers there is one probe for all layers of a site and pooling. Examples that lack
    one of the layers are left out and counted.

    \b
    Examples:
      actstore probe runs.store --label label --positive faithful
      actstore probe runs.store "task = 'maze'" --label label --out probes
      actstore probe runs.store --label task --task classes --layers 6,12
      actstore probe runs.store --label extra.difficulty --out probes
      actstore probe runs.store --layers 6,12 --method ridge --folds 10 --out probes
      actstore probe runs.store --layers 6,12,18 --join-layers --out probes
      actstore probe runs.store --train "split = 'train'" --test "split = 'val'" --out probes
      actstore probe train.store --test-store other.store --out probes
    """
    from actstore.analysis.probes import class_files, number_files, probe_files, tasks
    from actstore.analysis.probes.number_results import NumberReport
    from actstore.analysis.probes.results import ProbeReport
    from actstore.analysis.probes.splits import ProbeSettings
    from actstore.commands import probe_tables

    with open_store(store, at) as opened:
        other = None if test_store is None else open_store(test_store)
        with progress.bar("probing", hidden=as_json) as bar:
            report = tasks.probe(
                opened,
                classes.label,
                task=task,
                **classes.sides,
                choice=places.choice(),
                settings=ProbeSettings(**settings),
                train=train,
                test=test,
                test_store=other,
                group_by=group_by,
                join_layers=join_layers,
                progress=bar,
            )
        if other is not None:
            other.close()
    written = None if target is None else _written(report, target)
    if isinstance(report, ProbeReport):
        entries = [probe_files.summary(result, report) for result in report.results]
        chosen = classes.turned(report.classes.names)
    elif isinstance(report, NumberReport):
        entries = [number_files.summary(result, report) for result in report.results]
        chosen = _number_chosen(report) if task == "auto" else None
    else:
        entries = [class_files.summary(result, report) for result in report.results]
        chosen = _chosen(report) if task == "auto" else None
    if as_json:
        # With the paths of what was written, where it was.
        output.print_json(
            entries
            if target is None
            else json.loads((target / probe_files.REPORT).read_text(encoding="utf-8"))
        )
        return
    if isinstance(report, ProbeReport):
        probe_tables.show(report)
    elif isinstance(report, NumberReport):
        probe_tables.show_numbers(report)
    else:
        probe_tables.show_classes(report)
    for line in [
        *_told(report),
        *([chosen] if chosen else []),
        *(f"note: {each}" for each in report.notes),
    ]:
        output.note(line)
    output.note(written or "nothing was written: --out DIR keeps the probes, scores and a picture")


def _written(report: ProbeReport | ClassesReport | NumberReport, folder: Path) -> str:
    """Write everything there is of the probes; return what was written."""
    from actstore.analysis.probes import class_files, number_files, probe_files
    from actstore.analysis.probes.number_results import NumberReport
    from actstore.analysis.probes.results import ProbeReport
    from actstore.commands import probe_tables

    if isinstance(report, NumberReport):
        first, *_ = number_files.save(report, folder)
        told = f"{counted(len(report.results), 'probe')} written to {folder}: {first.name}, probes/"
        return f"{told}, probe_stats_layer*.csv{probe_tables.draw_numbers(report, folder)}"
    if isinstance(report, ProbeReport):
        first, *_ = probe_files.save(report, folder)
        probes, where = len(report.results), "probes/"
        positive, negative = report.classes.names
        heading = f"{report.method} probe: {positive} against {negative}"
    else:
        first, *_ = class_files.save(report, folder)
        probes, where = (
            len(report.results) * len(report.names),
            "a folder for each class in probes/",
        )
        heading = f"{report.method} probes: macro AUROC of {len(report.names)} classes"
    told = f"{counted(probes, 'probe')} written to {folder}: {first.name}, {where}"
    return f"{told}, probe_stats_layer*.csv{probe_tables.draw(report, folder, heading)}"


def _chosen(report: ClassesReport) -> str:
    """Return which question was asked, where nobody said, and how to ask another."""
    return (
        f"{report.column} has {len(report.names)} values, and each is held against the rest; "
        f"--positive {report.names[0]} asks about one alone, with --negative against one other"
    )


def _number_chosen(report: NumberReport) -> str:
    return (
        f"{report.column} holds numbers, and each probe predicts them; --task classes takes each "
        "number as a class, --positive NUMBER holds one against the rest"
    )


def _told(report: ProbeReport | ClassesReport | NumberReport) -> list[str]:
    """Return what belongs to all rows of the table: what kept rows together, the best layer."""
    from actstore.analysis.probes.number_results import NumberReport
    from actstore.analysis.probes.results import ProbeReport

    results: Sequence[TestedPlace | NumberResult] = report.results
    result = max(results, key=lambda each: each.groups)
    lines = [
        f"kept together by {result.grouped_by}: {counted(result.groups, 'group')} of "
        f"{counted(result.rows)}"
    ]
    if report.best is None:
        return lines
    best, nested = report.best, report.best.nested
    if isinstance(report, NumberReport):
        figure = f"R² {report.best.r2.value:.3f}"
    else:
        kind = "AUROC" if isinstance(report, ProbeReport) else "macro AUROC"
        figure = f"{kind} {report.best.auroc.value:.3f}"
    head = f"best of {best.places}: {best.place.text}, {figure}"
    if nested is None:
        lines.append(
            f"{head}: optimistic, since it was chosen for being the largest ({best.reason})"
        )
        return lines
    places = list(dict.fromkeys(place.text for place in best.chosen))
    lines.append(
        f"{head}; chosen without the fold that judges (nested): {nested.value:.3f}, "
        f"{interval(nested.low, nested.high)}, by {', '.join(places)}"
    )
    return lines
