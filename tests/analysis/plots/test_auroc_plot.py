"""The picture of AUROC by layer shows every layer and is the same each time."""

from pathlib import Path

import pytest

from actstore.analysis.examples.place_rows import ActivationPlace
from actstore.analysis.plots import auroc_plot
from actstore.analysis.plots.auroc_plot import Point
from actstore.analysis.statistics.metrics import IntervalEstimate


def points(layers: list[int | None], site: str = "resid_post") -> list[Point]:
    return [
        Point(
            ActivationPlace("m", site, layer, "last", None), IntervalEstimate(0.7, 0.6, 0.8), 0.58
        )
        for layer in layers
    ]


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_equal_results_give_equal_files(tmp_path: Path, ending: str) -> None:
    for name in ("one", "two"):
        drawn = auroc_plot.figure(points([6, 12, None]), "Ünïcode <title>")
        auroc_plot.save(drawn, tmp_path / f"{name}.{ending}")
    first, second = ((tmp_path / f"{name}.{ending}").read_bytes() for name in ("one", "two"))
    assert first == second
    assert len(first) > 5000


def test_all_layers_stand_in_order_on_the_axis() -> None:
    drawn = auroc_plot.figure(points([None, 12, -1, 6]))
    (axes,) = drawn.axes
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["embed", "6", "12", "unknown"]
    assert axes.get_xticks().tolist() == [-1, 6, 12, 13]
    low, high = axes.get_ylim()
    assert low < 0.5
    assert high >= 1


def test_many_layers_and_sites_stay_readable() -> None:
    many = points(list(range(80))) + points(list(range(80)), "mlp_out")
    (axes,) = auroc_plot.figure(many).axes
    assert len(axes.get_xticks()) <= 20
    legend = axes.get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert {"mlp_out, last", "resid_post, last"} <= set(texts)


def test_one_layer_alone_is_drawn() -> None:
    single = [
        Point(ActivationPlace("m", "s", None, "mean", "prompt"), IntervalEstimate(0.1, 0.0, 0.3))
    ]
    (axes,) = auroc_plot.figure(single).axes
    assert axes.get_ylim()[0] < 0.1
