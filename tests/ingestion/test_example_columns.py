"""Metadata in memory: columns, records and tables become the schema's columns, or are refused."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import datasets
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from actstore.errors import UsageError
from actstore.ingestion.example_columns import example_columns

IDS = ["a", "b", "c"]


@pytest.mark.parametrize(
    "metadata",
    [
        {"example_id": IDS, "label": ["x", None, "y"]},
        {"id": np.array(IDS), "label": pl.Series(["x", None, "y"])},
        {"id": pa.chunked_array([IDS]), "label": ["x", None, "y"]},
        [{"id": "a", "label": "x"}, {"id": "b"}, {"id": "c", "label": "y"}],
        pa.table({"example_id": IDS, "label": ["x", None, "y"]}),
        pl.DataFrame({"id": IDS, "label": ["x", None, "y"]}),
        pd.DataFrame({"id": IDS, "label": ["x", None, "y"]}),
        pd.DataFrame({"id": [*IDS, "d"], "label": ["x", None, "y", "z"]}).query("id != 'd'"),
        pd.DataFrame({"id": IDS, "label": ["x", None, "y"]}).set_index("id"),
        {"id": pd.Series(IDS), "label": pd.Series(["x", None, "y"])},
        pa.RecordBatch.from_pylist(
            [{"id": "a", "label": "x"}, {"id": "b"}, {"id": "c", "label": "y"}]
        ),
        datasets.Dataset.from_dict({"id": IDS, "label": ["x", None, "y"]}),
    ],
    ids=[
        "columns",
        "arrays",
        "arrow-column",
        "records",
        "arrow",
        "polars",
        "pandas",
        "pandas-filtered",
        "pandas-index",
        "pandas-columns",
        "batch",
        "datasets",
    ],
)
def test_every_spelling_says_the_same(metadata: Any) -> None:
    found = example_columns(metadata, 3)
    assert found == {"example_id": IDS, "label": ["x", None, "y"]}


def test_a_relation_of_duckdb_is_a_table() -> None:
    with duckdb.connect() as connection:
        rows = connection.sql(
            "SELECT * FROM (VALUES ('a', 'x'), ('b', NULL), ('c', 'y')) AS t(id, label)"
        )
        assert example_columns(rows, 3) == {"example_id": IDS, "label": ["x", None, "y"]}


def test_one_value_stands_for_all() -> None:
    found = example_columns({"id": IDS, "task": "maze", "example_index": torch.arange(3)}, 3)
    assert found == {"example_id": IDS, "task": ["maze"] * 3, "example_index": [0, 1, 2]}
    assert example_columns({"id": "only", "layer_note": None}, 1)["example_id"] == ["only"]
    with pytest.raises(UsageError, match="one example_id stands for 3 examples"):
        example_columns({"id": "a"}, 3)


def test_values_become_the_type_of_their_column() -> None:
    found = example_columns(
        {"id": [1, 2], "label": [True, np.float64(0.5)], "example_index": [np.int64(4), "5"]}, 2
    )
    assert found == {
        "example_id": ["1", "2"],
        "label": ["true", "0.5"],
        "example_index": [4, 5],
    }
    with pytest.raises(UsageError, match="metadata: column example_index: got 'x'"):
        example_columns({"id": ["a"], "example_index": ["x"]}, 1)


def test_what_no_column_takes_goes_to_extra() -> None:
    metadata = [
        {"id": "a", "score": 1.5, "tags": ["è"], "extra": '{"kept": 1}'},
        {"id": "b", "extra": {"kept": 2, "score": 3}},
        {"id": "c", "extra": "plain text"},
    ]
    extra = example_columns(metadata, 3)["extra"]
    assert [json.loads(text) for text in extra] == [
        {"kept": 1, "score": 1.5, "tags": ["è"]},
        {"kept": 2, "score": 3},
        {"extra": "plain text"},
    ]
    assert example_columns([{"id": "a", "more": None}], 1)["extra"] == [None]


def test_what_other_libraries_have_for_null_and_for_numbers_goes_to_extra_as_json() -> None:
    series = {
        "score": pd.Series([0.5, np.nan]),
        "when": pd.Series([pd.Timestamp("2026-01-02"), pd.NaT]),
        "count": pd.array([3, None], "Int64"),
        "price": [Decimal("2.50"), None],
    }
    for metadata in ({"id": ["a", "b"], **series}, pd.DataFrame({"id": ["a", "b"], **series})):
        extra = example_columns(metadata, 2)["extra"]
        assert json.loads(extra[0]) == {
            "score": 0.5,
            "when": "2026-01-02 00:00:00",
            "count": 3,
            "price": 2.5,
        }
        assert extra[1] is None


def test_what_a_store_says_of_its_rows_itself_is_left_out() -> None:
    found = example_columns({"id": IDS, "norm": [1.0] * 3, "run_id": "r", "row_id": [0, 1, 2]}, 3)
    assert found == {"example_id": IDS}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"id": ["a", "b"]}, "column 'id' with 2 values for 3 examples"),
        ([{"id": "a"}], "1 records for 3 examples"),
        ("a table", "metadata of type str is unknown"),
        (["a", "b", "c"], "one mapping per example, got 'a'"),
        ({"id": IDS, "site": "resid_post"}, "a column 'site', which the activations themselves"),
        (pa.table({"id": ["a"]}), "column 'id' with 1 values"),
    ],
)
def test_what_is_refused(metadata: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        example_columns(metadata, 3, taken=("site",))


def test_nothing_is_no_column() -> None:
    assert example_columns(None, 3) == {}
