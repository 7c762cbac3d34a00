"""Scores on whole numbers are those of the vectors that they stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actstore.querying import integer_scores, scoring
from actstore.querying.vector_math import Metric
from actstore.storage.snapshot import Snapshot, open_snapshot
from tests.storage.stores import batch, write

pytest.importorskip("numkong")


@pytest.fixture(params=[1, 9, 64, 700])
def snapshot(tmp_path: Path, request: pytest.FixtureRequest) -> Snapshot:
    rng = np.random.default_rng(0)
    one = batch(0, 60, width=request.param, dtype="float32")
    one.vectors[:] = rng.standard_normal(one.vectors.shape) * np.exp(rng.standard_normal((60, 1)))
    one.vectors[7] = 0
    write(tmp_path / "s", one, narrow="int8")
    return open_snapshot(tmp_path / "s")


@pytest.mark.parametrize("metric", ["dot", "cosine"])
@pytest.mark.parametrize("kind", ["random", "one large", "zero", "tiny"])
def test_scores_against_float64(snapshot: Snapshot, metric: Metric, kind: str) -> None:
    width = snapshot.shards[0].width
    query = np.random.default_rng(1).standard_normal(width).astype(np.float32)
    query = {"one large": query + 1e4 * (np.arange(width) == 0), "zero": 0 * query}.get(kind, query)
    query = (query * (1e-30 if kind == "tiny" else 1)).astype(np.float32)
    for rows in (np.arange(60), np.array([3, 50, 7, 7, 12])):
        found = integer_scores.scores(snapshot, rows, query, metric)
        assert found is not None
        vectors = snapshot.gather(rows).astype(np.float64)
        expected = vectors @ query.astype(np.float64)
        most = np.abs(vectors) @ np.abs(query.astype(np.float64))
        most += np.abs(vectors).sum(axis=1) * np.abs(query).max() / 10
        if metric == "cosine":
            with np.errstate(invalid="ignore"):
                lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query.astype(float))
                expected, most = expected / lengths, most / lengths
        assert (np.isnan(found) == np.isnan(expected)).all()
        seen = ~np.isnan(expected)
        assert (np.abs(found - expected)[seen] <= 1e-6 * most[seen]).all()
        assert np.array_equal(
            scoring.scores(snapshot, rows, scoring.Query(query), metric), found, equal_nan=True
        )


@pytest.mark.parametrize("scale", [1e-40, 1e-36, 1e4, 1e38])
def test_norms_that_float32_does_not_hold(tmp_path: Path, scale: float) -> None:
    one = batch(0, 20, width=64, dtype="float32")
    one.vectors[:] = np.random.default_rng(2).standard_normal((20, 64)) * scale
    one.vectors[4] = 0
    write(tmp_path / "s", one, narrow="int8")
    snapshot = open_snapshot(tmp_path / "s")
    rows = np.arange(20)
    query = np.random.default_rng(3).standard_normal(64).astype(np.float32)
    with np.errstate(over="ignore"):
        norms = (np.linalg.norm(snapshot.gather(rows).astype(np.float64), axis=1)).astype(
            np.float32
        )
    vectors = snapshot.gather(rows).astype(np.float64)
    with np.errstate(invalid="ignore"):
        expected = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    for size in (1, 1e35):  # the two norms' product is not held either
        large = (query * size).astype(np.float32)
        for given in (None, norms):
            found = integer_scores.scores(snapshot, rows, large, "cosine", given)
            assert found == pytest.approx(expected, abs=1e-5, nan_ok=True)


def test_what_is_not_all_whole_numbers_is_left_to_floats(tmp_path: Path) -> None:
    whole = batch(0, 4, dtype="float32")
    whole.vectors[:] = np.arange(32).reshape(4, 8)
    write(tmp_path / "s", whole, narrow="int8")
    write(tmp_path / "s", batch(4, 4, dtype="float32"))
    found = open_snapshot(tmp_path / "s")
    query = np.ones(8, np.float32)
    assert integer_scores.scores(found, np.arange(8), query, "dot") is None
    assert integer_scores.scores(found, np.arange(4), query, "l2") is None
    assert integer_scores.scores(found, np.arange(4), query * np.inf, "dot") is None
    assert integer_scores.scores(found, np.arange(0), query, "dot") is None
    vectors = found.gather(np.arange(4))
    distance = scoring.scores(found, np.arange(4), scoring.Query(query), "l2")
    assert distance == pytest.approx(np.linalg.norm(vectors - query, axis=1), rel=1e-5)
