"""Examples out of mappings: what is taken, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actstore.capturing.prompts.example import Example, ExampleKey, from_dict, stream
from actstore.errors import ExampleError


def test_fields_are_taken_and_the_rest_goes_into_extra() -> None:
    example = from_dict(
        {"id": 7, "question": "Why?", "oracle": 3.5, "task": "t", "level": "hard", "n": 2},
        source="q.jsonl:4",
    )
    assert example == Example(
        id="7",
        question="Why?",
        oracle="3.5",
        task="t",
        source="q.jsonl:4",
        extra={"level": "hard", "n": 2},
    )


def test_the_stores_own_names_are_understood() -> None:
    example = from_dict({"example_id": "a", "example_index": 3, "question": "q"})
    assert (example.id, example.index) == ("a", 3)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(True, "true"), (np.int64(5), "5"), (2.0, "2.0"), (float("nan"), None), (None, None)],
)
def test_plain_values_become_text(given: Any, expected: str | None) -> None:
    assert from_dict({"id": "a", "question": "q", "oracle": given}).oracle == expected


def test_the_position_is_the_id_where_there_is_none() -> None:
    assert from_dict({"question": "q"}, number=12).id == "12"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"question": "q"}, "no 'id'; the example has question"),
        ({"id": "", "question": "q"}, "the id is empty"),
        ({"id": "a"}, "neither 'question' nor 'messages'; the example has id"),
        ({"id": "a", "question": ["q"]}, r"'question' is \['q'\]; expected text"),
        ({"id": "a", "question": "q", "index": 1.5}, "'index' is 1.5"),
        ({"id": "a", "question": "q", "index": "x"}, "'index' is 'x'"),
        ({"id": "a", "question": "q", "choices": "AB"}, "'choices' is 'AB'"),
        ({"id": "a", "messages": [{"role": "user"}]}, "'messages' is"),
        ({"id": "a", "messages": []}, "'messages' is"),
        ({"id": "a", "question": "q", "extra": 3}, "'extra' is 3; expected a mapping"),
        ("text", "is no example"),
    ],
)
def test_what_cannot_be_an_example_is_refused_by_place(given: Any, said: str) -> None:
    with pytest.raises(ExampleError, match=f"q.json:3: .*{said}"):
        from_dict(given, source="q.json:3")


@pytest.mark.parametrize(
    "given", [["x", "y"], {"text": ["x", "y"], "label": ["A", "B"]}, {"A": "x", "B": "y"}]
)
def test_choices_come_in_several_shapes(given: Any) -> None:
    assert from_dict({"id": "a", "question": "q", "choices": given}).choices == ("x", "y")


def test_an_image_may_be_one_or_several() -> None:
    assert Example(id="a").pictures == ()
    assert Example(id="a", image="x.png").pictures == ("x.png",)
    assert Example(id="a", image=["x.png", "y.png"]).pictures == ("x.png", "y.png")
    assert from_dict({"id": "a", "question": "q"}, images=Path("here")).images == Path("here")


def test_ids_may_repeat_only_where_something_else_differs() -> None:
    rows: list[dict[str, Any]] = [
        {"id": "a", "question": "q", "mode": "tqa"},
        {"id": "a", "question": "q", "mode": "vqa"},
        {"id": "a", "question": "q", "mode": "vqa", "index": 1},
    ]
    assert [example.mode for example in stream(rows)] == ["tqa", "vqa", "vqa"]
    with pytest.raises(ExampleError, match="example number 4: id 'a', mode tqa is that of example"):
        list(stream([*rows, {"id": "a", "question": "other", "mode": "tqa"}]))


def test_both_places_of_a_double_are_named() -> None:
    twice = [Example(id="a", question="q", source=f"q.csv:{line}") for line in (2, 9)]
    with pytest.raises(ExampleError, match=r"q\.csv:9: id 'a' is that of q\.csv:2 too"):
        list(stream(twice))


def test_a_double_is_one_where_all_examples_have_one_source_too() -> None:
    twice = [{"id": "a", "question": text, "source": "bench"} for text in ("one", "two")]
    said = "example number 2: id 'a' is that of example number 1 too"
    with pytest.raises(ExampleError, match=said):
        list(stream(twice))


def test_a_key_says_what_it_knows() -> None:
    assert str(ExampleKey("a", 2, None, "tqa", None)) == "id 'a', index 2, mode tqa"
