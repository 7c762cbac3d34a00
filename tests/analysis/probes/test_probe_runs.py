"""A probe run is found by what its rows are, and shown in place of the difference of means."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actstore
from actstore.analysis import plots, report
from actstore.analysis.examples.place_rows import RowChoice
from actstore.analysis.probes import probe_files, probe_runs, probing
from actstore.analysis.probes.splits import ProbeSettings
from actstore.analysis.report.page import page
from actstore.errors import MismatchError, UsageError
from actstore.storage import compaction
from tests.analysis import labelled
from tests.analysis.plots.pictures import texts


@pytest.fixture
def root(tmp_path: Path) -> Path:
    labelled.layered(tmp_path / "s", {3: 1.5, 5: 0.0}, rows=40, width=16)
    run(tmp_path / "s", tmp_path / "probes")
    return tmp_path / "s"


def run(root: Path, out: Path, **given: Any) -> Path:
    with actstore.open(root) as store:
        probe_files.save(
            probing.probe(store, settings=ProbeSettings(permutations=20), **given), out
        )
    return out


def found(root: Path, where: str | None = None, by: str = "label", **given: Any) -> list[str]:
    given.setdefault("whole", where is None)
    with actstore.open(root) as store:
        paths = probe_runs.beside([root.parent], store.select(where), by, **given)
    return [path.parent.name for path in paths]


def test_a_run_about_these_rows_is_found_and_no_other(root: Path) -> None:
    assert found(root) == ["probes"]
    assert found(root, "layer = 5") == ["probes"]  # the very rows of one of its probes
    assert found(root, "example_id < 'e2'") == []
    assert found(root, by="example_id") == []
    assert found(root, classes=(["yes"], ["no"])) == ["probes"]
    assert found(root, classes=(["no"], [])) == []
    shutil.copytree(root, root.parent / "copy")
    compaction.compact(root.parent / "copy")
    assert found(root.parent / "copy") == ["probes"]
    labelled.add(root, labelled.vectors_of_noise(4, 16), ["yes", "no"] * 2, layer=3, first=50)
    assert found(root) == ["probes"]  # layer 5 has the rows that it had
    labelled.add(root, labelled.vectors_of_noise(4, 16), ["yes", "no"] * 2, layer=5, first=50)
    assert found(root) == []


def test_a_run_on_a_part_of_this_very_store_counts_as_a_run(root: Path) -> None:
    shutil.rmtree(root.parent / "probes")
    run(root, root.parent / "part", train="row_id % 2 = 0", test="row_id % 2 = 1")
    assert found(root) == ["part"]
    with actstore.open(root) as store:
        (curve,) = probe_runs.curves([root.parent / "part"], store.select(), "label").values()
    assert "tested where row_id % 2 = 1" in curve.note


def test_other_reports_and_other_files_are_no_runs(root: Path, tmp_path: Path) -> None:
    shutil.rmtree(root.parent / "probes")
    for name, text in (("a", "no json"), ("b", "[]"), ("c", '[{"auroc": 1}]'), ("d", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(text)
        with pytest.raises(UsageError, match=r"report.json: no report of a probe"):
            probe_runs.read(tmp_path / name)
    assert found(root) == []
    with pytest.raises(UsageError, match="no report of a probe"):
        probe_runs.read(tmp_path / "nowhere")


def test_the_newest_run_comes_first(root: Path) -> None:
    import os

    run(root, root.parent / "later", choice=RowChoice(layers=[5]))
    os.utime(root.parent / "probes/report.json", (1, 1))
    assert found(root) == ["later", "probes"]


def test_report_and_picture_show_the_probe_s_figures(root: Path) -> None:
    entries = json.loads((root.parent / "probes/report.json").read_text())
    with actstore.open(root) as store:
        selection = store.select()
        plain, probed = (
            report.collect(selection),
            report.collect(selection, probes=[root.parent / "probes"]),
        )
        figure = plots.auroc(selection, probes=[root.parent / "probes"])
        means = plots.auroc(selection)
    curve = probed.places[0].probes
    assert curve is not None
    assert [one.auroc.value for one in curve.layers] == [entry["auroc"] for entry in entries]
    assert [[*one.auroc[1:]] for one in curve.layers] == [one["auroc_interval"] for one in entries]
    assert probed.places[0].separation is None
    html = page(probed)
    assert "AUROC by layer of trained probes" in html
    assert "logistic probes in probes/, 5 folds, up to 40 rows a layer" in html
    assert "mean difference" not in html
    html = page(plain)
    assert "AUROC by layer of the mean difference, not a trained probe" in html
    assert "difference of means, not a trained probe; 5 folds" in html
    drawn = np.asarray(figure.axes[0].lines[1].get_ydata(), float)
    assert drawn.tolist() == pytest.approx([entry["auroc"] for entry in entries])
    assert any(text.startswith("AUROC of probes: yes against no") for text in texts(figure))
    assert "mean difference (no probe)" in texts(means)
    assert any("difference of means, not a trained probe" in text for text in texts(means))


def test_probes_of_other_rows_are_refused_or_said_to_be(root: Path, tmp_path: Path) -> None:
    labelled.layered(tmp_path / "t", {3: 1.5}, rows=40, width=16, site="mlp_out")
    with actstore.open(tmp_path / "t") as store:
        with pytest.raises(MismatchError, match=r"layer 3 of resid_post .*layer 3 of mlp_out"):
            report.collect(store.select(), probes=[tmp_path / "probes"])
        with pytest.raises(MismatchError, match="told apart by example_id"):
            plots.auroc(store.select(), by="example_id", probes=[tmp_path / "probes"])
    labelled.layered(tmp_path / "u", {3: 1.5}, rows=40, width=16, seed=7)
    with actstore.open(tmp_path / "u") as store:
        made = report.collect(store.select(), probes=[tmp_path / "probes"])
    assert made.places[0].probes is not None
    assert "of other rows than these (another store or state)" in made.places[0].probes.note


def test_another_capture_of_the_same_examples_is_another_thing(root: Path) -> None:
    again = root.parent / "again"  # keys and labels are the same, vectors are not
    labelled.layered(again, {3: 0.2, 5: 0.4}, rows=40, width=16)
    assert found(again) == []
    labelled.layered(root.parent / "half", {3: 0.2, 5: 0.0}, rows=40, width=16)
    run(root.parent / "half", root.parent / "later")  # of one layer the same vectors
    assert found(root) == ["probes", "later"]
