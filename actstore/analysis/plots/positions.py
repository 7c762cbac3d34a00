"""Heatmap of layers against positions in the text: the median norm of the tokens there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from actstore.analysis.plots import looks, matrix
from actstore.analysis.plots.looks import Picture, Style
from actstore.analysis.statistics import sampling
from actstore.errors import TooFewRowsError
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.querying.selected import SelectedRows

_COLUMNS = 96
_RATIO = 30
"""Norms that spread over more than this factor are coloured on a logarithmic scale."""


def positions(
    selection: SelectedRows, *, title: str | None = None, style: Style = "screen"
) -> Picture:
    """Return the median norm of each layer's tokens, position by position.

    Positions that share a column of the picture show the largest of their medians, so that a
    single position that stands out stays visible. All rows count; no vector is read.

    Args:
        selection: of one model, site, pooling and region, rows that are tokens.
        title: above the picture; by default which rows these are.
        style: ``screen``, ``paper`` or ``dark``.

    Raises:
        TooFewRowsError: no rows, or none that has a position and a finite norm.
        UsageError: several models, sites or poolings.
    """
    place = sampling.require_one_place(selection)
    layers = sampling.layer_values(selection)
    table = selection.table(["position", "norm"])
    norms = table["norm"].to_numpy().astype(np.float64)
    at = table["position"].fill_null(-1).to_numpy().astype(np.int64)
    known = np.isfinite(norms) & (at >= 0)
    if not known.any():
        raise TooFewRowsError(
            "no row has a position and a finite norm: rows that are tokens have one "
            "(capture them with --pool tokens)"
        )
    cells = _medians(norms[known], at[known], sampling.layers_of(selection)[known], len(layers))
    positions = cells.shape[1]
    width = -(-positions // _COLUMNS)
    if width > 1:
        edges = np.arange(0, positions, width)
        cells = np.fmax.reduceat(cells, edges, axis=1)
    with looks.styled(style) as look:
        from matplotlib.colors import LogNorm, Normalize

        figure = looks.picture(look, 7.5, min(9, max(2.8, 1.8 + 0.16 * len(layers))))
        axes = figure.add_subplot()
        low, high = float(np.nanmin(cells)), float(np.nanmax(cells))
        logarithmic = low > 0 and high > _RATIO * low
        norm = (LogNorm if logarithmic else Normalize)(low, high if high > low else low + 1)
        matrix.draw(
            figure,
            axes,
            cells,
            name="median norm",
            norm=norm,
            colours=look.sequential,
            digits=".3g",
        )
        looks.layer_ticks(axes, layers, range(len(layers)), axis="y")
        columns = cells.shape[1]
        shown = range(0, columns, max(1, -(-columns // 16)))
        axes.set_xticks(list(shown), [str(column * width) for column in shown])
        axes.set_xlabel("position")
        note = f"{counted(int(known.sum()))}, {counted(positions, 'position')}"
        if width > 1:
            note += f"; each column shows the largest of {width} positions"
        if left := int((~known).sum()):
            note += f"; {left:,} without a position or not finite"
        if np.isnan(cells).any():
            note += "; blank: no row"
        return looks.finish(figure, f"Norms by position · {looks.subject(place)}", note, title)


def _medians(norms: np.ndarray, at: np.ndarray, layer: np.ndarray, layers: int) -> np.ndarray:
    """Return medians as float64 ``[layers, positions]``, NaN where there is no row."""
    positions = int(at.max()) + 1
    cell = layer * positions + at
    order = np.lexsort((norms, cell))
    found, starts, counts = np.unique(cell[order], return_index=True, return_counts=True)
    ordered = norms[order]
    middle = (ordered[starts + (counts - 1) // 2] + ordered[starts + counts // 2]) / 2
    cells = np.full(layers * positions, np.nan)
    cells[found] = middle
    return cells.reshape(layers, positions)
