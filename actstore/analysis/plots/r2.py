"""R² by layer with intervals, of probes that predict numbers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from actstore.analysis.plots import looks
from actstore.analysis.plots.auroc import series
from actstore.analysis.plots.looks import Picture, Style
from actstore.analysis.probes.number_results import NumberResult
from actstore.errors import UsageError

_LOWEST = -0.5
"""What lies further down is cut off: how much worse than the mean does not matter."""


def r2(
    results: Sequence[NumberResult],
    heading: str,
    *,
    title: str | None = None,
    style: Style = "screen",
) -> Picture:
    """Return the figure of probes of numbers, a line for each site and pooling.

    Args:
        results: at least one; layers without a number come last.
        heading: its title, where none is given.
        title: above the picture, whatever the heading.
        style: ``screen``, ``paper`` or ``dark``.

    Raises:
        UsageError: a probe joins several layers.
    """
    if any(one.place.layers for one in results):
        raise UsageError(
            "the picture has a point for each layer, and these probes join several: probe without "
            "join_layers for it"
        )
    layers = sorted(
        {one.place.layer for one in results}, key=lambda layer: (layer is None, layer or 0)
    )
    places = looks.layer_places(layers)
    numbers = list(places.values())
    names = list(dict.fromkeys(series(one.place) for one in results))
    step = min((b - a for a, b in itertools.pairwise(numbers)), default=1)
    with looks.styled(style) as look:
        figure = looks.picture(look, 7, 3.8)
        axes = figure.add_subplot()
        axes.axhline(0, color=look.soft, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            "mean",
            (1.005, 0),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=look.size - 1,
            color=look.soft,
        )
        for number, name in enumerate(names):
            mine = [one for one in results if series(one.place) == name]
            mine.sort(key=lambda one: places[one.place.layer])
            shift = step * (number - (len(names) - 1) / 2) * min(0.12, 0.6 / len(names))
            across = [places[one.place.layer] + shift for one in mine]
            colour = look.colours[number % len(look.colours)]
            values = [one.r2.value for one in mine]
            gid = f"r2-{number}"
            marker = looks.MARKERS[number % len(looks.MARKERS)]
            axes.plot(
                across, values, color=colour, marker=marker, markersize=5, label=name, gid=gid
            )
            axes.errorbar(
                across,
                values,
                [
                    [max(0.0, one.r2.value - one.r2.low) for one in mine],
                    [max(0.0, one.r2.high - one.r2.value) for one in mine],
                ],
                color=colour,
                linestyle="none",
                elinewidth=1,
                capsize=2.5,
            )
            known = [
                (at, one.permuted.r2_95)
                for at, one in zip(across, mine, strict=True)
                if one.permuted is not None
            ]
            axes.plot(
                [at for at, _ in known],
                [value for _, value in known],
                color=colour,
                linewidth=0,
                marker="_",
                markersize=9,
            )
            figure.hover(gid, [repr(one) for one in mine])
        if any(one.permuted is not None for one in results):
            axes.plot(
                [],
                [],
                label="95 % of shuffled numbers stay below",
                marker="_",
                markersize=8,
                linewidth=0,
                color=look.soft,
            )
        lowest = min(-0.05, *(one.r2.low for one in results))
        axes.set_ylim(max(_LOWEST, lowest) - 0.03, 1.02)
        axes.set_ylabel("R²")
        looks.layer_ticks(axes, layers, numbers)
        if len(layers) == 1:
            axes.set_xlim(numbers[0] - 0.6, numbers[0] + 0.6)
        looks.legend(figure, axes)
        rows = max(one.rows for one in results)
        note = f"up to {rows:,} rows a layer; bars: 95 % intervals"
        return looks.finish(figure, heading, note, title)
