"""How all pictures look: on screen, on paper, in the dark; colours that all eyes tell apart."""

from __future__ import annotations

import contextlib
import io
import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from actstore.analysis.examples.place_rows import layer_word
from actstore.errors import MissingExtraError, UsageError
from actstore.wording import pooling_text, readable, shorten, shorten_apart

try:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError("drawing pictures", "plot") from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase
    from matplotlib.text import Text

Style = Literal["screen", "paper", "dark"]
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C510A")
"""Okabe and Ito's, without the yellow that white paper swallows."""
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")
_SCALE = "<colorbar>"
"""How matplotlib labels the axes of a colour scale."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Colours and sizes of a style."""

    ink: str = "#000000"
    soft: str = "#5A5A5A"
    ground: str = "#FFFFFF"
    grid: str = "#E3E3E3"
    colours: tuple[str, ...] = COLOURS
    greys: tuple[str, str] = ("#8A8A8A", "#BDBDBD")
    sequential: str = "viridis"
    diverging: str = "RdBu_r"
    size: float = 9
    """Points of the text."""
    scale: float = 1
    """Of the figure's width and height."""
    line: float = 1.4
    dots: int = 150
    """Per inch."""
    told: bool = True
    """The figure has a title and says what its numbers are of; else a caption has to."""


LOOKS: dict[str, Look] = {
    "screen": Look(),
    # The text width of most proceedings is 5.5 inches; a caption says what a title would.
    "paper": Look(size=8, scale=5.5 / 7, line=1.1, dots=300, told=False),
    "dark": Look(
        ink="#E7E9EC",
        soft="#A2A8B3",
        ground="#16181C",
        grid="#33373E",
        colours=(
            *("#4AA8E0", "#F08033", "#2CC79B", "#E39FC4", "#8FD0F5", "#F2BD3F"),
            *("#FFFFFF", "#C9A06A"),
        ),
        greys=("#8D939C", "#666C75"),
        diverging="berlin",
    ),
}


class Picture(Figure):
    """A matplotlib figure that a notebook shows as it is."""

    look: Look
    heading: str
    """Its title, also where the style leaves that to the caption."""
    caption: str
    """What its numbers are of."""
    _own: tuple[Text, str] | None = None
    """The title that is ours, and its words."""
    hover_texts: dict[str, list[str]]
    """By the gid of a line: what each of its points tells in HTML."""

    def hover(self, name: str, lines: Sequence[str]) -> None:
        """Note what the points of the line whose gid is ``name`` tell, in their order."""
        self.hover_texts[name] = [readable(line) for line in lines]

    def draw(self, renderer: RendererBase) -> None:
        """Draw it; a title that was given to its only panel stands in the place of ours."""
        panels = [each for each in self.axes if each.get_label() != _SCALE]
        if self._own is not None and len(panels) == 1 and panels[0].get_title():
            ours, words = self._own
            ours.set_visible(ours.get_text() != words)
            ours.set_in_layout(ours.get_visible())
        super().draw(renderer)

    def _repr_png_(self) -> bytes:
        return encode(self, ".png")


def look_of(figure: Figure) -> Look:
    """Return the look that a figure was drawn with; the usual one for a figure of others."""
    return figure.look if isinstance(figure, Picture) else LOOKS["screen"]


@cache
def _fonts() -> list[str]:
    from matplotlib import font_manager

    known = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in _CJK if name in known)]


@contextlib.contextmanager
def styled(style: Style | Look = "screen") -> Iterator[Look]:
    """Draw with our settings, whatever the user's are, and leave theirs alone.

    Raises:
        UsageError: there is no such style.
    """
    if not isinstance(style, Look) and style not in LOOKS:
        raise UsageError(f"{style!r} is no style: there are {', '.join(LOOKS)}")
    look = style if isinstance(style, Look) else LOOKS[style]
    settings: dict[str, Any] = {
        "font.family": _fonts(),
        "font.size": look.size,
        "axes.titlesize": look.size + 1,
        "axes.labelsize": look.size,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.facecolor": "none",
        **{
            name: look.ink
            for name in ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor")
        },
        **{name: look.ink for name in ("xtick.color", "ytick.color")},
        "grid.color": look.grid,
        "grid.linewidth": 0.6,
        "lines.linewidth": look.line,
        "legend.frameon": False,
        "legend.fontsize": look.size - 1,
        "figure.facecolor": look.ground,
        "figure.dpi": look.dots,
        "savefig.dpi": look.dots,
        # Text stays text: small files, searchable, and browsers have fonts that we lack.
        "svg.fonttype": "none",
        "svg.hashsalt": "actstore",
        "pdf.fonttype": 42,  # TrueType, which journals take
    }
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        for name, value in settings.items():
            mpl.rcParams[name] = value  # type: ignore[index]  # any of its names
        # A script without its font shows as boxes; that is no reason to fail.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield look


