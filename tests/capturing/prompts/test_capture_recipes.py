"""Capture recipes: the packaged ones, and what a file may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from actstore import resources
from actstore.capturing.forward.grading import parse
from actstore.capturing.prompts import capture_recipes
from actstore.errors import RecipeError
from actstore.ingestion import recipes as ingestion

PACKAGED = sorted((resources.folder("ingest") / "capture").glob("*.toml"))


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: path.stem)
def test_packaged_recipes_say_what_they_are_for(path: Path) -> None:
    recipe = capture_recipes.load(path.stem)
    assert recipe.name == path.stem
    assert recipe.title
    assert len(recipe.description) > 100
    assert "question" in {name for part in (recipe.columns, *recipe.expand) for name in part}
    if "grade" in recipe.capture:
        parse(recipe.capture["grade"])


def test_the_two_kinds_of_recipes_stay_apart() -> None:
    assert set(capture_recipes.known()) == {path.stem for path in PACKAGED}
    assert all(recipe.title != ingestion.known()[name].title for name, recipe in _both())


def _both() -> list[tuple[str, capture_recipes.CaptureRecipe]]:
    return [(n, r) for n, r in capture_recipes.known().items() if n in ingestion.known()]


def write(folder: Path, text: str) -> Path:
    path = folder / "my.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        [columns]
        id = "{key}"
        question = "{q}"
        mode = "tqa"
        index = 3
        [only]
        task = "maze"
        variant = ["a", 2]
        [most]
        label = { yes = 2 }
        [[tables]]
        name = "scores"
        data = "{data}.csv"
        on = { key = "{key}" }
        [capture]
        sites = ["mlp_in"]
        [after]
        label = "upper(label)"
        """,
    )
    recipe = capture_recipes.load(path)
    assert recipe.name == "my"
    assert recipe.columns["index"].value({}, "") == 3
    assert recipe.only == {"task": ("maze",), "variant": ("a", "2")}
    assert recipe.most == {"label": {"yes": 2}}
    assert recipe.tables[0].data == ("{data}.csv",)
    assert recipe.tables[0].required
    assert recipe.capture == {"sites": ["mlp_in"]}
    assert recipe.label_after == "upper(label)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[columns", "not TOML"),
        ("nonsense = 1", "'nonsense' is not understood"),
        ("columns = 3", "'columns' must be a table"),
        ("[columns]\nquestoin = '{q}'", "'questoin' is not understood; there may be id,"),
        ("[columns]\nid = '{q'", "a lone '{'"),
        ("[capture]\nlayer = 3", r"\[capture\]: 'layer' is not understood"),
        ("[most]\nlabel = 3", "expected numbers by value"),
        ("[most.label]\nyes = true", "expected numbers by value"),
        ("[only]\nwhat = 'x'", "'what' is not understood"),
        ("[[parts]]\ncolumns = {}", "needs 'data'"),
        ("[[tables]]\nname = 'x'", "needs data, on"),
        ("[after]\nsql = 'x'", r"\[after\]: 'sql' is not understood"),
        ("[after]\nlabel = 3", r"\[after\]: 'label' must be a text"),
        ("link = ['x']", "'link' must be a text"),
        ("parts = 3", r"'parts' must be tables, each under \[\[parts\]\]"),
        ("expand = ['x']", "'expand' must be tables"),
        ("tables = 'x'", "'tables' must be tables"),
        ("[[parts]]\ndata = 'x'\ncolumns = 3", "'columns' must be a table"),
        ("[[tables]]\nname = 'x'\ndata = 'y'\non = 'z'", "'on' must be a table"),
        ("columns = " + "[" * 5000, "not TOML: it is nested too deeply"),
        ("columns = " + "{a = " * 5000, "not TOML: it is nested too deeply"),
        ("a." * 50_000 + "b = 1", "not TOML.*more than 1,000 dots"),
        ("name = " + "9" * 5000, "not TOML"),
        ("name = 'x'" + " " * (1 << 20), "not TOML.*of at most 1,048,576"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=f"my.toml.*{said}"):
        capture_recipes.load(write(tmp_path, text))


@pytest.mark.parametrize("name", ["nothing", "amber", "../spatialeval"])
def test_an_unknown_recipe_names_the_known(name: str) -> None:
    with pytest.raises(RecipeError, match="there are benchmark, clt, contrastive"):
        capture_recipes.load(name)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"missing\.toml: no such file"):
        capture_recipes.load(tmp_path / "missing.toml")
