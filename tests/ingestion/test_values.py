"""Values of source files in the types of the schema."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from actstore.errors import LayoutError
from actstore.ingestion.tensor import Tensor
from actstore.ingestion.values import convert, text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x", "x"),
        (None, None),
        (7, "7"),
        (0.5, "0.5"),
        (True, "true"),
        (["a", 1], '["a", 1]'),
        ({"é": None}, '{"é": null}'),
        (b"caf\xc3\xa9", "café"),
        (Tensor(np.array(3)), "3"),
        (Tensor(np.array([1, 2])), "[1, 2]"),
        (Tensor(np.array("name")), "name"),
    ],
)
def test_text(value: Any, expected: Any) -> None:
    assert convert("label", value) == expected


def test_a_subclass_of_str_becomes_a_plain_one() -> None:
    assert type(text(np.str_("x"))) is str


@pytest.mark.parametrize(
    ("value", "expected"),
    [(7, 7), (-1, -1), ("12", 12), (" 3 ", 3), (4.0, 4), (True, 1), (None, None)],
)
def test_whole_numbers(value: Any, expected: Any) -> None:
    found = convert("layer", value)
    assert found == expected
    assert found is None or type(found) is int


def test_tensors_of_one_number() -> None:
    assert convert("layer", Tensor(np.array([5]))) == 5


@pytest.mark.parametrize("value", ["x", 1.5, float("nan"), "", [1], "1.0"])
def test_what_is_no_whole_number(value: Any) -> None:
    with pytest.raises(LayoutError, match=r"column layer: got .*; expected a whole number"):
        convert("layer", value)


def test_numbers_must_fit_their_column() -> None:
    assert convert("example_index", 2**40) == 2**40
    with pytest.raises(LayoutError, match="does not fit int32"):
        convert("layer", 2**40)
    with pytest.raises(LayoutError, match="does not fit int64"):
        convert("example_index", 2**80)
