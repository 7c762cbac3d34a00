"""Charts as small inline SVG that takes its colours from the page around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from actstore.wording import readable

WIDTH, HEIGHT = 460, 290
LEFT, RIGHT, TOP, BOTTOM = 64, 10, 12, 40
GREY = 8
"""Number of the first colour that stands for several values, or for none."""
_SHAPES = (
    "M-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0 -7.2 0",
    "M0 -4.4L4.2 3.2L-4.2 3.2Z",
    "M-3.3 -3.3H3.3V3.3H-3.3Z",
    "M0 -4.6L4.6 0L0 4.6L-4.6 0Z",
    "M0 4.4L4.2 -3.2L-4.2 -3.2Z",
    "M-4.2 -1.4H-1.4V-4.2H1.4V-1.4H4.2V1.4H1.4V4.2H-1.4V1.4H-4.2Z",
    "M-4 -4L0 -1.4L4 -4L1.4 0L4 4L0 1.4L-4 4L-1.4 0Z",
    "M0 -4.6L2.7 3.7L-4.4 -1.4H4.4L-2.7 3.7Z",
)


Scale = Callable[[float], float]
"""Where a value lies on the picture."""


class Line(NamedTuple):
    """Values over the layers, with a band or bars around them; NaN where there is none."""

    name: str
    values: np.ndarray
    """Float ``[layers]``."""
    low: np.ndarray
    high: np.ndarray
    bars: bool = False
    """Bars instead of a band."""


class Points(NamedTuple):
    """Points of one class, each with the text that it tells."""

    place: int
    """Number of the class: its colour and shape."""
    xy: np.ndarray
    """Float ``[points, 2]``."""
    texts: Sequence[str]


def clean(text: str) -> str:
    """Return text as HTML: escaped, without characters that HTML does not have."""
    return escape(readable(text))


def lines(
    layers: Sequence[int | None],
    series: Sequence[Line],
    classes: Sequence[int],
    *,
    y_name: str,
    title: str,
    limits: tuple[float, float] | None = None,
    rule: float | None = None,
) -> str:
    """Return lines over the layers; on a logarithmic scale where values spread widely.

    Args:
        layers: ascending, None (not recorded) last: not joined with the others.
        series: what to draw.
        classes: of each line, the number of its colour.
        y_name: of the axis.
        title: what the picture is, for those who do not see it.
        limits: of the axis; from the values when missing.
        rule: a value to draw a dashed line at.
    """
    known = np.concatenate([np.stack([one.low, one.values, one.high]).ravel() for one in series])
    known = known[np.isfinite(known)]
    if not len(known):
        return ""
    low, high = (0.0, float(known.max()) * 1.05 or 1.0) if limits is None else limits
    positive = known[known > 0]
    logarithmic = limits is None and len(positive) > 0 and positive.max() > 30 * positive.min()
    if logarithmic:
        low, high = math.log10(float(positive.min()) / 1.15), math.log10(high)
    count = len(layers)

    def x(place: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (place + 0.5) / max(1, count)

    def y(value: float) -> float:
        at = math.log10(max(value, 10**low)) if logarithmic else value
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (at - low) / (high - low)

    marks = _decades(low, high) if logarithmic else _steps(low, high)
    parts = [_y_axis(marks, y, y_name)]
    step = max(1, -(-count // 12))
    for place, layer in enumerate(layers):
        if layer is None or place % step == 0:
            parts.append(
                _text(x(place), HEIGHT - BOTTOM + 16, "?" if layer is None else str(layer))
            )
    parts.append(_text((LEFT + WIDTH) / 2, HEIGHT - 6, "layer", "name"))
    if rule is not None:
        parts.append(f'<path class="rule" d="M{LEFT} {y(rule):.1f}H{WIDTH - RIGHT}"/>')
    end = count - 1 if count and layers[-1] is None else count
    for index, (number, one) in enumerate(zip(classes, series, strict=True)):
        # On a single layer classes stand side by side; lines need no such thing.
        shift = (index - (len(series) - 1) / 2) * min(0.12, 0.7 / len(series))
        moved = _moved(x, shift if end < 2 else 0.0)
        parts.append(_line(number, one, layers, end, moved, y))
    return _svg(title, parts)


def _moved(axis: Scale, shift: float) -> Scale:
    """Return an axis whose places are a little to one side."""
    return lambda place: axis(place + shift)


def _line(
    number: int, one: Line, layers: Sequence[int | None], end: int, x: Scale, y: Scale
) -> str:
    known = [place for place in range(len(layers)) if math.isfinite(one.values[place])]
    joined = [place for place in known if place < end]
    parts = []
    if one.bars or len(joined) < 2:
        parts += [
            f'<path class="bar" d="M{x(at):.1f} {y(one.low[at]):.1f}V{y(one.high[at]):.1f}"/>'
            for at in known
        ]
    else:
        there = [f"{x(at):.1f} {y(one.high[at]):.1f}" for at in joined]
        back = [f"{x(at):.1f} {y(one.low[at]):.1f}" for at in reversed(joined)]
        parts.append(f'<path class="band" d="M{"L".join(there + back)}Z"/>')
    if len(joined) > 1:
        path = "L".join(f"{x(at):.1f} {y(one.values[at]):.1f}" for at in joined)
        parts.append(f'<path class="line" d="M{path}"/>')
    for at in known:
        layer = "layer not recorded" if layers[at] is None else f"layer {layers[at]}"
        told = (
            f"{one.name}, {layer}: {one.values[at]:.4g} ({one.low[at]:.4g} to {one.high[at]:.4g})"
        )
        parts.append(_mark(number, x(at), y(one.values[at]), told, 0.6 if len(known) > 30 else 1))
    return f'<g class="c{number}">{"".join(parts)}</g>'


def scatter(points: Sequence[Points], *, x_name: str, y_name: str, title: str) -> str:
    """Return points of several classes: greys lie lowest, then class 0, and so on."""
    every = np.concatenate([one.xy for one in points]).astype(np.float64)
    low, high = every.min(axis=0), every.max(axis=0)
    pad = np.where(high > low, (high - low) * 0.06, np.maximum(1.0, np.abs(high) * 0.1))
    low, high = low - pad, high + pad

    def x(value: float) -> float:
        return float(LEFT + (WIDTH - LEFT - RIGHT) * (value - low[0]) / (high[0] - low[0]))

    def y(value: float) -> float:
        span = HEIGHT - TOP - BOTTOM
        return float(HEIGHT - BOTTOM - span * (value - low[1]) / (high[1] - low[1]))

    parts = [_y_axis(_steps(float(low[1]), float(high[1])), y, y_name)]
    for value, name in _steps(float(low[0]), float(high[0])):
        parts.append(_text(x(value), HEIGHT - BOTTOM + 16, name))
    parts.append(_text((LEFT + WIDTH) / 2, HEIGHT - 6, x_name, "name"))
    for one in sorted(points, key=lambda one: (one.place < GREY, one.place)):
        marks = [
            _mark(one.place, x(a), y(b), text, 0.85)
            for (a, b), text in zip(one.xy.tolist(), one.texts, strict=True)
        ]
        parts.append(f'<g class="c{one.place} dots">{"".join(marks)}</g>')
    return _svg(title, parts)


def key(number: int, name: str) -> str:
    """Return one entry of a legend, as HTML."""
    return (
        f'<span class="key"><svg class="mark c{number}" viewBox="-6 -6 12 12" aria-hidden="true">'
        f'<path class="dot" d="{_shape(number)}"/></svg>{clean(name)}</span>'
    )


def _shape(number: int) -> str:
    return _SHAPES[number % len(_SHAPES)]


def _mark(number: int, x: float, y: float, told: str, scale: float) -> str:
    sized = "" if scale == 1 else f"scale({scale:g})"
    return (
        f'<path class="dot" d="{_shape(number)}" transform="translate({x:.1f} {y:.1f}){sized}">'
        f"<title>{clean(told)}</title></path>"
    )


def _y_axis(marks: Sequence[tuple[float, str]], y: Scale, name: str) -> str:
    parts = []
    for value, shown in marks:
        parts.append(f'<path class="grid" d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 6, y(value) + 4, shown, "left"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'transform="translate(13 {middle:.0f}) rotate(-90)"'
    parts.append(f'<text class="name" {turned}>{clean(name)}</text>')
    return "".join(parts)


def _text(x: float, y: float, text: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{clean(text)}</text>'


def _svg(title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{clean(title)}">{"".join(parts)}</svg>'
    )


def _steps(low: float, high: float) -> list[tuple[float, str]]:
    """Return round values between two, and how they are written."""
    rough = (high - low) / 5
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * times for times in (1, 2, 5, 10) if size * times >= rough)
    values = [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step) + 1)]
    return [(value, _number(value)) for value in values]


def _number(value: float) -> str:
    """Return a number of an axis in so few characters that its name beside it stays free."""
    text = f"{value:.4g}" if abs(value) < 1e5 else f"{value:.4e}"
    digits, sign, power = text.partition("e")
    if not sign:
        return text
    return f"{digits.rstrip('0').rstrip('.') if '.' in digits else digits}e{int(power)}"


def _decades(low: float, high: float) -> list[tuple[float, str]]:
    times = (1,) if high - low > 3 else (1, 2, 5) if high - low > 1 else (1, 2, 3, 5, 7)
    values = [
        n * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for n in times
    ]
    return [(value, _number(value)) for value in values if low <= math.log10(value) <= high]
