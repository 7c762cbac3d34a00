"""Pictures of what a model says: of readings made by hand, so that none need run."""

from __future__ import annotations

from pathlib import Path

import matplotlib.colors as mcolors
import numpy as np

import actstore
from actstore.analysis import plots
from actstore.analysis.lens import LensReading, LensState
from actstore.analysis.plots.lens import choose, lens_of
from actstore.analysis.steering.doses import VECTOR, DoseCurve, DosePoint
from tests.analysis.plots.pictures import texts
from tests.querying import stores


def state(layer: int, example: str, *top: str) -> LensState:
    """What a model says at one layer, surest of the first."""
    return LensState(
        layer=layer,
        site="resid_post",
        dataset=None,
        split=None,
        example_id=example,
        mode=None,
        example_index=None,
        variant=None,
        position=None,
        token=None,
        top=top,
        probabilities=tuple(0.5 / (rank + 1) for rank in range(len(top))),
        target_probability=None,
        target_rank=None,
    )


def test_a_lens_shows_the_likeliest_token_of_each_layer_and_example(tmp_path: Path) -> None:
    stores.add(tmp_path, stores.vectors(2, 4, "float16", 0), layer=0)
    states = (
        state(0, "a", "Paris", "Rome"),
        state(3, "a", "abcdefghi", "Rome"),
        state(0, "b", "abcdefghij", "Rome"),
        state(3, "b", " ", "Rome"),
    )
    reading = LensReading(model="org/model", target=None, states=states, left_out=0)
    with actstore.open(tmp_path) as store:
        chosen = choose(store.select())
        shown = set(texts(lens_of(reading, chosen)))
    # Nine letters have room in a cell, ten have not.
    assert {"Paris", "abcdefghi", "abcdefgh…", "␣"} <= shown
    assert {"a", "b", "0", "3", "probability", "layer", "example"} <= shown
    assert "Rome" not in shown


def test_a_lens_of_many_examples_has_room_for_their_words(tmp_path: Path) -> None:
    stores.add(tmp_path, stores.vectors(2, 4, "float16", 0), layer=0)
    widths = []
    with actstore.open(tmp_path) as store:
        chosen = choose(store.select())
        for count in (8, 16):
            states = tuple(
                state(layer, f"e{at}", "word") for at in range(count) for layer in (0, 3)
            )
            reading = LensReading(model="org/model", target=None, states=states, left_out=0)
            widths.append(float(lens_of(reading, chosen).get_size_inches()[0]))
    assert widths[1] - widths[0] > 8 * 0.6  # inches; ten letters need that much


def test_a_dose_curve_and_its_band_are_of_one_colour() -> None:
    points = [
        DosePoint(direction=name, dose=at, value=at, change=at, low=at - 1, high=at + 1)
        for name in (VECTOR, "random 0", "random 1")
        for at in (-1.0, 0.0, 1.0)
    ]
    curve = DoseCurve(
        model="org/model",
        layer=3,
        site="resid_post",
        target="yes",
        against=None,
        measure="probability",
        norm=1.0,
        prompts=4,
        groups=4,
        points=tuple(points),
    )
    figure = plots.dose(curve)
    (axes,) = figure.axes
    (band,) = axes.collections
    own = next(line for line in axes.lines if line.get_label() == "steering vector")
    others = [line for line in axes.lines if line is not own]
    shade = np.asarray(band.get_facecolor())[0, :3]
    assert np.allclose(mcolors.to_rgb(own.get_color()), shade)
    assert len(others) >= 2
    for line in others:
        assert not np.allclose(mcolors.to_rgb(line.get_color()), shade)
