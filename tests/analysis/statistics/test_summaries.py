"""Statistics by group, held against NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import actstore
from actstore.analysis import statistics
from actstore.errors import MixedVectorsError
from actstore.storage.compaction import compact
from tests.querying import places, stores


def test_each_layer_is_described(tmp_path: Path) -> None:
    matrices = stores.layered(tmp_path, layers=3, rows=30, width=16)
    with actstore.open(tmp_path) as store:
        found = statistics.describe(store.select())
    assert [one.group["layer"] for one in found] == [0, 1, 2]
    for one, matrix in zip(found, matrices, strict=True):
        exact = matrix.astype(np.float64)
        assert one.rows == 30
        assert one.widths == (16,)
        assert one.mean == pytest.approx(exact.mean())
        assert one.std == pytest.approx(exact.std())
        assert (one.minimum, one.maximum) == (exact.min(), exact.max())
        norms = np.linalg.norm(exact, axis=1)
        assert one.norm is not None
        assert one.norm.median == pytest.approx(np.median(norms), rel=1e-6)
        assert one.norm.q95 == pytest.approx(np.quantile(norms, 0.95), rel=1e-6)
        assert one.outlier_count == 0
        assert one.nonfinite == 0


def test_by_label_within_layer(tmp_path: Path) -> None:
    (matrix,) = stores.layered(tmp_path, layers=1, rows=9)
    with actstore.open(tmp_path) as store:
        found = statistics.describe(store.select(), ("label",))
    assert [one.group["label"] for one in found] == ["no", "yes", None]
    for one, first in zip(found, (1, 0, 2), strict=True):
        assert one.mean == pytest.approx(matrix[first::3].astype(np.float64).mean())


def test_widths_and_types_may_mix_in_a_group(tmp_path: Path) -> None:
    one, other = stores.vectors(5, 4, "float16", 1), stores.vectors(3, 6, "float32", 2)
    stores.add(tmp_path, one)
    stores.add(tmp_path, other, site="mlp_out")
    with actstore.open(tmp_path) as store:
        (found,) = statistics.describe(store.select(), (), mixed=True)
    every = np.concatenate([one.astype(np.float64).ravel(), other.astype(np.float64).ravel()])
    assert found.widths == (4, 6)
    assert found.mean == pytest.approx(every.mean())
    assert found.std == pytest.approx(every.std())


def test_outlier_dimensions_are_named(tmp_path: Path) -> None:
    matrix = stores.vectors(40, 32, "float32", 3)
    matrix[:, 7] = 50
    matrix[:, 20] *= 10
    stores.add(tmp_path, matrix)
    with actstore.open(tmp_path) as store:
        (found,) = statistics.describe(store.select())
    assert [one.dimension for one in found.outliers] == [7, 20]
    assert found.outlier_count == 2
    assert found.outliers[0].mean == pytest.approx(50)
    assert found.outliers[0].ratio > found.outliers[1].ratio > 6


def test_zero_vectors_and_infinite_ones(tmp_path: Path) -> None:
    matrix = np.zeros((3, 4), np.float32)
    matrix[0, 0] = np.inf
    matrix[1, 1] = np.nan
    stores.add(tmp_path, matrix)
    with actstore.open(tmp_path) as store:
        (found,) = statistics.describe(store.select())
    assert found.zeros == 10 / 12
    assert found.nonfinite == 2
    assert found.mean == 0
    assert found.norm is not None
    assert found.norm.maximum == 0


def test_one_row_and_none(tmp_path: Path) -> None:
    stores.add(tmp_path, np.array([[1, 3]], np.float16))
    with actstore.open(tmp_path) as store:
        (found,) = statistics.describe(store.select())
        assert statistics.describe(store.select("false")) == []
    assert (found.mean, found.std) == (2, 1)


def test_compaction_changes_nothing(tmp_path: Path) -> None:
    for part in range(3):
        ids = [f"p{part}-{number}" for number in range(5)]
        matrix = stores.vectors(5, 8, "float16", part)
        stores.add(tmp_path, matrix, example_id=ids, label=["a"] * 5, task=[None] * 5)
    with actstore.open(tmp_path) as store:
        before = statistics.describe(store.select())
    compact(tmp_path)
    with actstore.open(tmp_path) as store:
        assert len(store.select().snapshot.shards) == 1
        assert statistics.describe(store.select()) == before


def test_the_advice_groups_by_all_that_differs(tmp_path: Path) -> None:
    places.write(tmp_path, places.places(site=("mlp_out", "resid_post"), layer=range(3)))
    with actstore.open(tmp_path) as store:
        with pytest.raises(MixedVectorsError, match=r"--by label,site,layer\)"):
            statistics.describe(store.select(), ("label",))
        assert statistics.describe(store.select(), ("label", "site", "layer"))
