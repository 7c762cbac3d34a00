"""Chance among many places, and the nested AUROC of the best."""

from itertools import permutations

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from actstore.analysis.examples.place_rows import ActivationPlace
from actstore.analysis.probes import nested_choice, p_values
from actstore.analysis.probes.p_values import Candidate
from actstore.analysis.solvers import linear
from actstore.analysis.solvers.linear import Method, TrainTest
from actstore.analysis.solvers.standardise import standards_of
from actstore.analysis.statistics import folds, metrics
from actstore.analysis.statistics.metrics import IntervalEstimate


def test_p_values_are_exact_over_all_orders_of_the_labels() -> None:
    # With every order of the labels as a run, the share of data sets with p <= a is at most a,
    # whichever order is the real one, for the best of the places too.
    draw = np.random.default_rng(0)
    scores = draw.standard_normal((3, 5))
    orders = sorted(set(permutations([True, True, False, False, False])))
    labels = np.array(orders).T
    areas = np.array(
        [metrics.auroc(np.repeat(row[:, None], len(orders), 1), labels) for row in scores]
    )
    smallest = []
    for real in range(len(orders)):
        turned = np.roll(areas, -real, axis=1)
        found = p_values.chance(turned, True)
        others = turned.max(0)
        for rows in range(3):
            expected = np.mean(others >= turned[rows, 0] - 1e-12)
            assert found.above[rows] == pytest.approx(expected)
            low = np.mean(turned.min(0) <= turned[rows, 0] + 1e-12)
            assert found.below[rows] == pytest.approx(low)
        smallest.append(found.above.min())
    for level in np.arange(1, len(orders) + 1) / len(orders):
        assert np.mean(np.array(smallest) <= level + 1e-9) <= level + 1e-9


def test_a_small_cell_does_not_drown_the_others() -> None:
    draw = np.random.default_rng(1)
    wide, narrow = 0.5 + 0.2 * draw.standard_normal(200), 0.5 + 0.02 * draw.standard_normal(200)
    wide[0], narrow[0] = 0.5, 0.65
    areas = np.array([wide, narrow])
    assert p_values.chance(areas, True).above[1] > 0.1
    assert p_values.chance(areas, False).above[1] < 0.02


def test_the_largest_of_null_cells_is_significant_as_often_as_it_says() -> None:
    draw = np.random.default_rng(2)
    single, jointly = [], []
    for _ in range(400):
        common = draw.standard_normal(40)
        areas = draw.standard_normal((10, 40)) + common
        found = p_values.chance(areas, True)
        jointly.append(found.above.min())
        single.append(min(p_values.chance(row[None], True).above[0] for row in areas))
    assert np.mean(np.array(single) <= 0.05) > 0.15
    assert 0.02 < np.mean(np.array(jointly) <= 0.05) < 0.08


def test_differences_of_many_cells_are_held_against_their_largest() -> None:
    draw = np.random.default_rng(3)
    small = []
    for number in range(200):
        influences = 0.1 * (draw.standard_normal((60, 8)) + draw.standard_normal((60, 1)))
        values = influences.sum(0)
        errors = np.sqrt(np.square(influences).sum(0))
        small.append(p_values.differences(values, influences, errors, 59, number).min())
    assert 0.01 < np.mean(np.array(small) <= 0.05) < 0.1
    errors = np.full(2, 0.05 * np.sqrt(60))
    clear = p_values.differences(np.array([3.0, 0.0]), np.full((60, 2), 0.05), errors, 59, 0)
    assert clear[0] < 0.01 < clear[1]


