"""`actstore stats`: tables and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.commands.conftest import LAYERS, Command, vectors


def test_json_has_every_group(actstore: Command, store: Path) -> None:
    done = actstore("stats", store, "--by", "layer,label", "--json")
    assert done.code == 0
    document = json.loads(done.out)
    assert document["by"] == ["layer", "label"]
    assert [(one["group"]["layer"], one["group"]["label"]) for one in document["groups"]] == [
        (layer, label) for layer in LAYERS for label in ("faithful", "unfaithful")
    ]
    mean = vectors(3)[::2].astype(np.float64).mean()
    assert document["groups"][0]["mean"] == pytest.approx(mean)


def test_the_table_says_what_is_common_once(actstore: Command, store: Path) -> None:
    out = actstore("stats", store).out
    assert out.startswith("model m, site resid_post, pooling mean\n\nlayer  rows")
    assert len(out.splitlines()) == 5


def test_conditions_and_no_rows(actstore: Command, store: Path) -> None:
    document = json.loads(
        actstore("stats", store, "layer = 3", "--label", "faithful", "--json").out
    )
    assert document["rows"] == 10
    assert actstore("stats", store, "false").out == "no rows\n"
    whole = actstore("stats", store, "--by", "", "--mixed", "--json").out
    assert json.loads(whole)["groups"][0]["rows"] == 40


def test_a_column_that_is_not_there(actstore: Command, store: Path) -> None:
    done = actstore("stats", store, "--by", "lable")
    assert done.code == 1
    assert "did you mean label" in done.err
