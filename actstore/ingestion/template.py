"""Path and key templates: text with named parts that matches and takes apart.

``{dataset:slug}/{model:slug}/{mode:tqa|vqa}/{task}/{key}.pt`` describes the tail of a
file's path, ``activations.{layer:int}`` the key of a tensor inside a document.

=================  ============================================================
``{name}``         text without a separator
``{name:int}``     digits, as a number (``0007`` is 7)
``{name:slug}``    text in which ``__`` stands for ``/`` (``meta-llama__Llama-3``)
``{name:any}``     text that may hold separators, or none at all
``{name:a|b|c}``   one of these words
``*``              any text without a separator, unnamed
``**/``            any number of folders, unnamed
=================  ============================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from actstore.errors import RecipeError

Value = str | int

_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_PLACE = re.compile(r"\{([^{}]*)\}|\*\*/|\*|[{}]")
_KINDS = ("text", "int", "slug", "any")


class TemplateField(NamedTuple):
    """One named part of a template."""

    name: str
    kind: str
    """``text``, ``int``, ``slug``, ``any`` or ``choice``."""
    choices: tuple[str, ...] = ()

    def expression(self, separator: str) -> str:
        """Return the regular expression of the part's text."""
        if self.kind == "choice":
            return "|".join(re.escape(choice) for choice in self.choices)
        if self.kind == "int":
            return r"\d+"
        return ".*" if self.kind == "any" else f"[^{re.escape(separator)}]+"

    def value(self, text: str) -> Value:
        """Return ``text`` as the part's type."""
        if self.kind == "int":
            return int(text)
        return text.replace("__", "/") if self.kind == "slug" else text


class Match(NamedTuple):
    """What a template found in a text."""

    parts: dict[str, Value]
    """The named parts, converted."""
    texts: dict[str, str]
    """The named parts as they stand in the text."""
    start: int
    """Where in the text the template begins (0 unless it matched a tail)."""


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled template."""

    text: str
    parts: tuple[TemplateField, ...]
    separator: str
    ending: str
    """What each text that fits ends with: the last plain characters, such as a suffix."""
    _whole: re.Pattern[str]
    _tail: re.Pattern[str]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parts, in order."""
        return tuple(part.name for part in self.parts)

    def match(self, text: str) -> Match | None:
        """Match the whole of ``text``."""
        return self._found(self._whole.fullmatch(text))

    def match_tail(self, text: str) -> Match | None:
        """Match the end of ``text``, beginning at its start or after a separator."""
        return self._found(self._tail.fullmatch(text))

    def _found(self, match: re.Match[str] | None) -> Match | None:
        if match is None:
            return None
        texts = {part.name: match[part.name] for part in self.parts}
        values = {part.name: part.value(texts[part.name]) for part in self.parts}
        return Match(values, texts, match.start("_body"))


def compile_template(text: str, separator: str = "/") -> Template:
    """Compile a template.

    Raises:
        RecipeError: the text is empty or a part of it is malformed; says which.
    """
    if not text:
        raise RecipeError("a template is empty: write a path such as 'layer_{layer:int}.pt'")
    parts: list[TemplateField] = []
    pieces: list[str] = []
    end = 0
    for place in _PLACE.finditer(text):
        pieces.append(re.escape(text[end : place.start()]))
        end = place.end()
        if place[0] == "**/":
            pieces.append("(?:.*/)?")
        elif place[0] == "*":
            pieces.append(f"[^{re.escape(separator)}]*")
        elif place[1] is None:
            raise RecipeError(f"template {text!r}: a brace without its partner at {place.start()}")
        else:
            part = _part(place[1], text)
            if part.name in {other.name for other in parts}:
                raise RecipeError(f"template {text!r}: part {part.name!r} occurs twice")
            parts.append(part)
            pieces.append(f"(?P<{part.name}>{part.expression(separator)})")
    pieces.append(re.escape(text[end:]))
    body = "(?P<_body>" + "".join(pieces) + ")"
    tail = f"(?:.*{re.escape(separator)})?{body}"
    ending = text[end:].rpartition(separator)[2]
    whole_, tail_ = (re.compile(each, re.DOTALL) for each in (body, tail))
    return Template(text, tuple(parts), separator, ending, whole_, tail_)


def _part(inside: str, text: str) -> TemplateField:
    name, colon, kind = inside.partition(":")
    if not _NAME.fullmatch(name) or name.startswith("_"):
        raise RecipeError(
            f"template {text!r}: {inside!r} is no name; use lower-case letters, digits and _"
        )
    if not colon:
        return TemplateField(name, "text")
    if "|" in kind:
        choices = tuple(kind.split("|"))
        if not all(choices):
            raise RecipeError(f"template {text!r}: an empty choice in {inside!r}")
        return TemplateField(name, "choice", choices)
    if kind not in _KINDS:
        raise RecipeError(
            f"template {text!r}: kind {kind!r} is unknown; use {', '.join(_KINDS)} or a|b|c"
        )
    return TemplateField(name, kind)


def part_value(parts: Mapping[str, Any], name: str) -> Any:
    """Return a named part; ``X.slug`` has ``__`` for ``/``, ``X.name`` is what follows the last."""
    if name in parts:
        return parts[name]
    base, _, form = name.rpartition(".")
    value = parts.get(base)
    if not isinstance(value, str):
        return None
    return value.replace("/", "__") if form == "slug" else value.rsplit("/", 1)[-1]


def recognisable(template: Template, texts: Mapping[str, str]) -> bool:
    """Say whether the folder names in ``texts`` can be told from any other folder's.

    Used for folders above the source that was named: there a free name proves
    nothing, a slug must hold its ``__``.
    """
    named = [part for part in template.parts if part.name in texts]
    if any(part.kind == "slug" and "__" not in texts[part.name] for part in named):
        return False
    return any(part.kind in {"slug", "int", "choice"} for part in named)
