"""AUROC in pictures: which probe run they show, and the picture beside a run of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from actstore.commands.options import LocalPath
from actstore.errors import MissingExtraError
from actstore.schema import PLACE

if TYPE_CHECKING:
    from actstore.analysis.examples.place_rows import ActivationPlace
    from actstore.analysis.statistics.metrics import IntervalEstimate
    from actstore.api.selection import Selection
    from actstore.commands.row_options import Rows

Command = TypeVar("Command", bound=Callable[..., Any])


def probes_option(*also: str, help: str) -> Callable[[Command], Command]:
    """Add ``--probes``, by other names too."""
    return click.option(
        "--probes",
        *also,
        "probes",
        type=LocalPath(),
        metavar="DIR|FILE",
        help=help,
    )


def no_probes_option(command: Command) -> Command:
    """Add the flag that asks for the difference of means."""
    return click.option(
        "--no-probes",
        is_flag=True,
        help="AUROC of the difference of means, whatever probe runs there are.",
    )(command)


def about_places(rows: Rows) -> bool:
    """Whether rows are chosen by place (model, site, layer, pooling, region) and nothing else."""
    return rows.where is None and set(rows.equals) <= set(PLACE)


def found_probes(
    store: str | Path,
    target: Path,
    selection: Selection,
    by: str,
    classes: tuple[Sequence[str], Sequence[str]] = ((), ()),
    *,
    whole: bool,
) -> list[Path]:
    """Return the reports of probe runs about these rows beside the store and the target."""
    from actstore.analysis.probes import probe_runs

    folders = [target.resolve().parent]
    if isinstance(store, Path):
        folders.append(store.resolve().parent)
    return probe_runs.beside(dict.fromkeys(folders), selection, by, classes, whole=whole)


class Layer(NamedTuple):
    """One layer of a run of probes or steering vectors, for its picture."""

    place: ActivationPlace
    auroc: IntervalEstimate
    shuffled_95: float | None = None
    in_sample: bool = False


def draw_auroc(layers: Sequence[Layer], out: Path, heading: str) -> Path | None:
    """Draw ``auroc.png`` and ``auroc.svg`` into a folder; nothing where matplotlib is missing."""
    try:
        from actstore.analysis import plots
    except MissingExtraError:
        return None
    from actstore.analysis.plots.auroc import Point, figure_of, series

    points = [
        Point(series(one.place), one.place.layer, one.auroc, one.shuffled_95, one.in_sample)
        for one in layers
    ]
    figure = figure_of(points, heading)
    plots.save(figure, out / "auroc.svg")
    return plots.save(figure, out / "auroc.png")
