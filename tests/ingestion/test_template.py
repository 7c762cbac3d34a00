"""Templates: what they match, what they take apart, what they refuse."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actstore.errors import RecipeError
from actstore.ingestion.template import compile_template, part_value, recognisable

TREE = "{dataset:slug}/{model:slug}/{mode:tqa|vqa}/{task}/{key}.pt"


def test_parts_are_converted() -> None:
    match = compile_template(TREE).match_tail(
        "out/residual/MilaWang__SpatialEval/meta-llama__Llama-3/tqa/mazenav/a b.pt"
    )
    assert match is not None
    assert match.parts == {
        "dataset": "MilaWang/SpatialEval",
        "model": "meta-llama/Llama-3",
        "mode": "tqa",
        "task": "mazenav",
        "key": "a b",
    }
    assert match.texts["model"] == "meta-llama__Llama-3"
    assert match.start == len("out/residual/")


@pytest.mark.parametrize(
    ("template", "text", "parts"),
    [
        ("layer_{layer:int}.pt", "layer_0007.pt", {"layer": 7}),
        ("layer_{layer:int}.pt", "layer_7b.pt", None),
        ("layer_{layer:int}.pt", "xlayer_7.pt", None),
        ("L{layer:int}/batch_{n:int}_{side:x|y}.pt", "a/L3/batch_12_y.pt", ...),
        ("L{layer:int}/batch_{n:int}_{side:x|y}.pt", "L3/batch_12_z.pt", None),
        ("a/**/b.pt", "a/b.pt", {}),
        ("a/**/b.pt", "x/a/c/d/b.pt", {}),
        ("a/*/b.pt", "a/c/d/b.pt", None),
        ("*_{key}.pkl", "benchmark_a\nb.pkl", {"key": "a\nb"}),
        ("a.b+{x}", "a.b+c", {"x": "c"}),
        ("a.b+{x}", "aXbb", None),
    ],
)
def test_tails(template: str, text: str, parts: object) -> None:
    match = compile_template(template).match_tail(text)
    if parts is ...:
        assert match is not None
        assert match.parts == {"layer": 3, "n": 12, "side": "y"}
    else:
        assert (match.parts if match else None) == parts
    assert match is None or text.endswith(compile_template(template).ending)


def test_keys_use_dots() -> None:
    template = compile_template("activations.{layer:int}", ".")
    assert template.match("activations.12").parts == {"layer": 12}  # type: ignore[union-attr]
    assert template.match("x.activations.12") is None
    hooks = compile_template("{name:any}", ".")
    assert hooks.match("blocks.3.hook").parts == {"name": "blocks.3.hook"}  # type: ignore[union-attr]
    assert hooks.match("").parts == {"name": ""}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("", "empty"),
        ("a{b", "brace without its partner at 1"),
        ("a}b", "brace without its partner at 1"),
        ("{A}", "no name"),
        ("{a:float}", "kind 'float' is unknown"),
        ("{a}/{a}", "occurs twice"),
        ("{a:x|}", "empty choice"),
        ("{}", "no name"),
    ],
)
def test_malformed_templates(template: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(reason)):
        compile_template(template)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({"dataset": "Mila__Eval", "model": "org__m"}, True),
        ({"dataset": "tmp", "model": "org__m"}, False),
        ({"mode": "tqa"}, True),
        ({"task": "mazenav"}, False),
        ({"task": "mazenav", "mode": "tqa"}, True),
    ],
)
def test_folders_above_the_source_must_be_recognisable(
    texts: dict[str, str], expected: bool
) -> None:
    assert recognisable(compile_template(TREE), texts) is expected


def test_forms_of_a_part() -> None:
    parts = {"model": "meta-llama/Llama-3", "n": 4}
    assert part_value(parts, "model.slug") == "meta-llama__Llama-3"
    assert part_value(parts, "model.name") == "Llama-3"
    assert part_value(parts, "n") == 4
    assert part_value(parts, "n.slug") is None
    assert part_value(parts, "other") is None


@given(st.text(st.characters(exclude_characters="/{}*"), min_size=1))
def test_plain_text_matches_itself_only(text: str) -> None:
    template = compile_template(text)
    assert template.match_tail(f"folder/{text}") is not None
    assert template.match_tail(text + "x") is None
