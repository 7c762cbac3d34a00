"""Draws a matrix as coloured cells, with its numbers where they fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from actstore.analysis.plots.looks import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize

_COLUMNS, _LINES = 16, 24
"""Cells that have room for a number."""
_SHARE = 0.62
"""Of a cell's width, what its number may take at most."""


def draw(
    figure: Picture,
    axes: Axes,
    cells: np.ndarray,
    *,
    name: str,
    norm: Normalize,
    colours: str,
    digits: str = ".2f",
    extend: Literal["neither", "both", "min", "max"] = "neither",
) -> None:
    """Draw cells with the first line on top, and the scale of their colours beside them.

    Args:
        figure: whose look is taken.
        axes: where; lines and columns are at 0, 1, …
        cells: float ``[lines, columns]``; NaN stays blank.
        name: of the numbers.
        norm: which numbers the scale's ends are.
        colours: name of the colour map.
        digits: how numbers are written.
        extend: at which ends of the scale numbers lie beyond it.
    """
    axes.grid(visible=False)
    image = axes.imshow(
        cells, cmap=colours, norm=norm, interpolation="nearest", aspect="auto", origin="upper"
    )
    figure.colorbar(image, ax=axes, label=name, extend=extend)
    lines, columns = cells.shape
    if columns > _COLUMNS or lines > _LINES:
        return
    texts = {
        (line, column): format(float(cells[line, column]), digits)
        for line in range(lines)
        for column in range(columns)
        if np.isfinite(cells[line, column])
    }
    longest = max(map(len, texts.values()), default=1)
    # A digit is about 0.62 as wide as it is high; about 0.68 of the figure are cells.
    width, height = figure.get_size_inches() * 72 * 0.68
    size = min(figure.look.size - 1, _SHARE * width / columns / (0.5 * longest), height / lines)
    for (line, column), text in texts.items():
        axes.text(
            column,
            line,
            text,
            ha="center",
            va="center",
            fontsize=size,
            color=ink(image.cmap, float(norm(cells[line, column]))),
        )


def ink(colours: Colormap, at: float) -> str:
    """Return dark or white, whichever is read better on a colour.

    Not quite black: that is left out of SVG, and then is whatever the page has for text.
    """
    red, green, blue, _ = colours(min(1.0, max(0.0, at)))
    return "#111111" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "#FFFFFF"
