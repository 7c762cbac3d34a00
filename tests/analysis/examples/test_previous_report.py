"""A second run into a folder leaves nothing of the first, and touches nothing else."""

import json
from pathlib import Path

import pytest

import actstore
from actstore.analysis.examples import previous_report
from actstore.analysis.examples.place_rows import RowChoice
from actstore.analysis.probes import probe_files, probing
from actstore.analysis.probes.splits import ProbeSettings
from actstore.analysis.steering import validation, vector_files, vectors
from tests.analysis import labelled


def test_only_listed_files_inside_the_folder_go(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "deep").mkdir(parents=True)
    for name in ("out/deep/a.csv", "out/b.csv", "kept.csv"):
        (tmp_path / name).write_text("x")
    entries = [
        {"scores": "deep/a.csv", "probe": "b.csv"},
        {"scores": "../kept.csv"},
        {"scores": "gone.csv"},
        {"scores": 3},
        "no entry",
    ]
    (out / "report.json").write_text(json.dumps(entries))
    previous_report.remove(out, "report.json", ("scores",))
    assert not (out / "deep/a.csv").exists()
    assert (out / "b.csv").exists()
    assert (tmp_path / "kept.csv").exists()


@pytest.mark.parametrize("text", ["{", '{"layer": 3}', ""])
def test_what_is_no_report_lists_nothing(tmp_path: Path, text: str) -> None:
    assert previous_report.entries(tmp_path / "report.json") == []
    (tmp_path / "report.json").write_text(text)
    assert previous_report.entries(tmp_path / "report.json") == []


def test_a_second_run_leaves_no_layers_of_the_first(tmp_path: Path) -> None:
    labelled.layered(tmp_path / "s", {2: 1.0, 5: 1.0}, rows=30, width=8)
    run, tested = tmp_path / "run", tmp_path / "tested"
    with actstore.open(tmp_path / "s") as store:
        for layers in ([2, 5], [5]):
            choice = RowChoice(layers=list(layers))
            settings = ProbeSettings(folds=2, permutations=0)
            probes = probing.probe(store, choice=choice, settings=settings)
            probe_files.save(probes, tmp_path / "probes")
            vector_files.save(vectors.steer(store, positive="yes", choice=choice), run)
            validation.save(validation.validate(store, run, in_sample=True), tested)
    assert [one.probe.place.layer for one in probe_files.load(tmp_path / "probes")] == [5]
    assert [one.layer for one in vector_files.load(run)] == [5]
    for folder in (tmp_path / "probes", tested):
        assert [path.name for path in folder.glob("*.csv")] == ["probe_stats_layer5.csv"]
