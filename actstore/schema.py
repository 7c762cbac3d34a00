"""The fixed schema as Arrow, built from its source: ``schemas/v1``, and ``v2`` for int8."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from actstore import resources
from actstore.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 1
QUANTISED_VERSION = 2
"""Of shards of int8; it adds them, and the column of their scales, to :data:`VERSION`."""
VECTOR = "activation"
SCALE = "scale"
"""Column beside vectors of int8: what their numbers are multiplied by."""
VectorType = Literal["float16", "float32"]
"""What vectors are handed out as."""
StoredType = Literal["float16", "float32", "int8"]
"""What vectors are stored as; int8 is handed out as float32."""
PLACE = ("model", "site", "pooling", "region", "layer")
"""Columns that say where in a model, and over which tokens, a vector was taken.

Vectors of two places are different quantities: their mean, distance or common matrix says
nothing, however it looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of the schema."""

    name: str
    type: str
    """``string``, ``int32``, ``int64``, ``float32`` or ``vector``."""
    nullable: bool
    description: str


@cache
def document() -> dict[str, Any]:
    """Return the schema's JSON document."""
    path = resources.folder("schemas") / f"v{VERSION}" / "activations.json"
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


@cache
def columns() -> tuple[Column, ...]:
    """Return all columns in stored order, the vector column among them."""
    return tuple(Column(**column) for column in document()["columns"])


@cache
def metadata_names() -> tuple[str, ...]:
    """Return the names of all columns but the vector, in stored order."""
    return tuple(column.name for column in columns() if column.name != VECTOR)


@cache
def key_names() -> tuple[str, ...]:
    """Return the columns that together identify a row."""
    return tuple(document()["key"])


def version_of(dtypes: Iterable[str]) -> int:
    """Return the lowest version of the schema that has all these stored types."""
    return QUANTISED_VERSION if "int8" in dtypes else VERSION


@cache
def metadata_schema(dtype: StoredType = "float32") -> pa.Schema:
    """Return the Arrow schema of all columns but the vector, with the scale where it has one."""
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float32": pa.float32(),
    }
    found = pa.schema(
        [
            pa.field(column.name, types[column.type], nullable=column.nullable)
            for column in columns()
            if column.name != VECTOR
        ]
    )
    if dtype != "int8":
        return found
    return found.insert(vector_index(), pa.field(SCALE, pa.float32(), nullable=False))


def vector_field(width: int, dtype: StoredType) -> pa.Field:
    """Return the Arrow field of a vector column of ``width`` values of ``dtype``."""
    import pyarrow as pa

    value = {"float16": pa.float16(), "float32": pa.float32(), "int8": pa.int8()}[dtype]
    element = pa.field("element", value, nullable=False)
    return pa.field(VECTOR, pa.list_(element, width), nullable=False)


def vector_index() -> int:
    """Return the position of the vector column among all columns."""
    return [column.name for column in columns()].index(VECTOR)


def arrow_schema(width: int, dtype: StoredType) -> pa.Schema:
    """Return the full Arrow schema of a shard of ``width`` values of ``dtype``."""
    return metadata_schema(dtype).insert(vector_index(), vector_field(width, dtype))


@cache
def _alias_patterns() -> tuple[tuple[re.Pattern[str], dict[str, Any]], ...]:
    return tuple((re.compile(alias["pattern"]), alias) for alias in document()["site_aliases"])


def canonical_site(name: str) -> tuple[str, int | None]:
    """Return the schema's site name, and the layer if ``name`` holds one.

    TransformerLens (``blocks.3.hook_resid_post``) and transformers
    (``model.layers.3.mlp``) spellings become the schema's words; any other name
    is a free hook name and comes back as it is.

    Raises:
        UsageError: the name is empty.
    """
    if not name.strip():
        raise UsageError("a site needs a name, such as resid_post")
    if name in document()["sites"]:
        return name, (-1 if name == "embeddings" else None)
    for pattern, alias in _alias_patterns():
        match = pattern.fullmatch(name)
        if match:
            found = match.groupdict()
            layer = found.get("layer")
            site = found.get("site") or alias["site"]
            return site, int(layer) if layer is not None else alias.get("layer")
    return name, None


def check_choice(column: str, value: str | None) -> None:
    """Refuse a pooling, region or token role that the schema does not list.

    Raises:
        UsageError: ``value`` is not one of the listed words.
    """
    listed = {"pooling": "poolings", "region": "regions", "token_role": "token_roles"}[column]
    words = document()[listed]
    if value is not None and value not in words:
        raise UsageError(f"{column} {value!r} is unknown: use one of {', '.join(words)}")


def is_no_label(value: object) -> bool:
    """Say whether a value stands for a label that is missing: null, NaN, or an empty text.

    ``nan`` as a text is one too: what writes tables as text leaves it for NaN.
    """
    if isinstance(value, str):
        return value.strip().lower() in ("", "nan")
    return value is None or bool(value != value)
