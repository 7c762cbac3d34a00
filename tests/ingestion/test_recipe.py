"""Recipes: the built-in ones hold, a bad one is told everything at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from actstore import resources
from actstore.errors import RecipeError
from actstore.ingestion import recipes
from actstore.ingestion.readers import get

GOOD = """
name = "mine"
container = "torch"
[[files]]
path = "{task}/{key}.pt"
[[tensors]]
key = "states"
axes = [["hidden"], ["example", "hidden"]]
[columns]
example_id = "{path.key}"
site = "resid_post"
pooling = "last"
"""


def problems(text: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        recipes.parse(text, Path("mine.toml"))
    head, *lines = str(caught.value).splitlines()
    assert head.startswith("mine.toml: ")
    return [line.removeprefix("  - ") for line in lines]


def test_recipes_are_utf8_whatever_the_locale_says() -> None:
    code = "from actstore.ingestion import recipes; print(len(recipes.known()))"
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **locale},
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(done.stdout) == len(recipes.known())


@pytest.mark.parametrize("path", sorted(resources.folder("ingest").glob("*.toml")), ids=str)
def test_the_built_in_recipes_are_sound(path: Path) -> None:
    recipe = recipes.load(path.stem)
    assert recipe.name == path.stem
    assert recipe.title
    assert recipe.description.strip()
    assert recipe.text == path.read_text()
    assert get(recipe.reader)


def test_a_minimal_recipe() -> None:
    recipe = recipes.parse(GOOD)
    assert recipe.reader == "generic"
    assert recipe.tensors[0].axes == {1: ("hidden",), 2: ("example", "hidden")}
    assert recipe.files[0].template.names == ("task", "key")


def test_every_problem_is_told_at_once() -> None:
    text = (
        GOOD.replace('name = "mine"', 'name = "My recipe"\ntilte = "x"')
        .replace('container = "torch"', 'container = "zip"')
        .replace('"{task}/{key}.pt"', '"{task/{key}.pt"')
        .replace('["example", "hidden"]]', '["row", "hidden"], ["hidden", "token"]]')
        .replace('pooling = "last"', 'pooling = "median"\nlabl = "x"\nlayer = "{nope.x}"')
    )
    found = "\n".join(problems(text))
    for words in (
        "tilte: got an unknown key (did you mean 'title'?)",
        "name: got 'My recipe'; expected lower-case letters",
        "container: got 'zip'; expected one of torch, pickle",
        "files[0].path: template '{task/{key}.pt'",
        "tensors[0].axes: got ['row', 'hidden']",
        "tensors[0].axes: got ['hidden', 'token']; expected 'hidden' once, as the last axis",
        "columns.pooling: pooling 'median' is unknown",
        "columns.labl: got an unknown key (did you mean 'label'?)",
        "columns.layer: expression '{nope.x}': 'nope' is unknown",
    ):
        assert words in found
    assert len(problems(text)) == 9


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (('site = "resid_post"\n', ""), ["columns.site: got nothing"]),
        (('"{path.key}"', '"{path.name}"'), ["columns.example_id: got {path.name}"]),
        (('"{path.key}"', '"{key.layer}"'), ["columns.example_id: got {key.layer}"]),
        (('"{path.key}"', '"{sidecar.ids.id}"'), ["columns.example_id: got {sidecar.ids.id}"]),
        (('["hidden"], ', '["hidden"], ["hidden"], '), ["tensors[0].axes: got two readings"]),
        (('key = "states"', 'key = "states"\nfiles = ["other"]'), ["tensors[0].files"]),
        (("[[files]]\npath", "[files]\npath"), ["files: got {'path'"]),
        (("[columns]", '[columns]\nnorm = "1"'), ["columns.norm: got an unknown key"]),
        (
            ("[columns]", '[columns.label]\nfrom = "x"\npattern = "("\n[columns]'),
            ["columns.label.pattern"],
        ),
        (("[columns]", "[columns.label]\nmap = {}\n[columns]"), ["columns.label.from"]),
        (
            ("[columns]", '[[sidecars]]\nname = "s"\npaths = ["/etc/**/x.csv"]\n[columns]'),
            ["sidecars[0].paths: got '/etc/**/x.csv'"],
        ),
        (
            ("[columns]", '[[sidecars]]\nname = "s"\nformat = "xls"\npaths = []\n[columns]'),
            ["sidecars[0].paths: got nothing", "sidecars[0].format: got 'xls'"],
        ),
        (("[[tensors]]", "[[tensors]]\nsqueeze = 1"), ["tensors[0].squeeze: got 1"]),
    ],
)
def test_problems_name_key_and_expectation(change: tuple[str, str], expected: list[str]) -> None:
    assert change[0] in GOOD
    found = problems(GOOD.replace(*change))
    for words in expected:
        assert any(line.startswith(words) for line in found), found


def test_what_is_no_toml(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("name = [")
    with pytest.raises(RecipeError, match=r"broken\.toml: not valid TOML"):
        recipes.load(path)
    for text in ("name = " + "[" * 5000, "a." * 50_000 + "b = 1", "name = " + "9" * 5000):
        path.write_text(text)
        with pytest.raises(RecipeError, match=r"broken\.toml: not valid TOML"):
            recipes.load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="not UTF-8"):
        recipes.load(path)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'amberr'.*amber, clt, contrastive"):
        recipes.load("amberr")


def test_columns_cannot_depend_on_themselves(tmp_path: Path) -> None:
    import numpy as np

    from actstore.ingestion.run import ingest

    text = GOOD.replace('container = "torch"', 'container = "numpy"').replace(".pt", ".npz")
    text = text.replace('"{path.key}"', '"{column.task}"') + 'task = "{column.example_id}"\n'
    (tmp_path / "t").mkdir()
    np.savez(tmp_path / "t" / "a.npz", states=np.ones(3, np.float32))
    summary = ingest(tmp_path, tmp_path / "s", recipe=recipes.parse(text), model="m")
    assert "depends on itself" in summary.refused[0].reason


def test_a_recipe_file_that_is_missing_is_called_that(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"missing\.toml: no such file"):
        recipes.load(tmp_path / "missing.toml")
