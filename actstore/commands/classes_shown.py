"""Probes of several classes, shown and written: all places, and the classes at the best one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from actstore.commands import output
from actstore.commands.cells import interval, layer_cell, pooling_cells
from actstore.commands.probes_shown import Layer, draw_auroc
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.analysis.probes.results import ClassesReport, ClassesResult


def show(report: ClassesReport) -> None:
    """Print the table of places, and that of the classes at the best of them."""
    folds = report.results[0].folds
    tested = f"{folds} folds" if folds > 1 else "one test part"
    output.say(
        f"{report.method} probes, each of {len(report.names)} classes against the rest, {tested}, "
        "95 % intervals"
    )
    poolings = pooling_cells([result.place for result in report.results])
    output.print_table(
        (
            *("site", "pooling", "layer", "rows", "groups", "macro auroc", "interval", "words"),
            *("over baseline", "accuracy", "interval", "balanced", "majority", "shuffled"),
            *("p", "p_family", "verdict"),
        ),
        [
            (
                result.place.site,
                pooling,
                layer_cell(result.place.layer),
                result.rows,
                result.groups,
                round(result.auroc.value, 3),
                interval(result.auroc.low, result.auroc.high),
                None if result.words is None else round(result.words.auroc.value, 3),
                f"{result.effect.value:+.3f} ({result.effect.low:+.3f} to "
                f"{result.effect.high:+.3f}) {result.effect.baseline}",
                round(result.accuracy.value, 3),
                interval(result.accuracy.low, result.accuracy.high),
                round(result.balanced_accuracy, 3),
                round(result.majority, 3),
                None if result.permuted is None else round(result.permuted.auroc_mean, 3),
                None if result.permuted is None else round(result.permuted.p_value, 3),
                None if result.permuted is None else round(result.permuted.p_family, 3),
                result.verdict,
            )
            for result, pooling in zip(report.results, poolings, strict=True)
        ],
        whole=("verdict",),
    )
    if output.chosen_format() != "table":
        # A second table would be one too many for a program that reads the first.
        output.note("figures and confusion table of each class: --json, or report.json of --out")
        return
    best = max(report.results, key=lambda result: result.auroc.value)
    output.say()
    _show_classes(best)


def _show_classes(result: ClassesResult) -> None:
    names = [each.name for each in result.classes]
    output.say(f"{result.place.text}: how often rows of each class were named as which")
    output.print_table(
        ("class", "rows", "auroc", "interval", "p_family", *(f"named {name}" for name in names)),
        [
            (
                each.name,
                each.rows,
                round(each.auroc.value, 3),
                interval(each.auroc.low, each.auroc.high),
                None if each.p_family is None else round(each.p_family, 3),
                *counts,
            )
            for each, counts in zip(result.classes, result.confusion.tolist(), strict=True)
        ],
    )


def written(report: ClassesReport, folder: Path) -> str:
    """Write everything there is of the probes; return what was written."""
    from actstore.analysis.probes import class_files

    first, *_ = class_files.save(report, folder)
    told = (
        f"{counted(len(report.results) * len(report.names), 'probe')} written to {folder}: "
        f"{first.name}, a folder for each class in probes/, probe_stats_layer*.csv"
    )
    drawn = [
        Layer(one.place, one.auroc, None if one.permuted is None else one.permuted.auroc_95)
        for one in report.results
    ]
    heading = f"{report.method} probes: macro AUROC of {len(report.names)} classes"
    picture = draw_auroc(drawn, folder, heading)
    if picture is None:
        return f"{told}; no picture: pip install 'actstore[plot]' draws it"
    return f"{told}, {picture.name}"
