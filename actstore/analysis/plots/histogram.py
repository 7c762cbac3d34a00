"""Histogram of activation values, of norms or along a direction, a panel per layer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore.analysis.examples import example_groups, lineages
from actstore.analysis.plots import looks
from actstore.analysis.plots.looks import Picture, Style
from actstore.analysis.statistics import sampling
from actstore.analysis.statistics.norms import ClassCodes, class_codes
from actstore.errors import MismatchError, TooFewRowsError, UsageError
from actstore.querying import vector_math
from actstore.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from actstore.analysis.steering.vector_files import LoadedVector
    from actstore.querying.selected import SelectedRows

VALUES, NORM = "values", "norm"
_TITLES = {VALUES: "Values", NORM: "Norms"}
_AXES = {VALUES: "value", NORM: "L2 norm"}
_Measure = Callable[[np.ndarray], np.ndarray]

ROWS = 1000
"""Rows of each layer at most."""
PANELS = 6
_BINS, _PANEL_BINS = 120, 60
_ROW_BINS = 30
"""Where each row is one number."""
_OUTSIDE = 0.001
_BLOCK = 1 << 20
_ALIKE = 3
"""Layers whose values spread by up to this factor share an axis."""


class _Counted(NamedTuple):
    """How often which value occurs in one layer."""

    edges: np.ndarray
    counts: np.ndarray
    """``[classes, bins]``."""
    totals: np.ndarray
    outside: int
    nonfinite: int


def histogram(
    selection: SelectedRows,
    *,
    of: str | np.ndarray | LoadedVector = VALUES,
    by: str | None = "label",
    rows: int = ROWS,
    title: str | None = None,
    style: Style = "screen",
) -> Picture:
    """Return how often which value occurs in each layer, on a logarithmic scale.

    More than six layers are thinned out evenly, the first and the last among them.

    Args:
        selection: of one model, site and pooling.
        of: ``values``, all that the vectors hold; ``norm``, the length of each vector; or a
            direction ``[width]``, or a steering vector as read from its file, to show how
            far along it each vector lies: its dot product with the direction at length 1.
            One number per row is drawn on a scale that is not logarithmic.
        by: column whose values are drawn apart; None for one line.
        rows: rows of each layer at most.
        title: above the picture; by default which rows these are.
        style: ``screen``, ``paper`` or ``dark``.

    Raises:
        TooFewRowsError: no rows, or no finite value.
        UsageError: several models, sites or poolings; or ``of`` is none of these.
        MismatchError: the direction has another width than the vectors.
    """
    whole = isinstance(of, str) and of == VALUES
    measure = _measure(of if isinstance(of, str | np.ndarray) else of.vector)
    place = sampling.require_one_place(selection)
    layers = sampling.layer_values(selection)
    chosen = looks.thinned(len(layers), PANELS)
    found = class_codes(selection, by)
    of_layer = sampling.layers_of(selection)
    counts: list[_Counted | None] = []
    largest, nonfinite = 0, 0
    for number in chosen:
        places = np.flatnonzero(of_layer == number)
        part, _, shown = sampling.draw(selection.take(places), rows)
        largest = max(largest, len(part))
        codes = found.codes[places[shown]]
        bins = _ROW_BINS if not whole else _BINS if len(chosen) == 1 else _PANEL_BINS
        counts.append(_count(part, measure, codes, len(found.names), bins))
        nonfinite += _nonfinite(counts[-1], part, measure)
    known = [one for one in counts if one is not None]
    if not known:
        raise TooFewRowsError("no value is finite, so there is nothing to draw")
    spans = [float(one.edges[-1] - one.edges[0]) for one in known]
    alike = max(spans) <= _ALIKE * min(spans)
    columns = 2 if len(chosen) == 4 else min(3, len(chosen))
    lines = math.ceil(len(chosen) / columns)
    size = (7, 4) if len(chosen) == 1 else (2.7 * columns + 1.2, 0.8 + 2.1 * lines)
    with looks.styled(style) as look:
        figure = looks.picture(look, *size)
        panels = figure.subplots(lines, columns, squeeze=False, sharex=alike, sharey=alike)
        for axes in panels.ravel()[len(chosen) :]:
            axes.remove()
        for at, (number, axes) in enumerate(zip(chosen, panels.ravel(), strict=False)):
            one = counts[at]
            if len(chosen) > 1:
                axes.set_title(looks.layer_title(layers[number]))
            if one is None:
                axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center")
            else:
                _draw(figure, axes, one, found, logarithmic=whole)
            if at >= len(chosen) - columns:
                axes.set_xlabel(_AXES[of] if isinstance(of, str) else "along the direction")
                axes.tick_params(labelbottom=True)
            if at % columns == 0:
                axes.set_ylabel("density")
        looks.legend(figure, next(a for a, one in zip(figure.axes, counts, strict=True) if one))
        note = f"up to {counted(largest)} a layer"
        if len(layers) == 1:
            note = sampling.draw(selection, rows).note
        elif len(chosen) < len(layers):
            note += f"; {len(chosen)} of {len(layers)} layers"
        if not alike:
            note += "; each layer has axes of its own"
        if outside := sum(one.outside for one in known):
            total = sum(float(one.totals.sum()) for one in known)
            note += f"; {outside / total:.2%} of the values lie outside"
        if nonfinite:
            note += f"; {nonfinite:,} not finite"
        what = _TITLES[of] if isinstance(of, str) else "Along a direction"
        if not isinstance(of, str | np.ndarray):
            what = f"Along {of.path.name}"
            note += f"; {_own(selection, of)}"
        return looks.finish(figure, f"{what} · {looks.subject(place, layers)}", note, title)


def _measure(of: str | np.ndarray) -> _Measure:
    """Return what is counted of some vectors, ``[rows, values]``."""
    if isinstance(of, str):
        if of not in _TITLES:
            raise UsageError(f"of {of!r}: expected {VALUES!r}, {NORM!r} or a direction [width]")
        return _as_they_are if of == VALUES else _norms
    direction = np.asarray(of, np.float64)
    length = float(np.linalg.norm(direction))
    if direction.ndim != 1 or not np.isfinite(length) or not length:
        raise UsageError(
            f"a direction is finite numbers [width], not all of them 0; got shape "
            f"{list(direction.shape)} of length {length:g}"
        )
    unit = direction / length

    def along(vectors: np.ndarray) -> np.ndarray:
        if vectors.shape[1] != len(unit):
            raise MismatchError(
                f"the direction has {len(unit)} values, the vectors have {vectors.shape[1]}: it is "
                "for another model or site"
            )
        return np.asarray(vectors.astype(np.float64) @ unit)[:, None]

    return along


def _own(selection: SelectedRows, vector: LoadedVector) -> str:
    """Say how many rows a vector was made of, which it tells apart better than any others."""
    if vector.made_of is None:
        return "perhaps in-sample: the vector does not say which rows it was made of"
    grouped_by = str(vector.lineage.get("group_by") or example_groups.DEFAULT)
    own = int(lineages.shared(selection, vector.made_of, grouped_by).sum())
    if not own:
        return "the vector was made of other rows"
    return f"IN-SAMPLE: {own:,} of {counted(len(selection))} are of the vector's making"


def _as_they_are(vectors: np.ndarray) -> np.ndarray:
    return vectors


def _norms(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(vectors.astype(np.float64), axis=1))[:, None]


def _nonfinite(found: _Counted | None, part: SelectedRows, measure: _Measure) -> int:
    """Return how many values are not finite; all of them where nothing could be counted."""
    if found is not None:
        return found.nonfinite
    return sum(values.size for _, values in _values(part, measure))


def _count(
    part: SelectedRows, measure: _Measure, codes: np.ndarray, classes: int, bins: int
) -> _Counted | None:
    limits = _limits(part, measure)
    if limits is None:
        return None
    edges = np.linspace(*limits, bins + 1)
    counts, totals = np.zeros((classes, bins)), np.zeros(classes)
    outside, nonfinite = 0, 0
    for start, values in _values(part, measure):
        own = codes[start : start + len(values)]
        for code in np.unique(own).tolist():
            flat = values[own == code].ravel()
            known = np.isfinite(flat)
            nonfinite += int(known.size - np.count_nonzero(known))
            flat = flat[known]
            inside = np.histogram(flat, edges)[0]
            counts[code] += inside
            totals[code] += len(flat)
            outside += len(flat) - int(inside.sum())
    return _Counted(edges, counts, totals, outside, nonfinite)


def _draw(
    figure: Picture, axes: Axes, one: _Counted, found: ClassCodes, *, logarithmic: bool
) -> None:
    labels = looks.plain_names(found.names, 32)
    for code, colour in enumerate(looks.colours(figure.look, found.own, len(found.names))):
        if one.totals[code]:
            density = one.counts[code] / one.totals[code] / (one.edges[1] - one.edges[0])
            axes.stairs(
                np.where(density > 0, density, np.nan) if logarithmic else density,
                one.edges,
                color=colour,
                linewidth=figure.look.line,
                label=labels[code],
            )
    if logarithmic:
        axes.set_yscale("log")
    axes.minorticks_off()  # nine of ten ticks, which nobody counts


def _limits(part: SelectedRows, measure: _Measure) -> tuple[float, float] | None:
    """Return values between which all but a thousandth lie, from every so many values."""
    kept = []
    for _, values in _values(part, measure):
        flat = values.ravel()[:: max(1, values.size >> 16)]
        kept.append(flat[np.isfinite(flat)])
    every = np.concatenate(kept)
    if not len(every):
        return None
    low, high = np.quantile(every, (_OUTSIDE / 2, 1 - _OUTSIDE / 2)).tolist()
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _values(part: SelectedRows, measure: _Measure) -> Iterator[tuple[int, np.ndarray]]:
    """Yield first positions and what is counted of each vector, block by block."""
    snapshot = part.snapshot
    numbers = np.searchsorted(snapshot.offsets, part.rows, "right") - 1
    widths = np.array([shard.width for shard in snapshot.shards])[numbers]
    bounds = [0, *(np.flatnonzero(np.diff(widths)) + 1).tolist(), len(widths)]
    for first, last in itertools.pairwise(bounds):
        most = max(1, _BLOCK // int(widths[first]))
        for start, _, stored in vector_math.blocks(snapshot, part.rows[first:last], most):
            yield first + start, measure(stored.astype(np.float32))
