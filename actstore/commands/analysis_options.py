"""Options that the commands of the analysis share."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from actstore.analysis.examples.place_rows import ActivationPlace

Command = TypeVar("Command", bound=Callable[..., Any])


def layers_text(
    ctx: click.Context, param: click.Parameter, text: str | None
) -> list[int | None] | None:
    """Return the layers of ``6,12,20-24,unknown``; None for all."""
    if text is None or text.strip() == "all":
        return None
    found: list[int | None] = []
    for word in text.split(","):
        span = re.fullmatch(r"\s*(-?\d+)(?:-(\d+))?\s*", word)
        if word.strip() in ("unknown", "null"):
            found.append(None)
        elif span is None or (span[2] and int(span[2]) < int(span[1])):
            raise click.BadParameter(f"{word.strip()!r} is no layer: give them as 6,12 or 0-31")
        elif span[2] is None:
            found.append(int(span[1]))
        else:
            found += range(int(span[1]), int(span[2]) + 1)
    return list(dict.fromkeys(found))


def choice_options(command: Command) -> Command:
    """Add the options that choose rows: layers, model, site, pooling, condition."""
    options = (
        click.option(
            "--layers",
            callback=layers_text,
            metavar="A,B,…",
            help="Only these layers, such as 6,12 or 0-31; all when missing.",
        ),
        click.option("--where", metavar="SQL", help="Only rows that meet this condition."),
        click.option("--model", metavar="NAME", help="Only rows of this model; needed if several."),
        click.option("--site", metavar="NAME", help="Only rows of this site."),
        click.option("--pooling", metavar="NAME", help="Only rows of this pooling."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def class_options(command: Command) -> Command:
    """Add the options that say which column holds the classes, and which is positive."""
    options = (
        click.option(
            "--label",
            "label",
            default="label",
            show_default=True,
            metavar="COLUMN",
            help="Column that holds the classes.",
        ),
        click.option(
            "--positive",
            multiple=True,
            metavar="VALUE",
            help="The positive class; may be repeated if several values are. By default the "
            "second of two values in alphabetical order.",
        ),
        click.option(
            "--negative",
            multiple=True,
            metavar="VALUE",
            help="The negative class; by default all other values.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def group_option(command: Command) -> Command:
    """Add the option that says which rows belong together."""
    return click.option(
        "--group-by",
        metavar="COLUMN|SQL",
        help="Rows with the same value of this column, extra.FIELD or SQL expression stay "
        "together; by default those that share their example or question.",
    )(command)


def in_sample_option(command: Command) -> Command:
    """Add the flag that keeps the rows of a vector's or probe's making."""
    return click.option(
        "--in-sample",
        is_flag=True,
        help="Keep the rows that it was made of; figures are then in-sample, and say so.",
    )(command)


def in_sample_cell(rows: int | None) -> str | int:
    """Return how many rows are of the making, for a table."""
    return "unknown" if rows is None else rows


def pooling_cells(places: Sequence[ActivationPlace]) -> list[str]:
    """Return the pooling of each place for a table, with its region where regions differ."""
    regions = {place.region for place in places}
    return [
        place.pooling if len(regions) < 2 else f"{place.pooling} ({place.region or 'unknown'})"
        for place in places
    ]


def interval(low: float, high: float) -> str:
    """Return ``0.61-0.83``."""
    return f"{low:.3f}-{high:.3f}"


def layer_cell(layer: int | None) -> str:
    """Return a layer for a table."""
    return "unknown" if layer is None else "embed" if layer == -1 else str(layer)
