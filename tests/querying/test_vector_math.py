"""Arithmetic on the map, in blocks, against NumPy on everything at once."""

from pathlib import Path

import numpy as np
import pytest

from actstore.querying import vector_math
from actstore.storage.snapshot import Snapshot, open_snapshot
from tests.querying import stores


@pytest.fixture(params=["float16", "float32"])
def snapshot(request: pytest.FixtureRequest, tmp_path: Path) -> Snapshot:
    # Wide enough that a block holds few rows.
    for layer in range(2):
        matrix = stores.vectors(150, 5000, request.param, layer)
        stores.add(tmp_path / "s", matrix, layer=layer)
    return open_snapshot(tmp_path / "s")


@pytest.mark.parametrize("kind", ["all", "runs", "scattered", "one", "none"])
def test_blocks_cover_rows_in_order(snapshot: Snapshot, kind: str) -> None:
    rows = stores.rows_of(kind)
    everything = snapshot.gather(np.arange(300))
    end = 0
    for start, stop, vectors in vector_math.blocks(snapshot, rows, 16):
        assert start == end < stop <= start + 16
        assert np.array_equal(vectors, everything[rows[start:stop]])
        end = stop
    assert end == len(rows)


@pytest.mark.parametrize("kind", ["all", "runs", "scattered", "one"])
def test_mean(snapshot: Snapshot, kind: str) -> None:
    rows = stores.rows_of(kind)
    expected = snapshot.gather(np.arange(300))[rows].astype(np.float64).mean(axis=0)
    assert vector_math.mean(snapshot, rows, 5000) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_mean_of_many_narrow_rows_keeps_what_float32_holds(tmp_path: Path) -> None:
    # One block: in float32 its sum passes 2^24 and each row adds a rounded number to it.
    drawn = np.random.default_rng(0).standard_normal((40_000, 8))
    matrix = (1000.3 + 0.01 * drawn).astype(np.float32)
    stores.add(tmp_path / "s", matrix)
    found = vector_math.mean(open_snapshot(tmp_path / "s"), np.arange(len(matrix)), 8)
    assert found == pytest.approx(matrix.mean(axis=0, dtype=np.float64), rel=1e-7)


def test_the_mean_of_rows_whose_sum_float32_cannot_hold(tmp_path: Path) -> None:
    matrix = np.full((64, 4), 3e38, np.float32)
    stores.add(tmp_path / "s", matrix)
    assert (
        vector_math.mean(open_snapshot(tmp_path / "s"), np.arange(64), 4).tolist()
        == [np.float32(3e38)] * 4
    )
