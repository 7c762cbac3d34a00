"""AUROC by layer with intervals: from a probe's report, or by the difference of means."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from actstore.analysis import sampling, separation
from actstore.analysis.plots import style
from actstore.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from actstore.querying.selection import Selection


class Point(NamedTuple):
    """One layer's AUROC."""

    series: str
    """Site and pooling, where there are several."""
    layer: int | None
    auroc: float
    low: float
    high: float
    shuffled: float | None = None
    """What 95 of 100 probes of shuffled labels stay below, where that is known."""


def auroc(
    selection: Selection, *, by: str = "label", positive: str | Sequence[str] | None = None
) -> Figure:
    """Return the AUROC by layer along the difference of class means, cross-validated.

    Raises:
        TooFewRowsError: no rows, one class only, or too few examples.
        UsageError: several models, sites or poolings, or more than two classes.
    """
    place = sampling.require_one_place(selection)
    found = separation.by_layer(selection, by, positive=positive)
    points = [Point("", one.layer, *one.auroc) for one in found.layers]
    title = f"{found.positive} against {found.negative} · {style.subject(place)}"
    return draw(points, title, found.note + "; bars: 95 % intervals")


def auroc_of_report(path: str | Path) -> Figure:
    """Return the AUROC by layer that a probe's ``report.json`` tells.

    Raises:
        UsageError: the file is no such report.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "report.json"
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        points, rows = points_of(document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{file}: no report of a probe ({type(error).__name__}: {error}); "
            "`actstore probe STORE --out DIR` writes DIR/report.json"
        ) from error
    return draw(points, "AUROC of probes", f"up to {rows:,} rows a layer; bars: 95 % intervals")


def points_of(document: Any) -> tuple[list[Point], int]:
    """Return the points of a probe's report, and the most rows a layer has."""
    results = document["results"] if isinstance(document, dict) else document
    if not results:
        raise ValueError("it has no results")
    names = ("model", "site", "pooling", "region")
    several = [name for name in names if len({str(one.get(name)) for one in results}) > 1]
    points = []
    for one in results:
        value, low, high = _estimate(one)
        points.append(
            Point(
                " ".join(str(one[name]) for name in several if one.get(name) is not None),
                one["layer"],
                value,
                low,
                high,
            )
        )
    return points, max(int(one["rows"]) for one in results)


def _estimate(result: dict[str, Any]) -> tuple[float, float, float]:
    """Return AUROC and interval, which may stand side by side or within one another."""
    value = result["auroc"]
    if isinstance(value, dict):
        return float(value["value"]), float(value["low"]), float(value["high"])
    if isinstance(value, list):
        return float(value[0]), float(value[1]), float(value[2])
    for name in ("auroc_interval", "auroc_ci", "interval"):
        if name in result:
            low, high = result[name]
            return float(value), float(low), float(high)
    return float(value), float(value), float(value)


def draw(points: Sequence[Point], title: str, note: str) -> Figure:
    """Return points as a line per series over the layers."""
    layers = sorted({one.layer for one in points}, key=lambda layer: (layer is None, layer or 0))
    series = list(dict.fromkeys(one.series for one in points))
    with style.styled():
        figure = style.picture(7, 3.8)
        axes = figure.add_subplot()
        axes.axhline(0.5, color="#666666", linewidth=1, linestyle="--")
        axes.annotate(
            "chance",
            (0.995, 0.5),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=7.5,
            color="#666666",
        )
        for number, name in enumerate(series):
            mine = sorted(
                (one for one in points if one.series == name),
                key=lambda one: (one.layer is None, one.layer or 0),
            )
            shift = (number - (len(series) - 1) / 2) * min(0.12, 0.6 / len(series))
            places = [layers.index(one.layer) + shift for one in mine]
            axes.errorbar(
                places,
                [one.auroc for one in mine],
                [
                    [max(0.0, one.auroc - one.low) for one in mine],
                    [max(0.0, one.high - one.auroc) for one in mine],
                ],
                color=style.COLOURS[number % len(style.COLOURS)],
                marker=style.MARKERS[number % len(style.MARKERS)],
                markersize=5 if len(layers) <= 40 else 3,
                linewidth=1.3,
                elinewidth=1,
                capsize=2.5 if len(layers) <= 40 else 0,
                label=style.plain(name or "all rows", 32),
            )
        lowest = min(0.4, *(one.low for one in points))
        axes.set_ylim(max(-0.02, lowest - 0.03), 1.02)
        axes.set_ylabel("AUROC")
        style.layer_ticks(axes, layers)
        if len(layers) == 1:
            axes.set_xlim(-0.6, 0.6)
        style.legend(figure, axes)
        style.finish(figure, title, note)
    return figure
