"""Scores by which a layer is chosen without the rows that it is then judged by.

The held-out AUROC of the other folds will not do: their probes were trained on the very rows
that the choice must not know. So for each fold, probes are trained without it and without one
more fold, and tested on that one. All of them come from one matrix of inner products, and
nothing but the order of layers hangs on them: for ``logistic`` each is one Newton step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from actstore.analysis.solvers import linear
from actstore.analysis.solvers.cholesky import CholeskyFactor, slack
from actstore.analysis.solvers.linear import Method, TrainTest
from actstore.analysis.statistics import metrics

FEWEST = 3
"""Folds below which nothing is left to choose by."""


def crossed(
    data: TrainTest, positive: np.ndarray, assigned: np.ndarray, method: Method, strength: float
) -> np.ndarray:
    """Return for each fold the mean AUROC of two others, none trained on any of the two.

    Args:
        data: all rows, standardised.
        positive: bool ``[rows]``.
        assigned: fold of each row, int64 ``[rows]``, three folds at least.
        method: any but the MLP.
        strength: inverse of the penalty.

    Returns:
        float64 ``[folds]``.
    """
    count = int(assigned.max()) + 1
    found: list[list[float]] = [[] for _ in range(count)]
    pairs = {tuple(sorted((fold, (fold + 1) % count))) for fold in range(count)}
    for (one, other), areas in _fits(data, positive, assigned, sorted(pairs), method, strength):
        found[one].append(areas[1])
        found[other].append(areas[0])
    return np.array([np.mean(areas) for areas in found])


def within(
    data: TrainTest, positive: np.ndarray, assigned: np.ndarray, method: Method, strength: float
) -> float:
    """Return the mean AUROC of a cross-validation within the training rows.

    Args:
        data: the training rows, standardised.
        positive: bool ``[rows]``.
        assigned: fold of each row, int64 ``[rows]``.
        method: any but the MLP.
        strength: inverse of the penalty.
    """
    left = [(fold,) for fold in range(int(assigned.max()) + 1)]
    areas = [area for _, (area,) in _fits(data, positive, assigned, left, method, strength)]
    return float(np.mean(areas))


def _fits(
    data: TrainTest,
    positive: np.ndarray,
    assigned: np.ndarray,
    left: Sequence[tuple[int, ...]],
    method: Method,
    strength: float,
) -> Iterator[tuple[tuple[int, ...], list[float]]]:
    """Yield folds that were left out together, and the AUROC of each."""
    penalty = 4 / strength if method == "logistic" else 1 / strength
    rows = None if data.dual else data.train.ready()
    products = None if rows is None else _Products(rows, positive, assigned)
    for out in left:
        train = np.flatnonzero(~np.isin(assigned, out))
        tests = [np.flatnonzero(assigned == fold) for fold in out]
        side = positive[train]
        if side.all() or not side.any():
            yield out, [0.5] * len(out)
            continue
        weights = linear.difference_weights(side[:, None])[:, 0]
        if products is not None and rows is not None:
            direction = products.direction(out, None if method == "mean-difference" else penalty)
            scores = [rows[test] @ direction for test in tests]
        else:
            gram = data.gram[np.ix_(train, train)]
            means = gram.mean(0)
            if method != "mean-difference":
                gram -= means[:, None]
                gram -= means - means.mean()
                gram[np.diag_indices_from(gram)] += penalty + slack(gram)
                targets = np.where(side, 1, -1) - (2 * side.mean() - 1)
                # They add up to nothing, so that where the tested rows are centred is all one.
                weights = CholeskyFactor(gram).solve(targets.astype(gram.dtype))
            scores = [data.gram[np.ix_(test, train)] @ weights for test in tests]
        areas = [
            metrics.auroc(each, positive[test]) for each, test in zip(scores, tests, strict=True)
        ]
        yield out, [0.5 if np.isnan(area) else float(area) for area in areas]


class _Products:
    """Inner products of the dimensions in each fold, which those of several add up from."""

    def __init__(self, rows: np.ndarray, positive: np.ndarray, assigned: np.ndarray) -> None:
        folds = range(int(assigned.max()) + 1)
        parts = [rows[assigned == fold] for fold in folds]
        sides = [positive[assigned == fold] for fold in folds]
        self._squares = [part.T @ part for part in parts]
        self._whole = np.sum(self._squares, axis=0)
        self._sums = np.array(
            [
                [part[side].sum(0, np.float64), part[~side].sum(0, np.float64)]
                for part, side in zip(parts, sides, strict=True)
            ]
        )
        self._counts = np.array([[side.sum(), (~side).sum()] for side in sides], float)

    def direction(self, out: Sequence[int], penalty: float | None) -> np.ndarray:
        """Return the weights of a probe trained without some folds, ``[width]``.

        Without a penalty it is the difference of the classes' means.
        """
        sums = self._sums.sum(0) - self._sums[list(out)].sum(0)
        counts = self._counts.sum(0) - self._counts[list(out)].sum(0)
        difference = sums[0] / counts[0] - sums[1] / counts[1]
        dtype = self._whole.dtype
        if penalty is None:
            return np.asarray(difference, dtype)
        matrix = self._whole.copy()
        for fold in out:
            matrix -= self._squares[fold]
        mean = sums.sum(0) / counts.sum()
        matrix -= (counts.sum() * np.outer(mean, mean)).astype(dtype)
        matrix[np.diag_indices_from(matrix)] += penalty + slack(matrix)
        # Products of the rows with centred targets: a multiple of the means' difference.
        right = difference * (2 * counts[0] * counts[1] / counts.sum())
        return CholeskyFactor(matrix).solve(np.asarray(right, dtype))
