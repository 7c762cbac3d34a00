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


def test_in_sample_is_left_out_by_default_and_marked_everywhere(
    actstore: Command, tmp_path: Path
) -> None:
    labelled.layered(tmp_path / "a", {10: 0.0}, rows=40, width=256)
    assert actstore("steer", tmp_path / "a", "--out", tmp_path / "run").code == 0
    done = actstore("validate", tmp_path / "a", "--vectors", tmp_path / "run")
    assert done.code == 1
    assert "all 40 rows share their example or question" in done.err
    assert "--in-sample" in done.err
    words = ("--vectors", tmp_path / "run", "--in-sample", "--out", tmp_path / "out")
    done = actstore("validate", tmp_path / "a", *words)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].endswith("IN-SAMPLE")
    assert "in-sample" in lines[1]
    assert "note: IN-SAMPLE: 40 rows" in done.err
    (entry,) = json.loads((tmp_path / "out/report.json").read_text())
    assert (entry["in_sample"], entry["in_sample_shown"]) == (40, True)
    assert entry["auroc"] > 0.95
    csv = (tmp_path / "out/probe_stats_layer10.csv").read_text()
    assert csv.splitlines()[0].endswith(",in_sample")
    assert "IN-SAMPLE" in (tmp_path / "out/auroc.svg").read_text()
    target = tmp_path / "p.svg"
    done = actstore(
        "plot", tmp_path / "a", "--kind", "auroc", "--report", tmp_path / "out", "-o", target
    )
    assert "IN-SAMPLE: AUROC of steering vectors" in target.read_text()


def test_one_half_makes_a_vector_and_the_other_is_what_is_left(
    actstore: Command, tmp_path: Path
) -> None:
    """The command that the error prints."""
    labelled.layered(tmp_path / "a", {10: 2.0}, rows=60, width=16)
    half = ("--where", "hash(example_id) % 2 = 0", "--out", tmp_path / "run")
    assert actstore("steer", tmp_path / "a", *half).code == 0
    done = actstore("validate", tmp_path / "a", "--vectors", tmp_path / "run", "--json")
    (entry,) = json.loads(done.out)
    assert entry["rows"] + entry["in_sample"] == 60
    assert entry["in_sample"] > 15
    assert entry["auroc"] > 0.8
    assert entry["grouped_by"] == "example_id or question"
