"""What commands print: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TextIO

import click

from actstore.wording import size as size

FORMATS = ("table", "json", "jsonl", "csv", "markdown")
FORMAT = "actstore.format"
"""Where the command's context keeps the format that was asked for."""
CELL = 60
"""Widest cell of a table on a terminal, so that one long text does not hide other columns."""
WIDE = 200
"""Widest cell of a list whose texts are meant to be read whole."""
ALIGNED = 10_000
"""Rows by which the columns of a table are made wide enough: more are not kept in memory."""
VECTOR_HEAD = 3
"""Values shown of a vector in a table."""
_GAP = "  "


def chosen_format() -> str:
    """Return the format that was asked for, or ``table``."""
    context = click.get_current_context(silent=True)
    found = None if context is None else context.meta.get(FORMAT)
    return str(found or "table")


def print_json(value: object, *, rows: Sequence[object] | None = None) -> None:
    """Print ``value`` as one indented JSON document on standard output.

    As JSON lines, the items of ``rows``, or of ``value`` where it is a list, come out one by
    one, and anything else on one line.
    """
    if chosen_format() != "jsonl":
        click.echo(json_text(value, indent=2))
        return
    for item in rows if rows is not None else value if isinstance(value, list) else [value]:
        click.echo(json_text(item))


def say(text: str = "") -> None:
    """Print a line beside a table: on standard error where the table is for a program."""
    if chosen_format() in ("table", "json"):
        click.echo(text)
    elif text:
        note(text)


def json_text(value: object, *, indent: int | None = None) -> str:
    """Return ``value`` as JSON; a number that JSON does not know becomes its name.

    NaN and the infinities come out as ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``:
    bare they would break every strict reader, and null would hide them.
    """
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError:
        return json.dumps(_named(value), indent=indent, ensure_ascii=False, default=_plain)


def _plain(value: object) -> object:
    # SQL's sums of integers arrive as decimals without a fraction.
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value.hex() if isinstance(value, bytes) else str(value)


def _named(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _named(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_named(item) for item in value]
    return value


def print_table(
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    limit: int = CELL,
    whole: Sequence[str] = (),
) -> None:
    """Print a table on standard output: aligned, or as CSV, Markdown or JSON lines.

    Numbers stand to the right. On a terminal cells are cut at ``limit`` characters, but for
    those of the columns in ``whole``; where it is too narrow they are cut further; then middle
    columns give way, and a column ``…`` stands for them. In a pipe or file nothing is cut.
    """
    how = chosen_format()
    if how in ("csv", "jsonl", "markdown"):
        write_table(header, rows, how, sys.stdout)
        return
    coming = iter(rows)
    table = [list(row) for row in itertools.islice(coming, ALIGNED)]
    numeric = [
        any(row[i] is not None for row in table)
        and all(row[i] is None or isinstance(row[i], int | float | Decimal) for row in table)
        for i in range(len(header))
    ]
    room = terminal_width()
    cuts = (limit, *(each for each in (32, 20) if each < limit)) if room is not None else (None,)
    for tried in cuts:
        limits = [tried and (WIDE if name in whole else tried) for name in header]
        cells = [
            list(header),
            *(
                [cell(value, most) for value, most in zip(row, limits, strict=True)]
                for row in table
            ),
        ]
        widths = [max(_width(row[i]) for row in cells) for i in range(len(header))]
        if room is None or _total(widths) <= room:
            break
    shown = _fitting(widths, room, last=bool(whole) and header[-1] in whole)
    for position, row in enumerate(cells):
        parts = ["…" if i is None else _pad(row[i], widths[i], right=numeric[i]) for i in shown]
        line = _GAP.join(parts).rstrip()
        _echo(click.style(line, bold=True) if position == 0 else line)
    for values in coming:
        texts = [cell(value, most) for value, most in zip(values, limits, strict=True)]
        parts = [_pad(text, widths[i], right=numeric[i]) for i, text in enumerate(texts)]
        _echo(_GAP.join(parts).rstrip())


def write_table(
    header: Sequence[str], rows: Iterable[Sequence[object]], how: str, file: TextIO
) -> None:
    """Write a table as ``csv``, ``markdown`` or ``jsonl``, every cell whole."""
    names = distinct(header)
    if how == "csv":
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_csv_value(value) for value in row] for row in rows)
    elif how == "jsonl":
        for row in rows:
            file.write(json_text(dict(zip(names, row, strict=True))) + "\n")
    else:
        file.write(f"| {' | '.join(map(_markdown, names))} |\n")
        file.write(f"|{'---|' * len(names)}\n")
        for row in rows:
            texts = ("" if value is None else cell(value, None) for value in row)
            file.write(f"| {' | '.join(map(_markdown, texts))} |\n")


