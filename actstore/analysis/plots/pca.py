"""Scatter of the first two principal components, a panel per layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from actstore.analysis.examples.hover_text import hover_texts
from actstore.analysis.plots import looks
from actstore.analysis.plots.looks import Picture, Style
from actstore.analysis.statistics import projection, sampling
from actstore.analysis.statistics.norms import class_codes
from actstore.errors import TooFewRowsError
from actstore.wording import counted

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from actstore.querying.selected import SelectedRows

ROWS = 1500
"""Rows of each layer at most."""
PANELS = 6
_LABEL = 32
"""Longest name of a class in the legend."""


def pca(
    selection: SelectedRows,
    *,
    by: str | None = "label",
    rows: int = ROWS,
    title: str | None = None,
    style: Style = "screen",
) -> Picture:
    """Return each layer's rows along their two directions of largest variance.

    More than six layers are thinned out evenly, the first and the last among them. Each
    layer has components of its own. As HTML, points tell question, answer and label.

    Args:
        selection: of one model, site, pooling and region.
        by: column whose values are drawn apart; None for one class.
        rows: rows of each layer at most.
        title: above the picture; by default which rows these are.
        style: ``screen``, ``paper`` or ``dark``.

    Raises:
        TooFewRowsError: no rows, or none that is finite.
        UsageError: several models, sites or poolings.
        MixedVectorsError: a layer has vectors of several widths.
    """
    place = sampling.require_one_place(selection)
    layers = sampling.layer_values(selection)
    chosen = looks.thinned(len(layers), PANELS)
    found = class_codes(selection, by)
    of_layer = sampling.layers_of(selection)
    columns = 2 if len(chosen) == 4 else min(3, len(chosen))
    lines = math.ceil(len(chosen) / columns)
    height = 4.4 if len(chosen) == 1 else 0.9 + 2.5 * lines
    with looks.styled(style) as look:
        figure = looks.picture(look, 6.2 if columns == 1 else 3 * columns + 1.2, height)
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        largest, left, drawn = 0, 0, 0
        for axes in panels[len(chosen) :]:
            axes.remove()
        for number, axes in zip(chosen, panels, strict=False):
            places = np.flatnonzero(of_layer == number)
            part, _, shown = sampling.draw(selection.take(places), rows)
            codes = found.codes[places[shown]]
            vectors = part.numpy()
            largest = max(largest, len(part))
            if len(chosen) > 1:
                axes.set_title(looks.layer_title(layers[number]))
            if not np.isfinite(vectors).all(axis=1).any():
                _empty(figure, axes)
                left += len(part)
                continue
            components = projection.fit(vectors)
            points = components.apply(vectors)
            finite = np.flatnonzero(np.isfinite(points).all(axis=1))
            left += len(part) - len(finite)
            drawn += len(finite)
            texts = hover_texts(part)
            draw(
                figure,
                axes,
                points[finite],
                codes[finite],
                found.names,
                found.own,
                [texts[at] for at in finite.tolist()],
            )
            name_axes(axes, components.explained[0], components.explained[1])
        if not drawn:
            raise TooFewRowsError("no vector is finite, so there is nothing to project")
        _legend(figure, found.names)
        note = f"up to {counted(largest)} a layer"
        if len(chosen) < len(layers):
            note += f"; {len(chosen)} of {len(layers)} layers"
        if len(layers) == 1:
            note = sampling.draw(selection, rows).note
        if left:
            note += f"; {left:,} not finite"
        subject = looks.subject(place, layers)
        return looks.finish(figure, f"Principal components · {subject}", note, title)


def draw(
    figure: Picture,
    axes: Axes,
    points: np.ndarray,
    codes: np.ndarray,
    names: Sequence[str],
    own: int,
    texts: Sequence[str],
) -> None:
    """Draw points class by class, the rare classes on top.

    Args:
        figure: whose look is taken, and that keeps what points tell.
        axes: where.
        points: float ``[rows, 2]``, all finite.
        codes: each row's class.
        names: of the classes.
        own: how many of them stand for one value; the rest are grey.
        texts: what each point tells.
    """
    colours = looks.colours(figure.look, own, len(names))
    labels = looks.plain_names(names, _LABEL)
    # What has no label goes first, then the frequent ones: the rare ones lie on top.
    for code in [*range(own, len(names)), *range(own)]:
        mine = np.flatnonzero(codes == code)
        if not len(mine):
            continue
        gid = f"points-{len(figure.hover_texts)}"
        axes.plot(
            points[mine, 0],
            points[mine, 1],
            linewidth=0,
            marker=looks.MARKERS[code % len(looks.MARKERS)],
            markersize=3.8 if len(points) <= 400 else 2.7,
            markerfacecolor=(colours[code], 0.75),
            markeredgewidth=0,
            label=labels[code],
            gid=gid,
        )
        figure.hover(gid, [texts[at] for at in mine.tolist()])


def name_axes(axes: Axes, first: float, second: float) -> None:
    """Name the axes by components and the shares of variance that they explain."""
    axes.set_xlabel(f"PC 1 ({first:.0%})")
    axes.set_ylabel(f"PC 2 ({second:.0%})")
    axes.locator_params(nbins=5)
    axes.margins(0.06)
    axes.ticklabel_format(scilimits=(-3, 4))


def _legend(figure: Picture, names: Sequence[str]) -> None:
    """Put the names of all classes beside the panels, each once and in their order."""
    known: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    shown = [label for label in looks.plain_names(names, _LABEL) if label in known]
    if list(names) != ["all rows"]:
        handles = [known[label] for label in shown]
        figure.legend(handles, shown, loc="outside right center", markerscale=1.4)


def _empty(figure: Picture, axes: Axes) -> None:
    """Say why there is nothing in a panel."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(
        *(0.5, 0.5, "no finite vector"),
        transform=axes.transAxes,
        ha="center",
        color=figure.look.soft,
    )
