"""Principal components, held against NumPy's SVD."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import actstore
from actstore.analysis.statistics import projection
from actstore.errors import TooFewRowsError
from tests.querying import stores


@pytest.mark.parametrize("shape", [(60, 8), (9, 40)])
def test_components_are_those_of_the_svd(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    matrix = (rng.standard_normal(shape) * np.linspace(5, 0.1, shape[1]) + 9).astype(np.float32)
    found = projection.fit(matrix)
    centred = matrix.astype(np.float64) - matrix.mean(axis=0, dtype=np.float64)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(found.explained, sizes[:2] ** 2 / (sizes**2).sum(), rtol=1e-4)
    for mine, theirs in zip(found.directions, axes, strict=False):
        assert abs(mine @ theirs) == pytest.approx(1, abs=1e-4)
        assert mine[np.argmax(np.abs(mine))] > 0


def test_components_that_are_not_there_are_zero() -> None:
    found = projection.fit(np.array([[1, 2, 3]], np.float16))
    assert not found.directions.any()
    assert found.apply(np.array([[1, 2, 3]], np.float16)).tolist() == [[0, 0]]
    line = np.outer(np.arange(5), [1, 2, 3]).astype(np.float32)
    assert projection.fit(line).explained == pytest.approx([1, 0])


def test_large_values_and_those_that_are_not_finite() -> None:
    matrix = np.random.default_rng(2).standard_normal((20, 4)).astype(np.float32) * 1e30
    matrix[3, 1] = np.inf
    found = projection.fit(matrix)
    assert np.isfinite(found.directions).all()
    with pytest.raises(TooFewRowsError):
        projection.fit(np.full((2, 2), np.nan, np.float32))


def test_rows_are_projected_in_blocks(tmp_path: Path) -> None:
    (matrix,) = stores.layered(tmp_path, layers=1, rows=50)
    read = []
    with actstore.open(tmp_path) as store:
        selection = store.select()
        components = projection.fit(matrix[:20])
        points = projection.project(
            selection.snapshot, selection.rows, components, lambda *each: read.append(each)
        )
    np.testing.assert_allclose(points, components.apply(matrix), rtol=1e-5)
    assert sum(rows for _, rows in read) == 50


def test_differences_that_float32_does_not_hold() -> None:
    matrix = np.array([[3.3e38, 0], [3.3e38, 1], [-3.3e38, 0], [3.2e38, 2]], np.float32)
    found = projection.fit(matrix)
    assert np.isfinite(found.directions).all()
    assert abs(found.directions[0, 0]) == pytest.approx(1)


def test_components_do_not_depend_on_how_many_threads_add_up(tmp_path: Path) -> None:
    program = """
import sys
import numpy as np
from actstore.analysis.statistics import projection
rng = np.random.default_rng(3)
for shape in ((44, 1536), (900, 300)):
    matrix = rng.standard_normal(shape).astype(np.float32)
    points = projection.fit(matrix).apply(matrix)
    print(" ".join(f"{value:.4f}" for value in points.ravel()))
"""
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(told) == 1
