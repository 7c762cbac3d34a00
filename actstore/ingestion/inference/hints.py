"""What the user says about a folder: where the layer and the example stand."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from actstore.errors import UsageError

_WHERE: Final = re.compile(
    r"(?P<place>name|folder[1-9]|key[1-9]|axis[0-9]|entry)"
    r"(?:(?P<plus>[+-]\d+)|=(?P<numbers>-?\d+(?:,-?\d+)*))?"
)


class Where(NamedTuple):
    """A part of a path or key, an axis, or the position of an entry."""

    place: str
    """``name``, ``folder1``, ``key1``, ``axis0`` or ``entry``."""
    plus: int = 0
    """Added to the number that stands there."""
    numbers: tuple[int, ...] | None = None
    """The numbers that positions 0, 1, … stand for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """What was said by options; None where nothing was."""

    layer_from: Where | None = None
    example_from: Where | None = None
    site: bool = False
    """Whether the site is fixed for all rows."""
    layer: bool = False
    """Whether the layer is."""


def where(text: str, option: str) -> Where:
    """Read the value of ``--layer-from`` or ``--example-from``.

    Raises:
        UsageError: it is no such place; says which there are.
    """
    match = _WHERE.fullmatch(text.replace(" ", ""))
    counts = match is not None and (match["plus"] or match["numbers"])
    if match is None or (counts and option != "--layer-from"):
        raise UsageError(
            f"{option} {text!r}: expected name (the file's), folder1 (its folder), key1 (the first "
            "part of the tensors' keys that varies), axis0, or entry, as the mapping of --dry-run "
            "calls them"
            + (
                "; -1 behind it counts from the embeddings, =2,14,24 lists the layers"
                if option == "--layer-from"
                else ""
            )
        )
    numbers = tuple(int(each) for each in match["numbers"].split(",")) if match["numbers"] else None
    return Where(match["place"], int(match["plus"] or 0), numbers)


def hints(
    layer_from: str | None,
    example_from: str | None,
    *,
    site: str | None = None,
    layer: int | None = None,
) -> Hints:
    """Return what the options say; ``site`` and ``layer`` are those of all rows.

    Raises:
        UsageError: one of the first two names no place.
    """
    return Hints(
        layer_from=where(layer_from, "--layer-from") if layer_from else None,
        example_from=where(example_from, "--example-from") if example_from else None,
        site=site is not None,
        layer=layer is not None,
    )
