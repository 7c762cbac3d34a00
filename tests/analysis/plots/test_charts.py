"""Charts as SVG: every value is there, and what it tells is escaped."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from actstore.analysis.plots import charts


def line(name: str, values: list[float]) -> charts.Line:
    array = np.array(values)
    return charts.Line(name, array, array - 1, array + 1)


def drawn(layers: list[int | None], *series: charts.Line) -> ET.Element:
    text = charts.lines(layers, series, range(len(series)), y_name="norm", title="<Norms>")
    return ET.fromstring(text)


def titles(root: ET.Element) -> list[str]:
    return [str(node.text) for node in root.iter("title")]


def test_every_value_is_a_mark_that_tells_itself() -> None:
    root = drawn([0, 1, None], line("a & b", [3, 4, 5]), line("c", [3, np.nan, 1]))
    assert titles(root) == [
        "a & b, layer 0: 3 (2 to 4)",
        "a & b, layer 1: 4 (3 to 5)",
        "a & b, layer not recorded: 5 (4 to 6)",
        "c, layer 0: 3 (2 to 4)",
        "c, layer not recorded: 1 (0 to 2)",
    ]
    assert root.get("aria-label") == "<Norms>"
    assert sum(node.get("class") == "line" for node in root.iter("path")) == 1


def test_wide_spreads_are_logarithmic_and_all_marks_lie_inside() -> None:
    root = drawn(list(range(80)), line("a", [10.0**n for n in np.linspace(0.5, 4, 80)]))
    ticks = [str(node.text) for node in root.iter("text") if node.get("class") == "left"]
    assert ticks == ["10", "100", "1000", "1e4"]
    for node in root.iter("path"):
        if node.get("class") == "dot":
            x, y = map(float, str(node.get("transform")).split("(")[1].split(")")[0].split())
            assert charts.LEFT < x < charts.WIDTH
            assert 0 < y < charts.HEIGHT - charts.BOTTOM + 1
    layers = [str(node.text) for node in root.iter("text") if node.get("class") == "tick"]
    assert len(layers) <= 13


def test_nothing_known_draws_nothing() -> None:
    nothing = line("a", [np.nan, np.nan])
    assert charts.lines([0, 1], [nothing], [0], y_name="y", title="t") == ""


def test_points_are_drawn_with_texts_escaped() -> None:
    points = [
        charts.Points(0, np.array([[0.0, 0.0], [1.0, 2.0]]), ["one", "</title><script>\x00"]),
        charts.Points(8, np.array([[5.0, 5.0]]), ["grey"]),
    ]
    text = charts.scatter(points, x_name="PC 1", y_name="PC 2", title="t")
    assert "<script" not in text
    # What has no class lies below what has one.
    assert titles(ET.fromstring(text)) == ["grey", "one", "</title><script>\ufffd"]


@pytest.mark.parametrize("value", [0.0, 7.5, -1e30])
def test_points_that_all_lie_on_one_spot(value: float) -> None:
    points = [charts.Points(0, np.full((3, 2), value), ["a", "b", "c"])]
    text = charts.scatter(points, x_name="x", y_name="y", title="t")
    assert "nan" not in text
    assert len(titles(ET.fromstring(text))) == 3


@pytest.mark.parametrize("largest", [3e-7, 0.02, 9, 4e3, 2.1e5, 3e38])
def test_numbers_leave_room_for_the_axis_name(largest: float) -> None:
    values = np.array([-largest, largest])
    points = [charts.Points(0, np.stack([values, values], axis=1), ["a", "b"])]
    text = charts.scatter(points, x_name="x", y_name="y", title="t")
    found = re.findall(r'class="left" x="([\d.]+)" y="[\d.]+">([^<]+)<', text)
    assert len(found) > 2
    for right, number in found:
        # Twelve pixels high, and so at most seven wide; the turned name ends at twenty.
        assert float(right) - 7 * len(number) > 15
        assert abs(float(number)) <= largest * 1.2
