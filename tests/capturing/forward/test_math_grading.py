"""Answers as mathematics: the same number or expression, however it is written."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest

from actstore.capturing.forward.grading import grade, parse
from actstore.errors import MissingExtraError


@pytest.mark.parametrize(
    ("prediction", "oracle", "label", "span"),
    [
        ("So it is $\\frac{1}{2}$.", "1/2", "correct", "\\frac{1}{2}"),
        ("0.5", "\\frac{1}{2}", "correct", "0.5"),
        ("It is \\boxed{(x+1)^2}", "$x^2+2x+1$", "correct", "(x+1)^2"),
        ("$\\{2,1\\}$", "{1,2}", "correct", None),
        ("The answer is 13.", "12", "incorrect", "13"),
        ("no idea", "12", None, None),
    ],
)
def test_equal_expressions_are_correct(
    prediction: str, oracle: str, label: str | None, span: str | None
) -> None:
    pytest.importorskip("math_verify")
    found = grade("math", prediction, oracle)
    assert found.label == label
    if span is not None:
        assert found.span is not None
        assert prediction[slice(*found.span)] == span


def test_it_grades_outside_the_main_thread_too() -> None:
    pytest.importorskip("math_verify")
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(grade, "math", "0.5", "1/2").result().label == "correct"


@pytest.mark.skipif(find_spec("math_verify") is not None, reason="math-verify is installed")
def test_where_the_package_is_missing_it_says_what_to_install() -> None:
    with pytest.raises(MissingExtraError, match=r"actstore\[math\]"):
        parse("math")
