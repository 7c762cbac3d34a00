"""Arguments and options that several commands share, so that one word means one thing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from actstore.commands import output
from actstore.commands.formats import FORMATS
from actstore.remote.address import is_address
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.storage.files import Traffic

Command = TypeVar("Command", bound=Callable[..., Any])

FILTERS = (
    *("model", "dataset", "split", "task", "mode", "variant", "label", "site", "pooling"),
    "region",
)
"""Text columns that select and nearest filter by with an option of the same name."""


def place(text: str) -> str | Path:
    """Return what a store or source is called as a path; as it is if it is an address."""
    return text if is_address(text) else Path(text)


def _here(ctx: click.Context, param: click.Parameter, text: str) -> Path:
    if is_address(text):
        raise click.BadParameter(
            f"{text}: this needs a store on this machine; fetch it with: "
            "actstore pull ORG/NAME FOLDER"
        )
    return Path(text)


store_argument = click.argument("store", callback=_here)
readable_store_argument = click.argument("store", callback=lambda ctx, param, text: place(text))
"""A store that is only read: a folder, or ``hf://datasets/ORG/NAME``."""

at_option = click.option(
    "--at",
    type=click.IntRange(min=1),
    metavar="N",
    help="Read the store as commit N left it (`actstore log` lists them).",
)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document instead of text."
)

format_option = click.option(
    "--format",
    "format",
    type=click.Choice(FORMATS),
    help="How to write the rows; by default what the name after -o says, else a table. "
    "A table shortens vectors and long texts, every other format is complete.",
)


columns_option = click.option(
    "--columns",
    metavar="A,B,…",
    callback=lambda ctx, param, text: _names(text),
    help="Only these metadata columns.",
)


def _names(text: str | None) -> tuple[str, ...] | None:
    names = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    return names or None


def output_option(help: str) -> Callable[[Command], Command]:
    """Return the option ``-o FILE``."""
    return click.option(
        "-o",
        "--output",
        "target",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help=help,
    )


def filter_options(command: Command) -> Command:
    """Add one repeatable option for each column that rows are commonly filtered by."""
    for name in reversed(FILTERS):
        command = click.option(
            f"--{name}",
            name,
            multiple=True,
            metavar="NAME",
            help=f"Only rows of this {name}; may be repeated.",
        )(command)
    return click.option(
        "--layer",
        "layer",
        type=int,
        multiple=True,
        metavar="N",
        help="Only rows of this layer (-1: embeddings); may be repeated.",
    )(command)


mixed_option = click.option(
    "--mixed",
    is_flag=True,
    help="Take rows of several models, sites, poolings, regions or layers together, though no "
    "option lists them.",
)


def given_filters(options: dict[str, Any]) -> dict[str, Any]:
    """Return the filters that were used, as ``Store.select`` takes them."""
    return {name: list(options[name]) for name in ("layer", *FILTERS) if options.get(name)}


def report_traffic(traffic: Traffic | None) -> None:
    """Say on standard error what was transferred from the Hub, if the store is there."""
    if traffic is not None:
        here = f", {output.size(traffic.cached)} were here" if traffic.cached else ""
        output.note(
            f"moved {output.size(traffic.received)} in {counted(traffic.requests, 'request')}{here}"
        )


def pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    """Split ``name=value`` texts.

    Raises:
        click.BadParameter: a text has no ``=``, or a name comes twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name.strip():
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=option)
        if name.strip() in found:
            raise click.BadParameter(f"{name.strip()!r} is given twice", param_hint=option)
        found[name.strip()] = value
    return found


def where_argument(command: Command) -> Command:
    """Add the optional SQL condition over the metadata columns."""
    return click.argument("where", required=False)(command)
