"""Scores by which a layer is chosen without the rows that it is then judged by.

The held-out AUROC of the other folds will not do: their probes were trained on the very rows
that the choice must not know. So for each fold, probes are trained without it and without one
more fold, and tested on that one. They are standardised by what they are trained on alone, and
one matrix of inner products of all rows leads to all of them. Nothing but the order of layers
hangs on them: for ``logistic`` each is one Newton step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from actstore.analysis.solvers import cv_solver, linear
from actstore.analysis.solvers.cholesky import CholeskyFactor, slack
from actstore.analysis.solvers.cv_solver import CrossValidation
from actstore.analysis.solvers.linear import Method, TrainTest
from actstore.analysis.solvers.standardise import Standard, StandardisedRows, standards_of
from actstore.analysis.statistics import metrics
from actstore.analysis.statistics.folds import Fold

FEWEST = 3
"""Folds below which nothing is left to choose by."""


class LeftOut:
    """Rows of which some folds at a time are left out, for probes of the others.

    Args:
        vectors: float32 or float64 ``[rows, width]``, not standardised.
        assigned: fold of each row, int64 ``[rows]``.
        left: the folds that are left out together.
        whole: what all rows are standardised on, where products of them begin.
        products: of all rows, where they are known already.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        assigned: np.ndarray,
        left: Sequence[tuple[int, ...]],
        whole: Standard,
        products: TrainTest | None = None,
    ) -> None:
        self._vectors, self._assigned, self._left = vectors, assigned, left
        outside = [np.isin(assigned, out) for out in left]
        self._divisions = [Fold(np.flatnonzero(~out), np.flatnonzero(out)) for out in outside]
        self._standards = standards_of(vectors, [train for train, _ in self._divisions])
        self._moments: _Moments | None = None
        self._crossed: CrossValidation | None = None
        ratios = cv_solver.variance_ratios(vectors, whole, self._standards, self._divisions)
        if ratios.max() > cv_solver.LARGEST_RATIO:
            return
        if len(vectors) > vectors.shape[1]:
            self._moments = _Moments(vectors, assigned, whole)
        else:
            self._crossed = CrossValidation(
                vectors, whole, self._standards, self._divisions, ratios, products
            )

    def areas(self, positive: np.ndarray, method: Method, strength: float) -> list[list[float]]:
        """Return for each set of folds the AUROC of each of them, by a probe of all others.

        Args:
            positive: bool ``[rows]``.
            method: any but the MLP.
            strength: inverse of the penalty.
        """
        if method == "logistic":
            method, strength = "ridge", strength / 4
        found = []
        lone = [len(np.unique(positive[train])) < 2 for train, _ in self._divisions]
        together = None
        if self._crossed is not None and not any(lone):
            together = self._crossed.columns(positive, method, strength)
        for number, (out, only) in enumerate(zip(self._left, lone, strict=True)):
            if only:
                found.append([0.5] * len(out))
                continue
            if together is not None:
                scores = together[:, number]
            else:
                scores = self._scores(number, positive, method, strength)
            tests = [np.flatnonzero(self._assigned == fold) for fold in out]
            areas = [float(metrics.auroc(scores[test], positive[test])) for test in tests]
            found.append([0.5 if np.isnan(area) else area for area in areas])
        return found

    def _scores(
        self, number: int, positive: np.ndarray, method: Method, strength: float
    ) -> np.ndarray:
        """Return the scores of one set's probe, ``[rows]``; only those of left-out rows count."""
        (train, test), standard = self._divisions[number], self._standards[number]
        scores = np.zeros(len(positive))
        if self._moments is not None:
            penalty = None if method == "mean-difference" else 1 / strength
            scores[test] = self._moments.scores(
                self._left[number], standard, positive, test, penalty
            )
            return scores
        data = TrainTest.of(self._vectors, train, test, standard)
        side = positive[train][:, None]
        if method == "mean-difference":
            model = linear.mean_difference(data, side)
        else:
            model = linear.ridges(data, side, strength)
        scores[test] = data.many_scores(model.weights)[:, 0]
        return scores


def pairs(assigned: np.ndarray) -> list[tuple[int, ...]]:
    """Return the folds that are left out together: each with the next, and with the one before."""
    count = int(assigned.max()) + 1
    return sorted({tuple(sorted((fold, (fold + 1) % count))) for fold in range(count)})


def crossed(
    rows: LeftOut,
    left: Sequence[tuple[int, ...]],
    positive: np.ndarray,
    method: Method,
    strength: float,
) -> np.ndarray:
    """Return for each fold the mean AUROC of two others, none trained on any of the two.

    Args:
        rows: all of them, three folds at least.
        left: the folds that are left out together, of :func:`pairs`.
        positive: bool ``[rows]``.
        method: any but the MLP.
        strength: inverse of the penalty.

    Returns:
        float64 ``[folds]``.
    """
    found: dict[int, list[float]] = {}
    for (one, other), areas in zip(left, rows.areas(positive, method, strength), strict=True):
        found.setdefault(one, []).append(areas[1])
        found.setdefault(other, []).append(areas[0])
    return np.array([np.mean(found[fold]) for fold in sorted(found)])


class _Moments:
    """Inner products of the dimensions in each fold, which those of several add up from."""

    def __init__(self, vectors: np.ndarray, assigned: np.ndarray, whole: Standard) -> None:
        self._assigned, self._whole = assigned, whole
        self._rows = StandardisedRows.of(vectors, [whole]).ready()
        parts = [self._rows[assigned == fold] for fold in range(int(assigned.max()) + 1)]
        self._squares = [part.T @ part for part in parts]
        self._all = np.sum(self._squares, axis=0)

    def scores(
        self,
        out: Sequence[int],
        standard: Standard,
        positive: np.ndarray,
        test: np.ndarray,
        penalty: float | None,
    ) -> np.ndarray:
        """Return the scores of rows by a probe that was trained without some folds.

        Args:
            out: the folds.
            standard: of the rows that are trained on.
            positive: bool, of all rows.
            test: positions of the rows to score.
            penalty: None for the difference of the classes' means.
        """
        trained = ~np.isin(self._assigned, out)
        sums = np.array(
            [self._rows[trained & (positive == side)].sum(0, np.float64) for side in (True, False)]
        )
        counts = np.array([(trained & positive).sum(), (trained & ~positive).sum()], float)
        # From the scale of all rows to that of the training rows.
        ratio = self._whole.scale.astype(np.float64) / standard.scale
        difference = (sums[0] / counts[0] - sums[1] / counts[1]) * ratio
        if penalty is not None:
            matrix = self._all - np.sum([self._squares[fold] for fold in out], axis=0)
            mean = sums.sum(0) / counts.sum()
            matrix -= (counts.sum() * np.outer(mean, mean)).astype(matrix.dtype)
            matrix *= ratio[:, None].astype(matrix.dtype)
            matrix *= ratio.astype(matrix.dtype)
            matrix[np.diag_indices_from(matrix)] += penalty + slack(matrix)
            # Products of the rows with centred targets: a multiple of the means' difference.
            right = difference * (2 * counts[0] * counts[1] / counts.sum())
            difference = CholeskyFactor(matrix).solve(np.asarray(right, matrix.dtype))
        found: np.ndarray = self._rows[test] @ (difference * ratio)
        return found
