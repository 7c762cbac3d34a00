"""AUROC by layer, drawn from a probe's report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actstore
from actstore.analysis import plots
from actstore.analysis.plots.auroc_report import points_of
from actstore.errors import UsageError
from tests.analysis.plots.pictures import make, texts


def result(layer: int | None, auroc: float, **more: Any) -> dict[str, Any]:
    return {
        "model": "m",
        "site": "resid_post",
        "pooling": "last",
        "layer": layer,
        "auroc": auroc,
        "auroc_interval": [auroc - 0.1, auroc + 0.05],
        "rows": 40,
        **more,
    }


def test_a_report_is_drawn(tmp_path: Path) -> None:
    shuffled = {"baselines": {"permutation": {"auroc_95": 0.6}}}
    more = {**shuffled, "positive": ["b"], "negative": ["a", "c"]}
    results = [result(layer, 0.5 + layer / 20, **more) for layer in range(8)]
    (tmp_path / "report.json").write_text(json.dumps(results))
    found = texts(plots.auroc_of_report(tmp_path))
    assert {"AUROC", "layer", "7", "chance", "95 % of shuffled labels stay below", "probe"} <= set(
        found
    )
    assert "AUROC of probes: b against a or c · m" in found


def test_sites_are_series_of_their_own() -> None:
    points, rows = points_of(
        {"results": [result(3, 0.7), result(3, 0.8, site="mlp_out", rows=50), result(None, 0.6)]}
    )
    assert [point.series for point in points] == ["resid_post", "mlp_out", "resid_post"]
    assert points[0].auroc == pytest.approx((0.7, 0.6, 0.75))
    assert rows == 50


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"results": [{}]}', '[{"layer": 1}]', "[1]"])
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(UsageError, match="no report of a probe"):
        plots.auroc_of_report(tmp_path)


def test_a_layer_that_is_not_recorded_follows_none(tmp_path: Path) -> None:
    with actstore.open(make(tmp_path, layers=(0, 1, None))) as store:
        figure = plots.auroc(store.select())
    joined = [
        np.asarray(line.get_xdata()) for line in figure.axes[0].lines if line.get_marker() == "o"
    ]
    assert [len(places) for places in joined] == [2, 1]


def test_in_sample_figures_are_another_kind_of_line(tmp_path: Path) -> None:
    vectors = {"lineage": {"vectors": "v"}, "positive": ["a"], "negative": ["b"]}
    shown = {"in_sample": 9, "in_sample_shown": True}
    results = [result(layer, 0.9, **vectors, **shown) for layer in range(3)]
    results += [result(layer, 0.6, site="mlp_out") for layer in range(3)]
    (tmp_path / "report.json").write_text(json.dumps(results))
    figure = plots.auroc_of_report(tmp_path)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["resid_post (in-sample)", "mlp_out"]
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines[names[0]].get_linestyle() == "--"
    assert lines[names[0]].get_markerfacecolor() != lines[names[0]].get_color()
    assert lines[names[1]].get_linestyle() == "-"
    assert figure.heading.startswith("IN-SAMPLE: ")
