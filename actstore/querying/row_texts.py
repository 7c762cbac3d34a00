"""One text for each row of a selection: a column, a field of ``extra``, or an SQL expression."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from actstore import schema
from actstore.errors import NotInStoreError, SqlError
from actstore.querying.metadata import ROW_ID, missing_column
from actstore.querying.sql import Database, explained

if TYPE_CHECKING:
    from actstore.querying.selected import SelectedRows

EXTRA = "extra."
_LISTED = 20


def texts(selection: SelectedRows, expression: str) -> np.ndarray:
    """Return what ``expression`` comes to for each row, as text: object ``[rows]``, None for null.

    Args:
        selection: the rows.
        expression: a metadata column or ``row_id``; ``extra.NAME``, a field of the JSON
            object in ``extra`` (``extra.a.b`` is also ``b`` within ``a``); or an SQL
            expression over the columns of ``activations``, one value for each row.

    Raises:
        NotInStoreError: there is no such column, or no row has such a field.
        SqlError: the expression is refused, fails, or does not give one value per row.
    """
    name = expression.strip()
    known = [*schema.metadata_names(), ROW_ID]
    if name in known:
        found: np.ndarray = (
            selection.table([name])[name].cast("string").to_numpy(zero_copy_only=False)
        )
        return found.astype(object)
    if name.startswith(EXTRA) and not set(name) & set("()'\"|=<>+*/ \n"):
        return _fields(selection, name.removeprefix(EXTRA))
    if name.isidentifier():
        fields = _names(selection)
        if name in fields:
            raise NotInStoreError(
                f"there is no column {name!r}, but extra has a field {name}: write {EXTRA}{name}"
            )
        raise NotInStoreError(missing_column(name, known))
    return _by_sql(selection, expression)


def _by_sql(selection: SelectedRows, expression: str) -> np.ndarray:
    import duckdb

    if not expression.strip():
        raise SqlError("the expression is empty: name a column, extra.FIELD, or write SQL")
    if not len(selection):
        return np.empty(0, object)
    rows = selection.rows
    first, last = int(rows.min()), int(rows.max())
    only = f"row_id BETWEEN {first} AND {last}"
    parameters: dict[str, Any] | None = None
    if last - first + 1 > len(rows):
        only += " AND row_id IN (SELECT unnest($chosen))"
        parameters = {"chosen": rows.tolist()}
    # The line break ends a comment, so that the parenthesis is always closed.
    query = (
        f"SELECT row_id, CAST(({expression}\n) AS VARCHAR) AS value FROM activations WHERE {only}"
    )
    database = Database(selection.snapshot)
    try:
        with explained():
            duckdb.SQLExpression(expression)
        table, again = (database.table(query, parameters) for _ in range(2))
    except SqlError as error:
        raise SqlError(
            f"{expression!r} gives no value for each row ({error}): name a column, extra.FIELD, or "
            "an SQL expression such as \"split_part(example_id, '-', 1)\""
        ) from error
    finally:
        database.close()
    if not table.sort_by("row_id").equals(again.sort_by("row_id")):
        raise SqlError(
            f"{expression!r} gives other values each time it runs: use an expression whose values "
            "stay the same"
        )
    if table.num_columns != 2 or len(table) != len(np.unique(rows)):
        raise SqlError(
            f"{expression!r} gives {len(table):,} values for {len(np.unique(rows)):,} rows: one "
            "for each row is needed"
        )
    places = table["row_id"].to_numpy()
    values = table["value"].to_numpy(zero_copy_only=False).astype(object)
    order = np.argsort(places)
    found: np.ndarray = values[order[np.searchsorted(places[order], rows)]]
    return found


def _fields(selection: SelectedRows, name: str) -> np.ndarray:
    """Return a field of ``extra`` for each row."""
    values, codes = _parsed(selection)
    found = np.empty(len(values) + 1, object)
    for number, value in enumerate(values):
        found[number] = _text(_within(value, name))
    if not any(text is not None for text in found):
        there = ", ".join(sorted(_names(selection))[:_LISTED])
        raise NotInStoreError(
            f"no row here has a field {name!r} in extra, which has {there or 'no fields at all'}"
        )
    chosen: np.ndarray = found[codes]
    return chosen


def _names(selection: SelectedRows) -> set[str]:
    return {name for value in _parsed(selection)[0] for name in value}


def _parsed(selection: SelectedRows) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Return the different objects in ``extra``, and the number of each row's; -1 for null."""
    column = selection.table(["extra"])["extra"].combine_chunks().dictionary_encode()
    objects = []
    for text in column.dictionary.to_pylist():
        try:
            value = json.loads(text)
        except ValueError:
            value = {}
        objects.append(value if isinstance(value, dict) else {})
    return objects, column.indices.fill_null(-1).to_numpy(zero_copy_only=False)


def _within(value: dict[str, Any], name: str) -> Any:
    """Return a field, or a field of a field; None where there is none."""
    if name in value:
        return value[name]
    head, dot, rest = name.partition(".")
    inner = value.get(head)
    return _within(inner, rest) if dot and isinstance(inner, dict) else None


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
