"""Queries that come with actstore or that users keep: SQL files with a title and parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actstore import paths, resources
from actstore.errors import UsageError

_HEADER = re.compile(
    r"--\s*param\s+(?P<name>[a-z_]\w*)\s+(?P<type>\w+)\s*"
    r"(?:(?P<optional>optional)|=\s*(?P<default>[^:]*?))?\s*(?::\s*(?P<about>.*))?"
)
TYPES = ("int", "float", "text", "vector")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of a named query: ``$name`` in its SQL."""

    name: str
    type: str
    """``int``, ``float``, ``text`` or ``vector`` (a JSON list of numbers)."""
    required: bool
    default: Any
    """Its value where none is given; None is NULL."""
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedQuery:
    """A query from a file."""

    name: str
    title: str
    parameters: tuple[Parameter, ...]
    sql: str

    def bind(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a value for each parameter, converted to its type.

        Args:
            values: by parameter name; text is read as the parameter's type.

        Raises:
            UsageError: a value is missing, not wanted, or not of its type.
        """
        known = [parameter.name for parameter in self.parameters]
        for name in values:
            if name not in known:
                takes = ", ".join(known) or "none"
                raise UsageError(f"query {self.name} has no parameter {name!r}: it takes {takes}")
        bound = {}
        for parameter in self.parameters:
            if parameter.name in values:
                bound[parameter.name] = _convert(self.name, parameter, values[parameter.name])
            elif parameter.required:
                raise UsageError(
                    f"query {self.name} needs a value for {parameter.name} "
                    f"({parameter.description or parameter.type}): "
                    f"--param {parameter.name}=…"
                )
            else:
                bound[parameter.name] = parameter.default
        return bound


def available() -> list[NamedQuery]:
    """Return the queries that come with actstore, by name."""
    return [load(path) for path in sorted(resources.folder("query").glob("*.sql"))]


def find(name: str | Path) -> NamedQuery:
    """Return the query of that name, or in the ``.sql`` file of that path.

    Raises:
        UsageError: there is none, or its header cannot be read.
    """
    path = paths.require_ordinary(name)
    if path.suffix == ".sql":
        return load(path)
    shipped = {query.name: query for query in available()}
    if str(name) not in shipped:
        raise UsageError(
            f"there is no query named {name}: there are {', '.join(shipped)}; "
            "a file of your own is named by its path, ending in .sql"
        )
    return shipped[str(name)]


def load(path: Path) -> NamedQuery:
    """Read a query file.

    It opens with comment lines: a title, then one line for each parameter, then the SQL::

        -- Rows of each label.
        -- param layer int optional: only this layer
        -- param k int = 20: how many rows
        SELECT …

    Raises:
        UsageError: the file cannot be read, has no title or no SQL, or a bad parameter line.
    """
    try:
        text = paths.read_text(path)
    except UnicodeDecodeError as error:
        raise UsageError(f"query file {path} cannot be read: {error}") from error
    lines = text.strip().splitlines()
    header = []
    while lines and lines[0].startswith("--"):
        header.append(lines.pop(0))
    sql = "\n".join(lines).strip().rstrip(";")
    titles = [line for line in header if not re.match(r"--\s*param\b", line)]
    if not titles or not sql:
        raise UsageError(f"query file {path} needs a comment line with its title, and then SQL")
    parameters = tuple(_parameter(path, line) for line in header if re.match(r"--\s*param\b", line))
    title = " ".join(line.removeprefix("--").strip() for line in titles)
    return NamedQuery(name=path.stem, title=title, parameters=parameters, sql=sql)


def _parameter(path: Path, line: str) -> Parameter:
    found = _HEADER.fullmatch(line.strip())
    if found is None or found["type"] not in TYPES:
        raise UsageError(
            f"query file {path}: {line!r} should read -- param NAME TYPE [optional | = DEFAULT]"
            f"[: WHAT IT IS], TYPE being one of {', '.join(TYPES)}"
        )
    parameter = Parameter(
        name=found["name"],
        type=found["type"],
        required=found["optional"] is None and found["default"] is None,
        default=None,
        description=found["about"] or "",
    )
    if found["default"] is None:
        return parameter
    default = _convert(path.stem, parameter, found["default"].strip())
    return Parameter(
        name=parameter.name,
        type=parameter.type,
        required=False,
        default=default,
        description=parameter.description,
    )


def _convert(query: str, parameter: Parameter, value: Any) -> Any:
    if value is None:
        return None
    try:
        if parameter.type == "int":
            return int(value)
        if parameter.type == "float":
            return float(value)
        if parameter.type == "vector" and isinstance(value, str):
            value = [float(item) for item in json.loads(value)]
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"query {query}: {parameter.name} takes {parameter.type}, got {value!r}"
        ) from error
    return str(value) if parameter.type == "text" else value
