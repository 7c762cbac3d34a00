"""`actstore validate`: AUROC of steering vectors on validation data."""

import json
from pathlib import Path

from tests.analysis import labelled
from tests.commands.conftest import Command


def test_layers_files_and_picture(actstore: Command, tmp_path: Path) -> None:
    labelled.layered(tmp_path / "a", {10: 2.5, 20: 0.5}, rows=40, width=16)
    labelled.layered(tmp_path / "b", {10: 2.5, 20: 0.5}, rows=30, width=16, seed=3, first=40)
    assert actstore("steer", tmp_path / "a", "--out", tmp_path / "run").code == 0
    words = ("--vectors", tmp_path / "run/normalized_vectors", "--out", tmp_path / "out")
    done = actstore("validate", tmp_path / "b", *words)
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == "yes (positive) against no, 95 % intervals"
    assert [line.split()[2] for line in done.out.splitlines()[2:]] == ["10", "20"]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        *("probe_stats_layer10.csv", "probe_stats_layer20.csv"),
        *("report.json", "auroc.png", "auroc.svg"),
    }
    done = actstore("validate", tmp_path / "b", *words[:2], "--layers", "20", "--json")
    (entry,) = json.loads(done.out)
    assert entry["layer"] == 20


def test_vectors_of_another_model_are_refused(actstore: Command, tmp_path: Path) -> None:
    labelled.layered(tmp_path / "a", {10: 1.0}, rows=20, width=16)
    labelled.layered(tmp_path / "b", {10: 1.0}, rows=20, width=16, model="b/other")
    actstore("steer", tmp_path / "a", "--out", tmp_path / "run")
    done = actstore("validate", tmp_path / "b", "--vectors", tmp_path / "run")
    assert done.code == 1
    assert "org/model" in done.err
    assert "b/other" in done.err
