"""How all pictures look: colours that colour-blind readers tell apart, fonts, same bytes."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actstore.errors import MissingExtraError, UsageError
from actstore.storage.layout import replace_durably
from actstore.wording import pooling_text, shorten

try:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError("drawing pictures", "plot") from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C510A")
"""Okabe and Ito's, without the yellow that white paper swallows."""
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")
GREYS = ("#8A8A8A", "#BDBDBD")
FORMATS = (".png", ".svg", ".html")
SEQUENTIAL = "cividis"
DIVERGING = "RdBu_r"
_DPI = 150
_NAME = 32
"""Longest name of a model, a site or a class in a title."""
_CJK = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "Droid Sans Fallback",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans",
    "Arial Unicode MS",
)


class Picture(Figure):
    """A matplotlib figure that a notebook shows as it is."""

    def _repr_png_(self) -> bytes:
        return render(self, ".png")


@cache
def _fonts() -> list[str]:
    from matplotlib import font_manager

    known = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in _CJK if name in known)]


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw with our settings, whatever the user's are, and leave theirs alone."""
    settings: dict[str, Any] = {
        "font.family": _fonts(),
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#E3E3E3",
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "figure.dpi": _DPI,
        "savefig.dpi": _DPI,
        # Text stays text: small files, searchable, and browsers have fonts that we lack.
        "svg.fonttype": "none",
        "svg.hashsalt": "actstore",
    }
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        for name, value in settings.items():
            mpl.rcParams[name] = value  # type: ignore[index]  # any of its names
        # A script without its font shows as boxes; that is no reason to fail.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def picture(width: float, height: float) -> Picture:
    """Return an empty figure of so many inches, apart from pyplot's."""
    figure = Picture(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def finish(figure: Figure, title: str, note: str) -> None:
    """Give a figure its title, and in small type what its numbers are of."""
    _fit(figure, figure.suptitle(plain(title), fontsize=11, x=0.01, ha="left"), title)
    _fit(
        figure,
        figure.supxlabel(plain(note), fontsize=7.5, color="#555555", x=0.01, ha="left"),
        note,
    )


def _fit(figure: Figure, text: Text, words: str) -> None:
    """Make a line smaller, and then shorter, until it is no wider than the figure."""
    room = 0.98 * figure.bbox.width
    size = float(text.get_fontsize())
    smallest = 0.75 * size
    while text.get_window_extent().width > room and len(words) > 1:
        if size > smallest:
            size -= 0.5
            text.set_fontsize(size)
        else:
            words = words[:-2].rstrip() + "…"
            text.set_text(plain(words))


def render(figure: Figure, suffix: str) -> bytes:
    """Return a figure as a ``.png``, ``.svg`` or ``.html`` file, the same bytes every time."""
    if suffix == ".html":
        from actstore.analysis.plots.page import page

        return page(figure).encode()
    buffer = io.BytesIO()
    metadata: dict[str, Any] = (
        {"Software": None} if suffix == ".png" else {"Date": None, "Creator": None}
    )
    with styled():
        figure.savefig(buffer, format=suffix[1:], metadata=metadata, facecolor="white")
    return buffer.getvalue()


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure to a ``.png``, ``.svg`` or ``.html`` file, whole or not at all.

    Raises:
        UsageError: the name has another ending.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(f"{target.name}: a picture ends in {', '.join(FORMATS)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_durably(target, render(figure, suffix))
    return target


def colours(own: int, total: int) -> list[str]:
    """Return a colour for each of ``total`` classes: only the first ``own`` stand for one value."""
    return [*COLOURS[:own], *GREYS[: total - own]]


def plain(text: str, most: int = 200) -> str:
    """Return text that matplotlib takes as it is: no mathematics, one line, not too long."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return shorten(line, most).replace("$", r"\$")


def layer_ticks(axes: Axes, layers: list[int | None], *, axis: str = "x", most: int = 16) -> None:
    """Label positions 0, 1, … of an axis with layers, leaving out some where there are many."""
    step = max(1, -(-len(layers) // most))
    places = [
        place
        for place, layer in enumerate(layers)
        if layer is None or place % step == 0 or len(layers) <= most
    ]
    names = ["?" if layers[place] is None else str(layers[place]) for place in places]
    if axis == "x":
        axes.set_xticks(places, names)
        axes.set_xlabel("layer")
    else:
        axes.set_yticks(places, names)
        axes.set_ylabel("layer")


def legend(figure: Figure, axes: Axes) -> None:
    """Put the classes' names beside the picture, where they hide nothing."""
    handles, names = axes.get_legend_handles_labels()
    if len(names) > 1 or (names and names[0] != "all rows"):
        figure.legend(handles, names, loc="outside right center", fontsize=8, handletextpad=0.4)


def subject(place: dict[str, str | None], layers: list[int | None] | None = None) -> str:
    """Return which model, site and layer a picture is of."""
    parts = [
        shorten(str(place["model"]).rsplit("/", 1)[-1], _NAME),
        shorten(str(place["site"]), _NAME),
        pooling_text(place["pooling"], place["region"]),
    ]
    if layers is not None and len(layers) == 1:
        parts.append("layer not recorded" if layers[0] is None else f"layer {layers[0]}")
    return " · ".join(filter(None, parts))
