"""Scores against float64: with the kernels and without, of any query, rows of no numbers too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actstore.querying import scoring, vector_math
from actstore.storage import floats, kernels
from actstore.storage.snapshot import Snapshot, open_snapshot
from tests.querying import stores


@pytest.fixture(autouse=True, params=["numkong", "NumPy"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernels, and as on a machine without them."""
    if request.param == "NumPy":
        monkeypatch.setattr(kernels, "library", lambda: None)


@pytest.fixture(params=["float16", "float32"])
def snapshot(request: pytest.FixtureRequest, tmp_path: Path) -> Snapshot:
    return store_of(tmp_path, request.param)


def store_of(folder: Path, dtype: str) -> Snapshot:
    for layer in range(2):
        stores.add(folder / "s", stores.vectors(150, 5000, dtype, layer), layer=layer)
    return open_snapshot(folder / "s")


def scored(snapshot: Snapshot, query: np.ndarray, metric: Any) -> np.ndarray:
    rows = np.arange(snapshot.rows)
    alone = scoring.scores(snapshot, rows, scoring.Query(query), metric)
    shared = scoring.scores(snapshot, rows, scoring.Query(query), metric, shared=True)
    assert np.array_equal(alone, shared, equal_nan=True)
    return alone


def exact(stored: np.ndarray, query: np.ndarray, metric: str) -> np.ndarray:
    wide, towards = stored.astype(np.float64), query.astype(np.float64)
    with np.errstate(all="ignore"):
        if metric == "l2":
            return np.asarray(np.linalg.norm(wide - towards, axis=1))
        products = np.vecdot(wide, towards)
        lengths = np.linalg.norm(wide, axis=1) * np.linalg.norm(towards)
        return np.asarray(products if metric == "dot" else products / lengths)


@pytest.mark.parametrize("kind", ["all", "runs", "scattered", "one", "none"])
@pytest.mark.parametrize("metric", vector_math.METRICS)
def test_scores(snapshot: Snapshot, kind: str, metric: Any) -> None:
    rows = stores.rows_of(kind)
    stored = snapshot.gather(np.arange(300))[rows].astype(np.float64)
    query = np.random.default_rng(3).standard_normal(5000).astype(np.float32)
    lengths = np.linalg.norm(stored, axis=1)
    expected = {
        "dot": stored @ query,
        "cosine": stored @ query / lengths / np.linalg.norm(query),
        "l2": np.linalg.norm(stored - query, axis=1),
    }[metric]
    found = scoring.scores(snapshot, rows, scoring.Query(query), metric)
    assert found.dtype == np.float32
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-3)
    if metric == "cosine":
        given = scoring.scores(
            snapshot, rows, scoring.Query(query), metric, lengths.astype(np.float32)
        )
        assert given == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_cosine_of_a_vector_with_itself_never_exceeds_one(snapshot: Snapshot) -> None:
    rows = np.arange(300)
    for row in range(0, 300, 37):
        query = snapshot.gather(rows[row : row + 1])[0].astype(np.float32)
        found = scoring.scores(snapshot, rows, scoring.Query(query), "cosine")
        assert found.max() <= 1
        assert found[row] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_that_are_no_numbers(tmp_path: Path, dtype: str) -> None:
    matrix = stores.vectors(6, 40, dtype, 0)
    matrix[0, 3] = np.inf
    matrix[1, 3] = -np.inf
    matrix[2, 3] = np.nan
    matrix[3] = 0
    matrix[4, :2] = np.inf, -np.inf
    stores.add(tmp_path / "s", matrix)
    generator = np.random.default_rng(1)
    for kind in (np.float32, np.float16):
        query = generator.standard_normal(40).astype(kind).astype(np.float32)
        found = scored(open_snapshot(tmp_path / "s"), query, "dot")
        side = np.sign(query[3]) * np.inf
        assert found[:2].tolist() == [side, -side]
        assert np.isnan(found[[2]]).all()
        assert found[3] == 0
        assert np.isfinite(found[5])
        cosine = scored(open_snapshot(tmp_path / "s"), query, "cosine")
        assert np.isnan(cosine[:5]).all()
        distance = scored(open_snapshot(tmp_path / "s"), query, "l2")
        assert np.isinf(distance[[0, 1, 4]]).all()
        assert np.isnan(distance[2])
        assert distance[3] == pytest.approx(np.linalg.norm(query), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-42, 1e-38, 1e-20, 3e18, 6e37])
