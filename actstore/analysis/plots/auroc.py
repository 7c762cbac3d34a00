"""AUROC by layer with intervals: from a probe's report, or by the difference of means."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from actstore.analysis import sampling, separation
from actstore.analysis.plots import style
from actstore.errors import UsageError
from actstore.wording import counted, shorten

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
    selection: Selection,
    *,
    by: str = "label",
    positive: str | Sequence[str] | None = None,
    negative: str | Sequence[str] | None = None,
) -> Figure:
    """Return the AUROC by layer along the difference of class means, cross-validated.

    Raises:
        TooFewRowsError: no rows, one class only, or too few examples.
        UsageError: several models, sites or poolings, or more than two classes.
    """
    place = sampling.require_one_place(selection)
    found = separation.by_layer(selection, by, positive=positive, negative=negative)
    points = [Point("", one.layer, *one.auroc) for one in found.layers]
    title = f"{_against([found.positive, found.negative])} · {style.subject(place)}"
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
        title = _title((document["results"] if isinstance(document, dict) else document)[0])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{file}: no report of a probe ({type(error).__name__}: {error}); "
            "`actstore probe STORE --out DIR` writes DIR/report.json"
        ) from error
    return draw(points, title, f"up to {counted(rows)} a layer; bars: 95 % intervals")


def points_of(document: Any) -> tuple[list[Point], int]:
    """Return the points of a probe's report, and the most rows a layer has."""
    results = document["results"] if isinstance(document, dict) else document
    if not results:
        raise ValueError("it has no results")
    names = ("model", "site", "pooling", "region")
    several = [name for name in names if len({str(one.get(name)) for one in results}) > 1]
    points = []
    for one in results:
        low, high = one.get("auroc_interval") or (one["auroc"], one["auroc"])
        shuffled = (one.get("baselines") or {}).get("permutation") or {}
        points.append(
            Point(
                " ".join(str(one[name]) for name in several if one.get(name) is not None)
                or "probe",
                one["layer"],
                float(one["auroc"]),
                float(low),
                float(high),
                shuffled.get("auroc_95"),
            )
        )
    return points, max(int(one["rows"]) for one in results)


def _title(result: dict[str, Any]) -> str:
    classes = [" or ".join(result.get(side) or ()) for side in ("positive", "negative")]
    told = _against(classes) if all(classes) else ""
    model = str(result.get("model", "")).rsplit("/", 1)[-1]
    return " · ".join(
        filter(None, [f"AUROC of probes: {told}" if told else "AUROC of probes", model])
    )


def _against(classes: Sequence[str]) -> str:
    return " against ".join(shorten(name, 32) for name in classes)


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
            (1.005, 0.5),
            xycoords=("axes fraction", "data"),
            ha="left",
            va="center",
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
            # A layer that is not recorded does not follow the last one that is.
            end = len(mine) - (len(mine) > 1 and mine[-1].layer is None)
            for part in filter(None, (range(end), range(end, len(mine)))):
                axes.errorbar(
                    [places[at] for at in part],
                    [mine[at].auroc for at in part],
                    [
                        [max(0.0, mine[at].auroc - mine[at].low) for at in part],
                        [max(0.0, mine[at].high - mine[at].auroc) for at in part],
                    ],
                    color=style.COLOURS[number % len(style.COLOURS)],
                    marker=style.MARKERS[number % len(style.MARKERS)],
                    markersize=5 if len(layers) <= 40 else 3,
                    linewidth=1.3,
                    elinewidth=1,
                    capsize=2.5 if len(layers) <= 40 else 0,
                    label=None if part.start else style.plain(name or "all rows", 32),
                )
        for number, name in enumerate(series):
            known = [
                (layers.index(one.layer), one.shuffled)
                for one in points
                if one.series == name and one.shuffled is not None
            ]
            axes.scatter(
                [place for place, _ in known],
                [value for _, value in known],
                marker="_",
                s=90 if len(layers) <= 40 else 16,
                color="#777777",
                label="95 % of shuffled labels stay below" if known and not number else None,
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
