"""Recipes: TOML files that say how the files of one layout become rows.

A recipe names the files (path templates), the container that opens them, the tensors
inside with the meaning of each axis, where each column of the schema comes from, and the
sidecar tables to join. docs/recipes.md describes every key; ingest/ holds the built-in ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actstore.errors import RecipeError
from actstore.ingestion.expression import Expression
from actstore.ingestion.template import Template

AXES = ("example", "layer", "batch", "token", "hidden")
"""What a tensor's axis can be: two that make rows, one of length 1, the tokens, the values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePattern:
    """Files of one kind: a path template and what it implies."""

    template: Template
    name: str | None = None
    """So that tensors can be limited to this kind."""
    container: str | None = None
    """Container of these files, where it differs from the recipe's."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Further values, read as ``{path.NAME}``."""
    folder: bool = False
    """Whether the container is the folder that the file lies in."""
    beside: str | None = None
    """A path, relative to the file's folder, that must exist for the pattern to fit."""
    example: Expression | None = None
    """What tells one example from the next among the files of a folder (for ``--first-k``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSource:
    """Where one column's value comes from, and how it is changed on the way."""

    expression: Expression
    map: Mapping[str, Any] = field(default_factory=dict)
    """Replaces values, compared as text; others stay."""
    pattern: re.Pattern[str] | None = None
    """Searched in the text; the first group (or the whole match) is the value, else null."""
    default: Expression | None = None
    """Stands in for null."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One tensor, or all whose keys fit a template."""

    key: Template | None
    """Template of the dotted key; None where the document is itself the tensor."""
    axes: Mapping[int, tuple[str, ...]]
    """Rank: the meaning of each axis."""
    files: tuple[str, ...] = ()
    """Names of the file patterns it belongs to; empty for all."""
    columns: Mapping[str, ColumnSource] = field(default_factory=dict)
    """Columns that differ from the recipe's."""
    squeeze: bool = True
    """Whether a token axis of length 1 is no token axis."""
    optional: bool = False
    """Whether a file may lack it."""
    width: Expression | None = None
    """What the file says about the length of the hidden axis; checked."""
    count: int | None = None
    """How many there are in an example, as keys or along a layer axis; checked."""
    mask: Expression | None = None
    """A 0/1 tensor over (example,) token; tokens with 0 are padding and left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarSpec:
    """A table beside the activations, and how it is joined."""

    name: str
    paths: tuple[str, ...]
    """Candidates, relative to the file's folder, the cache's folder, parents of both and SOURCE.

    May hold ``*`` and parts of the file's path, such as ``{path.task}``.
    """
    format: str | None = None
    """``csv``, ``jsonl``, ``json`` or ``parquet``; None goes by the suffix.

    ``folder`` is a folder of tables that a Python reader walks itself.
    """
    records: str | None = None
    """JSON: the key that holds the list; ``*`` for every key, ``class_column`` naming the key."""
    class_column: str | None = None
    on: Mapping[str, Expression] = field(default_factory=dict)
    """Table column: the value that must equal it, all of them."""
    row: Expression | None = None
    """Row number to take, where the join is by position."""
    complete: bool = True
    """Whether such a table has a row for every example, and no further ones; checked."""
    many: str = "error"
    """Several rows for one key: ``error``, ``first``, ``last`` or ``skip`` (none of them)."""
    merge: bool = False
    """Whether all files that fit a candidate are one table; else several are an error."""
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something that the user should know about what this recipe gives."""

    text: str
    files: Template | None = None
    """Say it only where an unmatched file fits this template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One layout."""

    name: str
    title: str
    container: str
    files: tuple[FilePattern, ...]
    tensors: tuple[TensorSpec, ...] = ()
    columns: Mapping[str, ColumnSource] = field(default_factory=dict)
    each: str | None = None
    """Dotted key of a list or table in the file whose entries are one example each.

    ``.`` is the file itself. Every entry is read as a file of its own would be."""
    required: tuple[str, ...] = ()
    """Dotted keys that every file holds: how a layout is told from others."""
    sidecars: tuple[SidecarSpec, ...] = ()
    extra: Mapping[str, Expression] = field(default_factory=dict)
    """Further values for the column ``extra``."""
    keep_rest: bool = True
    """Whether what no column takes goes to ``extra``."""
    drop: tuple[str, ...] = ()
    """Keys that go nowhere, because other columns say the same."""
    generic: bool = False
    """Considered only where no other recipe fits."""
    reader: str = "generic"
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The table ``[settings]``, for the reader."""
    notes: tuple[Note, ...] = ()
    description: str = ""
    link: str | None = None
    """Where the layout comes from."""
    origin: Path | None = None
    text: str = ""
    """The TOML it was read from."""

    def sidecar(self, name: str) -> SidecarSpec:
        """Return the sidecar of that name.

        Raises:
            RecipeError: the recipe has none of that name.
        """
        for spec in self.sidecars:
            if spec.name == name:
                return spec
        names = ", ".join(spec.name for spec in self.sidecars) or "none"
        raise RecipeError(f"recipe {self.name} has no sidecar {name!r}; it has {names}")
