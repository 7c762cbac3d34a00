"""Texts filled from records."""

from __future__ import annotations

from typing import Any

import pytest

from actstore.capturing.prompts.fields import column, compile_field, constant
from actstore.errors import ExampleError, RecipeError

RECORD = {
    "id": "maze.tqa.12",
    "n": 3,
    "ok": True,
    "deep": {"list": ["x", "y"]},
    "a.b": "dotted",
    "none": None,
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{n}", 3),
        ("n={n}!", "n=3!"),
        ("plain", "plain"),
        ("", ""),
        ("{{n}} {n}", "{n} 3"),
        ("{deep.list.1}", "y"),
        ("{deep}", {"list": ["x", "y"]}),
        ("{a.b}", "dotted"),
        ("{missing?}", None),
        ("x{missing?}", None),
        ("{deep.nothing?}", None),
        ("{none}", None),
        ("{none|upper}", None),
        ("{id|before:.}", "maze"),
        ("{id|after:.}", "tqa.12"),
        ("{id|after_last:.}", "12"),
        ("{id|before_last:.}", "maze.tqa"),
        ("{id|before:#}", "maze.tqa.12"),
        ("{id|after:.|before:.|upper}", "TQA"),
        ("{ok|map:True=yes,False=no}", "yes"),
        ("{n|map:4=four}", None),
    ],
)
def test_values(text: str, value: Any) -> None:
    assert compile_field(text, "here").value(RECORD, "there") == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{missing}", "q:1: no column 'missing'; there are id, n, ok, deep, a.b, none"),
        ("{deep.missing}", "q:1: no column 'missing' in 'deep'; there are list"),
        ("{deep.list.7}", "q:1: no column '7' in 'deep.list'; there are none"),
    ],
)
def test_a_missing_column_is_named_with_those_there_are(text: str, said: str) -> None:
    with pytest.raises(ExampleError) as caught:
        compile_field(text, "here").value(RECORD, "q:1")
    assert str(caught.value) == said


@pytest.mark.parametrize("text", ["{", "}", "a{b", "{}", "{x|shout}", "{x|before}", "{x|upper:3}"])
def test_what_is_no_field_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.toml id: "):
        compile_field(text, "recipe.toml id")


def test_a_column_may_be_called_anything() -> None:
    assert column("what {is} this").value({"what {is} this": 1}, "there") == 1
    assert constant(False).value({}, "there") is False
    assert compile_field("{a.b}{n}", "here").columns == ("a", "n")
