"""Dose curve of a steering vector: strength against change, random directions beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actstore.analysis.plots import looks
from actstore.analysis.plots.looks import Picture, Style
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.analysis.steering.doses import DoseCurve, DosePoint


def dose(found: DoseCurve, *, title: str | None = None, style: Style = "screen") -> Picture:
    """Return the picture of a dose curve.

    Args:
        found: what :func:`actstore.analysis.steering.doses.measure` returned.
        title: above the picture; by default what was steered.
        style: ``screen``, ``paper`` or ``dark``.
    """
    with looks.styled(style) as look:
        figure = looks.picture(look, 7, 3.8)
        axes = figure.add_subplot()
        axes.axhline(0, color=look.soft, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        for number, name in enumerate(found.random):
            points = found.of(name)
            gid = f"dose-{number}"
            axes.plot(
                [point.dose for point in points],
                [point.change for point in points],
                color=look.greys[0],
                linewidth=1,
                marker="o",
                markersize=3,
                label=None if number else "random, same norm",
                zorder=2,
                gid=gid,
            )
            figure.hover(gid, [_told(point) for point in points])
        own = found.vector
        axes.fill_between(
            [point.dose for point in own],
            [point.low for point in own],
            [point.high for point in own],
            color=look.colours[0],
            alpha=0.18,
            linewidth=0,
            zorder=2,
        )
        axes.plot(
            [point.dose for point in own],
            [point.change for point in own],
            color=look.colours[0],
            marker="o",
            markersize=5,
            label="steering vector",
            zorder=4,
            gid="dose-own",
        )
        figure.hover("dose-own", [_told(point) for point in own])
        axes.set_xticks([point.dose for point in own])
        axes.set_xlabel("strength (1 is the vector itself)")
        axes.set_ylabel(f"change of {looks.plain(found.measured, 60)}")
        handles, names = axes.get_legend_handles_labels()
        figure.legend(handles[::-1], names[::-1], loc="outside right center", handletextpad=0.4)
        model = looks.plain(found.model.rsplit("/", 1)[-1], 32)
        heading = f"Dose curve · {model} · {found.site} · layer {found.layer}"
        return looks.finish(figure, heading, note_of(found), title)


def note_of(found: DoseCurve) -> str:
    """Return what the numbers of a curve are of."""
    note = counted(found.prompts, "prompt")
    if found.groups < found.prompts:
        note += f" in {counted(found.groups, 'group')}"
    ends = [point for point in (found.vector[0], found.vector[-1]) if point.dose]
    least = "; ".join(
        f"at {point.dose:g}, {found.beyond(point.dose)} of {len(found.random)} random directions "
        "move it as far"
        for point in ends
    )
    return f"{note}, band: 95 % interval; {least}"


def _told(point: DosePoint) -> str:
    return (
        f"{point.direction} at {point.dose:g}: {point.change:+.3f} "
        f"({point.low:+.3f} to {point.high:+.3f})"
    )