def picture(look: Look, width: float, height: float) -> Picture:
    """Return an empty figure of so many inches on screen, apart from pyplot's."""
    figure = Picture(figsize=(width * look.scale, height * look.scale), layout="constrained")
    figure.look, figure.heading, figure.caption, figure.hover_texts = look, "", "", {}
    FigureCanvasAgg(figure)
    return figure


def finish(figure: Picture, title: str, note: str, given: str | None = None) -> Picture:
    """Give a figure its title, and in small type what its numbers are of.

    Args:
        figure: the figure.
        title: ours, left out in a style that leaves it to a caption.
        note: the same.
        given: the user's title, which always stands; empty for none.
    """
    figure.heading, figure.caption = title if given is None else given, note
    size = figure.look.size
    shown = title if given is None and figure.look.told else given
    if shown:
        text = figure.suptitle(plain(shown), fontsize=size + 2, x=0.01, ha="left")
        _fit(figure, text, shown)
        if given is None:
            figure._own = text, text.get_text()
    if figure.look.told:
        small = {"fontsize": size - 1.5, "color": figure.look.soft}
        _fit(figure, figure.supxlabel(plain(note), x=0.01, ha="left", **small), note)
    return figure


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


_UNDATED: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""Metadata without what differs from day to day and from version to version."""


def encode(figure: Figure, suffix: Literal[".png", ".svg", ".pdf"]) -> bytes:
    """Return a figure as a file, which has its title and caption among its metadata."""
    buffer = io.BytesIO()
    metadata = dict(_UNDATED[suffix])
    if isinstance(figure, Picture):
        described = "Subject" if suffix == ".pdf" else "Description"
        metadata |= {"Title": figure.heading, described: figure.caption}
    look = look_of(figure)
    with styled(look):
        figure.savefig(buffer, format=suffix[1:], metadata=metadata, facecolor=look.ground)
    return buffer.getvalue()


def colours(look: Look, own: int, total: int) -> list[str]:
    """Return a colour for each of ``total`` classes: only the first ``own`` stand for one value."""
    return [*look.colours[:own], *look.greys[: total - own]]


def plain(text: str, most: int = 200) -> str:
    """Return text that matplotlib takes as it is: no mathematics, one line, not too long."""
    return shorten(_one_line(text), most).replace("$", r"\$")


def plain_names(names: Sequence[str], most: int) -> list[str]:
    """Return the names of classes in the same way; different ones are never cut to one text."""
    short = shorten_apart([_one_line(name) for name in names], most)
    return [name.replace("$", r"\$") for name in short]


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def layer_places(layers: Sequence[int | None]) -> dict[int | None, float]:
    """Return where layers stand on an axis: at their numbers; those without one to the right."""
    known = [layer for layer in layers if layer is not None]
    steps = [b - a for a, b in itertools.pairwise(known)]
    beyond = known[-1] + min(steps, default=1) if known else 0
    return {layer: float(beyond if layer is None else layer) for layer in layers}


def layer_ticks(
    axes: Axes,
    layers: Sequence[int | None],
    places: Sequence[float],
    *,
    axis: Literal["x", "y"] = "x",
    most: int = 16,
) -> None:
    """Label places of an axis with layers, leaving out some where there are many."""
    step = max(1, -(-len(layers) // most))
    shown = [at for at, layer in enumerate(layers) if layer is None or at % step == 0]
    names = ["embed" if layers[at] == -1 else layer_word(layers[at]) for at in shown]
    at = [places[number] for number in shown]
    if axis == "x":
        axes.set_xticks(at, names)
        axes.set_xlabel("layer")
    else:
        axes.set_yticks(at, names)
        axes.set_ylabel("layer")


def layer_title(layer: int | None) -> str:
    """Return what a panel of one layer is called."""
    return "layer not recorded" if layer is None else f"layer {layer}"


def thinned(count: int, most: int) -> list[int]:
    """Return at most so many numbers below ``count``, evenly, the first and the last of them."""
    if count <= most:
        return list(range(count))
    return [round(number * (count - 1) / (most - 1)) for number in range(most)]


def legend(figure: Figure, axes: Axes) -> None:
    """Put the classes' names beside the picture, where they hide nothing."""
    handles, names = axes.get_legend_handles_labels()
    if len(names) > 1 or (names and names[0] != "all rows"):
        figure.legend(handles, names, loc="outside right center", handletextpad=0.4)


def subject(place: dict[str, str | None], layers: Sequence[int | None] | None = None) -> str:
    """Return which model, site and layer a picture is of."""
    parts = [
        shorten(str(place["model"]).rsplit("/", 1)[-1], _NAME),
        shorten(str(place["site"]), _NAME),
        pooling_text(place["pooling"], place["region"]),
    ]
    if layers is not None and len(layers) == 1:
        parts.append(layer_title(layers[0]))
    return " · ".join(filter(None, parts))
