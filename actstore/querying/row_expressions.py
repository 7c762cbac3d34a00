"""Evaluates one SQL expression over rows that are not in a store, such as answers to grade."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from actstore import schema
from actstore.errors import SqlError
from actstore.querying.sql import explained

_AT = "actstore_row"


def evaluate(expression: str, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the value of a DuckDB expression for each row, in order.

    Args:
        expression: SQL over the metadata columns of the schema; ``extra`` is JSON text.
        rows: columns by name; those that are missing are NULL. An empty list only checks
            the expression.

    Raises:
        SqlError: the expression is refused, fails, or does not give one value per row.
    """
    import duckdb
    import pyarrow as pa

    typed = schema.metadata_schema()
    arrays = [pa.array([_plain(row.get(f.name)) for row in rows], f.type) for f in typed]
    table = pa.Table.from_arrays(
        [*arrays, pa.array(range(len(rows)), pa.int64())],
        names=[*typed.names, _AT],
    )
    settings: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": False,
        "threads": 1,
    }
    with explained(), duckdb.connect(":memory:", config=settings) as connection:
        connection.register("activations", table)
        # The line break ends a comment, so that the parenthesis is always closed.
        query = f"SELECT ({expression}\n) AS value, {_AT} FROM activations"
        if len(connection.extract_statements(query)) != 1:
            raise SqlError(f"{expression!r} is not one SQL expression")
        relation = connection.sql(query)
        if len(relation.columns) != 2:
            raise SqlError(f"{expression!r} is not one SQL expression")
        found = relation.fetchall()
    values = {at: value for value, at in found}
    if len(found) != len(rows) or len(values) != len(rows):
        raise SqlError(f"{expression!r} gives {len(found)} values for {len(rows)} rows")
    return [values[at] for at in range(len(rows))]


def _plain(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else value
