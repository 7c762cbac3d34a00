"""What a batch must be, and what the refusal says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from actstore.errors import UsageError
from actstore.storage.rows import check

GOOD = {"example_id": "e", "model": "m", "site": "s", "pooling": "last"}
TWO = np.zeros((2, 3), np.float16)


def test_every_column_may_be_a_constant_or_vary() -> None:
    check(TWO, GOOD, {})
    check(TWO, {**GOOD, "example_id": None}, {"example_id": ["a", "b"], "layer": [0, None]})
    check(TWO, GOOD, {"layer": [np.int64(1), np.int8(2)], "question": ("é", "\u2028")})
    check(TWO[:0], GOOD, {"layer": []})


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros(3, np.float16),
        np.zeros((2, 3, 4), np.float16),
        np.zeros((2, 0), np.float16),
        np.zeros((2, 3), np.float64),
        np.zeros((2, 3), np.int16),
        np.zeros((2, 3), ">f2"),
        np.zeros((2, 3), complex),
    ],
    ids=lambda matrix: f"{matrix.dtype}{list(matrix.shape)}",
)
def test_vectors_are_rows_of_halves_or_floats(matrix: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"float16 or float32 \[rows, width\], got"):
        check(matrix, GOOD, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [("pooling", None), *((n, v) for n in ("example_id", "model", "site") for v in (None, ""))],
)
def test_required_columns(name: str, value: str | None) -> None:
    with pytest.raises(UsageError, match=rf"column {name} is required"):
        check(TWO, {**GOOD, name: value}, {})
    with pytest.raises(UsageError, match=rf"column {name} is required"):
        check(TWO, GOOD, {name: [GOOD[name], value]})
    with pytest.raises(UsageError, match=rf"column {name} is required"):
        check(TWO, {key: GOOD[key] for key in GOOD if key != name}, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layer", "3"),
        ("layer", 1 << 31),
        ("layer", 2.5),
        ("position", -(1 << 31) - 1),
        ("example_index", 1 << 63),
        ("question", 7),
        ("question", b"bytes"),
        ("extra", {"a": 1}),
        ("example_id", "\ud800"),
        ("token_count", [1]),
    ],
)
def test_a_value_of_the_wrong_type_names_its_column(name: str, value: Any) -> None:
    for constants, columns in (({**GOOD, name: value}, {}), (GOOD, {name: [value, value]})):
        with pytest.raises(UsageError, match=rf"column {name} must hold (string|int32|int64)"):
            check(TWO, constants, columns)


@pytest.mark.parametrize(
    ("name", "value"), [("pooling", "middle"), ("region", "here"), ("token_role", "thinker")]
)
def test_words_come_from_the_schema(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"{name} '{value}' is unknown: use one of"):
        check(TWO, {**GOOD, name: value}, {})


def test_unknown_columns_and_wrong_lengths() -> None:
    with pytest.raises(UsageError, match="'colour' is not in the schema; put what it holds into e"):
        check(TWO, {**GOOD, "colour": "red"}, {})
    with pytest.raises(UsageError, match="'activation' is not in the schema"):
        check(TWO, {**GOOD, "activation": None}, {})
    with pytest.raises(UsageError, match="column layer has 3 values for 2 vectors"):
        check(TWO, GOOD, {"layer": [1, 2, 3]})
