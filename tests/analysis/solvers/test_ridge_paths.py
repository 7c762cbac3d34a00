"""Ridge regressions along a path of penalties: each is scikit-learn's, whatever is left out."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from actstore.analysis.solvers.ridge_paths import PENALTIES, Parts


def wide(rows: int = 50, width: int = 200) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    vectors = (draw.standard_normal((rows, width)) + 5).astype(np.float32)
    vectors[:, 3] = 2.5
    vectors[:, 4] *= 1e4
    return vectors, vectors[:, :3].sum(1) + draw.standard_normal(rows)


def tall() -> tuple[np.ndarray, np.ndarray]:
    vectors, numbers = load_diabetes(return_X_y=True, scaled=False)
    constant = np.full((len(vectors), 1), 1e3)
    return np.hstack([vectors, constant]).astype(np.float32), numbers


@pytest.mark.parametrize("data", [wide, tall])
@pytest.mark.parametrize("out", [(), (0,), (1, 3)])
@pytest.mark.parametrize("penalty", [PENALTIES[0], 1.0, 1e3])
def test_every_path_is_scikit_learns_ridge(
    data: object, out: tuple[int, ...], penalty: float
) -> None:
    vectors, numbers = data()  # type: ignore[operator]
    part = np.arange(len(vectors)) % 4
    part[::7] = -1
    targets = np.column_stack([numbers, numbers[::-1]])
    path = Parts(vectors, targets, part, [(2,), out]).path(out)
    train = (part >= 0) & ~np.isin(part, out)
    for column in range(2):
        model = make_pipeline(StandardScaler(), Ridge(penalty))
        model.fit(vectors[train].astype(np.float64), targets[train, column])
        found = path.predicted(path.projected(vectors), np.full(2, penalty))[:, column]
        scale = targets.std()
        assert found == pytest.approx(model.predict(vectors), abs=1e-4 * scale)
    weights, intercept = path.weights(penalty)
    scores = path.standard.apply(vectors.astype(np.float64)) @ weights + intercept
    first = path.predicted(path.projected(vectors), np.full(2, penalty))[:, 0]
    assert scores == pytest.approx(first, abs=1e-6 * targets.std())


def test_errors_are_those_of_the_predictions() -> None:
    vectors, numbers = wide()
    part = np.arange(50) % 5
    targets = np.column_stack([numbers, -2 * numbers])
    path = Parts(vectors, targets, part, [(0,)]).path((0,))
    rows = part == 0
    projected = path.projected(vectors[rows])
    errors = path.errors(projected, targets[rows], PENALTIES)
    for number, penalty in enumerate(PENALTIES):
        told = path.predicted(projected, np.full(2, penalty))
        assert errors[number] == pytest.approx(np.square(told - targets[rows]).sum(0))
