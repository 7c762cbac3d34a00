"""Rewrites SQL so that dot, cosine, distance, norm and mean run on the memory-mapped vectors.

``cosine(activation, q)`` is right as it stands: the view hands DuckDB each vector. But
DuckDB then adds up products one after the other, at a fraction of the memory's speed. Where
the column plainly is the view's own, the call becomes one over row numbers, and NumPy works
on the map. The result is the same up to the order of float32 additions.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from actstore import schema

if TYPE_CHECKING:
    import duckdb

VIEW = "activations"

# What a call on the stored vector becomes: the new function, the same over a handle of the
# query vector, and the columns that both take first.
_ON_ROWS = {
    "dot": ("dot_at", "scored_dot", ("row_id",)),
    "distance": ("distance_at", "scored_distance", ("row_id",)),
    "cosine": ("cosine_at", "scored_cosine", ("row_id", "norm")),
}
_MEAN = "vector_mean"
_MEAN_ON_ROWS = "vector_mean_at"
_HANDLE = "handle_of_"

Node = dict[str, Any]


class PushedDown(NamedTuple):
    """A rewritten query."""

    text: str
    handles: dict[str, str]
    """Parameters that want a vector's handle, each with the parameter that is the vector."""
    parameters: frozenset[str]
    """All other parameters that are left."""


def push_down(connection: duckdb.DuckDBPyConnection, query: str) -> PushedDown | None:
    """Return ``query`` with calls on the stored vector replaced, or None if there are none.

    The caller must be ready to run the original instead: the new text is not bound yet.
    """
    lowered = query.lower()
    if schema.VECTOR not in lowered or not any(
        name in lowered for name in (*_ON_ROWS, "norm", _MEAN)
    ):
        return None
    document: Node = json.loads(_text(connection, "SELECT json_serialize_sql($q::VARCHAR)", query))
    if document.get("error", True) or len(document["statements"]) != 1:
        return None
    try:
        rewriter = _Rewriter(connection, document)
        if not rewriter.rewrite():
            return None
        text = _deserialize(connection, document)
    except (KeyError, TypeError, IndexError):  # another DuckDB writes its trees otherwise
        return None
    left = {_parameter(node) for node in _walk(document)} - {None, *rewriter.handles}
    return PushedDown(text, rewriter.handles, frozenset(map(str, left)))


def _deserialize(connection: duckdb.DuckDBPyConnection, document: Node) -> str:
    return _text(connection, "SELECT json_deserialize_sql($q::VARCHAR)", json.dumps(document))


def _text(connection: duckdb.DuckDBPyConnection, call: str, argument: str) -> str:
    # fetchall, not fetchone: an unfinished result would keep the connection in use.
    return str(connection.execute(call, {"q": argument}).fetchall()[0][0])


