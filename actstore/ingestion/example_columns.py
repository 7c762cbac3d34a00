"""Metadata of examples held in memory (columns, records or a table) as the schema's columns."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import numpy as np

from actstore import schema
from actstore.errors import LayoutError, UsageError
from actstore.ingestion.documents import to_json
from actstore.ingestion.values import convert

_FILLED_IN = ("norm", "run_id", "row_id", "shard", schema.VECTOR)
"""What a store says of its rows itself; metadata that came out of one may repeat it."""


def example_columns(
    metadata: Any, examples: int, *, taken: Iterable[str] = ()
) -> dict[str, list[Any]]:
    """Return the schema's columns of some examples, each a list with one value per example.

    Args:
        metadata: ``{column: values}``, where one value stands for all examples; a list of one
            mapping per example, or a data set of such; or a table: Arrow, Polars, pandas, a
            relation of DuckDB, anything with ``__arrow_c_stream__``. ``id`` is the column
            ``example_id``. What is no column of the schema goes to ``extra``.
        examples: how many there are.
        taken: columns that the caller fills in and that metadata must not hold.

    Raises:
        UsageError: it is none of these, has another number of examples, or holds a column
            that the caller fills in.
    """
    columns = _columns(metadata, examples)
    if "id" in columns and "example_id" not in columns:
        columns["example_id"] = columns.pop("id")
    clash = sorted(set(taken) & set(columns))
    if clash:
        raise UsageError(
            f"metadata has a column {clash[0]!r}, which the activations themselves tell: leave it "
            "out"
        )
    found: dict[str, list[Any]] = {}
    further: dict[str, list[Any]] = {}
    for name, values in columns.items():
        if name in _FILLED_IN:
            continue
        if name in schema.metadata_names() and name != "extra":
            found[name] = [_converted(name, value) for value in values]
        else:
            # JSON has numbers, but no type for exact decimals: they would become text.
            further[name] = [float(v) if isinstance(v, Decimal) else v for v in values]
    if further:
        found["extra"] = [
            to_json(_merged({name: values[at] for name, values in further.items()}))
            for at in range(examples)
        ]
    return found


def _columns(metadata: Any, examples: int) -> dict[str, list[Any]]:
    if metadata is None:
        return {}
    if isinstance(metadata, Mapping):
        columns = {str(name): _values(value, examples) for name, value in metadata.items()}
        if examples > 1 and not _is_column(metadata.get("example_id", metadata.get("id", ()))):
            raise UsageError(f"one example_id stands for {examples} examples: give one per example")
    elif hasattr(metadata, "__arrow_c_stream__"):
        import pyarrow as pa

        columns = pa.table(metadata).to_pydict()
    elif isinstance(metadata, Iterable) and not isinstance(metadata, str):
        records = list(metadata)
        odd = [record for record in records if not isinstance(record, Mapping)]
        if odd:
            raise UsageError(f"metadata must be one mapping per example, got {odd[0]!r}")
        names = dict.fromkeys(name for record in records for name in record)
        columns = {str(name): [_plain(record.get(name)) for record in records] for name in names}
        if len(records) != examples:
            raise UsageError(_count_differs(f"{len(records)} records", examples))
    else:
        raise UsageError(
            f"metadata of type {type(metadata).__name__} is unknown: give a dict of columns, a "
            "list of one dict per example, or a table (Arrow, Polars, pandas, a data set)"
        )
    for name, values in columns.items():
        if len(values) != examples:
            raise UsageError(_count_differs(f"column {name!r} with {len(values)} values", examples))
    return columns


def _count_differs(what: str, examples: int) -> str:
    return f"metadata has {what} for {examples} examples in the activations: give one per example"


def _is_column(value: Any) -> bool:
    """Say whether a value is one per example, rather than one for all."""
    if isinstance(value, str | bytes | Mapping):
        return False
    return hasattr(value, "__len__") and getattr(value, "ndim", 1) != 0


def _values(value: Any, examples: int) -> list[Any]:
    if not _is_column(value):
        return [_plain(value)] * examples
    if hasattr(value, "to_pylist"):  # of Arrow
        return list(value.to_pylist())
    return [_plain(each) for each in (value.tolist() if hasattr(value, "tolist") else value)]


def _plain(value: Any) -> Any:
    scalar = isinstance(value, np.generic) or (hasattr(value, "item") and value.ndim == 0)
    return value.item() if scalar else value


def _is_null(value: Any) -> bool:
    """Say whether a value is what Python or pandas has for null."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and value != value


def _converted(name: str, value: Any) -> Any:
    if _is_null(value):
        return None
    try:
        return convert(name, value)
    except LayoutError as error:
        raise UsageError(f"metadata: {error}") from error


def _merged(values: dict[str, Any]) -> dict[str, Any]:
    """Return what goes to ``extra``, with the contents of an ``extra`` that came along."""
    extra = values.pop("extra", None)
    kept = {name: value for name, value in values.items() if not _is_null(value)}
    if _is_null(extra):
        return kept
    if isinstance(extra, str):
        with contextlib.suppress(ValueError):
            extra = json.loads(extra)
    return {**extra, **kept} if isinstance(extra, dict) else {"extra": extra, **kept}
