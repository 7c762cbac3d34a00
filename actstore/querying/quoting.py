"""Names and texts as SQL takes them, whatever they hold. Loads nothing: commands ask it too."""

from __future__ import annotations


def name(column: str) -> str:
    """Return the name of a column in double quotes."""
    escaped = column.replace('"', '""')
    return f'"{escaped}"'


def text(value: str) -> str:
    """Return a text in single quotes."""
    escaped = value.replace("'", "''")
    return f"'{escaped}'"
