"""Grading: what counts as right, what cannot be graded, and where the answer stands."""

from __future__ import annotations

from fractions import Fraction

import pytest

from actstore.capturing.forward.grading import Grade, grade, normal, number, parse
from actstore.capturing.prompts.example import Example
from actstore.errors import SqlError, UsageError

RIGHT, WRONG = "correct", "incorrect"


@pytest.mark.parametrize(
    ("kind", "prediction", "oracle", "label", "answer"),
    [
        ("exact", " Paris.\n", "paris", RIGHT, "Paris."),
        ("exact", "**Paris**", "PARIS", RIGHT, "**Paris**"),
        ("exact", "in Paris", "Paris", WRONG, "in Paris"),
        ("exact", "\ufb01ve", "five", RIGHT, "\ufb01ve"),
        ("contains", "It lies North  East of it.", "north east", RIGHT, "North  East"),
        ("contains", "It is 12.5", "12", WRONG, None),
        ("contains", "It is 12,000", "12", WRONG, None),
        ("contains", "It is 12, I think", "12", RIGHT, "12"),
        ("contains", "It is -12", "12", WRONG, None),
        ("contains", "Yesterday", "yes", WRONG, None),
        ("contains", "no, yes: yes!", "Yes", RIGHT, "yes"),
        ("contains", "C++ it is", "c++", RIGHT, "C++"),
        ("number", "It is 1,234.50.", "1234.5", RIGHT, "1,234.50"),
        ("number", "-3", "-3", RIGHT, "-3"),
        ("number", "\u22123", "-3", RIGHT, "\u22123"),
        ("number", "5-3", "3", RIGHT, "3"),
        ("number", "x=-7", "-7", RIGHT, "-7"),
        ("number", "one half is 1/2", "0.5", RIGHT, "1/2"),
        ("number", "839 is larger than 12", "839", WRONG, "12"),
        ("number", "about 2e3", "2000", RIGHT, "2e3"),
        ("number", "$4", "4", RIGHT, "$4"),
        ("number", "50%", "50", RIGHT, "50%"),
        ("number", ".5", "1/2", RIGHT, ".5"),
        ("number", "0.1", "0.10", RIGHT, "0.1"),
        ("regex:answer is (\\w+)", "The answer is Nine.", "nine", RIGHT, "Nine"),
        ("regex:answer is (\\S+)", "answer is 1,000", "1000", RIGHT, "1,000"),
        ("regex:\\d+", "3 then 4", "3", WRONG, "4"),
    ],
)
def test_grades_and_where_the_answer_stands(
    kind: str, prediction: str, oracle: str, label: str, answer: str | None
) -> None:
    found = grade(kind, prediction, oracle)
    assert found.label == label
    assert (found.span and prediction[slice(*found.span)]) == answer


FOUR = ("North", "North East", "South", "None of these")


@pytest.mark.parametrize(
    ("prediction", "oracle", "choices", "label", "answer"),
    [
        ("(A)", "A", None, RIGHT, "A"),
        ("a)", "(A)", None, RIGHT, "a"),
        ("A.", "a", None, RIGHT, "A"),
        ("B: because", "A", None, WRONG, "B"),
        ("**B**", "B", None, RIGHT, "B"),
        ("The answer is B.", "B", None, RIGHT, "B"),
        ("I first thought A, but the answer is (C).", "C", None, RIGHT, "C"),
        ("Option d", "D", None, RIGHT, "d"),
        ("I think B", "B", None, RIGHT, "B"),
        ("north", "North", FOUR, RIGHT, "north"),
        ("It lies to the North East.", "B", FOUR, RIGHT, "North East"),
        ("B) North East", "North East", FOUR, RIGHT, "B"),
        ("C", "North East", FOUR, WRONG, "C"),
        ("It is none of these", "D", FOUR, RIGHT, "none of these"),
        ("A", "A. North", FOUR, RIGHT, "A"),
    ],
)
def test_choices(
    prediction: str, oracle: str, choices: tuple[str, ...] | None, label: str, answer: str
) -> None:
    found = grade("choice", prediction, oracle, choices=choices)
    assert found.label == label
    assert found.span is not None
    assert prediction[slice(*found.span)] == answer


@pytest.mark.parametrize(
    ("kind", "prediction", "oracle", "choices"),
    [
        ("exact", None, "a", None),
        ("exact", "a", None, None),
        ("exact", "  ", "a", None),
        ("contains", "a", "...", None),
        ("number", "no number", "3", None),
        ("number", "3", "three", None),
        ("number", "version 1.2.3", "3", None),
        ("number", "1/0", "3", None),
        ("choice", "both (A) and (B)", "A", None),
        ("choice", "The answer is a dog", "A", None),
        ("choice", "E", "A", FOUR),
        ("choice", "A", "somewhere", FOUR),
        ("choice", "South or North", "South", FOUR),
        ("regex:x(\\d)", "nothing", "1", None),
        ("regex:a|(b)", "a", "b", None),
    ],
)
def test_what_cannot_be_graded_gets_no_label(
    kind: str, prediction: str | None, oracle: str | None, choices: tuple[str, ...] | None
) -> None:
    assert grade(kind, prediction, oracle, choices=choices) == Grade(None)


def test_sql_sees_the_columns_of_the_row() -> None:
    grader = parse(
        "sql:CASE WHEN task = 'x' THEN prediction = oracle WHEN task = 'y' THEN 'odd' END"
    )
    examples = [
        Example(id="1", task="x", oracle="a"),
        Example(id="2", task="x", oracle="b"),
        Example(id="3", task="y"),
        Example(id="4"),
    ]
    with pytest.raises(SqlError):  # a boolean and a word are not one type
        grader.grade(["a"] * 4, examples)
    booleans = parse("sql:CASE WHEN task = 'x' THEN prediction = oracle END")
    found = booleans.grade(["a"] * 4, examples)
    assert [each.label for each in found] == [RIGHT, WRONG, None, None]
    words = parse("sql:CASE task WHEN 'y' THEN 'odd' END")
    assert [each.label for each in words.grade(["a"] * 4, examples)] == [None, None, "odd", None]
    inside = parse("sql:extra->>'level' = 'hard'")
    assert inside.grade(["a"], [Example(id="1", extra={"level": "hard"})]) == [Grade(RIGHT)]


@pytest.mark.parametrize("kind", ["sql:missing = 1", "sql:sum(", "sql:1), (2"])
def test_sql_that_cannot_run_is_refused_at_once(kind: str) -> None:
    with pytest.raises(SqlError, match=r"--grade sql:"):
        parse(kind)


@pytest.mark.parametrize("kind", ["precise", "regex:", "regex:(", "sql:", "exact:1", ""])
def test_unknown_kinds_are_refused(kind: str) -> None:
    with pytest.raises(UsageError):
        parse(kind)


def test_normal_texts_and_numbers() -> None:
    assert normal('  "The  ANSWER"! ') == "the answer"
    assert normal("(A)") == "(a)"
    assert number("-1,000.5") == Fraction(-2001, 2)
    assert number("1,00") is None
    assert number("12 apples") is None
