"""The brace language: values, alternatives, sums, levels, and what it refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest

from actstore.errors import RecipeError
from actstore.ingestion.expression import Index, Level, Reference, compile_expression, constant


class Scope:
    def __init__(self, **values: Any) -> None:
        self.values = values

    def value(self, reference: Reference) -> Any:
        name = f"{reference.root}.{reference.rest}".rstrip(".")
        return self.values.get(name.replace(".", "_"))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("features", "features"),
        (7, 7),
        (True, True),
        ("{path_missing}", ...),
        ("{path.number}", 41),
        ("{path.number+1}", 42),
        ("{path.number-1}", 40),
        ("sample {path.number+1} of {path.task}", "sample 42 of maze"),
        ("{file.none|path.task}", "maze"),
        ("{file.none | path.none}", None),
        ("a {file.none} b", None),
        ("{file.flag}", False),
        ("{file.flag|path.task}", False),
    ],
)
def test_values(source: Any, expected: Any) -> None:
    scope = Scope(path_number=41, path_task="maze", file_flag=False)
    if expected is ...:
        with pytest.raises(RecipeError):
            compile_expression(source)
    else:
        assert compile_expression(source).evaluate(scope) == expected


def test_a_constant_may_hold_braces() -> None:
    assert constant("{path.x}").evaluate(Scope()) == "{path.x}"


@pytest.mark.parametrize(
    ("source", "level"),
    [
        ("x", Level.CONSTANT),
        ("{path.a}", Level.FILE),
        ("{file.a}", Level.FILE),
        ("{key.layer}", Level.TENSOR),
        ("{file.labels[row]}", Level.ROW),
        ("{file.labels[*]}", Level.ROW),
        ("{row}", Level.ROW),
        ("{path.a}-{row}", Level.ROW),
        ("{file.ids[token]}", Level.TOKEN),
        ("{column.example_id}", Level.TENSOR),
        ("{sidecar.scores.ok}", Level.ROW),
        ("{sidecar.other.ok|key.a}", Level.TENSOR),
    ],
)
def test_levels(source: str, level: Level) -> None:
    found = compile_expression(source).level({"example_id": Level.TENSOR}, {"scores": Level.ROW})
    assert found is level


def test_keys_may_look_like_sums() -> None:
    (reference,) = compile_expression("{file.gpt-2}").references
    assert (reference.rest, reference.plus) == ("gpt-2", 0)
    (reference,) = compile_expression("{file.a.b c.d[row]}").references
    assert (reference.rest, reference.index) == ("a.b c.d", Index.ROW)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{file.x", "without its partner"),
        ("file.x}", "without its partner"),
        ("{fiel.x}", "'fiel' is unknown"),
        ("{}", "unknown"),
        ("{file}", "needs a name"),
        ("{row.x}", "takes no name"),
        (["x"], "is no expression"),
    ],
)
def test_malformed_expressions(source: Any, reason: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(reason)):
        compile_expression(source)
