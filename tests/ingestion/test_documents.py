"""Finding things in opened files, and keeping what no column takes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from actstore.ingestion.documents import find, has, leaves, per_row, rest, to_json
from actstore.ingestion.tensor import Tensor


def tensor(*values: Any, dtype: Any = np.float32) -> Tensor:
    return Tensor(np.array(values, dtype))


def test_leaves_come_in_order_with_dotted_keys() -> None:
    document = {
        "activations": {10: tensor(1.0), 2: tensor(2.0)},
        "targets": [tensor(3.0), {"a b\n": tensor(4.0)}],
        "blocks.3.hook": tensor(5.0),
        "text": "x",
    }
    found = leaves(document)
    assert [(key, float(each.numpy()[0])) for key, each in found] == [
        ("activations.10", 1.0),
        ("activations.2", 2.0),
        ("targets.0", 3.0),
        ("targets.1.a b\n", 4.0),
        ("blocks.3.hook", 5.0),
    ]
    assert [key for key, _ in leaves(tensor(1.0))] == [""]


def test_endless_nesting_is_cut() -> None:
    document: dict[str, Any] = {}
    document["self"] = document
    assert leaves(document) == []
    deep: Any = tensor(1.0)
    for _ in range(500):
        deep = [deep]
    assert leaves(deep) == []
    assert rest({"deep": deep}, ()).cut


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("a", {"b": {"c": 1}, "b.c": 2}),
        ("a.b.c", 2),
        ("a.b", {"c": 1}),
        ("list.1.x", 3),
        ("ints.7", "seven"),
        ("ints.8", None),
        ("list.9", None),
        ("a.z", None),
        ("text.0", None),
    ],
)
def test_values_are_found_by_dotted_key(key: str, expected: Any) -> None:
    document = {
        "a": {"b": {"c": 1}, "b.c": 2},
        "list": [0, {"x": 3}],
        "ints": {7: "seven"},
        "text": "no list",
    }
    assert find(document, key) == expected
    assert has(document, key) is (expected is not None)


def test_the_rest_is_everything_but_columns_and_real_tensors() -> None:
    document = {
        "question": "q",
        "states": tensor(1.0, 2.0),
        "input_ids": Tensor(np.array([[5, 6]])),
        "scale": tensor(0.5).reshape(),
        "meta": {"t": 0.7, "bad": float("nan"), "answer": 3, "vectors": {"v": tensor(1.0)}},
        "names": Tensor(np.array(["x", "y"])),
        "none": None,
        "empty": [],
        9: True,
    }
    found = rest(document, {"question", "states", "meta.answer"})
    assert found.values == {
        "input_ids": [[5, 6]],
        "scale": 0.5,
        "meta": {"t": 0.7, "bad": "nan"},
        "names": ["x", "y"],
        "empty": [],
        "9": True,
    }
    assert found.tensors == ("meta.vectors.v",)
    assert found.cut == ()
    assert json.loads(to_json(found.values) or "") == found.values


def test_what_is_too_large_is_cut_largest_first() -> None:
    document = {"long": "x" * 70_000, "short": "y", "ids": Tensor(np.zeros(5000, np.int64))}
    found = rest(document, ())
    assert found.values == {"short": "y"}
    assert set(found.cut) == {"long", "ids"}


def test_a_bare_tensor_has_no_rest() -> None:
    assert rest(tensor(1.0), ()).values == {}
    assert to_json({}) is None


def test_values_of_each_row() -> None:
    document = {
        "score": tensor(0.5, np.nan),
        "ids": ["a", None],
        "taken": ["x", "y"],
        "longer": [1, 2, 3],
        "nested": [[1], [2]],
        "matrix": Tensor(np.zeros((2, 2))),
    }
    assert per_row(document, {"taken"}, 2) == {"score": [0.5, "nan"], "ids": ["a", None]}
    assert per_row(document, (), 1) == {}
    assert per_row(tensor(1.0, 2.0), (), 2) == {}
