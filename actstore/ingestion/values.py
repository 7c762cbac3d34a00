"""Turns the values of source files into the types of the schema's columns."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from actstore import schema
from actstore.errors import LayoutError
from actstore.ingestion.tensor import Tensor
from actstore.storage import strict_json

_LIMITS = {"int32": 2**31, "int64": 2**63}


@cache
def column_types() -> dict[str, str]:
    """Return the type of each metadata column."""
    return {column.name: column.type for column in schema.columns()}


def convert(column: str, value: Any) -> Any:
    """Return ``value`` as the type of ``column``; None stays None.

    NaN is None in columns of text.

    Raises:
        LayoutError: a whole number was expected and the value is none, or too large.
    """
    if value is None:
        return None
    if column == "label":
        return label(value)
    if column_types()[column] == "string":
        if isinstance(value, float) and value != value:
            return None  # NaN is how a table without types says nothing
        return value if type(value) is str else text(value)
    if type(value) is int and -(2**31) <= value < 2**31:
        return value
    return _number(column, value)


def label(value: Any) -> str | None:
    """Return a label as text, None for one that is missing: NaN, or an empty text."""
    if isinstance(value, Tensor) and not value.ndim:
        value = value.item()
    if value is None or (isinstance(value, (str, float)) and schema.is_no_label(value)):
        return None
    return text(value)


def text(value: Any) -> str:
    """Return any plain value as text: JSON for lists and objects, ``true`` for True."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Tensor):
        value = value.tolist()
        return text(value) if not isinstance(value, list) else strict_json.dumps(value)
    if isinstance(value, (dict, list, tuple)):
        return strict_json.dumps(value, default=str)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)


def _number(column: str, value: Any) -> int:
    if isinstance(value, Tensor):
        value = value.item()
    number: int | None = None
    whole = isinstance(value, float) and math.isfinite(value) and value.is_integer()
    if isinstance(value, int) or whole:
        number = int(value)
    elif isinstance(value, str):
        try:
            number = int(value.strip())
        except ValueError:
            number = None
    if number is None:
        raise LayoutError(f"column {column}: got {value!r}; expected a whole number")
    limit = _LIMITS[column_types()[column]]
    if not -limit <= number < limit:
        raise LayoutError(f"column {column}: {number} does not fit {column_types()[column]}")
    return number
