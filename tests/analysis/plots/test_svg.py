"""Pictures inside a page: ids of their own, titles on points, colours by name."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

import actstore
from actstore.analysis import plots
from actstore.analysis.plots import looks, svg
from actstore.analysis.plots.norms import draw
from actstore.analysis.statistics.norms import NormProfile
from actstore.analysis.statistics.summaries import NormSummary
from tests.analysis.plots.pictures import make


def lines(values: list[list[float | None]], layers: list[int | None]) -> looks.Picture:
    """A picture of norms, a line for each list."""
    profiles = [
        NormProfile(f"a & {number}", tuple(None if v is None else summary(v) for v in line))
        for number, line in enumerate(values)
    ]
    with looks.styled() as look:
        figure = looks.picture(look, 4, 3)
        draw(figure, figure.add_subplot(), layers, profiles, len(profiles))
    return figure


def summary(value: float) -> NormSummary:
    fields = dict.fromkeys((field.name for field in dataclasses.fields(NormSummary)), value)
    return NormSummary(**{**fields, "q05": value - 1, "q95": value + 1})


def test_every_value_is_a_mark_that_tells_itself() -> None:
    figure = lines([[3, 4, 5], [3, None, 1]], [0, 1, None])
    root = ET.fromstring(svg.inline(figure, label="<Norms>"))
    told = [str(node.text) for mark in root.iter("use") for node in mark.iter("title")]
    assert told == [
        "a & 0, layer 0: 3 (2 to 4)",
        "a & 0, layer 1: 4 (3 to 5)",
        "a & 0, layer not recorded: 5 (4 to 6)",
        "a & 1, layer 0: 3 (2 to 4)",
        "a & 1, layer not recorded: 1 (0 to 2)",
    ]
    assert root.get("aria-label") == "<Norms>"


def test_wide_spreads_are_logarithmic() -> None:
    figure = lines([[10.0**n for n in np.linspace(0.5, 4, 80)]], list(range(80)))
    assert figure.axes[0].get_yscale() == "log"
    assert len(figure.axes[0].get_xticks()) <= 17


def test_two_pictures_of_a_page_share_no_id(tmp_path: Path) -> None:
    with actstore.open(make(tmp_path, layers=(0, 1))) as store:
        figure = plots.pca(store.select())
    pages = [svg.inline(figure, prefix=prefix) for prefix in ("a-", "b-")]
    ids = [set(re.findall(r' id="([^"]+)"', page)) for page in pages]
    assert ids[0]
    assert not ids[0] & ids[1]
    for page, own in zip(pages, ids, strict=True):
        meant = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)
        assert {one or other for one, other in meant} == own
        assert "xmlns" not in page
        assert "<style" not in page  # its rules would be those of the whole page


@pytest.mark.parametrize("largest", [3e-7, 0.02, 9, 4e3, 2.1e5, 3e38])
def test_numbers_leave_room_for_the_axis_name(largest: float) -> None:
    from actstore.analysis.plots.pca import draw as draw_points
    from actstore.analysis.plots.pca import name_axes

    values = np.array([-largest, largest])
    with looks.styled() as look:
        figure = looks.picture(look, 3.9, 2.6)
        axes = figure.add_subplot()
        draw_points(figure, axes, np.stack([values] * 2, 1), np.zeros(2, int), ["a"], 1, ["b", "c"])
        name_axes(axes, 0.5, 0.1)
        figure.canvas.draw()
        name = axes.yaxis.label.get_window_extent()
        numbers = [t.get_window_extent() for t in axes.get_yticklabels() if t.get_text()]
    assert len(numbers) > 2
    assert name.x0 >= 0
    assert all(number.x0 >= name.x1 for number in numbers)


@pytest.mark.parametrize("value", [0.0, 7.5, -1e30])
def test_points_that_all_lie_on_one_spot(value: float) -> None:
    from actstore.analysis.plots.pca import draw as draw_points

    with looks.styled() as look:
        figure = looks.picture(look, 4, 3)
        spots, texts = np.full((3, 2), value), ["a", "</title><script>\x00", "c"]
        draw_points(figure, figure.add_subplot(), spots, np.array([0, 0, 1]), ["x", "y"], 1, texts)
    page = svg.inline(figure)
    assert "nan" not in page
    assert "<script" not in page
    # What has no class of its own lies below what has one.
    told = [str(node.text) for node in ET.fromstring(page).iter("title")]
    assert told == ["c", "a", "</title><script>\ufffd"]