@pytest.mark.parametrize("method", ["logistic", "ridge", "mean-difference"])
@pytest.mark.parametrize("width", [6, 90])
@pytest.mark.parametrize("far", [1.0, 30.0, 1e9])
def test_what_chooses_is_a_probe_trained_and_standardised_without_both_folds(
    method: Method, width: int, far: float
) -> None:
    draw = np.random.default_rng(4)
    positive = draw.random(60) < 0.4
    vectors = (draw.standard_normal((60, width)) + 0.6 * positive[:, None]).astype(np.float32)
    assigned = np.arange(60) % 5
    # Rows of one fold are far out in some dimensions: the scale of all rows is not the others'.
    vectors[np.ix_(assigned == 2, np.arange(0, width, 3))] *= far
    (whole,) = standards_of(vectors, [np.arange(60)])
    left = nested_choice.pairs(assigned)
    assert left == [(0, 1), (0, 4), (1, 2), (2, 3), (3, 4)]
    rows = nested_choice.LeftOut(vectors, assigned, left, whole)
    found = nested_choice.crossed(rows, left, positive, method, 1.0)
    for fold in range(5):
        areas = []
        for other in ((fold - 1) % 5, (fold + 1) % 5):
            train, test = ~np.isin(assigned, (fold, other)), assigned == other
            scale = StandardScaler().fit(vectors[train])
            own = scale.transform(vectors[train].astype(float))
            side = positive[train]
            if method == "mean-difference":
                weights = own[side].mean(0) - own[~side].mean(0)
            else:
                targets = np.where(side, 1, -1) - np.where(side, 1, -1).mean()
                penalty = 4.0 if method == "logistic" else 1.0
                weights = np.linalg.solve(own.T @ own + penalty * np.eye(width), own.T @ targets)
            told = scale.transform(vectors[test].astype(float)) @ weights
            areas.append(float(metrics.auroc(told, positive[test])))
        assert found[fold] == pytest.approx(np.mean(areas), abs=1e-9)


def test_where_one_class_is_all_there_is_to_learn_from_nothing_is_told_apart() -> None:
    positive = np.isin(np.arange(8), (0, 2))
    for width in (3, 30):
        vectors = np.random.default_rng(0).standard_normal((8, width)).astype(np.float32)
        (whole,) = standards_of(vectors, [np.arange(8)])
        rows = nested_choice.LeftOut(vectors, np.repeat([0, 1], 4), [(0,), (1,)], whole)
        assert rows.areas(positive, "ridge", 1.0) == [[0.5], [0.5]]


def chosen(seed: int, layers: int, rows: int = 40, width: int = 8) -> tuple[float, float, float]:
    """Return the best AUROC of null layers, the nested one, and that of a choice that leaks."""
    draw = np.random.default_rng(seed)
    positive = draw.permutation(np.arange(rows) % 2 == 0)
    assigned = np.empty(rows, np.int64)
    for side in (True, False):
        assigned[positive == side] = np.arange(rows // 2) % 4
    divisions = folds.divisions(assigned, 4)
    tested, areas = [], []
    every = np.arange(rows)
    for layer in range(layers):
        vectors = draw.standard_normal((rows, width)).astype(np.float32)
        scores = np.empty(rows)
        own = []
        for train, test in divisions:
            data = TrainTest.of(vectors, train, test)
            model = linear.mean_difference(data, positive[train][:, None])
            scores[test] = data.scores(model.weights)[:, 0]
            own.append(float(metrics.auroc(scores[test], positive[test])))
        areas.append(own)
        (whole,) = standards_of(vectors, [every])
        left = nested_choice.pairs(assigned)
        outside = nested_choice.LeftOut(vectors, assigned, left, whole)
        choosing = nested_choice.crossed(outside, left, positive, "mean-difference", 1.0)
        value = float(np.mean(own))
        tested.append(
            Candidate(
                ActivationPlace("m", "resid_post", layer, "last", None),
                IntervalEstimate(value, 0.0, 1.0),
                scores,
                positive,
                every,
                divisions,
                width,
                choosing,
            )
        )
    best = p_values.best(tested, None)
    assert best is not None
    assert best.nested is not None
    matrix = np.array(areas)
    held_out = (matrix.sum(1, keepdims=True) - matrix) / 3
    leaking = float(np.mean(matrix[held_out.argmax(0), range(4)]))
    return best.auroc.value, best.nested.value, leaking


def test_a_choice_among_null_layers_is_worth_a_half() -> None:
    found = np.array([chosen(seed, 8) for seed in range(150)])
    error = found.std(0) / np.sqrt(len(found))
    best, nested, leaking = found.mean(0)
    assert abs(nested - 0.5) < 3 * error[1]
    assert best > 0.6
    # The other folds' held-out scores would not have done: their probes saw the fold's labels.
    assert leaking > 0.5 + 5 * error[2]


def test_a_best_layer_without_a_second_choice_is_called_optimistic() -> None:
    one = Candidate(
        ActivationPlace("m", "resid_post", 1, "last", None),
        IntervalEstimate(0.7, 0.6, 0.8),
        np.zeros(4),
        np.array([True, False] * 2),
        np.arange(4),
        [],
        3,
        None,
    )
    other = one._replace(auroc=IntervalEstimate(0.6, 0.5, 0.7))
    best = p_values.best([other, one], None)
    assert best is not None
    assert (best.auroc.value, best.optimistic, best.places) == (0.7, True, 2)
    assert p_values.best([one], None) is None
