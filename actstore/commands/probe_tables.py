"""What `actstore probe` prints and draws: places by rows, the best one's classes, the picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from actstore.commands import output
from actstore.commands.cells import interval, layers_cell, layers_heading, pooling_cells
from actstore.commands.probes_shown import Layer, draw_auroc
from actstore.errors import MissingExtraError

if TYPE_CHECKING:
    from actstore.analysis.probes.number_results import NumberReport
    from actstore.analysis.probes.results import ClassesReport, ClassesResult, ProbeReport

_BY_LAYER = "; no picture: it would be by layer, and these join several"
_NO_PICTURE = "; no picture: pip install 'actstore[plot]' draws it"


def show(report: ProbeReport) -> None:
    """Print the places of probes that tell two classes apart."""
    output.say(f"{report.title}, {_tested(report)}, 95 % intervals")
    _print_places(report, "auroc", [result.band for result in report.results])


def show_classes(report: ClassesReport) -> None:
    """Print the places of probes of several classes, and the classes at the best of them."""
    output.say(f"{report.title}, {_tested(report)}, 95 % intervals")
    _print_places(report, "macro auroc")
    if output.chosen_format() != "table":
        # A second table would be one too many for a program that reads the first.
        output.note("figures and confusion table of each class: --json, or report.json of --out")
        return
    output.say()
    _print_classes(max(report.results, key=lambda result: result.auroc.value))


def show_numbers(report: NumberReport) -> None:
    """Print the places of probes that predict numbers."""
    output.say(f"{report.title}, {_tested(report)}, 95 % intervals")
    places = [result.place for result in report.results]
    poolings = pooling_cells(places)
    output.print_table(
        (
            *("site", "pooling", layers_heading(places), "rows", "groups", "r2", "interval"),
            *("spearman", "interval", "words", "over baseline", "error", "deviation"),
            *("strength", "shuffled", "p", "p_family", "verdict"),
        ),
        [
            (
                result.place.site,
                pooling,
                layers_cell(result.place),
                result.rows,
                result.groups,
                round(result.r2.value, 3),
                interval(result.r2.low, result.r2.high),
                round(result.spearman.value, 3),
                interval(result.spearman.low, result.spearman.high),
                None if result.words is None else round(result.words.r2.value, 3),
                f"{result.effect.value:+.3f} ({result.effect.low:+.3f} to "
                f"{result.effect.high:+.3f}) {result.effect.baseline}",
                float(f"{result.error:.4g}"),
                float(f"{result.deviation:.4g}"),
                float(f"{result.strength:.2g}"),
                None if result.permuted is None else round(result.permuted.r2_mean, 3),
                None if result.permuted is None else round(result.permuted.p_value, 3),
                None if result.permuted is None else round(result.permuted.p_family, 3),
                result.verdict,
            )
            for result, pooling in zip(report.results, poolings, strict=True)
        ],
        whole=("verdict",),
    )


def draw_numbers(report: NumberReport, folder: Path) -> str:
    """Draw R² by layer into a folder; return how a list of what was written ends."""
    if any(result.place.layers for result in report.results):
        return _BY_LAYER
    try:
        from actstore.analysis import plots
    except MissingExtraError:
        return _NO_PICTURE
    from actstore.analysis.plots.r2 import r2

    figure = r2(report.results, f"R² of {report.title}")
    plots.save(figure, folder / "r2.svg")
    return f", {plots.save(figure, folder / 'r2.png').name}"


def draw(report: ProbeReport | ClassesReport, folder: Path, heading: str) -> str:
    """Draw AUROC by layer into a folder; return how a list of what was written ends."""
    if any(result.place.layers for result in report.results):
        return _BY_LAYER
    drawn = [
        Layer(one.place, one.auroc, None if one.permuted is None else one.permuted.auroc_95)
        for one in report.results
    ]
    picture = draw_auroc(drawn, folder, heading)
    if picture is None:
        return _NO_PICTURE
    return f", {picture.name}"


def _tested(report: ProbeReport | ClassesReport | NumberReport) -> str:
    folds = report.results[0].folds
    return f"{folds} folds" if folds > 1 else "one test part"


def _print_places(
    report: ProbeReport | ClassesReport, auroc: str, bands: Sequence[str] | None = None
) -> None:
    places = [result.place for result in report.results]
    poolings = pooling_cells(places)
    output.print_table(
        (
            *("site", "pooling", layers_heading(places), "rows", "groups", auroc, "interval"),
            "words",
            *("over baseline", "accuracy", "interval", "balanced", "majority", "shuffled"),
            *("p", "p_family", *(("band",) if bands else ()), "verdict"),
        ),
        [
            (
                result.place.site,
                pooling,
                layers_cell(result.place),
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
                *((bands[number],) if bands else ()),
                result.verdict,
            )
            for number, (result, pooling) in enumerate(zip(report.results, poolings, strict=True))
        ],
        whole=("verdict",),
    )


def _print_classes(result: ClassesResult) -> None:
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
