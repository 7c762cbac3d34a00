"""What DuckDB's complaint about a query most likely comes from, and what to write instead."""

from __future__ import annotations

import difflib
import re

from actstore import schema
from actstore.querying import named, quoting

_FUNCTIONS = ("dot", "cosine", "distance", "norm", "vector_mean")
_SIGNATURES = "dot(a, b), cosine(a, b), distance(a, b), norm(v) and vector_mean(v)"
_COLUMN = re.compile(r'Referenced column "(?P<name>[^"]+)" not found')
_TABLE = re.compile(r'Referenced table "(?P<name>[^"]+)" not found')
_FUNCTION = re.compile(r"Function with name (?P<name>\w+) does not exist")
_SYNTAX = re.compile(r'syntax error at or near "(?P<name>[^"]*)"')
_LINE = re.compile(r"\n\s*LINE 1: (?P<query>[^\n]*)")


def advice(complaint: str) -> str | None:
    """Return one sentence more for an error of DuckDB, or None where there is nothing to say.

    Args:
        complaint: DuckDB's whole message, with its picture of the query.
    """
    if found := _COLUMN.search(complaint):
        return _of_column(found["name"])
    if found := _TABLE.search(complaint):
        return "The store's only table is activations."
    if found := _FUNCTION.search(complaint):
        near = difflib.get_close_matches(found["name"].lower(), _FUNCTIONS, n=1, cutoff=0.5)
        meant = f"Did you mean {near[0]}? " if near else ""
        return f"{meant}Between vectors there are {_SIGNATURES}."
    if found := _SYNTAX.search(complaint):
        line = _LINE.search(complaint)
        return _of_syntax(line["query"].strip() if line else "")
    return None


def _of_column(name: str) -> str:
    columns = [*schema.metadata_names(), schema.VECTOR, "row_id"]
    near = difflib.get_close_matches(name.lower(), columns, n=1, cutoff=0.75)
    if near:
        return f"Did you mean {near[0]}?"
    return (
        f"A text stands in single quotes, {quoting.text(name)}; double quotes and bare words name "
        f"columns: {', '.join(columns)}."
    )


def _of_syntax(query: str) -> str | None:
    names = [each.name for each in named.available()]
    word = query.rstrip(";").strip()
    if word in names:
        return f"{word} is a named query: --name {word} (Store.named)."
    if re.fullmatch(r"[\w-]+", word):
        near = difflib.get_close_matches(word, names, n=1)
        told = f", such as {near[0]}" if near else f": {', '.join(names)}"
        return f"Named queries are run with --name{told}."
    first = word.split(maxsplit=1)[0].lower() if word else ""
    if first in schema.metadata_names():
        return "A condition alone is no query: SELECT * FROM activations WHERE …, or select."
    return None
