"""Arguments and options that any command may have; `row_options.py` has those that choose rows."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from actstore import paths
from actstore.commands import output
from actstore.errors import ActstoreError
from actstore.remote.address import is_address
from actstore.remote.bucket_address import is_bucket, parse_bucket
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.storage.files import Traffic

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Command], Command]
Callback = Callable[[click.Context, click.Parameter, Any], Any]

ROW_FORMATS = (*output.FORMATS, "parquet")


class Spelled(click.Option):
    """An option that is also understood by other spellings, which its help does not show."""

    def __init__(self, *words: Any, also: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(*words, **settings)
        self._also = tuple(also)

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Register all spellings."""
        shown = self.opts
        self.opts = [*shown, *self._also]
        try:
            super().add_to_parser(parser, ctx)
        finally:
            self.opts = shown


def bundle(into: str, make: Callable[..., object], *options: Decorator[Any]) -> Decorator[Any]:
    """Return a decorator that adds options and hands what they gave on as one value.

    Args:
        into: the command's parameter that takes it.
        make: called with the options' values by name.
        options: decorators that add them.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def called(**given: Any) -> Any:
            return command(**{into: make(**{name: given.pop(name) for name in names})}, **given)

        before = len(getattr(called, "__click_params__", ()))
        for option in reversed(options):
            option(called)
        added: list[click.Parameter] = vars(called)["__click_params__"][before:]
        names = [each.name for each in added if each.expose_value and each.name is not None]
        return called

    return decorate


def together(*options: Decorator[Any]) -> Decorator[Any]:
    """Return one decorator that adds several options, in this order of the help."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


class Number(click.FloatRange):
    """A number that is finite: NaN passes every comparison, and infinity makes NaN."""

    name = "float"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return number

    def _describe_range(self) -> str:
        return super()._describe_range() if (self.min, self.max) != (None, None) else ""


# --- paths


class LocalPath(click.Path):
    """A path of this machine at which there is a file, a folder or nothing yet."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(path_type=Path, **settings)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path.

        Raises:
            PathError: it is an address, a pipe, a device, a link to nothing, no possible name.
        """
        return super().convert(paths.require_ordinary(value), param, ctx)


# --- stores


def place(text: str) -> str | Path:
    """Return what a source is called as a path; as it is if it is an address."""
    if is_bucket(text):
        return str(parse_bucket(text))
    return text if is_address(text) else paths.local(text)


def _cleared(place: str | Path) -> Path:
    """Return a store's folder, after clearing what writers that died have left there."""
    store = paths.require_folder_or_nothing(paths.local_store(place))
    try:
        if not os.listdir(store / ".staging"):
            return store
    except OSError:
        return store
    from actstore.storage.staging import recover

    dead = 0
    with contextlib.suppress(OSError, ActstoreError):  # who only reads may not be allowed to
        dead = recover(store)
    if dead:
        output.note(
            f"{store}: cleared what {counted(dead, 'command')} had left that ended before its end"
        )
    return store


def cleared_store(ctx: click.Context, param: click.Parameter, path: Path) -> Path:
    """Return a store that is written to, as a callback of its option or argument."""
    return _cleared(path)


def _readable_store(ctx: click.Context, param: click.Parameter, text: str) -> str | Path:
    if is_bucket(text):
        return str(parse_bucket(text))
    return text if is_address(text) else _cleared(text)


def _writable_store(ctx: click.Context, param: click.Parameter, text: str) -> str | Path:
    if is_address(text):
        raise click.BadParameter(
            f"{text}: this needs a store on this machine or in a bucket; fetch it with: "
            "actstore pull ORG/NAME FOLDER"
        )
    return str(parse_bucket(text)) if is_bucket(text) else _cleared(text)


readable_store_argument = click.argument("store", callback=_readable_store)
"""A store that is only read: a folder, ``s3://BUCKET/STORE``, or ``hf://datasets/ORG/NAME``."""
bucket_store_argument = click.argument("store", callback=_writable_store)
"""A store that can be written to: in a folder or in a bucket."""


class StorePath(LocalPath):
    """A folder of this machine, or an address in a bucket, for a store that is written to."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, or the address as it is.

        Raises:
            PathError, UsageError: it is no possible path or address.
        """
        if is_bucket(value):
            return str(parse_bucket(value))
        return super().convert(paths.local_store(value), param, ctx)


