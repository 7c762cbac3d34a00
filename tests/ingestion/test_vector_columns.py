"""Vector columns of tables: which they are, and their values as matrices."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from actstore.errors import LayoutError
from actstore.ingestion.vector_columns import VectorColumn, extract, vector_columns

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "score": pa.float32(),
        "list": pa.list_(pa.float64()),
        "large": pa.large_list(pa.float16()),
        "fixed": pa.list_(pa.float32(), 3),
        "tokens": pa.list_(pa.list_(pa.float16(), 4)),
        "deep": pa.list_(pa.list_(pa.list_(pa.float32()))),
        "ids": pa.list_(pa.int32()),
        "words": pa.list_(pa.string()),
    }
)


def test_lists_of_real_numbers_are_vectors() -> None:
    assert vector_columns(SCHEMA) == [
        VectorColumn("list", 1),
        VectorColumn("large", 1),
        VectorColumn("fixed", 1),
        VectorColumn("tokens", 2),
    ]


def test_whole_numbers_are_vectors_where_they_are_asked_for() -> None:
    assert vector_columns(SCHEMA, "ids") == [VectorColumn("ids", 1)]


@pytest.mark.parametrize("name", ["id", "score", "deep", "words", "nothing"])
def test_what_is_no_vector(name: str) -> None:
    with pytest.raises(LayoutError, match=f"column '{name}'"):
        vector_columns(SCHEMA, name)


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list, lambda value: pa.list_(value, 2)])
@pytest.mark.parametrize("dtype", [pa.float16(), pa.float32(), pa.float64()])
def test_values_come_bit_for_bit(kind: Any, dtype: pa.DataType) -> None:
    values = np.array([[1.5, -0.0], [2.5, 3.0], [4.0, 5.0]], dtype.to_pandas_dtype())
    array = pa.array([list(row) for row in values], kind(dtype))
    found = extract(VectorColumn("v", 1), array.slice(1), 1)
    assert found.counts is None
    assert found.values.dtype == values.dtype
    assert found.values.tobytes() == values[1:].tobytes()


def test_rows_of_several_vectors() -> None:
    array = pa.array([[[1.0, 2.0]], [], [[3.0, 4.0], [5.0, 6.0]], [[7.0, 8.0]]])
    found = extract(VectorColumn("v", 2), array.slice(0, 3), 0)
    assert found.counts is not None
    assert found.counts.tolist() == [1, 0, 2]
    assert found.values.tolist() == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("rows", "depth", "reason"),
    [
        ([[1.0], [1.0, 2.0]], 1, "row 11 holds 2 values, others hold 1"),
        ([[1.0], None], 1, "row 11 is null"),
        ([[1.0], [None]], 1, "1 values are null"),
        ([[], []], 1, "are empty"),
        ([[[1.0]], [[1.0], [2.0, 3.0]]], 2, "vector 2 holds 2 values, others hold 1"),
        ([[[1.0]], None], 2, "row 11 is null"),
        ([[[1.0], None]], 2, "vector 1 is null"),
    ],
)
def test_holes(rows: Any, depth: int, reason: str) -> None:
    kind = pa.list_(pa.float32())
    array = pa.array(rows, kind if depth == 1 else pa.list_(kind))
    with pytest.raises(LayoutError, match=re.escape(reason)):
        extract(VectorColumn("v", depth), array, 10)
