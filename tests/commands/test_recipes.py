"""`actstore recipes` lists the built-in recipes and prints one as it is."""

import json
from pathlib import Path

from actstore import resources
from actstore.ingestion import recipes as recipe
from tests.commands.conftest import Command


def test_every_recipe_is_listed(actstore: Command) -> None:
    listed = {line.split()[0] for line in actstore("recipes").out.splitlines()[1:]}
    assert listed == {path.stem for path in resources.folder("ingest").glob("*.toml")}
    assert listed == {item["name"] for item in json.loads(actstore("recipes", "--json").out)}


def test_a_printed_recipe_is_a_recipe(actstore: Command, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(actstore("recipes", "faithfulness").out, encoding="utf-8")
    assert recipe.load(path).name == "faithfulness"


def test_an_unknown_recipe_names_those_there_are(actstore: Command) -> None:
    finished = actstore("recipes", "faithful")
    assert finished.code == 2
    assert "faithfulness" in finished.err


def test_recipes_of_capture_are_a_list_of_their_own(actstore: Command) -> None:
    folder = resources.folder("ingest") / "capture"
    listed = {line.split()[0] for line in actstore("recipes", "--capture").out.splitlines()[1:]}
    assert listed == {path.stem for path in folder.glob("*.toml")}
    found = json.loads(actstore("recipes", "--capture", "--json").out)
    assert {item["name"] for item in found} == listed
    printed = actstore("recipes", "--capture", "contrastive")
    assert printed.out == (folder / "contrastive.toml").read_text()
    one = json.loads(actstore("recipes", "--capture", "contrastive", "--json").out)
    assert one["text"] == printed.out
    refused = actstore("recipes", "--capture", "amber")
    assert refused.code == 2
    assert "no capture recipe 'amber'" in refused.err
