"""AUROC by layer is drawn once, whoever asks: every layer, in order, the same each time."""

from pathlib import Path

import numpy as np
import pytest

from actstore.analysis import plots
from actstore.analysis.examples.place_rows import ActivationPlace
from actstore.analysis.plots.auroc import Point, figure_of, series
from actstore.analysis.statistics.metrics import IntervalEstimate


def points(layers: list[int | None], site: str = "resid_post") -> list[Point]:
    return [
        Point(
            series(ActivationPlace("m", site, layer, "last", None)),
            layer,
            IntervalEstimate(0.7, 0.6, 0.8),
            0.58,
        )
        for layer in layers
    ]


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_equal_results_give_equal_files(tmp_path: Path, ending: str) -> None:
    for name in ("one", "two"):
        drawn = figure_of(points([6, 12, None]), "Ünïcode <title>")
        plots.save(drawn, tmp_path / f"{name}.{ending}")
    first, second = ((tmp_path / f"{name}.{ending}").read_bytes() for name in ("one", "two"))
    assert first == second
    assert len(first) > 5000


def test_all_layers_stand_in_order_on_the_axis() -> None:
    drawn = figure_of(points([None, 12, -1, 6]), "")
    (axes,) = drawn.axes
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["embed", "6", "12", "unknown"]
    *known, beyond = axes.get_xticks().tolist()
    assert known == [-1, 6, 12]
    assert beyond > 12
    low, high = axes.get_ylim()
    assert low < 0.5
    assert high >= 1


def test_intervals_are_thinner_than_the_line_through_the_values() -> None:
    (axes,) = figure_of(points([0, 1, 2]), "").axes
    line = next(line for line in axes.lines if line.get_marker() == "o")
    (bars,) = axes.collections
    assert np.max(bars.get_linewidth()) < line.get_linewidth()


def test_many_layers_and_sites_stay_readable() -> None:
    many = points(list(range(80))) + points(list(range(80)), "mlp_out")
    drawn = figure_of(many, "")
    (axes,) = drawn.axes
    assert len(axes.get_xticks()) <= 20
    (legend,) = drawn.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["resid_post, last", "mlp_out, last", "95 % of shuffled labels stay below"]


def test_one_layer_alone_is_drawn() -> None:
    place = ActivationPlace("m", "s", None, "mean", "prompt")
    single = [Point(series(place), None, IntervalEstimate(0.1, 0.0, 0.3))]
    (axes,) = figure_of(single, "").axes
    assert axes.get_ylim()[0] < 0.1
