"""Linear probes of all folds of a cross-validation, from one Gram matrix.

Each fold is standardised on its own training rows, so each has a Gram matrix of its own,
and those products would be most of the work. But the folds' scales hardly differ from
those of all rows. One Gram matrix, centred for each fold and corrected in the dimensions
whose scale does differ, is near enough to lead each fold to its solution; what that is,
products with the vectors themselves decide, which are cheap and serve all folds at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from actstore.analysis.solvers import linear, newton_by_rows
from actstore.analysis.solvers.linear import Method, TrainTest
from actstore.analysis.solvers.newton_by_rows import Logistic, Squares
from actstore.analysis.solvers.standardise import Standard, StandardisedRows
from actstore.analysis.statistics.folds import Fold

LARGEST_RATIO = 1e5
"""Ratio of variances up to which all rows' scales leave a fold's digits as they are."""
_APART = 0.25
"""Change of a dimension's variance from which on it is corrected."""


def variance_ratios(
    vectors: np.ndarray, whole: Standard, standards: Sequence[Standard], divisions: Sequence[Fold]
) -> np.ndarray:
    """Return the variance of each dimension in all rows, in parts of each fold's own.

    A dimension that does not vary in a fold has no weight there: its ratio is given as 0.

    Args:
        vectors: ``[rows, width]``, not standardised.
        whole: what all rows are standardised on.
        standards: what each fold is.
        divisions: the folds.

    Returns:
        float64 ``[width, folds]``.
    """
    scales = np.column_stack([each.scale for each in standards])
    found = np.square(whole.scale[:, None] / scales.astype(np.float64))
    for number, (train, _) in enumerate(divisions):
        apart = np.flatnonzero(found[:, number] > 1 + _APART)
        values = vectors[np.ix_(train, apart)]
        found[apart[(values == values[0]).all(0)], number] = 0
    return found


class CrossValidation:
    """The folds of a cross-validation with no more rows than dimensions.

    Args:
        vectors: float32 or float64 ``[rows, width]``, not standardised.
        whole: what all rows are standardised on.
        standards: what each fold is standardised on.
        divisions: the folds.
        ratios: of :func:`variance_ratios`, none above :data:`LARGEST_RATIO`.
        products: of all rows, where they are known already.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        whole: Standard,
        standards: Sequence[Standard],
        divisions: Sequence[Fold],
        ratios: np.ndarray,
        products: TrainTest | None = None,
    ) -> None:
        self._vectors, self._standard = vectors, whole
        self._divisions = divisions
        every = np.arange(len(vectors))
        self.whole = products or TrainTest.of(vectors, every, every[:0], whole)
        """All rows, for the probe that is kept."""
        self._centres = np.column_stack(
            [(each.mean - whole.mean) / whole.scale for each in standards]
        )
        self._ratios = ratios.astype(vectors.dtype)
        inverses = 1 / np.column_stack([each.scale for each in standards]).astype(np.float64)
        self._means = np.column_stack([each.mean for each in standards])
        self._inverses = np.where(ratios > 0, inverses, 0)
        self._rows = StandardisedRows(vectors, self._means, self._inverses)
        self._folds: dict[int, TrainTest] = {}

    def scores(
        self, positive: np.ndarray, method: Method, strength: float, start: np.ndarray
    ) -> tuple[np.ndarray, bool]:
        """Return each row's score by the fold that does not train on it, float64 ``[rows]``.

        Args:
            positive: bool ``[rows]``.
            method: any but the MLP.
            strength: inverse of the penalty.
            start: scores of the probe of all rows, where the logistic regressions begin.

        Returns:
            The scores, and whether all regressions converged.
        """
        found, converged = self._columns(positive, method, strength, start)
        scores = np.empty(len(positive))
        for number, division in enumerate(self._divisions):
            scores[division.test] = found[division.test, number]
        return scores, converged

    def columns(self, positive: np.ndarray, method: Method, strength: float) -> np.ndarray:
        """Return the score of each row by each fold's probe, float64 ``[rows, folds]``.

        Args:
            positive: bool ``[rows]``.
            method: ``ridge`` or ``mean-difference``, which need not begin anywhere.
            strength: inverse of the penalty.
        """
        return self._columns(positive, method, strength, np.zeros(len(positive)))[0]

    def _columns(
        self, positive: np.ndarray, method: Method, strength: float, start: np.ndarray
    ) -> tuple[np.ndarray, bool]:
        if method == "mean-difference":
            return self._mean_difference(positive), True
        ends = self._regressions(positive, method, strength, start)
        return ends.scores, bool(ends.converged.all())

    def fold(self, number: int) -> TrainTest:
        """Return a fold's products, near those of its own scales, cheap for many labels.

        Scales have nothing to do with labels, so a test that compares labels may use them.
        """
        if number not in self._folds:
            division = self._divisions[number]
            gram = self._gram(number)
            self._folds[number] = TrainTest(gram=gram[division.train], cross=gram[division.test])
        return self._folds[number]

    def _gram(self, number: int) -> np.ndarray:
        """Return inner products of all rows with the training rows of a fold, or near them."""
        train = self._divisions[number].train
        ratio, centre = self._ratios[:, number], self._centres[:, number]
        apart = np.flatnonzero(np.abs(ratio - 1) > _APART)
        if 2 * len(apart) > len(ratio):
            ready = self._rows.ready(number)
            exact: np.ndarray = ready @ ready[train].T
            return exact
        found: np.ndarray = self.whole.gram[:, train]
        if not len(apart):
            means = found.mean(1)
            found -= means[:, None]
            found -= means[train] - means[train].mean()
            return found
        whole = Standard(self._standard.mean[apart], self._standard.scale[apart])
        changed = whole.apply(self._vectors[:, apart])
        found -= changed @ changed[train].T
        means = found.mean(1)
        found -= means[:, None]
        found -= means[train] - means[train].mean()
        changed = changed - centre[apart]
        found += (changed * ratio[apart]) @ changed[train].T
        return found

    def _product(self, weights: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
        """Return what folds' true Gram matrices make of weights of rows, ``[rows, numbers]``."""
        return self._rows.scores(self._rows.combined(weights, numbers), numbers)

    def _regressions(
        self, positive: np.ndarray, method: Method, strength: float, start: np.ndarray
    ) -> newton_by_rows.Regressions:
        tasks, offsets = [], np.zeros(len(self._divisions))
        for number, (train, _) in enumerate(self._divisions):
            gram = self.fold(number).gram
            exact = partial(
                StandardisedRows(self._vectors, self._means, self._inverses, train).gram, number
            )
            if method == "logistic":
                own = start[train]
                tasks.append(
                    newton_by_rows.Regression(train, gram, Logistic(positive[train]), own, exact)
                )
                continue
            sides = np.where(positive[train], 1.0, -1.0)
            offsets[number] = sides.mean()
            loss = Squares(sides - offsets[number])
            tasks.append(newton_by_rows.Regression(train, gram, loss, exact=exact))
        found = newton_by_rows.solve(tasks, self._product, len(positive), 1 / strength)
        return found._replace(scores=found.scores + offsets)

    def _mean_difference(self, positive: np.ndarray) -> np.ndarray:
        weights = np.zeros((len(positive), len(self._divisions)))
        for number, (train, _) in enumerate(self._divisions):
            weights[train, number] = linear.difference_weights(positive[train, None])[:, 0]
        scores = self._product(weights, range(len(self._divisions)))
        for number, (train, _) in enumerate(self._divisions):
            scores[:, number] -= linear.half_way(scores[train, number, None], positive[train, None])
        return scores
