"""Norms by layer: median and spread of each class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from actstore.analysis.plots import style
from actstore.analysis.statistics import sampling
from actstore.analysis.statistics.norms import class_codes, norms_by_layer
from actstore.errors import TooFewRowsError
from actstore.wording import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from actstore.querying.selected import SelectedRows

_RATIO = 30
"""Norms that spread over more than this factor are drawn on a logarithmic scale."""


def norms(selection: SelectedRows, *, by: str | None = "label") -> Figure:
    """Return the norms of the vectors by layer: median, and where 90 % of the rows lie.

    Of a single layer, each class is a box. All rows count; no vector is read.

    Raises:
        TooFewRowsError: no rows, or no norm is finite.
        UsageError: several models, sites or poolings.
    """
    place = sampling.require_one_place(selection)
    layers, profiles = norms_by_layer(selection, by)
    known = [one for profile in profiles for one in profile.layers if one is not None]
    if not known:
        raise TooFewRowsError("no norm is finite, so there is nothing to draw")
    found = class_codes(selection, by)
    colours = style.colours(found.own, len(found.names))
    low = min(one.q05 for one in known)
    logarithmic = low > 0 and max(one.q95 for one in known) / low > _RATIO
    with style.styled():
        figure = style.picture(7, 4)
        axes = figure.add_subplot()
        if len(layers) == 1:
            shown = [number for number, one in enumerate(profiles) if one.layers[0] is not None]
            boxes = [
                {
                    "label": style.plain(profile.name, 24),
                    "med": one.median,
                    "q1": one.q05,
                    "q3": one.q95,
                    "whislo": one.minimum,
                    "whishi": one.maximum,
                }
                for profile in (profiles[number] for number in shown)
                if (one := profile.layers[0]) is not None
            ]
            drawn = axes.bxp(
                boxes, showfliers=False, orientation="horizontal", patch_artist=True, widths=0.5
            )
            for box, number in zip(drawn["boxes"], shown, strict=True):
                box.set(facecolor=colours[number], alpha=0.6)
            for line in drawn["medians"]:
                line.set(color="black", linewidth=1.6)
            axes.invert_yaxis()
            axes.set_xlabel("L2 norm")
            if logarithmic:
                axes.set_xscale("log")
            note = "line: median, box: 90 % of the rows, whiskers: all"
        else:
            for profile, colour, marker in zip(
                profiles, colours, style.MARKERS + style.MARKERS, strict=False
            ):
                values = np.array(
                    [
                        (np.nan,) * 3 if one is None else (one.q05, one.median, one.q95)
                        for one in profile.layers
                    ]
                )
                places = np.arange(len(layers))
                # A layer that is not recorded does not follow the last one that is.
                end = len(layers) - 1 if layers[-1] is None else len(layers)
                axes.fill_between(
                    places[:end], values[:end, 0], values[:end, 2], color=colour, alpha=0.13, lw=0
                )
                axes.plot(
                    places[:end],
                    values[:end, 1],
                    color=colour,
                    marker=marker,
                    markersize=4 if len(layers) <= 40 else 2.5,
                    linewidth=1.5,
                    label=style.plain(profile.name, 32),
                )
                if end < len(layers):
                    apart = np.abs(values[end:, 1] - values[end:, [0, 2]].T)
                    axes.errorbar(
                        places[end:], values[end:, 1], apart, color=colour, fmt=marker, ms=4
                    )
            style.layer_ticks(axes, layers)
            axes.set_ylabel("L2 norm")
            if logarithmic:
                axes.set_yscale("log")
            else:
                axes.set_ylim(bottom=0)
            style.legend(figure, axes)
            note = "line: median, band: 90 % of the rows"
        left = int((~np.isfinite(selection.table(["norm"])["norm"].to_numpy())).sum())
        rows = counted(len(selection)) + (f", {left:,} of them not finite" if left else "")
        style.finish(figure, f"Norms · {style.subject(place, layers)}", f"{rows}; {note}")
    return figure
