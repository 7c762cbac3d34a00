"""What is written down about a run."""

from __future__ import annotations

import json
from pathlib import Path

from actstore.ingestion import recipes
from actstore.ingestion.options import checked_options
from actstore.ingestion.provenance import describe


def test_settings_that_were_left_alone_are_left_out() -> None:
    recipe = recipes.load("amber")
    options = checked_options(model="m", layer=0, sidecars={"queries": Path("q.json")})
    run = describe([Path("a"), Path("b")], recipe, options, contract=None, strict=True)
    assert run.settings == {
        "sources": ["a", "b"],
        "recipe": "amber",
        "recipe_toml": recipe.text,
        "model": "m",
        "layer": 0,
        "strict": True,
        "sidecars": {"queries": "q.json"},
    }
    assert json.loads(json.dumps(run.settings)) == run.settings
    assert {"python", "numpy", "pyarrow", "torch"} <= set(run.versions)


def test_every_run_has_its_own_id() -> None:
    recipe = recipes.load("amber")
    ids = {describe([], recipe, checked_options()).run_id for _ in range(50)}
    assert len(ids) == 50
    assert all(each.startswith("ingest-2") for each in ids)


def test_no_absolute_path_is_written_down() -> None:
    for above in (Path.home() / "secret-project", Path("../secret-project")):
        folder = above / "acts"
        options = checked_options(sidecars={"queries": folder / "q.json"})
        text = json.dumps(describe([folder], recipes.load("amber"), options).settings)
        assert '"acts"' in text
        assert '"q.json"' in text
        assert "secret-project" not in text
