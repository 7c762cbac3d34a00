"""Moments of dimensions, held against NumPy in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import actstore
from actstore.analysis.statistics.moments import Moments, measure
from tests.querying import stores


def test_blocks_give_what_the_whole_gives() -> None:
    rng = np.random.default_rng(0)
    # A mean a thousand times the spread: the naive sum of squares loses it in float32.
    means = np.array([0, 1e3, -1e3, 0, 5, 1])
    matrix = (rng.standard_normal((501, 6)) + means).astype(np.float32)
    matrix[:, 3] = 0
    moments = Moments(6)
    for start in range(0, 501, 37):
        moments.add(matrix[start : start + 37])
    exact = matrix.astype(np.float64)
    np.testing.assert_allclose(moments.mean, exact.mean(axis=0), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(moments.std, exact.std(axis=0), rtol=1e-9)
    np.testing.assert_allclose(moments.rms, np.sqrt((exact**2).mean(axis=0)), rtol=1e-12)
    count, mean, squares = moments.pooled()
    assert count == exact.size
    assert mean == pytest.approx(exact.mean(), rel=1e-12)
    assert squares / count == pytest.approx(exact.var(), rel=1e-12)
    assert (moments.minimum, moments.maximum) == (exact.min(), exact.max())
    assert moments.zeros == 501
    assert moments.nonfinite == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_is_not_finite_is_counted_and_left_out(dtype: type[np.floating]) -> None:
    matrix = np.array([[1, np.nan, 0], [3, np.inf, -0.0], [5, -np.inf, 2]], dtype)
    moments = Moments(3)
    moments.add(matrix[:1])
    moments.add(matrix[1:])
    assert moments.nonfinite == 3
    assert moments.zeros == 2
    assert moments.counts.tolist() == [3, 0, 3]
    assert moments.mean[[0, 2]] == pytest.approx([3, 2 / 3])
    assert (moments.minimum, moments.maximum) == (0, 5)


def test_all_values_not_finite() -> None:
    moments = Moments(2)
    moments.add(np.full((3, 2), np.nan, np.float16))
    assert moments.pooled()[0] == 0
    assert moments.nonfinite == 6


def test_rows_are_read_once_by_width(tmp_path: Path) -> None:
    stores.add(tmp_path, stores.vectors(5, 4, "float16", 1), layer=0)
    stores.add(tmp_path, stores.vectors(3, 6, "float32", 2), layer=0, site="mlp_out")
    read: list[tuple[int, int]] = []
    with actstore.open(tmp_path) as store:
        selection = store.select()
        found = measure(selection.snapshot, selection.rows, lambda *each: read.append(each))
    assert [(one.width, one.rows) for one in found] == [(4, 5), (6, 3)]
    assert sum(size for size, _ in read) == 5 * 4 * 2 + 3 * 6 * 4
    assert sum(rows for _, rows in read) == 8
