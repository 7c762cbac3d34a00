"""The picture of AUROC by layer with its intervals and baselines."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from actstore.analysis.examples.place_rows import ActivationPlace, layer_word
from actstore.analysis.statistics.metrics import IntervalEstimate
from actstore.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart with any colour vision, and in grey with the markers.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_MOST_TICKS = 20


class Point(NamedTuple):
    """One probe in the picture."""

    place: ActivationPlace
    auroc: IntervalEstimate
    shuffled_95: float | None = None
    """What 95 of 100 runs with shuffled labels stay below."""


def figure(points: Sequence[Point], title: str = "") -> Figure:
    """Draw AUROC by layer, one line for each site and pooling.

    Args:
        points: in any order; layers without a number come last.
        title: above the picture.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("pictures", "plot")
    from matplotlib.figure import Figure

    kinds = sorted({point.place._replace(layer=None) for point in points}, key=str)
    layers = sorted({point.place.layer for point in points}, key=lambda n: (n is None, n or 0))
    # Layers stand where their numbers are; one without a number stands to their right.
    numbers = [layer for layer in layers if layer is not None]
    beyond = (numbers[-1] if numbers else 0) + 1
    at = {layer: beyond if layer is None else layer for layer in layers}
    drawn = Figure(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    axes = drawn.add_subplot()
    axes.axhline(0.5, color="#555555", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.annotate(
        "chance",
        (1, 0.5),
        xycoords=("axes fraction", "data"),
        xytext=(4, -3),
        textcoords="offset points",
        color="#555555",
        fontsize=8,
    )
    step = min((b - a for a, b in itertools.pairwise(numbers)), default=1)
    for number, kind in enumerate(kinds):
        own = sorted(
            (point for point in points if point.place._replace(layer=None) == kind),
            key=lambda point: at[point.place.layer],
        )
        shift = 0.12 * step * (number - (len(kinds) - 1) / 2)
        across = [at[point.place.layer] + shift for point in own]
        values = [point.auroc.value for point in own]
        below = [max(0.0, point.auroc.value - point.auroc.low) for point in own]
        above = [max(0.0, point.auroc.high - point.auroc.value) for point in own]
        colour = _COLOURS[number % len(_COLOURS)]
        axes.errorbar(
            across,
            values,
            yerr=[below, above],
            color=colour,
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4.5,
            linewidth=1.4,
            elinewidth=1,
            capsize=2.5,
            label=_kind_text(kind),
            zorder=3,
        )
        limits = [(x, p.shuffled_95) for x, p in zip(across, own, strict=True) if p.shuffled_95]
        if limits:
            axes.plot(
                [x for x, _ in limits],
                [y for _, y in limits],
                color=colour,
                linewidth=0,
                marker="_",
                markersize=9,
                label="95 % of shuffled labels stay below" if number == len(kinds) - 1 else None,
                zorder=2,
            )
    ticks = layers if len(layers) <= _MOST_TICKS else layers[:: -(-len(layers) // _MOST_TICKS)]
    axes.set_xticks([at[layer] for layer in ticks], [_tick(layer) for layer in ticks])
    lowest = min([0.4, *(point.auroc.low - 0.03 for point in points)])
    axes.set_ylim(max(-0.02, lowest), 1.02)
    axes.set_xlabel("layer")
    axes.set_ylabel("AUROC (95 % interval)")
    if title:
        axes.set_title(title, fontsize=10)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="best")
    return drawn


def save(drawn: Figure, path: Path) -> None:
    """Write a picture by the ending of its name; equal pictures give equal files."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "actstore", "svg.fonttype": "none"}):
        dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.savefig(path, metadata=dates.get(path.suffix.lower(), {}))


def available() -> bool:
    """Whether pictures can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


def _tick(layer: int | None) -> str:
    return "embed" if layer == -1 else layer_word(layer)


def _kind_text(place: ActivationPlace) -> str:
    region = f" over {place.region}" if place.region else ""
    return f"{place.site}, {place.pooling}{region}"
