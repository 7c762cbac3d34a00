"""Norms by layer: median and spread of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from actstore.analysis.plots import looks
from actstore.analysis.plots.looks import Picture, Style
from actstore.analysis.statistics import sampling
from actstore.analysis.statistics.norms import NormProfile, class_codes, norms_by_layer
from actstore.errors import TooFewRowsError
from actstore.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from actstore.querying.selected import SelectedRows

_RATIO = 30
"""Norms that spread over more than this factor are drawn on a logarithmic scale."""
_MANY = 40
"""Layers that leave room for small marks only."""


def norms(
    selection: SelectedRows,
    *,
    by: str | None = "label",
    title: str | None = None,
    style: Style = "screen",
) -> Picture:
    """Return the norms of the vectors by layer: median, and where 90 % of the rows lie.

    Of a single layer, each class is a box. All rows count; no vector is read.

    Args:
        selection: of one model, site, pooling and region.
        by: column whose values are drawn apart; None for one line.
        title: above the picture; by default which rows these are.
        style: ``screen``, ``paper`` or ``dark``.

    Raises:
        TooFewRowsError: no rows, or no norm is finite.
        UsageError: several models, sites or poolings.
    """
    place = sampling.require_one_place(selection)
    layers, profiles = norms_by_layer(selection, by)
    if not any(one is not None for profile in profiles for one in profile.layers):
        raise TooFewRowsError("no norm is finite, so there is nothing to draw")
    left = int((~np.isfinite(selection.table(["norm"])["norm"].to_numpy())).sum())
    rows = counted(len(selection)) + (f", {left:,} of them not finite" if left else "")
    with looks.styled(style) as look:
        figure = looks.picture(look, 7, 4)
        axes = figure.add_subplot()
        draw(figure, axes, layers, profiles, class_codes(selection, by).own)
        if len(layers) == 1:
            note = "line: median, box: 90 % of the rows, whiskers: all"
        else:
            looks.legend(figure, axes)
            note = "line: median, band: 90 % of the rows"
        subject = looks.subject(place, layers)
        return looks.finish(figure, f"Norms · {subject}", f"{rows}; {note}", title)


def draw(
    figure: Picture,
    axes: Axes,
    layers: Sequence[int | None],
    profiles: Sequence[NormProfile],
    own: int,
) -> None:
    """Draw profiles as lines over the layers; of a single layer, as boxes.

    Args:
        figure: whose look is taken, and that keeps what points tell.
        axes: where.
        layers: of the profiles.
        profiles: at least one with a finite norm.
        own: how many of them stand for one value; the rest are grey.
    """
    known = [one for profile in profiles for one in profile.layers if one is not None]
    low = min(one.q05 for one in known)
    logarithmic = low > 0 and max(one.q95 for one in known) / low > _RATIO
    colours = looks.colours(figure.look, own, len(profiles))
    if len(layers) == 1:
        _boxes(figure, axes, profiles, colours)
        if logarithmic:
            axes.set_xscale("log")
        return
    places = looks.layer_places(layers)
    labels = looks.plain_names([profile.name for profile in profiles], 32)
    for number, profile in enumerate(profiles):
        _line(figure, axes, profile, labels[number], places, colours[number], number)
    looks.layer_ticks(axes, layers, list(places.values()))
    axes.set_ylabel("L2 norm")
    if logarithmic:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)


def _line(
    figure: Picture,
    axes: Axes,
    profile: NormProfile,
    label: str | None,
    places: dict[int | None, float],
    colour: str,
    number: int,
) -> None:
    found = [
        (layer, at, one)
        for (layer, at), one in zip(places.items(), profile.layers, strict=True)
        if one is not None
    ]
    marker = looks.MARKERS[number % len(looks.MARKERS)]
    size = 4 if len(places) <= _MANY else 2.5
    # A layer that is not recorded does not follow the last one that is.
    for joined in (True, False):
        part = [one for one in found if (one[0] is not None) == joined]
        if not part:
            continue
        across = [at for _, at, _ in part]
        low, middle, high = (
            np.array([getattr(one, name) for _, _, one in part])
            for name in ("q05", "median", "q95")
        )
        if len(part) > 1:
            axes.fill_between(across, low, high, color=colour, alpha=0.13, lw=0)
        else:
            axes.vlines(across, low, high, color=colour)
        gid = f"norms-{number}-{int(joined)}"
        axes.plot(across, middle, color=colour, marker=marker, ms=size, label=label, gid=gid)
        label = None
        figure.hover(
            gid,
            [
                f"{profile.name}, {looks.layer_title(layer)}: "
                f"{one.median:.4g} ({one.q05:.4g} to {one.q95:.4g})"
                for layer, _, one in part
            ],
        )


def _boxes(
    figure: Picture, axes: Axes, profiles: Sequence[NormProfile], colours: Sequence[str]
) -> None:
    shown = [number for number, one in enumerate(profiles) if one.layers[0] is not None]
    labels = looks.plain_names([profile.name for profile in profiles], 24)
    boxes = [
        {
            "label": labels[number],
            "med": one.median,
            "q1": one.q05,
            "q3": one.q95,
            "whislo": one.minimum,
            "whishi": one.maximum,
        }
        for number in shown
        if (one := profiles[number].layers[0]) is not None
    ]
    ink = {"color": figure.look.ink}
    drawn = axes.bxp(
        boxes,
        showfliers=False,
        orientation="horizontal",
        patch_artist=True,
        widths=0.5,
        whiskerprops=ink,
        capprops=ink,
    )
    for box, number in zip(drawn["boxes"], shown, strict=True):
        box.set(facecolor=colours[number], alpha=0.6, edgecolor=figure.look.ink)
    for line in drawn["medians"]:
        line.set(color=figure.look.ink, linewidth=1.6)
    axes.invert_yaxis()
    axes.set_xlabel("L2 norm")
