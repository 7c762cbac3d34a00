"""Tables of a report as HTML, everything escaped; wide ones fold on a narrow screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from actstore.wording import escaped, shorten

CUT = 160
"""Longest text of a cell."""
NAME = 80
"""Longest name of a class."""
_WIDE = 4
"""Columns that a narrow screen has room for."""


class Link(NamedTuple):
    """A cell that leads to another place of the page."""

    text: str
    target: str


Value = str | int | float | Link | None


def table(header: Sequence[str], rows: Sequence[Sequence[Value]]) -> str:
    """Return a table; columns of numbers stand to the right."""
    numeric = [all(isinstance(row[at], int | float) for row in rows) for at in range(len(header))]
    head = "".join(
        f'<th class="n">{escaped(name)}</th>' if number else f"<th>{escaped(name)}</th>"
        for name, number in zip(header, numeric, strict=True)
    )
    folds = len(header) > _WIDE
    names = [f' data-name="{escaped(name)}"' if folds else "" for name in header]
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{_kind(value, number)}"{name}>{cell(value)}</td>'
            for value, number, name in zip(row, numeric, names, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    opened = '<table class="fold"><tr class="head">' if folds else "<table><tr>"
    return f'<div class="scroll">{opened}{head}</tr>{body}</table></div>'


def cell(value: Value) -> str:
    """Return a value as it stands in a table, cut where it is very long."""
    if value is None:
        return '<span class="soft">none</span>'
    if isinstance(value, Link):
        return f'<a href="#{escaped(value.target)}">{cell(value.text)}</a>'
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    text = " ".join(value.split())
    return escaped(text if len(text) <= CUT else text[: CUT - 1] + "…")


def name_of(value: object) -> str | None:
    """Return a class or task, cut in its middle where it is very long; None where there is none."""
    return None if value is None else shorten(str(value), NAME)


def _kind(value: Value, number: bool) -> str:
    if number:
        return "n"
    text = value.text if isinstance(value, Link) else value
    return "t" if isinstance(text, str) and len(text) > 24 else ""
