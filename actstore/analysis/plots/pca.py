"""Scatter of the first two principal components, a panel per layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from actstore.analysis.plots import page, style
from actstore.analysis.plots.hover_text import hover_texts
from actstore.analysis.statistics import projection, sampling
from actstore.analysis.statistics.norms import class_codes
from actstore.errors import TooFewRowsError
from actstore.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from actstore.querying.selected import SelectedRows

ROWS = 1500
"""Rows of each layer at most."""
PANELS = 6


def pca(selection: SelectedRows, *, by: str | None = "label", rows: int = ROWS) -> Figure:
    """Return each layer's rows along their two directions of largest variance.

    More than six layers are thinned out evenly, the first and the last among them. Each
    layer has components of its own. As HTML, points tell question, answer and label.

    Raises:
        TooFewRowsError: no rows, or none that is finite.
        UsageError: several models, sites or poolings.
        MixedVectorsError: a layer has vectors of several widths.
    """
    place = sampling.require_one_place(selection)
    layers = sampling.layer_values(selection)
    chosen = np.unique(np.linspace(0, len(layers) - 1, min(PANELS, len(layers))).round()).astype(
        int
    )
    found = class_codes(selection, by)
    codes, of_layer = found.codes, sampling.layers_of(selection)
    columns = 2 if len(chosen) == 4 else min(3, len(chosen))
    lines = math.ceil(len(chosen) / columns)
    height = 4.4 if len(chosen) == 1 else 0.9 + 2.5 * lines
    with style.styled():
        figure = style.picture(6.2 if columns == 1 else 3 * columns + 1.2, height)
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        handles = {}
        largest, left, drawn = 0, 0, 0
        for axes in panels[len(chosen) :]:
            axes.remove()
        for number, axes in zip(chosen.tolist(), panels, strict=False):
            places = np.flatnonzero(of_layer == number)
            here = selection.take(places)
            part = sampling.draw(here, rows).selection
            code = codes[places[np.searchsorted(here.rows, part.rows)]]
            vectors = part.numpy()
            largest = max(largest, len(part))
            if len(chosen) > 1:
                layer = layers[number]
                axes.set_title("layer not recorded" if layer is None else f"layer {layer}")
            if not np.isfinite(vectors).all(axis=1).any():
                _empty(axes)
                left += len(part)
                continue
            components = projection.fit(vectors)
            points = components.apply(vectors)
            finite = np.isfinite(points).all(axis=1)
            left += int((~finite).sum())
            drawn += int(finite.sum())
            texts = hover_texts(part)
            colours = style.colours(found.own, len(found.names))
            # What has no label goes first, then the frequent ones: the rare ones lie on top.
            classes = range(len(found.names))
            for each in [*classes[found.own :], *classes[: found.own]]:
                mine = np.flatnonzero((code == each) & finite)
                if not len(mine):
                    continue
                gid = f"points-{number}-{each}"
                handles[each] = axes.scatter(
                    points[mine, 0],
                    points[mine, 1],
                    s=14 if len(part) <= 400 else 7,
                    c=colours[each],
                    marker=style.MARKERS[each % len(style.MARKERS)],
                    alpha=0.75,
                    linewidths=0,
                    label=style.plain(found.names[each], 32),
                    gid=gid,
                )
                page.hover(figure, gid, [texts[at] for at in mine.tolist()])
            axes.set_xlabel(f"PC 1 ({components.explained[0]:.0%})")
            axes.set_ylabel(f"PC 2 ({components.explained[1]:.0%})")
            axes.locator_params(nbins=5)
            axes.margins(0.06)
        if not drawn:
            raise TooFewRowsError("no vector is finite, so there is nothing to project")
        if found.names != ("all rows",):
            ordered = [handles[each] for each in sorted(handles)]
            figure.legend(
                ordered,
                [one.get_label() for one in ordered],
                loc="outside right center",
                fontsize=8,
            )
        note = f"up to {counted(largest)} a layer"
        if len(chosen) < len(layers):
            note += f"; {len(chosen)} of {len(layers)} layers"
        if len(layers) == 1:
            note = sampling.draw(selection, rows).note
        if left:
            note += f"; {left:,} not finite"
        title = f"Principal components · {style.subject(place, layers)}"
        style.finish(figure, title, note)
    return figure


def _empty(axes: Axes) -> None:
    """Say why there is nothing in a panel."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, "no finite vector", transform=axes.transAxes, ha="center", color="#666666")
