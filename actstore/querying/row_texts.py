"""One text for each row of a selection: a column, a field of ``extra``, or an SQL expression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from actstore import schema
from actstore.errors import NotInStoreError, SqlError
from actstore.querying.metadata import ROW_ID, missing_column
from actstore.querying.own_sql import absent
from actstore.querying.sql import Database, explained
from actstore.storage.own_columns import PREFIX

if TYPE_CHECKING:
    from actstore.querying.selected import SelectedRows


def texts(selection: SelectedRows, expression: str) -> np.ndarray:
    """Return what ``expression`` comes to for each row, as text: object ``[rows]``, None for null.

    Args:
        selection: the rows.
        expression: a metadata column or ``row_id``; ``extra.NAME``, a field of ``extra``
            (``extra.a.b`` is ``b`` within ``a``); or an SQL
            expression over the columns of ``activations``, one value for each row.

    Raises:
        NotInStoreError: there is no such column, or no row has such a field.
        SqlError: the expression is refused, fails, or does not give one value per row.
    """
    name = expression.strip()
    known = [*schema.metadata_names(), ROW_ID]
    if name in known or name in (own := selection.own_columns):
        found: np.ndarray = (
            selection.table([name])[name].cast("string").to_numpy(zero_copy_only=False)
        )
        return found.astype(object)
    if name.startswith(PREFIX) and not set(name) & set("()'\"|=<>+*/ \n"):
        raise NotInStoreError(absent(name, own))
    if name.isidentifier():
        if PREFIX + name in own:
            raise NotInStoreError(
                f"there is no column {name!r}, but extra has a field {name}: write {PREFIX}{name}"
            )
        raise NotInStoreError(missing_column(name, known))
    return _by_sql(selection, expression)


def _by_sql(selection: SelectedRows, expression: str) -> np.ndarray:
    import duckdb

    if not expression.strip():
        raise SqlError("the expression is empty: name a column, extra.FIELD, or write SQL")
    if not len(selection):
        return np.empty(0, object)
    rows = np.unique(selection.rows)
    first, last = int(rows[0]), int(rows[-1])
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
    if table.num_columns != 2 or len(table) != len(rows):
        raise SqlError(
            f"{expression!r} gives {len(table):,} values for {len(rows):,} rows: one for each row "
            "is needed"
        )
    places = table["row_id"].to_numpy()
    values = table["value"].to_numpy(zero_copy_only=False).astype(object)
    order = np.argsort(places)
    found: np.ndarray = values[order[np.searchsorted(places[order], selection.rows)]]
    return found
