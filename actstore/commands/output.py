"""What commands print: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import click

CELL = 60
"""Widest cell of a table, so that one long text does not hide the other columns."""
WIDE = 200
"""Widest cell of a list whose texts are meant to be read whole."""
VECTOR_HEAD = 3
"""Values shown of a vector in a table."""
_GAP = "  "


def print_json(value: object) -> None:
    """Print ``value`` as one indented JSON document on standard output."""
    click.echo(json_text(value, indent=2))


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
    """Print aligned columns, numbers to the right, on standard output.

    Cells are cut at ``limit`` characters, but for those of the columns in ``whole``.

    On a terminal that is too narrow cells are cut further; then middle columns give way, and
    a column ``…`` stands for them.
    """
    table = [list(row) for row in rows]
    numeric = [
        any(row[i] is not None for row in table)
        and all(row[i] is None or isinstance(row[i], int | float | Decimal) for row in table)
        for i in range(len(header))
    ]
    room = terminal_width()
    for tried in (limit, *(each for each in (32, 20) if each < limit)):
        limits = [WIDE if name in whole else tried for name in header]
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


def print_pairs(pairs: Mapping[str, object]) -> None:
    """Print names and values in two columns; values that are None are left out."""
    known = {name: value for name, value in pairs.items() if value is not None}
    width = max((len(name) for name in known), default=0)
    for name, value in known.items():
        click.echo(f"{name.ljust(width)}{_GAP}{value}")


def note(text: str) -> None:
    """Print a remark on standard error, out of the way of results."""
    click.echo(text, err=True)


def error(text: str) -> None:
    """Print ``error: …`` on standard error as one line, its first word in red on a terminal."""
    line = " ".join(part.strip() for part in text.splitlines())
    _echo(f"{click.style('error:', fg='red', bold=True)} {line}", err=True)


def cell(value: object, limit: int = CELL) -> str:
    """Return ``value`` as one line for a table, at most about ``limit`` characters."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple) and value and isinstance(value[0], float):
        head = ", ".join(f"{item:.4g}" for item in value[:VECTOR_HEAD])
        return f"[{head}, … {len(value):,}]" if len(value) > VECTOR_HEAD else f"[{head}]"
    text = value if isinstance(value, str) else str(value)
    # A line break or an escape code inside a value would tear the table apart.
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "…"


def size(number: float) -> str:
    """Return a number of bytes as people read it: ``136.7 kB``, ``4.1 GB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:,.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"


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
