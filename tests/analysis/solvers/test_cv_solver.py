"""All folds at once come to what each fold comes to by itself."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.preprocessing import StandardScaler

from actstore.analysis.solvers import linear
from actstore.analysis.solvers.cv_solver import CrossValidation, variance_ratios
from actstore.analysis.solvers.linear import Method
from actstore.analysis.solvers.standardise import Standard, standards_of
from actstore.analysis.statistics import folds, metrics


def problem(rows: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    positive = np.arange(rows) % 5 < 2
    common = draw.standard_normal((rows, 4)) @ draw.standard_normal((4, width)) * 3
    vectors = draw.standard_normal((rows, width)) + common - 20
    vectors[:, : width // 8] += 0.7 * positive[:, None]
    return vectors.astype(np.float32), positive


def outliers(vectors: np.ndarray) -> np.ndarray:
    """One row far out in a few dimensions, dimensions that hardly ever or never vary."""
    vectors = vectors.copy()
    vectors[3, 5:9] *= 1000
    vectors[:, 9] = 2.5
    vectors[:, 10] = 0
    vectors[4, 10] = 60
    vectors[:, 11] = 7 + 1e-3 * vectors[:, 11]
    return vectors


def crossed(
    vectors: np.ndarray, divisions: list[folds.Fold]
) -> tuple[CrossValidation, list[Standard]]:
    every = np.arange(len(vectors))
    standards = standards_of(vectors, [*(fold.train for fold in divisions), every])
    found = variance_ratios(vectors, standards[-1], standards[:-1], divisions)
    return CrossValidation(vectors, standards[-1], standards[:-1], divisions, found), standards


def reference(
    vectors: np.ndarray,
    positive: np.ndarray,
    divisions: list[folds.Fold],
    method: Method,
    strength: float,
) -> np.ndarray:
    scores = np.empty(len(vectors))
    for train, test in divisions:
        scaler = StandardScaler().fit(vectors[train].astype(np.float64))
        ready = scaler.transform(vectors.astype(np.float64))
        if method == "mean-difference":
            ends = [ready[train][positive[train] == side].mean(0) for side in (True, False)]
            weights = ends[0] - ends[1]
            scores[test] = ready[test] @ weights - sum(end @ weights for end in ends) / 2
            continue
        model = (
            LogisticRegression(C=strength, max_iter=20_000, tol=1e-8)
            if method == "logistic"
            else RidgeClassifier(alpha=1 / strength)
        )
        model.fit(ready[train], positive[train])
        scores[test] = model.decision_function(ready[test])
    return scores


@pytest.mark.parametrize("method", ["logistic", "ridge", "mean-difference"])
@pytest.mark.parametrize(("rows", "width"), [(20, 60), (64, 64), (150, 500)])
@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("far", [False, True])
def test_each_fold_is_what_scikit_learn_makes_of_it(
    method: Method, rows: int, width: int, strength: float, far: bool
) -> None:
    vectors, positive = problem(rows, width)
    if far:
        vectors = outliers(vectors)
    divisions = folds.grouped(positive, np.arange(rows), 4, 0)
    both, _ = crossed(vectors, divisions)
    whole = linear.logistic(both.whole, positive, strength)
    start = both.whole.fitted(whole.weights)[:, 0] + whole.intercepts[0]
    found, settled = both.scores(positive, method, strength, start)
    assert settled
    expected = reference(vectors, positive, divisions, method, strength)
    usual = np.abs(expected) < 50 * np.median(np.abs(expected))
    error = np.abs(found - expected) / max(1.0, float(np.abs(expected[usual]).max()))
    assert error[usual].max() < 0.02
    np.testing.assert_allclose(found[~usual], expected[~usual], rtol=0.02)
    apart = []
    for _, test in divisions:
        ours = metrics.auroc(found[test], positive[test])
        apart.append(ours - metrics.auroc(expected[test], positive[test]))
    # Of five rows, two that score nearly the same may well change places.
    assert abs(np.mean(apart)) < (0.005 if rows > 20 else 0.05)


@pytest.mark.parametrize("start", [0.0, 1000.0, "wrong"])
def test_where_it_begins_does_not_matter(start: float | str) -> None:
    vectors, positive = problem(90, 200)
    divisions = folds.grouped(positive, np.arange(90), 5, 0)
    both, _ = crossed(vectors, divisions)
    whole = linear.logistic(both.whole, positive, 1.0)
    usual = both.whole.fitted(whole.weights)[:, 0] + whole.intercepts[0]
    begun = -usual if start == "wrong" else np.full(90, start)
    expected, _ = both.scores(positive, "logistic", 1.0, usual)
    found, _ = both.scores(positive, "logistic", 1.0, begun.astype(np.float32))
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())


def test_the_space_for_many_labels_is_near_the_folds_own() -> None:
    vectors, _ = problem(150, 500)
    divisions = folds.grouped(np.arange(150) % 2 > 0, np.arange(150), 5, 0)
    for each in (vectors, outliers(vectors)):
        both, standards = crossed(each, divisions)
        for number, (train, test) in enumerate(divisions):
            ready = standards[number].apply(each)
            expected = ready[train] @ ready[train].T
            # Each dimension counts at most a quarter too much or too little.
            near = np.linalg.eigvalsh(1.25 * expected - both.fold(number).gram)
            assert near.min() > -1e-3 * near.max()
            weights = np.random.default_rng(number).standard_normal((len(train), 1))
            weights -= weights.mean()
            scores = ready[test] @ (ready[train].T @ weights)
            found = both.fold(number).many_scores(weights)
            assert np.corrcoef(found[:, 0], scores[:, 0])[0, 1] > 0.99
