"""Capture recipes: TOML files that say how a file of questions becomes examples.

They lie in ``ingest/capture/``, apart from the recipes of ingest: those read activations,
these read questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actstore import paths, resources
from actstore.capturing.prompts.fields import TextTemplate, compile_field, constant
from actstore.errors import PathError, RecipeError, UnknownRecipeError

FIELDS = (
    "id",
    "index",
    "question",
    "messages",
    "system",
    "image",
    "answer",
    "oracle",
    "choices",
    "task",
    "mode",
    "variant",
    "split",
    "label",
)
"""What ``[columns]`` may set."""
_TOP = (
    "name",
    "title",
    "description",
    "link",
    "dataset",
    "columns",
    "extra",
    "parts",
    "expand",
    "tables",
    "only",
    "most",
    "capture",
    "after",
)
OPTIONS = (
    "layers",
    "sites",
    "pool",
    "exclude",
    "max_new_tokens",
    "chat_template",
    "system",
    "grade",
    "batch_size",
    "template_options",
)
"""Options of the capture that ``[capture]`` may set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipePart:
    """One of several files that are read one after the other."""

    data: tuple[str, ...]
    """Where it may lie, ``{data}`` being what the user named; the first that exists is read."""
    columns: Mapping[str, TextTemplate]


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedTable:
    """A second file, joined to each record under its name."""

    name: str
    data: tuple[str, ...]
    on: Mapping[str, TextTemplate]
    """The table's column: what it must equal."""
    required: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureRecipe:
    """How a file of questions becomes examples, and how they are captured."""

    name: str
    title: str
    text: str
    """The TOML itself."""
    description: str = ""
    link: str | None = None
    dataset: str | None = None
    columns: Mapping[str, TextTemplate] = field(default_factory=dict)
    extra: Mapping[str, TextTemplate] = field(default_factory=dict)
    parts: tuple[RecipePart, ...] = ()
    expand: tuple[Mapping[str, TextTemplate], ...] = ()
    """Each record becomes one example per entry, whose columns come before the others."""
    tables: tuple[JoinedTable, ...] = ()
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Values that an example's columns must have."""
    most: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Column: value: how many ids at most, in the source's order."""
    capture: Mapping[str, Any] = field(default_factory=dict)
    """Options of the capture, unless the user gives them."""
    label_after: str | None = None
    """SQL that labels the run's rows once all of them are stored."""


def known() -> dict[str, CaptureRecipe]:
    """Return the packaged capture recipes by name."""
    paths = sorted((resources.folder("ingest") / "capture").glob("*.toml"))
    return {path.stem: read(path) for path in paths}


def load(name: str | Path) -> CaptureRecipe:
    """Return a packaged recipe by name, or the one in a TOML file.

    Raises:
        RecipeError: there is no such recipe or file, or it is malformed.
    """
    path = paths.require_ordinary(name)
    if path.suffix == ".toml" or path.is_file():
        return read(path)
    folder = resources.folder("ingest") / "capture"
    names = sorted(each.stem for each in folder.glob("*.toml"))
    if str(name) not in names:
        raise UnknownRecipeError(
            f"no capture recipe {str(name)!r}: there are {', '.join(names)}, or give a TOML file"
        )
    return read(folder / f"{name}.toml")


def read(path: Path) -> CaptureRecipe:
    """Read a recipe's file.

    Raises:
        RecipeError: it cannot be read, or says something that is not understood.
    """
    try:
        text = paths.read_text(path)
        document = paths.parse_toml(text)
    except PathError as problem:
        raise UnknownRecipeError(str(problem)) from None
    except ValueError as problem:  # no UTF-8 among them
        raise RecipeError(f"{path}: not TOML: {problem}") from None
    where = path.name
    _only_known(document, _TOP, where)
    capture = _mapping(document, "capture", where)
    _only_known(capture, OPTIONS, f"{where} [capture]")
    after = _mapping(document, "after", where)
    _only_known(after, ("label",), f"{where} [after]")
    return CaptureRecipe(
        name=str(document.get("name", path.stem)),
        title=str(document.get("title", "")),
        text=text,
        description=str(document.get("description", "")).strip(),
        link=_text(document, "link", where),
        dataset=_text(document, "dataset", where),
        columns=_columns(_mapping(document, "columns", where), f"{where} [columns]"),
        extra={
            name: _field(value, f"{where} [extra] {name}")
            for name, value in _mapping(document, "extra", where).items()
        },
        parts=tuple(_part(each, where) for each in _tables(document, "parts", where)),
        expand=tuple(
            _columns(each, f"{where} [[expand]]") for each in _tables(document, "expand", where)
        ),
        tables=tuple(_table(each, where) for each in _tables(document, "tables", where)),
        only={
            name: tuple(map(str, values if isinstance(values, list) else [values]))
            for name, values in _columns_of(document, "only", where).items()
        },
        most={
            name: {str(value): int(number) for value, number in limits.items()}
            for name, limits in _columns_of(document, "most", where).items()
        },
        capture=capture,
        label_after=_text(after, "label", f"{where} [after]"),
    )


def _columns_of(document: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    found = _mapping(document, key, where)
    _only_known(found, FIELDS, f"{where} [{key}]")
    for name, value in found.items():
        if key == "most" and not (
            isinstance(value, dict) and all(type(each) is int for each in value.values())
        ):
            raise RecipeError(
                f"{where} [most] {name}: expected numbers by value, such as {{ faithful = 30 }}"
            )
    return found


def _part(given: Mapping[str, Any], where: str) -> RecipePart:
    if "data" not in given:
        raise RecipeError(f"{where} [[parts]]: needs 'data', such as \"{{data}}:tqa:test\"")
    _only_known(given, ("data", "columns"), f"{where} [[parts]]")
    return RecipePart(
        data=_texts(given["data"]),
        columns=_columns(_mapping(given, "columns", f"{where} [[parts]]"), f"{where} [[parts]]"),
    )


def _table(given: Mapping[str, Any], where: str) -> JoinedTable:
    missing = [key for key in ("name", "data", "on") if key not in given]
    if missing:
        raise RecipeError(f"{where} [[tables]]: needs {', '.join(missing)}")
    _only_known(given, ("name", "data", "on", "required"), f"{where} [[tables]]")
    return JoinedTable(
        name=str(given["name"]),
        data=_texts(given["data"]),
        on={
            name: _field(value, f"{where} [[tables]] on {name}")
            for name, value in _mapping(given, "on", f"{where} [[tables]]").items()
        },
        required=bool(given.get("required", True)),
    )


def _columns(given: Mapping[str, Any], where: str) -> dict[str, TextTemplate]:
    _only_known(given, FIELDS, where)
    return {name: _field(value, f"{where} {name}") for name, value in given.items()}


def _field(value: Any, where: str) -> TextTemplate:
    return compile_field(value, where) if isinstance(value, str) else constant(value)


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),)


def _text(document: Mapping[str, Any], key: str, where: str) -> str | None:
    value = document.get(key)
    if not isinstance(value, str | None):
        raise RecipeError(f"{where}: {key!r} must be a text")
    return value


def _tables(document: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    found = document.get(key, [])
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise RecipeError(f"{where}: {key!r} must be tables, each under [[{key}]]")
    return found


def _mapping(document: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = document.get(key, {})
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: {key!r} must be a table")
    return value


def _only_known(given: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    unknown = [name for name in given if name not in names]
    if unknown:
        raise RecipeError(
            f"{where}: {unknown[0]!r} is not understood; there may be {', '.join(names)}"
        )
