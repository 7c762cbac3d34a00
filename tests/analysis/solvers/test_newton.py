"""Weights are the optimum's to 1 in 1,000, on the data sets that probes are compared on."""

from pathlib import Path

import numpy as np
import pytest
from sklearn import datasets
from sklearn.linear_model import LogisticRegression, Ridge

import actstore
from actstore.analysis.probes import probing
from actstore.analysis.probes.results import ProbeReport
from actstore.analysis.probes.splits import ProbeSettings
from actstore.analysis.solvers import newton_by_dimensions, newton_by_rows
from actstore.analysis.solvers.linear import Method
from tests.analysis import labelled

APART = 1e-3


def drawn(rows: int, width: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng([rows, width])
    vectors = draw.standard_normal((rows, width))
    if kind == "ill-conditioned":
        axes = np.linalg.qr(draw.standard_normal((width, width)))[0]
        vectors = vectors * np.logspace(0, -4, width) @ axes
    elif kind == "collinear":
        vectors[:, 1] = 2 * vectors[:, 0]
        vectors[:, 2] = vectors[:, 0] + 1e-3 * vectors[:, 2]
    elif kind == "low rank":
        common = draw.standard_normal((rows, 3)) @ draw.standard_normal((3, width))
        vectors = 5 * common + 0.1 * vectors
    chance = vectors[:, : width // 3].sum(1) / vectors[:, : width // 3].sum(1).std()
    positive = chance + draw.logistic(size=rows) / 2 > 0.3
    if kind == "separable":
        positive = vectors[:, 0] > 0
        vectors[:, 0] += np.sign(vectors[:, 0])
    elif kind == "rare":
        positive = np.arange(rows) < 5
    elif kind == "duplicates":
        vectors[rows // 2 :] = vectors[: rows - rows // 2]
    elif kind == "one row far out":
        vectors[3] *= 1e4
    elif kind == "scales":
        vectors = vectors * np.logspace(-6, 6, width) + np.logspace(-4, 8, width)
    elif kind == "float16":
        vectors = (10 * vectors + 30).astype(np.float16)
    return vectors.astype(np.float32), positive


KINDS = [
    "plain",
    "ill-conditioned",
    "collinear",
    "low rank",
    "separable",
    "rare",
    "duplicates",
    "one row far out",
    "scales",
    "float16",
]
LOADED = {
    "breast cancer": lambda: datasets.load_breast_cancer(return_X_y=True),
    "wine": lambda: datasets.load_wine(return_X_y=True),
    "iris": lambda: datasets.load_iris(return_X_y=True),
    "digits": lambda: datasets.load_digits(return_X_y=True),
}


def loaded(name: str) -> tuple[np.ndarray, np.ndarray]:
    vectors, classes = LOADED[name]()
    return vectors.astype(np.float32), classes > 4 if name == "digits" else classes == 1


def optimum(vectors: np.ndarray, positive: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
    """Newton's method in float64 on the singular vectors, until its steps are rounding."""
    left, size, right = np.linalg.svd(vectors, full_matrices=False)
    kept = size > size[0] * 1e-13
    rows = np.column_stack([left[:, kept] * size[kept], np.ones(len(vectors))])
    penalties = np.append(np.full(kept.sum(), 1 / strength), 0)
    sign = np.where(positive, 1.0, -1.0)
    found = np.zeros(rows.shape[1])

    def loss(weights: np.ndarray) -> float:
        squared = float(penalties @ np.square(weights))
        return float(np.logaddexp(0, -sign * (rows @ weights)).sum()) + squared / 2

    for _ in range(100):
        wrong = 1 / (1 + np.exp(np.minimum(sign * (rows @ found), 700)))
        slope = rows.T @ (sign * wrong) - penalties * found
        curve = (rows.T * (wrong * (1 - wrong))) @ rows + np.diag(penalties)
        step = np.linalg.solve(curve, slope)
        while loss(found + step) > loss(found) * (1 + 1e-14):
            step /= 2
        found = found + step
        if np.linalg.norm(step) < 1e-9 * np.linalg.norm(found):
            break
    else:
        raise AssertionError("the reference has not converged")
    return right[kept].T @ found[:-1], float(found[-1])


def probed(
    root: Path, vectors: np.ndarray, positive: np.ndarray, strength: float, method: Method
) -> ProbeReport:
    labelled.add(root, vectors, ["yes" if each else "no" for each in positive])
    settings = ProbeSettings(method=method, strength=strength, folds=3, permutations=0)
    with actstore.open(root) as store:
        return probing.probe(store, positive="yes", settings=settings)


def check(
    root: Path, vectors: np.ndarray, positive: np.ndarray, strength: float, method: Method
) -> None:
    report = probed(root, vectors, positive, strength, method)
    probe = report.results[0].probe
    exact = vectors.astype(np.float64)
    scale = exact.std(0)
    scale[scale == 0] = 1
    ready = (exact - exact.mean(0)) / scale
    if method == "ridge":
        model = Ridge(alpha=1 / strength, solver="svd").fit(ready, np.where(positive, 1.0, -1.0))
        weights, intercept = model.coef_, float(model.intercept_)
    else:
        weights, intercept = optimum(ready, positive, strength)
    assert isinstance(probe.model, np.ndarray)
    apart = np.linalg.norm(probe.model - weights) / np.linalg.norm(weights)
    assert apart < APART
    original = np.linalg.norm(probe.model / probe.standard.scale - weights / scale)
    assert original < APART * np.linalg.norm(weights / scale)
    scores = ready @ weights + intercept
    assert np.abs(probe.scores(vectors) - scores).max() < APART * np.abs(scores).max()
    assert not [note for note in report.notes if "converged" in note]


@pytest.mark.parametrize("strength", [1e-4, 1.0, 100.0, 1e4])
@pytest.mark.parametrize("name", LOADED)
def test_known_data_sets(tmp_path: Path, name: str, strength: float) -> None:
    check(tmp_path, *loaded(name), strength, "logistic")


@pytest.mark.parametrize("strength", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("shape", [(120, 30), (40, 90)])
@pytest.mark.parametrize("kind", KINDS)
def test_data_that_strain_arithmetic(
    tmp_path: Path, kind: str, shape: tuple[int, int], strength: float
) -> None:
    check(tmp_path, *drawn(*shape, kind), strength, "logistic")


@pytest.mark.parametrize("strength", [1e-3, 100.0])
@pytest.mark.parametrize("shape", [(120, 30), (40, 90)])
@pytest.mark.parametrize("kind", KINDS)
def test_ridge(tmp_path: Path, kind: str, shape: tuple[int, int], strength: float) -> None:
    check(tmp_path, *drawn(*shape, kind), strength, "ridge")


def test_breast_cancer_is_scikit_learns_own(tmp_path: Path) -> None:
    vectors, positive = loaded("breast cancer")
    (result,) = probed(tmp_path, vectors, positive, 100.0, "logistic").results
    exact = vectors.astype(np.float64)
    ready = (exact - exact.mean(0)) / exact.std(0)
    model = LogisticRegression(C=100.0, solver="newton-cholesky", tol=1e-10, max_iter=1000)
    model.fit(ready, positive)
    # The reference has converged itself: nothing pulls at its weights.
    left = positive - model.predict_proba(ready)[:, 1]
    assert np.abs(ready.T @ left - model.coef_[0] / 100).max() < 1e-8
    apart = np.linalg.norm(result.probe.model - model.coef_[0]) / np.linalg.norm(model.coef_[0])
    assert apart < APART
    assert result.probe.intercept == pytest.approx(float(model.intercept_[0]), rel=APART)


@pytest.mark.parametrize("shape", [(120, 30), (40, 90)])
def test_what_has_not_converged_says_so(
    tmp_path: Path, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (newton_by_rows, newton_by_dimensions):
        monkeypatch.setattr(module, "STEPS", 2)
    report = probed(tmp_path, *drawn(*shape, "low rank"), 1e3, "logistic")
    assert any("has not converged" in note for note in report.notes)
    assert not report.results[0].converged
