"""Turns the TOML tables of a recipe into values, collecting every problem on the way."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from actstore import schema
from actstore.errors import RecipeError, UsageError
from actstore.ingestion import containers
from actstore.ingestion.expression import Expression, compile_expression
from actstore.ingestion.recipe import (
    AXES,
    ColumnSource,
    FilePattern,
    Note,
    Recipe,
    SidecarSpec,
    TensorSpec,
)
from actstore.ingestion.template import Template, compile_template

T = TypeVar("T")

TOP = [
    "name",
    "title",
    "description",
    "link",
    "container",
    "each",
    "required",
    "generic",
    "reader",
    "settings",
    "files",
    "tensors",
    "columns",
    "extra",
    "sidecars",
    "notes",
]
FILES = ["path", "name", "container", "constants", "folder", "beside", "example"]
TENSORS = ["key", "axes", "files", "columns", "squeeze", "optional", "width", "count", "mask"]
COLUMN = ["from", "map", "pattern", "default"]
EXTRA = ["keep", "drop", "add"]
SIDECARS = [
    *("name", "paths", "format", "records", "class_column"),
    *("on", "row", "complete", "many", "merge", "required"),
]
_FORMATS = ("csv", "jsonl", "json", "parquet", "folder")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_FILLED_IN = {"norm", "run_id", "source", "extra"}


def build(document: Mapping[str, Any], text: str, origin: Path | None) -> Recipe:
    """Return the recipe that ``document`` describes.

    Raises:
        RecipeError: it is malformed; the message lists every problem.
    """
    problems = _Problems()
    table = _Table(document, "", problems)
    table.only(TOP)
    sidecars = tuple(_sidecar(each) for each in table.tables("sidecars"))
    files = tuple(_files(each) for each in table.tables("files"))
    tensors = tuple(_tensor(each) for each in table.tables("tensors"))
    columns = _columns(table.table("columns"))
    notes = tuple(_note(each) for each in table.tables("notes"))
    reader = table.text("reader", default="generic")
    extra = table.table("extra")
    extra.only(EXTRA)
    more = extra.table("add")
    recipe = Recipe(
        name=table.text("name", pattern=_NAME),
        title=table.text("title", default=""),
        description=table.text("description", default=""),
        link=table.text("link", default=None),
        container=table.text("container", choices=containers.KINDS),
        each=table.text("each", default=None),
        required=table.texts("required"),
        generic=table.flag("generic", False),
        reader=reader,
        settings=dict(table.table("settings").content),
        files=files,
        tensors=tensors,
        columns=columns,
        extra={name: more.expression(name) for name in more.content},
        keep_rest=extra.flag("keep", True),
        drop=extra.texts("drop"),
        sidecars=sidecars,
        notes=notes,
        origin=origin,
        text=text,
    )
    if not files and "files" not in problems.keys:
        problems.add("files", "missing", "at least one [[files]] with a path template")
    if reader == "generic":
        _check_generic(recipe, problems)
    _check_references(recipe, problems)
    problems.raise_for(origin)
    return recipe


@dataclass
class _Problems:
    lines: list[str] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)

    def add(self, key: str, got: object, expected: str) -> None:
        self.keys.add(key)
        self.lines.append(f"{key}: got {got}; expected {expected}")

    def catch(self, key: str, make: Callable[[], T], fallback: T) -> T:
        try:
            return make()
        except (RecipeError, UsageError) as error:
            self.keys.add(key)
            self.lines.append(f"{key}: {error}")
            return fallback

    def raise_for(self, origin: Path | None) -> None:
        if self.lines:
            count = f"{len(self.lines)} problem{'s' if len(self.lines) > 1 else ''}"
            lines = "\n".join(f"  - {line}" for line in self.lines)
            raise RecipeError(f"{origin or 'recipe'}: {count}:\n{lines}")


@dataclass(frozen=True)
class _Table:
    """A TOML table that reports instead of raising."""

    content: Mapping[str, Any]
    where: str
    problems: _Problems

    def at(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def only(self, allowed: Iterable[str]) -> None:
        allowed = list(allowed)
        for key in self.content:
            if key not in allowed:
                close = difflib.get_close_matches(key, allowed, 1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                self.problems.add(
                    self.at(key), "an unknown key" + hint, f"one of {', '.join(allowed)}"
                )

    def text(
        self,
        key: str,
        *,
        default: Any = ...,
        choices: tuple[str, ...] = (),
        pattern: re.Pattern[str] | None = None,
    ) -> Any:
        value = self.content.get(key, default)
        if value is ...:
            self.problems.add(self.at(key), "nothing", "a text; it is required")
            return ""
        if value is default:
            return value
        if not isinstance(value, str):
            self.problems.add(self.at(key), repr(value), "a text")
            return ""
        if choices and value not in choices:
            self.problems.add(self.at(key), repr(value), f"one of {', '.join(choices)}")
        if pattern and not pattern.fullmatch(value):
            self.problems.add(self.at(key), repr(value), "lower-case letters, digits, - and _")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.content.get(key, default)
        if not isinstance(value, bool):
            self.problems.add(self.at(key), repr(value), "true or false")
            return default
        return value

    def number(self, key: str) -> int | None:
        value = self.content.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            self.problems.add(self.at(key), repr(value), "a whole number")
            return None
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.content.get(key, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            self.problems.add(self.at(key), repr(value), "a list of texts")
            return ()
        return tuple(value)

    def table(self, key: str) -> _Table:
        value = self.content.get(key, {})
        if not isinstance(value, dict):
            self.problems.add(self.at(key), repr(value), "a table")
            value = {}
        return _Table(value, self.at(key), self.problems)

    def tables(self, key: str) -> list[_Table]:
        value = self.content.get(key, [])
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            self.problems.add(self.at(key), repr(value), f"[[{key}]] tables")
            return []
        return [
            _Table(each, f"{self.at(key)}[{number}]", self.problems)
            for number, each in enumerate(value)
        ]

    def expression(self, key: str) -> Expression:
        return self.problems.catch(
            self.at(key), lambda: compile_expression(self.content[key]), Expression(None, ())
        )

    def template(self, key: str, separator: str) -> Template:
        return self.problems.catch(
            self.at(key),
            lambda: compile_template(str(self.content.get(key, "")), separator),
            compile_template("unreadable"),
        )


def _files(table: _Table) -> FilePattern:
    table.only(FILES)
    return FilePattern(
        template=table.template("path", "/"),
        name=table.text("name", default=None),
        container=table.text("container", default=None, choices=containers.KINDS),
        constants=dict(table.table("constants").content),
        folder=table.flag("folder", False),
        beside=table.text("beside", default=None),
        example=table.expression("example") if "example" in table.content else None,
    )


def _tensor(table: _Table) -> TensorSpec:
    table.only(TENSORS)
    return TensorSpec(
        key=table.template("key", ".") if table.content.get("key") else None,
        axes=_axes(table),
        files=table.texts("files"),
        columns=_columns(table.table("columns")),
        squeeze=table.flag("squeeze", True),
        optional=table.flag("optional", False),
        width=table.expression("width") if "width" in table.content else None,
        count=table.number("count"),
        mask=table.expression("mask") if "mask" in table.content else None,
    )


def _axes(table: _Table) -> dict[int, tuple[str, ...]]:
    given = table.content.get("axes")
    expected = f"a list of lists of {', '.join(AXES)}, one list per rank"
    if not isinstance(given, list) or not given:
        table.problems.add(table.at("axes"), repr(given), expected)
        return {}
    axes: dict[int, tuple[str, ...]] = {}
    for entry in given:
        if not isinstance(entry, list) or any(axis not in AXES for axis in entry):
            table.problems.add(table.at("axes"), repr(entry), expected)
        elif entry.count("hidden") != 1 or entry[-1] != "hidden":
            table.problems.add(table.at("axes"), repr(entry), "'hidden' once, as the last axis")
        elif any(entry.count(axis) > 1 for axis in AXES if axis != "batch"):
            table.problems.add(table.at("axes"), repr(entry), "each axis once (batch: any number)")
        elif len(entry) in axes:
            table.problems.add(
                table.at("axes"), f"two readings of rank {len(entry)}", "one list per rank"
            )
        else:
            axes[len(entry)] = tuple(entry)
    return axes


def _columns(table: _Table) -> dict[str, ColumnSource]:
    names = [name for name in schema.metadata_names() if name not in _FILLED_IN]
    table.only(names)
    return {name: _column(name, table) for name in table.content if name in names}


def _column(name: str, table: _Table) -> ColumnSource:
    value = table.content[name]
    if not isinstance(value, dict):
        source = ColumnSource(expression=table.expression(name))
    else:
        inner = _Table(value, table.at(name), table.problems)
        inner.only(COLUMN)
        if "from" not in value:
            table.problems.add(inner.at("from"), "nothing", "an expression; it is required")
            return ColumnSource(expression=Expression(None, ()))
        pattern = inner.text("pattern", default=None)
        source = ColumnSource(
            expression=inner.expression("from"),
            map=dict(inner.table("map").content),
            pattern=_pattern(pattern, inner) if pattern else None,
            default=inner.expression("default") if "default" in value else None,
        )
    if name in ("pooling", "region", "token_role") and not source.expression.references:
        fixed = source.expression.source
        table.problems.catch(table.at(name), lambda: schema.check_choice(name, fixed), None)
    return source


def _pattern(text: str, table: _Table) -> re.Pattern[str] | None:
    try:
        return re.compile(text)
    except re.error as error:
        table.problems.add(table.at("pattern"), repr(text), f"a regular expression ({error})")
        return None


def _sidecar(table: _Table) -> SidecarSpec:
    table.only(SIDECARS)
    on = table.table("on")
    paths = table.texts("paths")
    for path in paths:
        if "**" in path or path.startswith(("/", "~")):
            table.problems.add(
                table.at("paths"), repr(path), "a relative path without ** (* is allowed)"
            )
        table.problems.catch(table.at("paths"), partial(compile_expression, path), None)
    if not paths:
        table.problems.add(table.at("paths"), "nothing", "at least one candidate path")
    return SidecarSpec(
        name=table.text("name", pattern=_NAME),
        paths=paths,
        format=table.text("format", default=None, choices=_FORMATS),
        records=table.text("records", default=None),
        class_column=table.text("class_column", default=None),
        on={name: on.expression(name) for name in on.content},
        row=table.expression("row") if "row" in table.content else None,
        complete=table.flag("complete", True),
        many=table.text("many", default="error", choices=("error", "first", "last", "skip")),
        merge=table.flag("merge", False),
        required=table.flag("required", False),
    )


def _note(table: _Table) -> Note:
    table.only(["text", "files"])
    return Note(
        text=table.text("text"),
        files=table.template("files", "/") if "files" in table.content else None,
    )


def _check_generic(recipe: Recipe, problems: _Problems) -> None:
    if not recipe.tensors:
        problems.add("tensors", "nothing", "at least one [[tensors]] table")
    names = {pattern.name for pattern in recipe.files}
    for number, spec in enumerate(recipe.tensors):
        for name in spec.files:
            if name not in names:
                problems.add(
                    f"tensors[{number}].files", repr(name), "the name of a [[files]] table"
                )
        for column in ("example_id", "site", "pooling"):
            if column not in recipe.columns and column not in spec.columns:
                problems.add(f"columns.{column}", "nothing", "a value; every row needs one")


def _check_references(recipe: Recipe, problems: _Problems) -> None:
    """Refuse names that nothing in the recipe defines."""
    parts = {name for each in recipe.files for name in (*each.template.names, *each.constants)}
    keys = {name for each in recipe.tensors if each.key for name in each.key.names}
    sidecars = {each.name for each in recipe.sidecars}
    known = {
        "path": parts,
        "key": keys,
        "sidecar": sidecars,
        "column": set(schema.metadata_names()),  # one that is not given here, an option may give
    }
    # A template that cannot be read defines nothing; what refers to it is not at fault.
    for root, place in (("path", "files"), ("key", "tensors")):
        if any(key.startswith(place) for key in problems.keys):
            del known[root]
    for where, expression in _expressions(recipe):
        for ref in expression.references:
            name = ref.rest.partition(".")[0] if ref.root in ("sidecar", "path") else ref.rest
            if ref.root in known and name not in known[ref.root]:
                if ref.root == "key" and recipe.reader != "generic":
                    continue  # a Python reader may name the parts of its keys itself
                found = ", ".join(sorted(known[ref.root])) or "none"
                problems.add(where, f"{{{ref.text}}}", f"a {ref.root} name, of {found}")


def _expressions(recipe: Recipe) -> Iterable[tuple[str, Expression]]:
    for name, source in recipe.columns.items():
        yield f"columns.{name}", source.expression
        if source.default is not None:
            yield f"columns.{name}.default", source.default
    for name, expression in recipe.extra.items():
        yield f"extra.add.{name}", expression
    for number, spec in enumerate(recipe.tensors):
        for name, source in spec.columns.items():
            yield f"tensors[{number}].columns.{name}", source.expression
            if source.default is not None:
                yield f"tensors[{number}].columns.{name}.default", source.default
        for name in ("width", "mask"):
            if getattr(spec, name) is not None:
                yield f"tensors[{number}].{name}", getattr(spec, name)
    for sidecar in recipe.sidecars:
        for path in sidecar.paths:
            with suppress(RecipeError):  # reported where the sidecar was read
                yield f"sidecars.{sidecar.name}.paths", compile_expression(path)
        for name, expression in sidecar.on.items():
            yield f"sidecars.{sidecar.name}.on.{name}", expression
        if sidecar.row is not None:
            yield f"sidecars.{sidecar.name}.row", sidecar.row
