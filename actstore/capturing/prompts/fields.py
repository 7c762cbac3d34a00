"""Texts with parts in braces that are filled from a record: ``"Q: {text} ({id|before:.})"``.

====================  =================================================================
``{name}``            the record's column; ``{a.b}`` a key inside it, ``{a.0}`` an item
``{name?}``           the same, or nothing at all where it is missing or null
``{row}``             the record's number in its file, from 0 (if no column is called so)
``{x|before:S}``      up to the first S; ``after:S``, ``before_last:S``, ``after_last:S``
``{x|strip}``         without white space around; ``lower``, ``upper``
``{x|map:A=b,C=d}``   b where the value is A, d where it is C, else nothing
``{{`` and ``}}``     a brace
====================  =================================================================

A text that is one part and nothing else gives the value as it is, whatever its type.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from actstore.errors import ExampleError, RecipeError

_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_CUTS: Mapping[str, Callable[[str, str], str]] = {
    "before": lambda text, mark: text.partition(mark)[0],
    "after": lambda text, mark: text.partition(mark)[2],
    "before_last": lambda text, mark: text.rpartition(mark)[0] if mark in text else text,
    "after_last": lambda text, mark: text.rpartition(mark)[2],
}
_PLAIN: Mapping[str, Callable[[str], str]] = {
    "strip": str.strip,
    "lower": str.lower,
    "upper": str.upper,
}


class Placeholder(NamedTuple):
    """One part in braces."""

    path: tuple[str, ...]
    optional: bool
    filters: tuple[tuple[str, str], ...]


class TextTemplate(NamedTuple):
    """A compiled text."""

    text: str
    pieces: tuple[Any, ...]
    """Parts to fill, and what stands there as it is."""

    def value(self, record: Mapping[str, Any], where: str) -> Any:
        """Return the text filled from ``record``; None where an optional part is missing.

        Raises:
            ExampleError: the record lacks a column; the message has those that there are.
        """
        found = [
            _filled(piece, record, where) if isinstance(piece, Placeholder) else piece
            for piece in self.pieces
        ]
        if len(found) == 1:
            return found[0]
        if any(each is None for each in found):
            return None
        return "".join(str(each) for each in found)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the text speaks of."""
        return tuple(piece.path[0] for piece in self.pieces if isinstance(piece, Placeholder))


def column(name: str) -> TextTemplate:
    """Return the field that is the column ``name``, whatever characters its name has."""
    return TextTemplate(name, (Placeholder((name,), False, ()),))


def constant(value: Any) -> TextTemplate:
    """Return the field that is ``value`` for all records."""
    return TextTemplate(str(value), (value,))


def compile_field(text: str, where: str) -> TextTemplate:
    """Compile a text.

    Raises:
        RecipeError: a brace without its partner, or an unknown filter; names ``where``.
    """
    pieces: list[str | Placeholder] = []
    literal, at = "", 0
    for match in _PART.finditer(text):
        literal += text[at : match.start()]
        at = match.end()
        if match[0] in ("{{", "}}"):
            literal += match[0][0]
            continue
        if match[1] is None:
            raise RecipeError(f"{where}: a lone {match[0]!r} in {text!r}; double it to mean itself")
        if literal:
            pieces.append(literal)
            literal = ""
        pieces.append(_part(match[1], text, where))
    literal += text[at:]
    if literal or not pieces:
        pieces.append(literal)
    return TextTemplate(text, tuple(pieces))


def _part(inside: str, text: str, where: str) -> Placeholder:
    name, *filters = inside.split("|")
    optional = name.endswith("?")
    name = name.removesuffix("?").strip()
    if not name:
        raise RecipeError(f"{where}: {text!r} has a part without a name")
    compiled = []
    for each in filters:
        word, _, argument = each.partition(":")
        known = (*_CUTS, *_PLAIN, "map")
        if word not in known or (word not in _PLAIN) is not bool(argument):
            raise RecipeError(
                f"{where}: filter {each!r} in {text!r} is unknown; there are "
                f"{', '.join(f'{w}:…' if w not in _PLAIN else w for w in known)}"
            )
        compiled.append((word, argument))
    return Placeholder(tuple(name.split(".")), optional, tuple(compiled))


def _filled(part: Placeholder, record: Mapping[str, Any], where: str) -> Any:
    value = _found(part, record, where)
    for word, argument in part.filters:
        if value is None:
            return None
        if word == "map":
            pairs = dict(pair.split("=", 1) for pair in argument.split(",") if "=" in pair)
            value = pairs.get(str(value))
        else:
            text = str(value)
            value = _PLAIN[word](text) if word in _PLAIN else _CUTS[word](text, argument)
    return value


def _found(part: Placeholder, record: Mapping[str, Any], where: str) -> Any:
    whole = ".".join(part.path)
    if whole in record:  # a column may have a dot in its name
        return record[whole]
    value: Any = record
    for depth, name in enumerate(part.path):
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, Sequence) and not isinstance(value, str) and _is_item(name, value):
            value = value[int(name)]
        elif part.optional:
            return None
        else:
            there = value if isinstance(value, Mapping) else {}
            inside = f" in {'.'.join(part.path[:depth])!r}" if depth else ""
            raise ExampleError(
                f"{where}: no column {name!r}{inside}; there are "
                f"{', '.join(str(key) for key in there if not str(key).startswith('#')) or 'none'}"
            )
    return value


def _is_item(name: str, value: Sequence[Any]) -> bool:
    return name.isdigit() and int(name) < len(value)
