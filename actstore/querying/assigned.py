"""What columns of stored rows are set to: the expressions, and the values that they give."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from actstore import schema
from actstore.errors import SqlError, UsageError
from actstore.querying import filters, quoting
from actstore.querying.sql import Database
from actstore.storage import renaming
from actstore.storage.snapshot import Snapshot
from actstore.wording import counted

Assignments = str | Sequence[str] | Mapping[str, Any]
"""``column = SQL expression``, one or several; or a mapping of columns to plain values."""
_TYPES = {"string": "VARCHAR", "int32": "INTEGER", "int64": "BIGINT", "float32": "FLOAT"}


def expressions(given: Assignments) -> dict[str, str]:
    """Return what each column is set to, as SQL.

    Raises:
        UsageError: a text sets nothing, or a column twice or that may not be changed.
    """
    if isinstance(given, Mapping):
        found = {name: _literal(value) for name, value in given.items()}
    else:
        found = {}
        for text in [given] if isinstance(given, str) else given:
            name, equals, expression = text.partition("=")
            name, expression = name.strip().strip('"'), expression.strip()
            if not equals or not name or not expression or expression.startswith("="):
                raise UsageError(
                    f"{text!r} sets nothing: write COLUMN=SQL, such as \"site='resid_post'\""
                )
            if name in found:
                raise UsageError(f"{name} is set twice")
            found[name] = expression
    if not found:
        raise UsageError("say what to set, such as \"site='resid_post'\"")
    for name in found:
        renaming.check_column(name)
    return found


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    return quoting.text(value) if isinstance(value, str) else str(value)


def values(
    snapshot: Snapshot, where: str | None, sql: Mapping[str, str]
) -> tuple[np.ndarray, dict[str, list[Any]], dict[str, list[Any]]]:
    """Return the rows that fit, int64, with their old and new values by column.

    All by one query: asked twice, a condition such as ``random() < 0.5`` means other rows.

    Raises:
        SqlError: an expression or the condition is refused or fails.
        UsageError: a value is none that the column can hold.
    """
    types = {column.name: column.type for column in schema.columns()}
    # The line break ends a comment, so that the parenthesis is always closed.
    cells = [f"CAST(({expression}\n) AS {_TYPES[types[name]]})" for name, expression in sql.items()]
    # A cast to a whole number rounds.
    whole = [name for name in sql if types[name] in ("int32", "int64")]
    broken = [
        f"TRY_CAST(({sql[name]}\n) AS DOUBLE) <> CAST(({sql[name]}\n) AS {_TYPES[types[name]]})"
        for name in whole
    ]
    condition = "" if where is None else f" WHERE {filters.checked(where)}"
    query = f"SELECT row_id, {', '.join([*sql, *cells, *broken])} FROM activations{condition}"
    database = Database(snapshot)
    try:
        for name, expression in sql.items():
            # In parentheses, as below, several would be one row of values.
            if database.table(f"SELECT {expression}\n FROM activations LIMIT 0").num_columns != 1:
                raise UsageError(
                    f"{name} = {expression} is not one SQL expression: give --set once for each "
                    "column"
                )
        table = database.table(f"{query} ORDER BY row_id")
    except SqlError as error:
        raise SqlError(f"{error} (text stands in single quotes: \"site='resid_post'\")") from error
    finally:
        database.close()
    rows, *columns = table.columns
    columns = [column.to_pylist() for column in columns]
    names = list(sql)
    old = dict(zip(names, columns[: len(names)], strict=True))
    new = dict(zip(names, columns[len(names) : 2 * len(names)], strict=True))
    for name, fractions in zip(whole, columns[2 * len(names) :], strict=True):
        if True in fractions:
            raise UsageError(
                f"{name} = {sql[name]} is no whole number in {counted(fractions.count(True))}, and "
                f"{name} holds whole numbers"
            )
    if "site" in new:
        new["site"] = _canonical(new["site"])
    for text in {*new.get("extra", ())} - {None}:
        _check_extra(text)
    return rows.to_numpy(), old, new


def _canonical(sites: Sequence[str | None]) -> list[str | None]:
    """Return sites in the schema's words."""
    known: dict[str | None, str | None] = {None: None, "": ""}
    for site in sites:
        if site and site not in known:
            known[site], layer = schema.canonical_site(site)
            if layer is not None and site not in schema.document()["sites"]:
                raise UsageError(
                    f"{site} is {known[site]} of layer {layer}: set site='{known[site]}' and "
                    f"layer={layer}"
                )
    return [known[site] for site in sites]


def _check_extra(text: str) -> None:
    try:
        fits = isinstance(json.loads(text), dict)
    except ValueError:
        fits = False
    if not fits:
        raise UsageError(f"extra must hold a JSON object, got {text[:60]!r}")