def distinct(names: Sequence[str]) -> list[str]:
    """Number names that come twice, since a record holds each name once."""
    found: list[str] = []
    for name in names:
        unique, number = name, 1
        while unique in found:
            unique, number = f"{name}_{number}", number + 1
        found.append(unique)
    return found


def print_pairs(pairs: Mapping[str, object], *, aside: bool = False) -> None:
    """Print names and values in two columns; values that are None are left out.

    With ``aside`` there is a table too: for a program only that goes to standard output.
    """
    known = {name: value for name, value in pairs.items() if value is not None}
    if chosen_format() in ("csv", "markdown"):
        if not aside:
            print_table(("what", "value"), known.items())
        return
    width = max((len(name) for name in known), default=0)
    for name, value in known.items():
        click.echo(f"{name.ljust(width)}{_GAP}{value}")


def note(text: str) -> None:
    """Print a remark on standard error, out of the way of results."""
    click.echo(text, err=True)


def error(text: str, *, kind: str = "error", code: int = 1, as_json: bool = False) -> None:
    """Print ``error: …`` on standard error as one line, its first word in red on a terminal.

    With ``as_json`` the line is a JSON document with the error's kind, message and exit code.
    """
    line = " ".join(part.strip() for part in text.splitlines())
    if as_json:
        found = {"type": kind, "message": line, "exit_code": int(code)}
        click.echo(json_text({"error": found}), err=True)
        return
    _echo(f"{click.style('error:', fg='red', bold=True)} {line}", err=True)


def cell(value: object, limit: int | None = CELL) -> str:
    """Return ``value`` as one line for a table, at most about ``limit`` characters."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple) and value and isinstance(value[0], float):
        items = value[:VECTOR_HEAD]
        head = ", ".join("NULL" if item is None else f"{item:.4g}" for item in items)
        return f"[{head}, … {len(value):,}]" if len(value) > VECTOR_HEAD else f"[{head}]"
    text = value if isinstance(value, str) else str(value)
    # A line break or an escape code inside a value would tear the table apart.
    kept = text if limit is None else text[: limit + 1]
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in kept)
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"


def _csv_value(value: object) -> object:
    return json_text(value) if isinstance(value, list | dict) else value


def _markdown(text: str) -> str:
    return text.replace("|", "\\|")


def terminal_width() -> int | None:
    """Return the columns of the terminal on standard output, or None where there is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _echo(text: str, *, err: bool = False) -> None:
    # click strips colours where there is no terminal; https://no-color.org is left to us.
    click.echo(text, err=err, color=False if os.environ.get("NO_COLOR") else None)


def _fitting(widths: Sequence[int], room: int | None, *, last: bool = False) -> list[int | None]:
    """Return the positions of the columns that fit, None where some were left out.

    With ``last`` the last column is among them whatever its width.
    """
    everything: list[int | None] = list(range(len(widths)))
    if room is None or _total(widths) <= room:
        return everything
    front, back = 0, int(last)
    left = room - 1 - (widths[-1] + len(_GAP) if last else 0)
    while front + back < len(widths):
        # The first and last columns say most: names lead, counts and labels close.
        from_front = front <= back
        wanted = widths[front] if from_front else widths[len(widths) - 1 - back]
        if wanted + len(_GAP) > left:
            break
        left -= wanted + len(_GAP)
        front, back = (front + 1, back) if from_front else (front, back + 1)
    front = max(front, 1)
    return [*everything[:front], None, *everything[max(front, len(widths) - back) :]]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _pad(text: str, width: int, *, right: bool) -> str:
    blanks = " " * (width - _width(text))
    return blanks + text if right else text + blanks
