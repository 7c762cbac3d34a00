"""AUROC by layer with intervals: of probes where they were trained, else of mean differences."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from actstore.analysis.examples.place_rows import ActivationPlace
from actstore.analysis.plots import looks
from actstore.analysis.plots.looks import Picture, Style
from actstore.analysis.probes import probe_runs
from actstore.analysis.statistics import sampling, separation
from actstore.analysis.statistics.metrics import IntervalEstimate
from actstore.wording import shorten_apart

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from actstore.querying.selected import SelectedRows

MEANS = "mean difference (no probe)"
_SHUFFLED = "95 % of shuffled labels stay below"
_BARS = "bars: 95 % intervals"
_MANY = 40
"""Layers that leave room for small marks only."""


class Point(NamedTuple):
    """One layer's AUROC."""

    series: str
    """Whose it is: probe, steering vector, or site and pooling where there are several."""
    layer: int | None
    auroc: IntervalEstimate
    shuffled_95: float | None = None
    """What 95 of 100 runs with shuffled labels stay below, where that is known."""
    in_sample: bool = False
    """Rows that it was made of are, or may be, among those that it is measured on."""


def auroc(
    selection: SelectedRows,
    *,
    by: str = "label",
    positive: str | Sequence[str] | None = None,
    negative: str | Sequence[str] | None = None,
    probes: Sequence[str | Path] = (),
    title: str | None = None,
    style: Style = "screen",
) -> Picture:
    """Return the AUROC by layer of trained probes, or along the difference of class means.

    Both are of rows that were not trained on, and the picture says which it is.

    Args:
        selection: of one model, site, pooling and region.
        by: column with the classes.
        positive: value or values of the positive class.
        negative: the same for the negative class.
        probes: what ``actstore probe --out`` wrote for these rows, folders or their
            ``report.json``; without any, the difference of means is measured.
        title: above the picture; by default what against what, and which rows these are.
        style: ``screen``, ``paper`` or ``dark``.

    Raises:
        MismatchError: the probes are for other rows.
        TooFewRowsError: no rows, one class only, or too few examples.
        UsageError: several models, sites or poolings, or more than two classes.
    """
    place = sampling.require_one_place(selection)
    named = tuple(
        () if one is None else (one,) if isinstance(one, str) else tuple(one)
        for one in (positive, negative)
    )
    curves = list(probe_runs.curves(probes, selection, by, (named[0], named[1])).values())
    if curves:
        # More than one where the embeddings go with the residual stream that they begin.
        points = [point for curve in curves for point in points_of(curve)]
        told = against([curves[0].positive, curves[0].negative])
        heading, note = f"AUROC of probes: {told} · {looks.subject(place)}", curves[0].note
    else:
        found = separation.by_layer(selection, by, positive=positive, negative=negative)
        points = points_of(found)
        told = against([found.positive, found.negative])
        heading, note = f"{told} · {looks.subject(place)} · mean difference", found.note
    return figure_of(points, heading, note, title=title, style=style)


def points_of(found: probe_runs.Curve | separation.Separations) -> list[Point]:
    """Return the points of probes, or of differences of means."""
    if isinstance(found, separation.Separations):
        return [Point(MEANS, one.layer, one.auroc) for one in found.layers]
    return [Point("probe", one.layer, one.auroc, one.shuffled_95) for one in found.layers]


def series(place: ActivationPlace) -> str:
    """Return what a line is called where there may be several sites and poolings."""
    region = f" over {place.region}" if place.region else ""
    return f"{place.site}, {place.pooling}{region}"


def against(names: Sequence[str]) -> str:
    """Return the classes in words."""
    return " against ".join(shorten_apart(names, 32))


def figure_of(
    points: Sequence[Point],
    heading: str,
    note: str = "",
    *,
    title: str | None = None,
    style: Style = "screen",
) -> Picture:
    """Return the figure of some points.

    Args:
        points: in any order; layers without a number come last.
        heading: its title, where none is given.
        note: what the points are of.
        title: above the picture, whatever the heading.
        style: ``screen``, ``paper`` or ``dark``.
    """
    with looks.styled(style) as look:
        figure = looks.picture(look, 7, 3.8)
        axes = figure.add_subplot()
        draw(figure, axes, points)
        looks.legend(figure, axes)
        return looks.finish(figure, heading, "; ".join(filter(None, (note, _BARS))), title)