new_store_option = click.option(
    "--store",
    required=True,
    type=StorePath(file_okay=False),
    callback=lambda ctx, param, place: place if is_bucket(place) else _cleared(place),
    metavar="FOLDER",
    help="The store to create or to add to: a folder, or s3://BUCKET/STORE.",
)


def at_option(
    *words: str, help: str = "Read the store as commit N left it (`actstore log` lists them)."
) -> Decorator[Any]:
    """Return the option ``--at N``, or one of its kind by another name."""
    return click.option(*(words or ("--at",)), type=click.IntRange(min=1), metavar="N", help=help)


# --- what is printed, and where to


def _format(ctx: click.Context, param: click.Parameter, given: str | None) -> str | None:
    chosen = cast("str | None", ctx.meta.get(output.FORMAT))
    if chosen is not None and given not in (None, chosen):
        raise click.BadParameter(f"--json is --format json: it cannot be --format {given} as well")
    if given is not None:
        ctx.meta[output.FORMAT] = given
    return given or chosen


def _json(ctx: click.Context, param: click.Parameter, given: bool) -> bool:
    if given:
        ctx.meta[output.FORMAT] = "json"
    return given


_json_flag = click.option(
    "--json",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_json,
    help="Short for --format json. Errors are JSON then too, on standard error.",
)
format_options = together(
    click.option(
        "--format",
        "as_json",
        type=click.Choice(output.FORMATS),
        callback=lambda ctx, param, text: _format(ctx, param, text) in ("json", "jsonl"),
        help="How to print the result: a table to read by default.",
    ),
    _json_flag,
)
"""``--format`` and ``--json``; the command hears only whether the result is to be JSON."""

row_format_options = together(
    click.option(
        "--format",
        "format",
        type=click.Choice(ROW_FORMATS),
        callback=_format,
        help="How to write the rows; by default what the name after -o says, else a table. "
        "A table shortens vectors, and on a terminal long texts and lists; every other format "
        "is complete.",
    ),
    _json_flag,
)
"""The same for commands that write rows, which hear the format."""


def outside_stores(ctx: click.Context, param: click.Parameter, target: Path | None) -> Path | None:
    """Refuse to write into a store's folder: what no commit names does not belong there.

    So is ``-``, which elsewhere means standard output and would be a file of that name.
    """
    from actstore.storage.layout import store_around

    if target is not None and str(target) == "-":
        raise click.BadParameter(
            "'-' does not stand for standard output here: name a file or folder; what a command "
            "prints without this option can be sent on by the shell, as in: … > FILE"
        )
    around = None if target is None else store_around(target)
    if around is not None:
        raise click.BadParameter(
            f"{target} lies in the store {around.name}, whose folder holds nothing but the store: "
            "choose a place outside of it"
        )
    return target


def output_option(
    help: str, *, folder: bool = False, metavar: str | None = None, **more: Any
) -> Decorator[Any]:
    """Return the option ``-o``, ``--out``: a file, or a folder."""
    kind = LocalPath(dir_okay=folder or metavar is not None, file_okay=not folder)
    return click.option(
        "-o",
        "--out",
        "target",
        cls=Spelled,
        also=("--output",),
        type=kind,
        callback=outside_stores,
        metavar=metavar or ("DIR" if folder else "FILE"),
        help=help,
        **more,
    )


columns_option = click.option(
    "--columns",
    metavar="A,B,…",
    callback=lambda ctx, param, text: tuple(words(text)) or None,
    help="Only these metadata columns.",
)


def seed_option(help: str = "Seed of folds and shuffles.") -> Decorator[Any]:
    """Return the option ``--seed``."""
    return click.option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, help=help
    )


# --- texts that options hold


def words(text: str | None) -> list[str]:
    """Return the words between commas."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


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


def report_traffic(traffic: Traffic | None) -> None:
    """Say on standard error what was transferred, if the store is not on this machine."""
    if traffic is not None:
        here = f", {output.size(traffic.cached)} were here" if traffic.cached else ""
        output.note(
            f"moved {output.size(traffic.received)} in {counted(traffic.requests, 'request')}{here}"
        )
