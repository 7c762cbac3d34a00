"""`actstore score`: saved probes on the rows of a store."""

import csv
import json
from pathlib import Path

import pytest

import actstore as package
from tests.analysis import labelled
from tests.commands.conftest import Command


@pytest.fixture
def probes(actstore: Command, tmp_path: Path) -> Path:
    labelled.layered(tmp_path / "train", {3: 2.5, 5: 2.5}, rows=40, width=16)
    words = ("--permutations", 0, "--out", tmp_path / "probes")
    assert actstore("probe", tmp_path / "train", *words).code == 0
    labelled.layered(tmp_path / "new", {3: 2.5, 5: 2.5}, rows=20, width=16, seed=3, first=40)
    return tmp_path / "probes"


def test_scores_go_to_screen_file_and_labels(
    actstore: Command, probes: Path, tmp_path: Path
) -> None:
    words = ("--probe", probes, "--layers", "3", "-o", tmp_path / "x.csv", "--write-label", "class")
    done = actstore("score", tmp_path / "new", *words)
    assert done.code == 0, done.err
    assert done.out.splitlines()[1].split()[:4] == ["resid_post", "last", "3", "20"]
    lines = (tmp_path / "x.csv").read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(lines))
    assert len(rows) == 20
    with package.open(tmp_path / "new") as store:
        labels = store.select(layer=3).table(["label"])["label"].to_pylist()
    assert labels == [row["class"] for row in rows]
    assert "commit 3: 20 rows labelled" in done.err


def test_json_and_the_warning_about_training_rows(
    actstore: Command, probes: Path, tmp_path: Path
) -> None:
    done = actstore("score", tmp_path / "new", "--probe", probes, "--json")
    assert [entry["layer"] for entry in json.loads(done.out)] == [3, 5]
    done = actstore("score", tmp_path / "train", "--probe", probes)
    assert "flatters" not in done.out
    assert "the figures flatter them" in done.err


def test_another_model_is_refused(actstore: Command, probes: Path, tmp_path: Path) -> None:
    labelled.layered(tmp_path / "other", {3: 1.0}, rows=8, width=16, model="b/other")
    done = actstore("score", tmp_path / "other", "--probe", probes)
    assert done.code == 1
    assert "org/model" in done.err
    assert "b/other" in done.err
