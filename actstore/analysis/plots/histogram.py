"""Histogram of activation values, class by class."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from actstore.analysis.plots import style
from actstore.analysis.statistics import sampling
from actstore.analysis.statistics.norms import class_codes
from actstore.errors import TooFewRowsError
from actstore.querying import vector_math
from actstore.wording import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from actstore.querying.selected import SelectedRows

ROWS = 2000
_BINS = 120
_OUTSIDE = 0.001
_BLOCK = 1 << 20


def histogram(selection: SelectedRows, *, by: str | None = "label", rows: int = ROWS) -> Figure:
    """Return how often which value occurs, on a logarithmic scale.

    Args:
        selection: of one model, site and pooling.
        by: column whose values are drawn apart; None for one line.
        rows: how many rows to look at most.

    Raises:
        TooFewRowsError: no rows, or no finite value.
        UsageError: several models, sites or poolings.
    """
    place = sampling.require_one_place(selection)
    drawn = sampling.draw(selection, rows)
    part = drawn.selection
    found = class_codes(part, by)
    edges = np.linspace(*_limits(part), _BINS + 1)
    counts = np.zeros((len(found.names), _BINS))
    totals, outside, nonfinite = np.zeros(len(found.names)), 0, 0
    for start, values in _values(part):
        codes = found.codes[start : start + len(values)]
        for code in np.unique(codes).tolist():
            flat = values[codes == code].ravel()
            known = np.isfinite(flat)
            nonfinite += int(known.size - np.count_nonzero(known))
            flat = flat[known]
            inside = np.histogram(flat, edges)[0]
            counts[code] += inside
            totals[code] += len(flat)
            outside += len(flat) - int(inside.sum())
    with style.styled():
        figure = style.picture(7, 4)
        axes = figure.add_subplot()
        for code, colour in enumerate(style.colours(found.own, len(found.names))):
            if totals[code]:
                density = counts[code] / totals[code] / (edges[1] - edges[0])
                axes.stairs(
                    np.where(density > 0, density, np.nan),
                    edges,
                    color=colour,
                    linewidth=1.4,
                    label=style.plain(found.names[code], 32),
                )
        axes.set_yscale("log")
        axes.set_xlabel("value")
        axes.set_ylabel("density")
        style.legend(figure, axes)
        layers = sampling.layer_values(part)
        note = f"{drawn.note}, {counted(len(layers), 'layer')}"
        if outside:
            note += f"; {outside / totals.sum():.2%} of the values lie outside"
        if nonfinite:
            note += f"; {nonfinite:,} not finite"
        style.finish(figure, f"Values · {style.subject(place, layers)}", note)
    return figure


def _limits(part: SelectedRows) -> tuple[float, float]:
    """Return values between which all but a thousandth lie, from every so many values."""
    kept = []
    for _, values in _values(part):
        flat = values.ravel()[:: max(1, values.size >> 16)]
        kept.append(flat[np.isfinite(flat)])
    every = np.concatenate(kept)
    if not len(every):
        raise TooFewRowsError("no value is finite, so there is nothing to draw")
    low, high = np.quantile(every, (_OUTSIDE / 2, 1 - _OUTSIDE / 2)).tolist()
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _values(part: SelectedRows) -> Iterator[tuple[int, np.ndarray]]:
    """Yield first positions and float32 vectors, block by block."""
    snapshot = part.snapshot
    numbers = np.searchsorted(snapshot.offsets, part.rows, "right") - 1
    widths = np.array([shard.width for shard in snapshot.shards])[numbers]
    bounds = [0, *(np.flatnonzero(np.diff(widths)) + 1).tolist(), len(widths)]
    for first, last in itertools.pairwise(bounds):
        most = max(1, _BLOCK // int(widths[first]))
        for start, _, stored in vector_math.blocks(snapshot, part.rows[first:last], most):
            yield first + start, stored.astype(np.float32)
