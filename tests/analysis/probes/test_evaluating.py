"""Rows that strain arithmetic: probes are still what scikit-learn makes of them in float64."""

import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.preprocessing import StandardScaler

import actstore
from actstore.analysis.probes import evaluating, probing
from actstore.analysis.probes.results import ProbeResult
from actstore.analysis.probes.splits import Job, ProbeSettings
from actstore.analysis.solvers import linear
from actstore.analysis.solvers.linear import Method
from actstore.analysis.statistics import folds
from tests.analysis import labelled

FOLDS = 4
ROWS, WIDTH = 40, 120


def usual(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    positive = draw.permutation(np.arange(ROWS) % 5 < 2)
    vectors = draw.standard_normal((ROWS, WIDTH))
    vectors[:, :10] += positive[:, None]
    return vectors, positive


def probed(
    root: Path, vectors: np.ndarray, positive: np.ndarray, method: Method, strength: float
) -> ProbeResult:
    labelled.add(root, vectors, ["yes" if each else "no" for each in positive])
    settings = ProbeSettings(method=method, strength=strength, folds=FOLDS, permutations=10)
    with actstore.open(root) as store:
        (result,) = probing.probe(store, positive="yes", settings=settings).results
    return result


def expected(
    vectors: np.ndarray, positive: np.ndarray, method: Method, strength: float
) -> np.ndarray:
    scores = np.empty(ROWS)
    for train, test in folds.grouped(positive, np.arange(ROWS), FOLDS, 0):
        model = (
            LogisticRegression(C=strength, solver="newton-cholesky", max_iter=500, tol=1e-9)
            if method == "logistic"
            else RidgeClassifier(alpha=1 / strength)
        )
        scaler = StandardScaler().fit(vectors[train].astype(np.float64))
        model.fit(scaler.transform(vectors[train].astype(np.float64)), positive[train])
        ready = scaler.transform(vectors[test].astype(np.float64))
        scores[test] = model.decision_function(ready)
    return scores


@pytest.mark.parametrize("method", ["logistic", "ridge"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_dimension_that_varies_outside_a_fold_alone_has_no_say_in_it(
    tmp_path: Path, method: Method, dtype: str
) -> None:
    # As neurons that fire for one row in hundreds: constant wherever that row is left out.
    vectors, positive = usual()
    for row in range(20):
        vectors[:, 40 + row] = 0.37
        vectors[row, 40 + row] = 60_000
    vectors = vectors.astype(dtype)
    found = probed(tmp_path, vectors, positive, method, 1.0).scores
    np.testing.assert_allclose(found, expected(vectors, positive, method, 1.0), atol=0.01)


@pytest.mark.parametrize("method", ["logistic", "ridge"])
@pytest.mark.parametrize("far", [100, 1e5])
def test_one_row_far_out_leaves_the_others_their_digits(
    tmp_path: Path, method: Method, far: float
) -> None:
    vectors, positive = usual()
    vectors[:, 3] += 5
    vectors[7] *= far
    vectors = vectors.astype(np.float32)
    found = probed(tmp_path, vectors, positive, method, 1.0).scores
    reference = expected(vectors, positive, method, 1.0)
    np.testing.assert_allclose(found, reference, atol=0.01, rtol=0.01)


@pytest.mark.parametrize("method", ["logistic", "ridge"])
def test_a_dimension_that_never_varies_changes_no_shuffled_run(
    tmp_path: Path, method: Method
) -> None:
    # As many rows as dimensions, and one row fewer: scales of all rows serve both.
    vectors, positive = usual()
    square = vectors[:, :ROWS].astype(np.float32)
    wider = np.column_stack([square, np.full(ROWS, 2.5, np.float32)])
    told = []
    for name, matrix in (("square", square), ("wider", wider)):
        permuted = probed(tmp_path / name, matrix, positive, method, 1.0).permuted
        assert permuted is not None
        told.append((permuted.auroc_mean, permuted.auroc_95, permuted.accuracy_mean))
    assert told[0] == pytest.approx(told[1])


def test_a_row_of_zeros_among_large_ones_does_not_stop_it_half_way(tmp_path: Path) -> None:
    vectors, positive = usual()
    vectors -= 1000
    vectors[ROWS // 2] = 0
    vectors = vectors.astype(np.float32)
    found = probed(tmp_path, vectors, positive, "logistic", 10.0).scores
    reference = expected(vectors, positive, "logistic", 10.0)
    np.testing.assert_allclose(found, reference, atol=0.01, rtol=0.01)


@pytest.mark.parametrize("method", ["logistic", "ridge"])
@pytest.mark.parametrize("strength", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("rank", [3, 120])
def test_equal_rows_of_both_classes_hold_at_any_strength(
    tmp_path: Path, method: Method, strength: float, rank: int
) -> None:
    vectors, positive = usual()
    if rank < WIDTH:
        draw = np.random.default_rng(5)
        common = draw.standard_normal((ROWS, rank)) @ draw.standard_normal((rank, WIDTH))
        vectors = 5 * common + 0.1 * vectors
    vectors[ROWS // 2 :] = vectors[: ROWS // 2]
    vectors = vectors.astype(np.float32)
    found = probed(tmp_path, vectors, positive, method, strength).scores
    reference = expected(vectors, positive, method, strength)
    np.testing.assert_allclose(found, reference, atol=0.02, rtol=0.01)


@pytest.mark.parametrize("method", ["logistic", "ridge", "mean-difference"])
@pytest.mark.parametrize("rows", [ROWS, 2 * WIDTH])
def test_equal_vectors_tell_nothing(tmp_path: Path, method: Method, rows: int) -> None:
    # The embedding of a prompt's last token, for instance.
    positive = np.arange(rows) % 2 > 0
    result = probed(tmp_path, np.full((rows, WIDTH), 0.3, np.float16), positive, method, 1.0)
    assert result.auroc.value == 0.5
    assert result.auroc.low < 0.5 < result.auroc.high
    assert result.permuted is not None
    assert result.permuted.p_value == 1


@pytest.mark.parametrize("size", [1e-12, 1e19, 1e22])
def test_the_unit_of_the_vectors_does_not_matter(tmp_path: Path, size: float) -> None:
    vectors, positive = usual()
    vectors = (vectors + 2).astype(np.float32)
    found = probed(tmp_path, vectors * np.float32(size), positive, "logistic", 1.0).scores
    np.testing.assert_allclose(found, expected(vectors, positive, "logistic", 1.0), atol=0.01)


def test_what_nobody_waits_for_ends_within_one_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, positive = usual()
    narrow = vectors[:, :4].astype(np.float32)
    texts = ["yes" if each else "no" for each in positive]
    for layer in range(4):
        labelled.add(tmp_path / "s", narrow, texts, layer=layer)
    fits: list[int] = []
    train = linear.perceptron

    def counted(*arguments: Any) -> linear.Perceptron:
        fits.append(1)
        return train(*arguments)

    monkeypatch.setattr(linear, "perceptron", counted)
    done: list[int] = []

    def progress(*_: int) -> None:
        done.append(len(fits))
        raise KeyboardInterrupt

    settings = ProbeSettings(method="mlp", folds=FOLDS, permutations=20)
    with actstore.open(tmp_path / "s") as store, pytest.raises(KeyboardInterrupt):
        probing.probe(store, positive="yes", settings=settings, progress=progress)
    assert len(done) == 1
    # One for each thread that was in the midst of one, and one that it had begun meanwhile.
    assert len(fits) <= done[0] + 2 * (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("method", "strength", "rows", "double"),
    [
        ("logistic", 1e5, 4, True),
        ("ridge", 1e5, 4, True),
        ("mean-difference", 1e5, 4, False),
        ("mlp", 1e5, 4, False),
        ("logistic", 1.0, 4, False),
        ("logistic", 1e5, 40, False),
    ],
)
def test_vectors_are_widened_only_where_regressions_ask_for_it(
    method: Method, strength: float, rows: int, double: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of fewer rows than dimensions, held back by hardly anything: float32 ends too early there."""
    seen: list[np.ndarray] = []

    def trained(jobs: Any, setting: Any, vectors: np.ndarray, standards: Any) -> list[Any]:
        seen.append(vectors)
        return []

    monkeypatch.setattr(evaluating, "_one_by_one", trained)
    division = folds.Fold(np.arange(rows), np.arange(rows))
    job = Job(rows=cast(Any, None), other=None, divisions=[division], shuffled=None, shared=True)
    vectors = np.ones((rows, 8), np.float32)
    setting = ProbeSettings(method=method, strength=strength)
    assert evaluating._train([job], setting, vectors, []) == []
    assert seen[0].dtype == (np.float64 if double else np.float32)
