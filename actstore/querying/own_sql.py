"""SQL that names fields of ``extra`` as columns: ``extra.group`` becomes ``"extra.group"``."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from actstore.errors import SqlError
from actstore.querying import quoting

if TYPE_CHECKING:
    import duckdb

_TABLE = "extra"
_MENTION = re.compile(r'\bextra"?\s*\.|"extra\.', re.IGNORECASE)
_LISTED = 20
_EXPLAIN = re.compile(r"\s*explain\b(\s+analyze\b)?(\s*\([^)]*\))?", re.IGNORECASE)


def mentions(query: str) -> bool:
    """Say whether a query may name a field of ``extra``; cheap, and right where it says no."""
    return _MENTION.search(query) is not None


def rewritten(connection: duckdb.DuckDBPyConnection, query: str, names: Iterable[str]) -> str:
    """Return a query in which each ``extra.NAME`` is the column of that name.

    Args:
        connection: parses the query.
        query: one statement; what is no SELECT (after EXPLAIN, if need be) stays as it is.
        names: the columns that there are, each ``extra.NAME``.

    Raises:
        SqlError: it names a field that no row has.
    """
    known = {name.lower(): name for name in names}
    opening = _EXPLAIN.match(query)
    start = opening.end() if opening else 0
    head, text = query[:start], query[start:]
    # fetchall, not fetchone: an unfinished result would keep the connection in use.
    answer = connection.execute("SELECT json_serialize_sql($q::VARCHAR)", {"q": text}).fetchall()
    document = json.loads(answer[0][0])
    if document.get("error", True):
        return query
    nodes = list(_walk(document))
    if any(_names_table(node) for node in nodes):
        return query
    raw = text.encode()
    spans: dict[tuple[int, int], bytes] = {}
    for node in nodes:
        path = node.get("column_names", []) if node.get("class") == "COLUMN_REF" else []
        lowered = [part.lower() for part in path]
        if _TABLE not in lowered[:2] or lowered[-1] == _TABLE:
            continue
        at = lowered.index(_TABLE)
        column = ".".join(path[at:])
        if column.lower() not in known:
            raise SqlError(absent(column, known.values()))
        column = ".".join(map(quoting.name, [*path[:at], known[column.lower()]]))
        first = node["query_location"]
        spans[first, first + node["query_location_length"]] = column.encode()
    for (first, last), column_text in sorted(spans.items(), reverse=True):
        raw = raw[:first] + column_text + raw[last:]
    return head + raw.decode()


def absent(name: str, known: Iterable[str]) -> str:
    """Return the message for a field of ``extra`` that no row has."""
    there = list(known)
    if not there:
        return f"there is no column {name}: no row here has anything in extra"
    close = difflib.get_close_matches(name, there, 1)
    hint = f"did you mean {close[0]}? extra" if close else "extra"
    more = ", …" if len(there) > _LISTED else ""
    return f"there is no column {name}: {hint} has {', '.join(there[:_LISTED])}{more}"


def _names_table(node: dict[str, Any]) -> bool:
    """Say whether a table or a common table expression is called ``extra``."""
    if "cte_map" in node and any(e["key"].lower() == _TABLE for e in node["cte_map"]["map"]):
        return True
    if "column_name_alias" not in node:
        return False
    name = node.get("alias") or node.get("table_name") or ""
    return str(name).lower() == _TABLE


def _walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for child in value.values():
            yield from _walk(child)
    elif isinstance(value, list):
        for child in value:
            yield from _walk(child)
