"""Which probe run a picture or report shows: the one that was named, or one that lies beside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from actstore.schema import PLACE

if TYPE_CHECKING:
    from actstore.api.selection import Selection
    from actstore.commands.row_options import Rows

Command = TypeVar("Command", bound=Callable[..., Any])


def probes_option(*also: str, help: str) -> Callable[[Command], Command]:
    """Add ``--probes``, by other names too."""
    return click.option(
        "--probes",
        *also,
        "probes",
        type=click.Path(path_type=Path),
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
