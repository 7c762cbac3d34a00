"""Layers against positions: medians at their places, and what is not there stays blank."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import actstore
from actstore.analysis import plots
from actstore.analysis.plots.looks import Picture
from actstore.errors import TooFewRowsError
from tests.analysis.plots.pictures import texts
from tests.querying import stores


def tokens(
    root: Path, norms: list[float], positions: list[int | None], layer: int | None = 0
) -> None:
    """Write tokens of given norms at given positions."""
    matrix = np.zeros((len(norms), 4), np.float32)
    matrix[:, 0] = norms
    many = len(norms)
    stores.add(root, matrix, layer=layer, pooling=["none"] * many, position=positions)


def cells(figure: Picture) -> np.ndarray:
    """The matrix that a picture shows."""
    (image,) = figure.axes[0].images
    array = image.get_array()
    assert array is not None
    return np.ma.filled(array.astype(float), np.nan)


def test_medians_stand_at_their_layer_and_position(tmp_path: Path) -> None:
    tokens(tmp_path, [1, 2, 9, 4, 8], [0, 0, 0, 1, 1], layer=3)
    tokens(tmp_path, [5, 7, 1], [0, 2, None], layer=None)
    with actstore.open(tmp_path) as store:
        figure = plots.positions(store.select())
    assert cells(figure) == pytest.approx(np.array([[2, 6, np.nan], [5, np.nan, 7]]), nan_ok=True)
    shown = texts(figure)
    assert {"2", "5", "6", "7", "3", "unknown", "position", "layer"} <= set(shown)
    assert "7 rows, 3 positions; 1 without a position or not finite; blank: no row" in shown


def test_many_positions_share_columns_and_none_is_lost(tmp_path: Path) -> None:
    norms = np.ones(500)
    norms[333] = 50
    tokens(tmp_path, norms.tolist(), list(range(500)))
    with actstore.open(tmp_path) as store:
        figure = plots.positions(store.select())
    shown = cells(figure)
    assert shown.shape[1] < 100
    assert np.flatnonzero(shown[0] > 40).tolist() == [333 // 6]
    assert "each column shows the largest of 6 positions" in figure.caption

    # A number under each would be a smear.
    assert len(figure.axes[0].get_xticks()) <= 17


def test_one_norm_everywhere_still_has_a_scale(tmp_path: Path) -> None:
    tokens(tmp_path, [3, 3, 3], [0, 1, 2])
    with actstore.open(tmp_path) as store:
        figure = plots.positions(store.select())
    (image,) = figure.axes[0].images
    assert image.norm.vmin == 3
    assert image.norm.vmax == 4


def test_rows_that_are_no_tokens_are_refused(tmp_path: Path) -> None:
    stores.add(tmp_path, stores.vectors(4, 4, "float16", 0))
    with actstore.open(tmp_path) as store, pytest.raises(TooFewRowsError, match="--pool tokens"):
        plots.positions(store.select())