def draw(figure: Picture, axes: Axes, points: Sequence[Point]) -> None:
    """Draw points as a line per series over the layers, with chance and shuffled labels.

    Args:
        figure: whose look is taken, and that keeps what points tell.
        axes: where.
        points: at least one.
    """
    layers = sorted({one.layer for one in points}, key=lambda layer: (layer is None, layer or 0))
    places = looks.layer_places(layers)
    names = list(dict.fromkeys(one.series for one in points))
    numbers = list(places.values())
    step = min((b - a for a, b in itertools.pairwise(numbers)), default=1)
    axes.axhline(0.5, color=figure.look.soft, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.annotate(
        "chance",
        (1.005, 0.5),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=figure.look.size - 1,
        color=figure.look.soft,
    )
    labels = looks.plain_names([name or "all rows" for name in names], 32)
    for number, name in enumerate(names):
        mine = sorted((one for one in points if one.series == name), key=lambda o: places[o.layer])
        shift = step * (number - (len(names) - 1) / 2) * min(0.12, 0.6 / len(names))
        _line(
            figure, axes, labels[number], [(places[one.layer] + shift, one) for one in mine], number
        )
    if any(one.shuffled_95 is not None for one in points):
        soft = figure.look.soft
        axes.plot([], [], label=_SHUFFLED, marker="_", markersize=8, linewidth=0, color=soft)
    axes.set_ylim(max(-0.02, min(0.4, *(one.auroc.low for one in points)) - 0.03), 1.02)
    axes.set_ylabel("AUROC")
    looks.layer_ticks(axes, layers, numbers)
    if len(layers) == 1:
        axes.set_xlim(numbers[0] - 0.6, numbers[0] + 0.6)


def _line(
    figure: Picture, axes: Axes, name: str, points: Sequence[tuple[float, Point]], number: int
) -> None:
    colour = figure.look.colours[number % len(figure.look.colours)]
    few = len(points) <= _MANY
    in_sample = any(one.in_sample for _, one in points)
    shown = name + (" (in-sample)" if in_sample else "")
    label: str | None = shown
    # A layer that is not recorded does not follow the last one that is.
    for joined in (True, False):
        part = [(at, one) for at, one in points if (one.layer is not None) == joined]
        if not part:
            continue
        across, values = [at for at, _ in part], [one.auroc.value for _, one in part]
        gid = f"auroc-{number}-{int(joined)}"
        axes.plot(
            across,
            values,
            color=colour,
            # What flatters is seen to be another kind of figure, also without its legend.
            linestyle="--" if in_sample else "-",
            markerfacecolor=figure.look.ground if in_sample else colour,
            marker=looks.MARKERS[number % len(looks.MARKERS)],
            markersize=5 if few else 3,
            label=label,
            zorder=3,
            gid=gid,
        )
        axes.errorbar(
            across,
            values,
            [
                [max(0.0, one.auroc.value - one.auroc.low) for _, one in part],
                [max(0.0, one.auroc.high - one.auroc.value) for _, one in part],
            ],
            color=colour,
            linestyle="none",
            elinewidth=1,
            capsize=2.5 if few else 0,
        )
        label = None
        figure.hover(gid, [_told(shown, one) for _, one in part])
    known = [(at, one.shuffled_95) for at, one in points if one.shuffled_95 is not None]
    axes.plot(
        [at for at, _ in known],
        [value for _, value in known],
        color=colour,
        linewidth=0,
        marker="_",
        markersize=9 if few else 4,
        zorder=2,
    )


def _told(name: str, point: Point) -> str:
    value, low, high = point.auroc
    return f"{name}, {looks.layer_title(point.layer)}: {value:.3f} ({low:.3f} to {high:.3f})"
