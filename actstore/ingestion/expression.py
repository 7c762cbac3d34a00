"""The brace language in which a recipe says where a column's value comes from.

``"{file.question}"``, ``"{path.task}"``, ``"{key.layer}"``, ``"{sidecar.scores.category}"``,
``"{row}"`` or a plain constant; alternatives with ``|`` (the first that is not null), a
whole number added to a part of the path or key with ``+1`` or ``-1``. A text around the
braces is kept: ``"pair {row}"``. docs/recipes.md describes every name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from actstore.errors import RecipeError


class Level(IntEnum):
    """How often the value of an expression may change."""

    CONSTANT = 0
    FILE = 1
    TENSOR = 2
    ROW = 3
    """Along the example axis (or another axis that counts rows)."""
    TOKEN = 4


class Index(IntEnum):
    """Which element of a list or tensor a reference takes."""

    WHOLE = 0
    ROW = 1
    """``[row]``: one element per row."""
    TOKEN = 2
    """``[token]``: one element per token."""
    AUTO = 3
    """``[*]``: per row where there are as many elements as rows, else the whole."""


# What each first word of a reference may change with. `sidecar` and `column` depend on
# other expressions, see `Expression.level`.
_ROOTS = {
    "path": Level.FILE,
    "file": Level.FILE,
    "cache": Level.FILE,
    "stem": Level.FILE,
    "name": Level.FILE,
    "folder": Level.FILE,
    "relative": Level.FILE,
    "entry": Level.FILE,
    "key": Level.TENSOR,
    "tensor": Level.TENSOR,
    "row": Level.ROW,
    "axis": Level.ROW,
    "token": Level.TOKEN,
    "sidecar": Level.FILE,
    "column": Level.FILE,
}
_ALONE = {"cache", "stem", "name", "folder", "relative", "entry", "row", "token"}
_INDEXES = {"": Index.WHOLE, "row": Index.ROW, "token": Index.TOKEN, "*": Index.AUTO}
_REFERENCE = re.compile(
    r"(?P<root>[a-z]+)(?:\.(?P<rest>.+?))?(?:\[(?P<index>row|token|\*)\])?(?P<plus>[+-]\d+)?",
    re.DOTALL,
)
_BRACES = re.compile(r"\{([^{}]*)\}|[{}]")


@dataclass(frozen=True, slots=True)
class Reference:
    """One name inside braces."""

    text: str
    root: str
    rest: str
    """What follows the first dot; may itself hold dots."""
    index: Index
    plus: int

    @property
    def level(self) -> Level:
        """How often the value may change, `sidecar` and `column` references aside."""
        own = _ROOTS[self.root]
        if self.index is Index.TOKEN:
            return Level.TOKEN
        return max(own, Level.ROW) if self.index in (Index.ROW, Index.AUTO) else own


class Scope(Protocol):
    """Answers the references of an expression."""

    def value(self, reference: Reference) -> Any:
        """Return the value, or None where there is none."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression."""

    source: Any
    """As the recipe wrote it."""
    pieces: tuple[str | tuple[Reference, ...], ...]
    """Plain text and alternatives in turn; empty for a constant that is no text."""

    @property
    def references(self) -> tuple[Reference, ...]:
        """Every reference in it."""
        return tuple(ref for piece in self.pieces if not isinstance(piece, str) for ref in piece)

    def level(self, columns: Mapping[str, Level], sidecars: Mapping[str, Level]) -> Level:
        """Return how often the value may change.

        ``columns`` and ``sidecars`` hold the levels of what ``{column.X}`` and
        ``{sidecar.X}`` depend on.
        """
        found = Level.CONSTANT
        for ref in self.references:
            level = ref.level
            if ref.root == "column":
                level = columns.get(ref.rest, Level.FILE)
            elif ref.root == "sidecar":
                level = sidecars.get(ref.rest.partition(".")[0], Level.FILE)
            found = max(found, level)
        return found

    def evaluate(self, scope: Scope) -> Any:
        """Return the value: typed where the expression is one pair of braces, else text.

        None where a reference has no value.
        """
        pieces = self.pieces
        if not pieces:
            return self.source
        if len(pieces) == 1:
            piece = pieces[0]
            return piece if isinstance(piece, str) else _first(piece, scope)
        words = []
        for piece in pieces:
            value = piece if isinstance(piece, str) else _first(piece, scope)
            if value is None:
                return None
            words.append(str(value))
        return "".join(words)


def _first(alternatives: tuple[Reference, ...], scope: Scope) -> Any:
    for ref in alternatives:
        value = scope.value(ref)
        if value is not None:
            return value + ref.plus if ref.plus else value
    return None


def constant(value: Any) -> Expression:
    """Return an expression whose value is ``value``, braces and all."""
    return Expression(value, ())


def compile_expression(source: Any) -> Expression:
    """Compile an expression.

    Raises:
        RecipeError: a brace is left open or a name is unknown; says which.
    """
    if not isinstance(source, str):
        if isinstance(source, (dict, list)):
            raise RecipeError(f"{source!r} is no expression: write text, a number or a boolean")
        return Expression(source, ())
    pieces: list[str | tuple[Reference, ...]] = []
    end = 0
    for place in _BRACES.finditer(source):
        if place[1] is None:
            raise RecipeError(
                f"expression {source!r}: a brace without its partner at {place.start()}; braces "
                "do not stand within braces"
            )
        if place.start() > end:
            pieces.append(source[end : place.start()])
        pieces.append(tuple(_reference(text, source) for text in place[1].split("|")))
        end = place.end()
    if end < len(source):
        pieces.append(source[end:])
    return Expression(source, tuple(pieces))


def _reference(text: str, source: str) -> Reference:
    match = _REFERENCE.fullmatch(text.strip())
    root = match["root"] if match else text
    if match is None or root not in _ROOTS:
        raise RecipeError(
            f"expression {source!r}: {root!r} is unknown; a name begins with one of "
            f"{', '.join(sorted(_ROOTS))}"
        )
    rest = match["rest"] or ""
    if root in _ALONE and rest:
        raise RecipeError(f"expression {source!r}: {root!r} takes no name after it")
    if root not in _ALONE and not rest:
        raise RecipeError(f"expression {source!r}: {root!r} needs a name, as in {root}.question")
    plus = match["plus"] or ""
    if plus and root in ("file", "sidecar"):  # keys such as `gpt-2` are names, not sums
        rest, plus = rest + plus, ""
    return Reference(text.strip(), root, rest, _INDEXES[match["index"] or ""], int(plus or 0))
