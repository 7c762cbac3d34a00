"""Counts, names and poolings in words, as messages, pictures and reports have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import zip_longest


def counted(number: int, noun: str = "row") -> str:
    """Return ``1 row``, ``2,000 rows``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(number: float) -> str:
    """Return a number of bytes as people read it: ``136.7 kB``, ``4.1 GB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:,.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"


def pooling_text(pooling: str | None, region: str | None) -> str:
    """Return how tokens became a vector as ``--pool`` has it: ``prompt.last``, ``tokens``.

    Nothing is said of what is not known.
    """
    words = {"none": "tokens", "unknown": None, None: None}
    return ".".join(filter(None, (region, words.get(pooling, pooling))))


def shorten(name: str, most: int) -> str:
    """Return a name in at most so many characters: its start and its end.

    Names of one family (runs, prompts, classes) begin alike and differ at their ends.
    """
    if len(name) <= most:
        return name
    end = (most - 1) // 3
    return f"{name[: most - 1 - end]}…{name[len(name) - end :]}"


def shorten_apart(names: Sequence[str], most: int) -> list[str]:
    """Return names in at most so many characters each, so that different ones stay different.

    Those that would be cut to one text are shown from where they differ, and are numbered
    where that is too little.
    """
    short = {name: shorten(name, most) for name in names}
    for same in _cut_alike(short):
        apart = next(at for at, letters in enumerate(zip_longest(*same)) if len(set(letters)) > 1)
        start = max(0, apart - most // 3)
        for name in same:
            begun = f"…{name[start:]}" if start else name
            short[name] = begun if len(begun) <= most else f"{begun[: most - 1]}…"
    for same in _cut_alike(short):
        for number, name in enumerate(same, 1):
            mark = f" ({number})"
            short[name] = shorten(short[name], most - len(mark)) + mark
    return [short[name] for name in names]


def _cut_alike(short: Mapping[str, str]) -> list[list[str]]:
    """Return the names that share their short one with another, in their order."""
    found: dict[str, list[str]] = {}
    for name, text in short.items():
        found.setdefault(text, []).append(name)
    return [names for names in found.values() if len(names) > 1]


def readable(text: str) -> str:
    """Return text whose blanks are blanks, and whose unprintable characters are seen.

    Joiners stay: Persian words and families of emoji are written with them.
    """
    return "".join(
        c if c.isprintable() or c in _KEPT else " " if c.isspace() else "\ufffd" for c in text
    )


_KEPT = "\n\u200c\u200d"


def escaped(text: str) -> str:
    """Return text as HTML: escaped, without characters that HTML does not have."""
    return escape(readable(text))
