"""Pictures of a report as SVG in its page, in the page's colours."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from actstore.analysis.report.page_style import KEYS
from actstore.analysis.statistics.norms import NormProfile
from actstore.wording import escaped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from actstore.analysis.plots.looks import Picture
    from actstore.analysis.probes.probe_runs import Curve
    from actstore.analysis.report.contents import Panel, Place
    from actstore.analysis.statistics.separation import Separations


def available() -> bool:
    """Whether pictures can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


class Drawing:
    """Draws the pictures of one page, whose ids do not meet."""

    def __init__(self) -> None:
        self._drawn = 0

    def norms(self, place: Place) -> str:
        """Return the norms by layer; nothing where none is finite."""
        from actstore.analysis.plots.norms import draw as draw_norms

        if not any(_finite(profile) for profile in place.norms):
            return ""

        def draw(figure: Picture, axes: Axes) -> None:
            draw_norms(figure, axes, place.layers, place.norms, place.classes.own)

        return self._svg(draw, "Norms of the vectors by layer")

    def auroc(self, found: Curve | Separations, title: str) -> str:
        """Return AUROC by layer."""
        from actstore.analysis.plots.auroc import draw as draw_auroc
        from actstore.analysis.plots.auroc import points_of

        return self._svg(lambda figure, axes: draw_auroc(figure, axes, points_of(found)), title)

    def panel(self, panel: Panel, place: Place, title: str) -> str:
        """Return the rows of a layer along their first two components."""
        from actstore.analysis.plots.pca import draw as draw_points
        from actstore.analysis.plots.pca import name_axes

        def draw(figure: Picture, axes: Axes) -> None:
            names, own = place.classes.names, place.classes.own
            points = panel.points.astype(np.float64)
            draw_points(figure, axes, points, panel.codes, names, own, panel.texts)
            name_axes(axes, *panel.explained)

        return self._svg(draw, title)

    def _svg(self, draw: Callable[[Picture, Axes], None], title: str) -> str:
        from actstore.analysis.plots import looks, svg

        self._drawn += 1
        with looks.styled() as look:
            figure = looks.picture(look, 3.9, 2.6)
            draw(figure, figure.add_subplot())
        return svg.inline(figure, prefix=f"p{self._drawn}-", label=title, variables=_variables())


def key(number: int, own: int, name: str) -> str:
    """Return one entry of the legend that all pictures of a place share, as HTML.

    Args:
        number: of the class.
        own: how many classes stand for one value; the rest are grey.
        name: of the class.
    """
    from actstore.analysis.plots import looks

    colour = KEYS[number] if number < own else KEYS[len(KEYS) - 2 + number - own]
    marker = looks.MARKERS[number % len(looks.MARKERS)]
    return (
        f'<span class="key"><svg class="mark" viewBox="-6 -6 12 12" aria-hidden="true">'
        f'<path fill="{colour}" d="{_outline(marker)}"/></svg>{escaped(name)}</span>'
    )


def _outline(marker: str) -> str:
    """Return a marker of matplotlib as a path of SVG."""
    from matplotlib.markers import MarkerStyle
    from matplotlib.transforms import Affine2D

    style = MarkerStyle(marker)
    # A marker is one wide and stands upright; the key is twelve wide and hangs.
    outline = style.get_path().transformed(style.get_transform() + Affine2D().scale(9, -9))
    polygons = [np.asarray(one, float).tolist() for one in outline.to_polygons(closed_only=True)]
    return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in one) + "Z" for one in polygons)


def _variables() -> dict[str, str]:
    """Return what stands in the page for the colours of the usual look."""
    from actstore.analysis.plots import looks

    look = looks.LOOKS["screen"]
    classes = [*look.colours, *look.greys]
    named = {"soft": look.soft, "grid": look.grid, "card": look.ground, "ink": look.ink}
    return {
        **{colour.lower(): key for colour, key in zip(classes, KEYS, strict=True)},
        **{colour.lower(): f"var(--{name})" for name, colour in named.items()},
    }


def _finite(profile: NormProfile) -> bool:
    return any(one is not None for one in profile.layers)
