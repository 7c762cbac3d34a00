"""Files of probes of several classes: what is written is found again, by class."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import actstore
from actstore.analysis.probes import class_files, probe_files, scoring
from actstore.errors import UsageError
from tests.analysis.probes import test_several_classes as several


def test_each_class_has_a_probe_that_can_be_applied(tmp_path: Path) -> None:
    several.layered(tmp_path / "s", {0: 1.0, 6: 3.0}, rows=60)
    report = several.run(tmp_path / "s", permutations=10)
    written = class_files.save(report, tmp_path / "out")
    assert written[0] == tmp_path / "out/report.json"
    assert all(path.is_file() for path in written)
    entries = json.loads(written[0].read_text())
    assert [entry["task"] for entry in entries] == ["classes", "classes"]
    entry = entries[1]
    assert entry["probes"]["b"] == "probes/b/layer_6.safetensors"
    assert entry["macro_auroc"] == pytest.approx(
        np.mean([one["auroc"] for one in entry["classes"]])
    )
    assert np.sum(entry["confusion"]) == entry["rows"] == 60
    assert entry["lineage"]["classes"] == ["a", "b", "c"]
    assert entry["best"]["cells"] == 2
    (saved,) = probe_files.load(tmp_path / "out" / entry["probes"]["b"])
    assert saved.lineage["positive"] == ["b"]
    assert saved.lineage["negative"] == ["a", "c"]
    kept = report.results[1].classes[1].probe
    assert (np.asarray(saved.probe.model) == np.asarray(kept.model)).all()
    with actstore.open(tmp_path / "s") as store:
        # Rows that it was trained on are left out, here all of them.
        with pytest.raises(actstore.ActstoreError, match="in-sample"):
            scoring.score(store, tmp_path / "out/probes/b")
        found = scoring.score(store, tmp_path / "out/probes/b", in_sample=True)
        assert set(found[1].classes or ()) == {"b", "a or c"}
        with pytest.raises(UsageError, match=r"name the folder of one: .*out/probes/a, "):
            scoring.score(store, tmp_path / "out")


def test_scores_by_question_name_the_class(tmp_path: Path) -> None:
    codes = several.layered(tmp_path / "s", {0: 5.0}, rows=60)
    class_files.save(several.run(tmp_path / "s", permutations=0), tmp_path)
    with (tmp_path / "probe_stats_layer0.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[3:] == ["named", "score_a", "score_b", "score_c"]
    assert [row["type"] for row in rows] == [several.NAMES[code] for code in codes]
    assert np.mean([row["type"] == row["named"] for row in rows]) > 0.9
    for row in rows:
        assert row["named"] == max("abc", key=lambda name: float(row[f"score_{name}"]))


def test_what_an_earlier_run_wrote_is_gone(tmp_path: Path) -> None:
    several.layered(tmp_path / "s", {0: 1.0}, rows=60)
    report = several.run(tmp_path / "s", permutations=0)
    earlier = class_files.save(report, tmp_path / "out")
    with actstore.open(tmp_path / "s") as store:
        binary = actstore.analysis.probe(store, positive="a", task="binary")
    later = probe_files.save(binary, tmp_path / "out")
    assert {path for path in (tmp_path / "out").rglob("*.*") if path.is_file()} == set(later)
    again = class_files.save(report, tmp_path / "out")
    assert {path for path in (tmp_path / "out").rglob("*.*") if path.is_file()} == set(again)
    assert again == earlier


def test_folders_of_classes_are_different_ones() -> None:
    found = class_files.class_folders(("a b", "a/b", "A_b", "..", "", "x" * 300))
    assert len({folder.lower() for folder in found.values()}) == 6
    assert not any("/" in folder or folder.startswith(".") for folder in found.values())
    assert max(map(len, found.values())) == 100
