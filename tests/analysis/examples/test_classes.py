"""The two classes among a column's values."""

import pytest

from actstore.analysis.examples import classes
from actstore.errors import NotInStoreError, TooFewRowsError, UsageError


def test_of_two_values_the_second_in_order_is_positive() -> None:
    found = classes.find("label", ["b", None, "a", "b"])
    assert (found.positive, found.negative) == (("b",), ("a",))


def test_named_classes_take_all_others_as_the_other_one() -> None:
    values = ["a", "b", "c"]
    assert classes.find("label", values, "b").negative == ("a", "c")
    assert classes.find("label", values, negative="b").positive == ("a", "c")
    both = classes.find("label", values, ["a", "c"], "b")
    assert both.names == ("a or c", "b")
    assert classes.find("label", values, "a", "c").negative == ("c",)
    assert classes.find("extra.right", [True, False], False).positive == ("false",)
    assert classes.find("extra.number", [1, 2.0, 3], [1, 2]).positive == ("1", "2")


def test_what_stands_for_a_missing_value_is_no_class() -> None:
    values = ["a", "", "b", "nan", float("nan"), " "]
    assert classes.find("label", values).negative == ("a",)
    assert classes.find("label", values, "a").negative == ("b",)
    assert classes.several("extra.n", [1.0, float("nan"), 2.0]) == ("1", "2")
    assert classes.alike(["n"], ["nan", "no", ""]) == ("no",)


def test_what_cannot_be_told_apart_is_refused() -> None:
    with pytest.raises(TooFewRowsError, match=r"a \(2\)"):
        classes.find("label", ["a", "a", None])
    with pytest.raises(TooFewRowsError, match="no label"):
        classes.find("label", [None])
    with pytest.raises(UsageError, match=r"a \(1\), b \(1\), c \(1\).*--positive"):
        classes.find("label", ["a", "b", "c"])
    with pytest.raises(NotInStoreError, match=r"'d'.*a \(1\)"):
        classes.find("label", ["a", "b"], "d")
    with pytest.raises(UsageError, match="as positive and as negative"):
        classes.find("label", ["a", "b"], "a", "a")


def test_words_that_mean_the_same_class() -> None:
    assert classes.alike(("deploy",), ["deployment", "testing", None]) == ("deployment",)
    assert classes.alike(("deployment",), ["deploy", "test"]) == ("deploy",)
    assert classes.alike(("yes",), ["yes", "yes!", "no"]) == ("yes",)
    assert classes.alike(("yes",), ["right", "wrong", ""]) == ()


def test_a_word_that_may_mean_the_other_class_is_none() -> None:
    assert classes.alike(("harm",), ["harmless", "harmful"], ("harmless",)) == ("harmful",)
    assert classes.alike(("harm",), ["harmless"], ("harmless",)) == ()
    assert classes.alike(("no",), ["nothing", "none"], ("not",)) == ("none",)