class _Rewriter:
    def __init__(self, connection: duckdb.DuckDBPyConnection, document: Node) -> None:
        self._connection = connection
        self._document = document
        self._changed = False
        self.handles: dict[str, str] = {}

    def rewrite(self) -> bool:
        """Replace in place; say whether anything was."""
        nodes = list(_walk(self._document))
        for node in nodes:
            # A table expression of the view's name would hide the view.
            entries = node["cte_map"]["map"] if "cte_map" in node else []
            if any(entry["key"].lower() == VIEW for entry in entries):
                return False
        for node in nodes:
            if node.get("type") == "SELECT_NODE":
                self._select(node)
        return self._changed

    def _select(self, node: Node) -> None:
        tables = list(_tables(node["from_table"]))
        views = {
            (table["alias"] or table["table_name"]).lower()
            for table in tables
            if table["type"] == "BASE_TABLE"
            and table["table_name"].lower() == VIEW
            and not table["column_name_alias"]
        }
        alone = next(iter(views)) if views and len(tables) == 1 else None
        renamed = any(item["alias"].lower() == schema.VECTOR for item in node["select_list"])
        if not views or renamed:
            return
        for item in node["select_list"]:
            before = copy.deepcopy(item)
            changed, self._changed = self._changed, False
            self._expressions(item, views, alone)
            if self._changed and not item["alias"]:
                item["alias"] = self._name_of(node, before)
            self._changed |= changed
        for key, value in node.items():
            if key != "select_list":
                self._expressions(value, views, alone)

    def _name_of(self, node: Node, item: Node) -> str:
        """Return the name that DuckDB gives the column, so that the new one can bear it."""
        nowhere = {
            "type": "EMPTY",
            "alias": "",
            "sample": None,
            "query_location": node["from_table"]["query_location"],
        }
        alone = {
            **node,
            "select_list": [item],
            "from_table": nowhere,
            "modifiers": [],
            "cte_map": {"map": []},
            "where_clause": None,
            "group_expressions": [],
            "group_sets": [],
            "aggregate_handling": "STANDARD_HANDLING",
            "having": None,
            "sample": None,
            "qualify": None,
        }
        statement = {**self._document["statements"][0], "node": alone}
        return _deserialize(
            self._connection, {**self._document, "statements": [statement]}
        ).removeprefix("SELECT ")

    def _expressions(self, value: Any, views: set[str], alone: str | None) -> None:
        """Replace below ``value``, but not where names can mean something else.

        Nested queries see other tables, and a lambda's parameter hides a column.
        """
        if isinstance(value, list):
            for item in value:
                self._expressions(item, views, alone)
        elif isinstance(value, dict):
            if value.get("type") == "SELECT_NODE" or value.get("class") == "LAMBDA":
                return
            for child in value.values():
                self._expressions(child, views, alone)
            if value.get("class") == "FUNCTION":
                self._call(value, views, alone)

    def _call(self, call: Node, views: set[str], alone: str | None) -> None:
        name = call["function_name"].lower()
        if call["schema"] or call["filter"] or call["distinct"] or call["order_bys"]["orders"]:
            return
        arguments = [argument["expression"] for argument in call["arguments"]]
        stored = [_is_stored(argument, views, alone) for argument in arguments]
        if name == "norm" and stored == [True]:
            column = {**_sibling(arguments[0], "norm", alone), "alias": call["alias"]}
            call.clear()
            call.update(column)
        elif name == _MEAN and stored == [True]:
            _replace(call, _MEAN_ON_ROWS, [_sibling(arguments[0], "row_id", alone)])
        elif name in _ON_ROWS and sorted(stored) == [False, True]:
            vector, query = arguments if stored[0] else reversed(arguments)
            if not _is_constant(query):
                return
            function, over_handle, names = _ON_ROWS[name]
            columns = [_sibling(vector, column, alone) for column in names]
            parameter = _parameter(query)
            if parameter is None or not parameter.isidentifier():
                _replace(call, function, [*columns, query])
            else:
                handle = _HANDLE + parameter
                self.handles[handle] = parameter
                _replace(call, over_handle, [*columns, {**query, "identifier": handle}])
        else:
            return
        self._changed = True


def _replace(call: Node, function: str, arguments: list[Node]) -> None:
    call["function_name"] = function
    if "qualified_name" in call:
        call["qualified_name"] = {"path": [function]}
    call["arguments"] = [{"name": "", "expression": argument} for argument in arguments]


def _parameter(node: Node) -> str | None:
    """Return the name of a parameter, or its number as text; None for anything else."""
    return str(node["identifier"]) if node.get("class") == "PARAMETER" else None


def _is_stored(expression: Node, views: set[str], alone: str | None) -> bool:
    if expression.get("class") != "COLUMN_REF":
        return False
    *table, column = [part.lower() for part in expression["column_names"]]
    if column != schema.VECTOR or len(table) > 1:
        return False
    return table[0] in views if table else alone is not None


def _is_constant(expression: Node) -> bool:
    """Say whether the value is one for all rows, as far as the tree shows.

    Columns inside a nested query are its own, unless it is correlated; such a query gives
    right results too, one vector after the other.
    """
    if expression.get("class") == "SUBQUERY":
        return expression.get("subquery_type") == "SCALAR"
    if expression.get("class") in ("COLUMN_REF", "LAMBDA_REF", "WINDOW"):
        return False
    return all(_is_constant(child) for child in _children(expression))


def _sibling(column: Node, name: str, alone: str | None) -> Node:
    """Return a reference to another column of the same table.

    By the table's name: bare, an alias in the select list would come before it in ORDER BY
    and HAVING.
    """
    table = column["column_names"][:-1] or [alone]
    return {**column, "alias": "", "column_names": [*table, name]}


def _children(node: Node) -> Iterator[Node]:
    for value in node.values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                yield item


def _walk(node: Node) -> Iterator[Node]:
    yield node
    for child in _children(node):
        yield from _walk(child)


def _tables(reference: Node) -> Iterator[Node]:
    """Yield the tables of a FROM clause; of a join, both sides."""
    if reference["type"] == "JOIN":
        yield from _tables(reference["left"])
        yield from _tables(reference["right"])
    else:
        yield reference
