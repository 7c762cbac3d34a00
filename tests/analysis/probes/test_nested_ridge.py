"""Nested ridge regressions: scikit-learn's own search within the training folds, on real data."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_wine
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from actstore.analysis.probes import nested_ridge
from actstore.analysis.solvers.ridge_paths import PENALTIES
from actstore.analysis.statistics import folds

SOME = PENALTIES[::3]


def nothing() -> None:
    """Nobody gave up waiting."""


def diabetes() -> tuple[np.ndarray, np.ndarray]:
    vectors, numbers = load_diabetes(return_X_y=True, scaled=False)
    return vectors.astype(np.float32), numbers


def wine() -> tuple[np.ndarray, np.ndarray]:
    """Return the alcohol in wine, read off all else, its products among it: more than rows."""
    vectors, _ = load_wine(return_X_y=True)
    numbers, rest = vectors[:, 0], vectors[:, 1:]
    pairs = np.einsum("ij,ik->ijk", rest, rest).reshape(len(rest), -1)
    return np.hstack([rest, pairs, np.log(rest), np.sqrt(rest)]).astype(np.float32), numbers


@pytest.mark.parametrize("data", [diabetes, wine])
def test_penalties_and_predictions_are_those_of_a_search_within_the_training_rows(
    data: object,
) -> None:
    vectors, numbers = data()  # type: ignore[operator]
    part = np.random.default_rng(0).permutation(np.arange(len(vectors)) % 5)
    divisions = folds.divisions(part, 5)
    division = nested_ridge.divide(divisions, np.arange(len(vectors)), 5, 0)
    found = nested_ridge.run(vectors, numbers[:, None], division, SOME, nothing, choose=True)
    exact = vectors.astype(np.float64)
    for number, (train, test) in enumerate(divisions):
        search = GridSearchCV(
            make_pipeline(StandardScaler(), Ridge()),
            {"ridge__alpha": SOME},
            scoring=_squares,
            cv=PredefinedSplit(part[train]),
        )
        search.fit(exact[train], numbers[train])
        assert found.penalties[number] == pytest.approx(search.best_params_["ridge__alpha"])
        assert found.predicted[test, 0] == pytest.approx(
            search.predict(exact[test]), abs=1e-3 * numbers.std()
        )
        assert found.choosing is not None
        spread = np.square(numbers[train] - numbers[train].mean()).sum()
        inner = 1 + search.best_score_ * 4 / spread
        assert found.choosing[number] == pytest.approx(inner, abs=1e-6)
    # The one to keep: RidgeCV on the same folds, standardised by all rows, all but agrees.
    ready = StandardScaler().fit_transform(exact)
    all_rows = RidgeCV(SOME, cv=PredefinedSplit(part)).fit(ready, numbers)
    assert abs(np.log10(found.penalty / all_rows.alpha_)) < 1.1


def _squares(model: object, vectors: np.ndarray, numbers: np.ndarray) -> float:
    """Sums over folds of unlike sizes are not means of their means."""
    return -float(np.square(model.predict(vectors) - numbers).sum())  # type: ignore[attr-defined]


def test_whoever_waits_is_asked_before_each_regression() -> None:
    vectors, numbers = diabetes()
    divisions = folds.divisions(np.arange(len(vectors)) % 3, 3)
    division = nested_ridge.divide(divisions, np.arange(len(vectors)), 3, 0)
    asked: list[None] = []
    nested_ridge.run(
        vectors, numbers[:, None], division, SOME, lambda: asked.append(None), choose=True
    )
    assert len(asked) == 3 + 3 + 1  # of pairs of folds, of folds, of all rows


@pytest.mark.parametrize("count", [2, 1])
def test_few_folds_are_chosen_for_by_parts_of_their_training_rows(count: int) -> None:
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((80, 20)).astype(np.float32)
    numbers = 3 * vectors[:, 0] + draw.standard_normal(80)
    groups = np.arange(80) // 2
    divisions = folds.divisions(groups % 2, 2)[:count]
    division = nested_ridge.divide(divisions, groups, 5, 0)
    for out, (_, test) in zip(division.tested, divisions, strict=True):
        assert sorted(np.flatnonzero(np.isin(division.part, list(out)))) == test.tolist()
    # No group is in two parts.
    for group in range(40):
        assert len(set(division.part[groups == group].tolist())) == 1
    columns = np.column_stack([numbers, draw.permutation(numbers)])
    found = nested_ridge.run(vectors, columns, division, PENALTIES, nothing, choose=False)
    assert found.chosen
    tested = np.concatenate([test for _, test in divisions])
    assert np.isfinite(found.predicted[tested]).all()
    assert np.isnan(found.predicted).any(1).sum() == 80 - len(tested)
    # The real numbers ask for less shrinkage than noise does.
    assert found.penalties[0] < 1e3
    for (train, test), penalty in zip(divisions, found.penalties, strict=True):
        model = make_pipeline(StandardScaler(), Ridge(penalty)).fit(vectors[train], numbers[train])
        assert found.predicted[test, 0] == pytest.approx(model.predict(vectors[test]), abs=1e-4)


def test_the_tested_fold_has_no_part_in_its_penalty() -> None:
    draw = np.random.default_rng(1)
    vectors = draw.standard_normal((60, 30)).astype(np.float32)
    numbers = draw.standard_normal(60)
    divisions = folds.divisions(np.arange(60) % 5, 5)
    division = nested_ridge.divide(divisions, np.arange(60), 5, 0)

    def run(given: np.ndarray) -> nested_ridge.Found:
        return nested_ridge.run(vectors, given[:, None], division, PENALTIES, nothing, choose=True)

    changed = numbers.copy()
    changed[divisions[2].test] = 100 * draw.standard_normal(12)
    one, other = run(numbers), run(changed)
    test = divisions[2].test
    assert one.penalties[2] == other.penalties[2]
    assert (one.predicted[test] == other.predicted[test]).all()
    assert one.choosing is not None
    assert other.choosing is not None
    assert one.choosing[2] == other.choosing[2]
    assert one.choosing[1] != other.choosing[1]