def test_rows_of_any_size(tmp_path: Path, scale: float) -> None:
    # Their norms, squares and sums are beyond float32, or among its last digits.
    matrix = (stores.vectors(30, 500, "float32", 6).astype(np.float64) * scale).astype(np.float32)
    matrix[3], matrix[4] = 0, np.nan
    stores.add(tmp_path / "s", matrix)
    snapshot = open_snapshot(tmp_path / "s")
    norms = floats.norms(matrix)
    query = np.random.default_rng(6).standard_normal(500).astype(np.float32)
    wide, towards = matrix.astype(np.float64), query.astype(np.float64)
    towards[:250] *= -np.sign(wide[0, :250] * towards[:250])  # products of both signs
    towards[250:] *= np.sign(wide[0, 250:] * towards[250:])
    query = towards.astype(np.float32)
    with np.errstate(all="ignore"):
        expected = exact(matrix, query, "cosine")
        for given in (None, norms):
            found = scoring.scores(snapshot, np.arange(30), scoring.Query(query), "cosine", given)
            assert found == pytest.approx(expected, abs=1e-5, nan_ok=True)
        dots = exact(matrix, query, "dot").astype(np.float32)
        size = np.linalg.norm(wide, axis=1) * np.linalg.norm(towards)
        found = scored(snapshot, query, "dot")
        assert (np.isinf(found) == np.isinf(dots)).all()
        usable = np.isfinite(dots)
        assert (np.abs(found - dots)[usable] <= 1e-5 * size[usable] + 1e-42).all()
        for point in (query, matrix[0]):
            distances = exact(matrix, point, "l2").astype(np.float32)
            assert scored(snapshot, point, "l2") == pytest.approx(distances, rel=1e-5, nan_ok=True)


def test_the_distance_to_a_row_that_is_nearly_the_query(snapshot: Snapshot) -> None:
    stored = snapshot.gather(np.arange(300)).astype(np.float64)
    for step in (0, 1e-7, 1e-4, 1e-2):
        query = stored[7] + step * np.random.default_rng(4).standard_normal(5000)
        query = query.astype(np.float32)
        found = scored(snapshot, query, "l2")
        assert found == pytest.approx(exact(stored, query, "l2"), rel=1e-5, abs=0)


@pytest.mark.parametrize("metric", vector_math.METRICS)
@pytest.mark.parametrize("scale", [1e-30, 1e30, 3e38])
def test_queries_beyond_what_halves_hold(snapshot: Snapshot, metric: Any, scale: float) -> None:
    query = (np.random.default_rng(5).uniform(-1, 1, 5000) * scale).astype(np.float32)
    stored = snapshot.gather(np.arange(300))
    found = scored(snapshot, query, metric)
    expected = exact(stored, query, metric)
    # A product or a distance may be more than float32 holds, or a sum on the way there.
    usable = np.isfinite(found)
    size = float(np.linalg.norm(query.astype(np.float64))) * (80 if metric == "dot" else 0)
    assert found[usable] == pytest.approx(expected[usable], rel=1e-5, abs=1e-6 * (1 + size))
    assert usable.all() or (scale > 1 and metric != "cosine")


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_query(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    few = data.draw(st.lists(st.floats(-1000, 1000, width=16), min_size=1, max_size=6))
    generator = np.random.default_rng(data.draw(st.integers(0, 1 << 32)))
    width = data.draw(st.sampled_from([1, 2, 17, 300]))
    matrix = generator.choice(np.array(few, np.float16), (9, width))
    query = generator.choice(np.array(few), width) + data.draw(st.sampled_from([0, 1e-3, 0.7]))
    query = query.astype(np.float32)
    folder = tmp_path_factory.mktemp("any") / "s"
    stores.add(folder, matrix)
    snapshot = open_snapshot(folder)
    size = np.linalg.norm(matrix.astype(np.float64), axis=1) * np.linalg.norm(query)
    dots = exact(matrix, query, "dot")
    assert (np.abs(scored(snapshot, query, "dot") - dots) <= 1e-5 * size).all()
    expected = exact(matrix, query, "cosine")
    found = scored(snapshot, query, "cosine")
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    assert found == pytest.approx(expected, abs=1e-5, nan_ok=True)
    assert scored(snapshot, query, "l2") == pytest.approx(exact(matrix, query, "l2"), rel=1e-5)
