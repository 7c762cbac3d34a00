"""Normalisation: the formulas, the cache, and what has no norm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import actstore
from actstore.errors import AnalysisError, MismatchError, TooFewRowsError, UsageError
from actstore.training.normalisation import Normalisation
from tests.querying import stores


def _store(tmp_path: Path, matrix: np.ndarray) -> actstore.Store:
    stores.add(tmp_path / "s", matrix)
    return actstore.open(tmp_path / "s")


def _matrix(rows: int = 200, width: int = 16, dtype: str = "float32") -> np.ndarray:
    draw = np.random.default_rng(0)
    return (draw.standard_normal((rows, width)) * 3 + np.arange(width)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_formulas(tmp_path: Path, dtype: str) -> None:
    matrix = _matrix(dtype=dtype)
    exact = matrix.astype(np.float64)
    with _store(tmp_path, matrix) as store:
        selection = store.select()
        norm = selection.normalisation("norm")
        assert norm.mean is None
        assert norm.scale == pytest.approx(4 / np.linalg.norm(exact, axis=1).mean(), rel=1e-6)
        centred = selection.normalisation("mean-norm")
        mean = exact.mean(axis=0)
        assert centred.mean is not None
        np.testing.assert_allclose(centred.mean, mean, rtol=1e-6)
        spread = np.linalg.norm(exact - mean, axis=1).mean()
        assert centred.scale == pytest.approx(4 / spread, rel=1e-6)


@pytest.mark.parametrize("kind", ["norm", "mean-norm"])
@pytest.mark.parametrize("shuffle", [False, "exact", "blocks"])
def test_batches_come_normalised(tmp_path: Path, kind: str, shuffle: bool | str) -> None:
    with _store(tmp_path, _matrix(dtype="float16")) as store:
        selection = store.select()
        batches = selection.batches(64, shuffle=shuffle, normalise=kind)  # type: ignore[arg-type]
        assert batches.normalisation is not None
        found, rows = [], []
        for vectors, table in batches:
            assert vectors.dtype == np.float32
            found.append(vectors)
            rows += table["row_id"].to_pylist()
        every = np.concatenate(found)
        assert np.linalg.norm(every, axis=1).mean() == pytest.approx(4, rel=1e-5)
        back = batches.normalisation.invert(every)
        np.testing.assert_allclose(back, selection.numpy()[rows].astype(np.float32), atol=1e-4)
        assert np.array_equal(selection.numpy(), _matrix(dtype="float16"))  # the store is as it was


def test_float32_rows_are_normalised_in_a_copy(tmp_path: Path) -> None:
    with _store(tmp_path, _matrix()) as store:
        first = next(store.select().batches(200, normalise="mean-norm")).vectors
        assert abs(first.mean()) < 1e-4
        assert np.array_equal(store.select().numpy(), _matrix())


def _unused(*_: object) -> None:
    raise AssertionError("computed again")


def test_it_is_computed_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _store(tmp_path, _matrix()) as store:
        first = store.select().normalisation()
        (file,) = (tmp_path / "s/.cache").glob("normalisation-mean-norm-*.npz")
        monkeypatch.setattr("actstore.training.normalisation._compute", _unused)
        again = store.select().normalisation()
        assert again.scale == first.scale
        assert np.array_equal(again.mean, first.mean)  # type: ignore[arg-type]
        monkeypatch.undo()
        for damage in (b"", b"PK nonsense", file.read_bytes()[:100]):
            file.write_bytes(damage)
            assert store.select().normalisation().scale == first.scale
        assert store.select("row_id < 50").normalisation().scale != first.scale
        assert len(list((tmp_path / "s/.cache").glob("normalisation-*.npz"))) == 2


def test_one_that_is_given_is_used(tmp_path: Path) -> None:
    given = Normalisation(mean=np.ones(16, np.float32), scale=0.5)
    with _store(tmp_path, _matrix()) as store:
        batches = store.select().batches(10, normalise=given)
        assert batches.normalisation is given
        np.testing.assert_allclose(next(batches).vectors, (_matrix()[:10] - 1) * 0.5, rtol=1e-6)
        narrow = Normalisation(mean=np.ones(4, np.float32), scale=1)
        with pytest.raises(MismatchError, match=r"width 4, the selection's have 16"):
            store.select().batches(10, normalise=narrow)
        with pytest.raises(UsageError, match="width 4"):
            narrow.apply(np.ones((2, 16), np.float32))


def test_what_has_no_norm(tmp_path: Path) -> None:
    same = np.full((5, 4), 2, np.float16)
    with _store(tmp_path, same) as store:
        assert store.select().normalisation("norm").scale == pytest.approx(0.5)
        with pytest.raises(AnalysisError, match=r"5 vectors of .* all the same"):
            store.select().normalisation("mean-norm")
        with pytest.raises(TooFewRowsError, match="has no rows"):
            store.select("norm < 0").normalisation()
        with pytest.raises(UsageError, match="norm, mean-norm, got 'std'"):
            store.select().batches(2, normalise="std")  # type: ignore[arg-type]
    infinite = np.full((5, 4), np.inf, np.float32)
    stores.add(tmp_path / "t", infinite)
    with actstore.open(tmp_path / "t") as store, pytest.raises(AnalysisError, match="not finite"):
        store.select().normalisation("norm")
    # 1e39 is a factor for them, and no float32: batches would be infinite.
    stores.add(tmp_path / "u", np.full((5, 4), 1e-39, np.float32))
    with actstore.open(tmp_path / "u") as store, pytest.raises(AnalysisError, match="or nearly"):
        store.select().normalisation("norm")


@pytest.mark.parametrize(
    ("mean", "scale"),
    [
        (None, 0),
        (None, np.nan),
        (None, 1e39),
        (None, 1e-50),
        ([np.nan], 1),
        ([1e39], 1),
        ([[1]], 1),
    ],
)
def test_a_normalisation_has_a_scale(mean: Any, scale: float) -> None:
    with pytest.raises(UsageError, match="scale above 0"):
        Normalisation(mean=mean, scale=scale)


@pytest.mark.parametrize("wrong", [{"mean": ["x"], "scale": 1}, {"mean": None, "scale": "x"}])
def test_a_normalisation_is_made_of_numbers(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="made of numbers"):
        Normalisation(**wrong)


@pytest.mark.parametrize("kind", [list, np.float64, np.int64, torch.tensor])
def test_a_mean_may_be_any_numbers(tmp_path: Path, kind: Any) -> None:
    mean = np.ones(16, kind) if isinstance(kind, type) and kind is not list else kind([1.0] * 16)
    given = Normalisation(mean=mean, scale=0.5)
    with _store(tmp_path, _matrix()) as store:
        found = next(store.select().batches(10, normalise=given)).vectors
    np.testing.assert_allclose(found, (_matrix()[:10] - 1) * 0.5, rtol=1e-6)


@pytest.mark.filterwarnings("error")
def test_infinities_of_both_signs_are_one_error(tmp_path: Path) -> None:
    matrix = np.array([[np.inf, 1], [-np.inf, 1]], np.float32)
    with _store(tmp_path, matrix) as store, pytest.raises(AnalysisError, match="not finite"):
        store.select().normalisation("mean-norm")
