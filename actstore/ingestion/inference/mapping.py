"""What was found about a folder: which part of a path or key became what, and what was guessed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from actstore.errors import UsageError
from actstore.ingestion.recipe import Recipe

_SHOWN = 5
"""Guesses that an error names; ``--dry-run`` shows all."""

How = Literal["found", "guessed", "option", "recipe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One thing that rows need, and where it was taken from."""

    role: str
    """``layer``, ``site``, ``example``, ``token``, or a column of the schema."""
    place: str
    """In the words of ``--layer-from``: ``name``, ``folder1``, ``key1``, ``axis0``, …"""
    tensors: str
    """Form of the key of the tensors that it holds for; empty for a bare tensor."""
    how: How
    why: str = ""
    """What speaks for it; of a guess also what else it could be."""
    option: str = ""
    """What sets it otherwise, where it was guessed; several are separated by commas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderMapping:
    """How the files of a folder become rows."""

    files: tuple[str, ...]
    """Path templates."""
    assignments: tuple[Assignment, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    """Key or file that becomes no row, and why."""
    confirmed_by: str | None = None
    """Who confirmed the guesses: ``--yes``, ``asked``, or None."""

    @property
    def guesses(self) -> tuple[Assignment, ...]:
        """What was guessed, and neither named by an option nor known."""
        return tuple(each for each in self.assignments if each.how == "guessed")

    def confirmed(self, by: str) -> FolderMapping:
        """Return the mapping with its guesses confirmed."""
        return dataclasses.replace(self, confirmed_by=by)

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        values = dataclasses.asdict(self)
        values["left_out"] = [{"key": key, "reason": reason} for key, reason in self.left_out]
        return values

    def guessed(self) -> tuple[str, ...]:
        """Return each guess in a few words, those about several tensors once."""
        return tuple(dict.fromkeys(f"{each.role} = {each.place}" for each in self.guesses))

    def problem(self) -> str:
        """Say in one line what was guessed and how to confirm or set it."""
        all_parts = dict.fromkeys(
            f"{each.role} = {each.place} ({each.why})" for each in self.guesses
        )
        parts = list(all_parts)[:_SHOWN]
        if len(all_parts) > _SHOWN:
            parts.append(f"and {len(all_parts) - _SHOWN} more")
        options = sorted(
            {name for each in self.guesses for name in each.option.split(", ") if name}
        )
        other = f", or say it with {', '.join(options)}" if options else ""
        return (
            f"what was guessed about this folder needs a yes: {'; '.join(parts)}. Look at it with "
            f"--dry-run, then confirm it with --yes{other}"
        )


def confirmed(
    mapping: FolderMapping | None, yes: bool, confirm: Callable[[FolderMapping], bool] | None
) -> FolderMapping | None:
    """Return the mapping with its guesses confirmed, where it has any.

    Raises:
        UsageError: nobody confirmed them.
    """
    if mapping is None or not mapping.guesses:
        return mapping
    if yes:
        return mapping.confirmed("--yes")
    if confirm is not None and confirm(mapping):
        return mapping.confirmed("asked")
    raise UsageError(mapping.problem())


def of_recipe(recipe: Recipe) -> FolderMapping | None:
    """Return what a recipe says itself; None where a Python reader decides."""
    if not recipe.tensors:
        return None
    said: dict[Assignment, None] = {}
    for spec in recipe.tensors:
        key = spec.key.text if spec.key is not None else ""
        columns = {**recipe.columns, **spec.columns}
        for role, name in (("layer", "layer"), ("site", "site"), ("example", "example_id")):
            if name in columns:
                source = columns[name].expression.source
                said[Assignment(role=role, place=str(source), tensors=key, how="recipe")] = None
        for meaning in spec.axes.values():
            why = f"[{', '.join(meaning)}]"
            for axis, role in enumerate(meaning):
                if role in ("example", "layer", "token"):
                    place = f"axis{axis}"
                    one = Assignment(role=role, place=place, tensors=key, how="recipe", why=why)
                    said[one] = None
    return FolderMapping(
        files=tuple(pattern.template.text for pattern in recipe.files), assignments=tuple(said)
    )


def unique(assignments: Iterable[Assignment]) -> tuple[Assignment, ...]:
    """Return assignments in order, each once."""
    return tuple(dict.fromkeys(assignments))
