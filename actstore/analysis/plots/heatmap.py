"""Heatmap of how large each dimension is, layer by layer or class by class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from actstore.analysis.plots import looks
from actstore.analysis.plots.looks import Picture, Style
from actstore.analysis.statistics import sampling
from actstore.analysis.statistics.moments import measure
from actstore.analysis.statistics.norms import class_codes
from actstore.errors import MixedVectorsError, TooFewRowsError
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.querying.selected import SelectedRows

ROWS = 500
"""Rows of each line at most."""
_COLUMNS = 400


def heatmap(
    selection: SelectedRows,
    *,
    by: str | None = "label",
    rows: int = ROWS,
    title: str | None = None,
    style: Style = "screen",
) -> Picture:
    """Return the root mean square of each dimension, a line per layer.

    Of a single layer there is a line per value of ``by``. Dimensions that share a pixel
    show the largest of them, so that a single outlier dimension stays visible.

    Args:
        selection: of one model, site, pooling and region.
        by: of a single layer, the column whose values are lines.
        rows: rows of each line at most.
        title: above the picture; by default which rows these are.
        style: ``screen``, ``paper`` or ``dark``.

    Raises:
        TooFewRowsError: no rows, or nothing finite.
        UsageError: several models, sites or poolings.
        MixedVectorsError: vectors of several widths.
    """
    place = sampling.require_one_place(selection)
    layers = sampling.layer_values(selection)
    if len(layers) > 1:
        codes, names = sampling.layers_of(selection), []
    else:
        found = class_codes(selection, by, most=24)
        codes, names = found.codes, list(found.names)
    lines, largest, nonfinite = [], 0, 0
    for number in range(len(names) or len(layers)):
        part = selection.take(np.flatnonzero(codes == number))
        sample = sampling.draw(part, rows).selection
        largest = max(largest, len(sample))
        moments = measure(sample.snapshot, sample.rows)
        if len({one.width for one in moments}) > 1:
            raise MixedVectorsError("the rows have vectors of several widths: select one model")
        nonfinite += moments[0].nonfinite
        # A dimension without a finite value has no size; zero would be a statement about it.
        lines.append(np.where(moments[0].counts > 0, moments[0].rms, np.nan))
    if len({len(line) for line in lines}) > 1:
        raise MixedVectorsError("the layers have vectors of several widths: select one model")
    width = len(lines[0])
    bins = min(width, _COLUMNS)
    edges = np.linspace(0, width, bins + 1).astype(int)
    grid = np.stack([np.fmax.reduceat(line, edges[:-1]) for line in lines])
    positive = grid[np.isfinite(grid) & (grid > 0)]
    if not len(positive):
        raise TooFewRowsError("every value is zero or not finite, so there is nothing to draw")
    with looks.styled(style) as look:
        from matplotlib.colors import LogNorm
        from matplotlib.ticker import MaxNLocator

        figure = looks.picture(look, 7.5, min(9, max(2.6, 1.6 + 0.16 * len(lines))))
        axes = figure.add_subplot()
        axes.grid(visible=False)
        low, high = float(np.quantile(positive, 0.01)), float(positive.max())
        image = axes.imshow(
            np.where(grid > 0, grid, np.nan),
            aspect="auto",
            interpolation="nearest",
            cmap=look.sequential,
            norm=LogNorm(low if low < high else high / 10, high),
            extent=(-0.5, width - 0.5, len(lines) - 0.5, -0.5),  # a number is at its dimension
        )
        if names:
            axes.set_yticks(range(len(names)), looks.plain_names(names, 28))
        else:
            looks.layer_ticks(axes, layers, range(len(layers)), axis="y")
        axes.set_xlabel("dimension")
        axes.xaxis.set_major_locator(
            MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True, min_n_ticks=1)
        )
        figure.colorbar(image, ax=axes, label="root mean square")
        note = f"up to {counted(largest)} a line"
        if bins < width:
            note += f"; each column shows the largest of up to {-(-width // bins)} dimensions"
        if nonfinite:
            note += f"; {nonfinite:,} not finite"
        blank = ["nothing but zeros"] if (grid == 0).any() else []
        blank += ["no finite value"] if np.isnan(grid).any() else []
        if blank:
            note += f"; blank: {' or '.join(blank)}"
        subject = looks.subject(place, layers)
        return looks.finish(figure, f"Size of dimensions · {subject}", note, title)
