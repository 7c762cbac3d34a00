"""The solvers give scikit-learn's models, by rows or by dimensions."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.preprocessing import StandardScaler

from actstore.analysis.solvers import linear
from actstore.analysis.solvers.linear import TrainTest
from actstore.analysis.solvers.standardise import standards_of


def problem(rows: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    positive = draw.random(rows) < 0.4
    common = draw.standard_normal((rows, 3)) @ draw.standard_normal((3, width)) * 3
    vectors = draw.standard_normal((rows, width)) + common + 40
    vectors[:, : width // 8] += 0.6 * positive[:, None]
    vectors[:, -1] = 7.1  # a dimension that never varies
    return vectors.astype(np.float32), positive


SHAPES = [(70, 300), (40, 41), (300, 20), (90, 60)]


@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_standardising_is_scikit_learns(rows: int, width: int) -> None:
    vectors, _ = problem(rows, width)
    parts = [np.arange(rows), np.arange(5, rows - 7)]
    for part, found in zip(parts, standards_of(vectors, parts), strict=True):
        scaler = StandardScaler().fit(vectors[part].astype(np.float64))
        np.testing.assert_allclose(found.mean, scaler.mean_, rtol=1e-5)
        np.testing.assert_allclose(found.scale[:-1], scaler.scale_[:-1], rtol=1e-4)
        assert found.scale[-1] == 1


@pytest.mark.parametrize(("rows", "width"), SHAPES)
@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
def test_logistic_and_ridge_are_scikit_learns(rows: int, width: int, strength: float) -> None:
    vectors, positive = problem(rows, width)
    train, test = np.arange(rows - 15), np.arange(rows - 15, rows)
    (standard,) = standards_of(vectors, [train])
    ready = standard.apply(vectors)
    data = TrainTest.of(ready, train, test)
    assert data.dual == (len(train) <= width)
    models = {
        "logistic": (
            linear.logistic(data, positive[train], strength),
            LogisticRegression(C=strength, max_iter=20_000, tol=1e-8),
        ),
        "ridge": (
            linear.ridge(data, positive[train], strength),
            RidgeClassifier(alpha=1 / strength),
        ),
    }
    for found, reference in models.values():
        reference.fit(ready[train].astype(np.float64), positive[train])
        expected = reference.decision_function(ready[test].astype(np.float64))
        scores = (data.scores(found.weights) + found.intercepts)[:, 0]
        assert np.abs(scores - expected).max() < 0.02 * max(1.0, np.abs(expected).max())
        weights = data.primal(found.weights[:, 0])
        np.testing.assert_allclose(
            ready[test] @ weights + found.intercepts[0], scores, atol=2e-3 * np.abs(scores).max()
        )


@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_mean_difference_lies_half_way_between_the_means(rows: int, width: int) -> None:
    vectors, positive = problem(rows, width)
    (standard,) = standards_of(vectors, [np.arange(rows)])
    ready = standard.apply(vectors)
    data = TrainTest.of(ready, np.arange(rows), np.empty(0, np.int64))
    found = linear.mean_difference(data, positive[:, None])
    expected = ready[positive].mean(0) - ready[~positive].mean(0)
    weights = data.primal(found.weights[:, 0])
    np.testing.assert_allclose(weights, expected, atol=1e-4)
    scores = ready @ weights + found.intercepts[0]
    assert scores[positive].mean() == pytest.approx(-scores[~positive].mean(), rel=1e-3)


def test_many_labels_at_once_are_each_what_they_are_alone() -> None:
    vectors, positive = problem(60, 200)
    labels = np.column_stack([positive, np.random.default_rng(1).permuted(positive)])
    data = TrainTest.of(vectors - vectors.mean(0), np.arange(45), np.arange(45, 60))
    for solve in (linear.mean_difference, lambda s, y: linear.newton_step(s, y, 1.0)):
        both = solve(data, labels[:45])
        alone = solve(data, labels[:45, 1:])
        np.testing.assert_allclose(both.weights[:, 1:], alone.weights, rtol=1e-3, atol=1e-6)


def test_rows_that_are_the_same_do_not_stop_it() -> None:
    vectors, positive = problem(30, 100)
    vectors[10:20] = vectors[:10]
    vectors[20:] = 0
    data = TrainTest.of(vectors, np.arange(30), np.empty(0, np.int64))
    found = linear.logistic(data, positive, 1.0)
    assert np.isfinite(found.weights).all()


@pytest.mark.parametrize("width", [20, 200])
def test_the_perceptron_learns_what_no_line_can(width: int) -> None:
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((160, width)).astype(np.float32) * 0.1
    vectors[:, :2] = draw.choice([-2.0, 2.0], (160, 2))
    positive = vectors[:, 0] * vectors[:, 1] > 0
    data = TrainTest.of(vectors, np.arange(120), np.arange(120, 160))
    with linear.threads(None):
        network = linear.perceptron(data, positive[:120], 1.0, 0)
    right = (network.scores(vectors[120:]) > 0) == positive[120:]
    assert right.mean() > 0.9
    flat = linear.logistic(data, positive[:120], 1.0)
    scores = data.scores(flat.weights)[:, 0] + flat.intercepts[0]
    assert ((scores > 0) == positive[120:]).mean() < 0.75
