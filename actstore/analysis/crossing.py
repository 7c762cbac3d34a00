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

from actstore.analysis import linear, newton
from actstore.analysis.folds import Fold
from actstore.analysis.linear import Method, Space, Standard

MOST = 1e5
"""Ratio of variances up to which all rows' scales leave a fold's digits as they are."""
_APART = 0.25
"""Change of a dimension's variance from which on it is corrected."""
_ROUNDS = 20
"""Of ridge regression."""


def ratios(
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


class Crossed:
    """The folds of a cross-validation with no more rows than dimensions.

    Args:
        ready: ``[rows, width]``, standardised on all rows.
        whole: on what.
        standards: what each fold is standardised on.
        divisions: the folds.
        ratios: of :func:`ratios`, none above :data:`MOST`.
    """

    def __init__(
        self,
        ready: np.ndarray,
        whole: Standard,
        standards: Sequence[Standard],
        divisions: Sequence[Fold],
        ratios: np.ndarray,
    ) -> None:
        self._ready = ready
        self._divisions = divisions
        every = np.arange(len(ready))
        self.whole = Space.of(ready, every, every[:0])
        """All rows, for the probe that is kept."""
        self._centres = np.column_stack(
            [(each.mean - whole.mean) / whole.scale for each in standards]
        )
        self._ratios = ratios.astype(ready.dtype)
        self._spaces: dict[int, Space] = {}

    def scores(
        self, positive: np.ndarray, method: Method, strength: float, start: np.ndarray
    ) -> np.ndarray:
        """Return each row's score by the fold that does not train on it, float64 ``[rows]``.

        Args:
            positive: bool ``[rows]``.
            method: any but the MLP.
            strength: inverse of the penalty.
            start: scores of the probe of all rows, where the logistic regressions begin.
        """
        if method == "logistic":
            found = self._logistic(positive, strength, start)
        elif method == "ridge":
            found = self._ridge(positive, strength)
        else:
            found = self._mean_difference(positive)
        scores = np.empty(len(positive))
        for number, division in enumerate(self._divisions):
            scores[division.test] = found[division.test, number]
        return scores

    def space(self, number: int) -> Space:
        """Return a fold's rows, near those of its own scales, for many labels at little cost.

        Scales have nothing to do with labels, so a test that compares labels may use them.
        """
        if number not in self._spaces:
            division = self._divisions[number]
            gram = self._gram(number)
            self._spaces[number] = Space(gram=gram[division.train], cross=gram[division.test])
        return self._spaces[number]

    def _gram(self, number: int) -> np.ndarray:
        """Return inner products of all rows with the training rows of a fold, or near them."""
        train = self._divisions[number].train
        ratio, centre = self._ratios[:, number], self._centres[:, number]
        apart = np.flatnonzero(np.abs(ratio - 1) > _APART)
        if 2 * len(apart) > len(ratio):
            return self._exact(number)
        found: np.ndarray = self.whole.gram[:, train]
        changed = self._ready[:, apart]
        if len(apart):
            found -= changed @ changed[train].T
        means = found.mean(1)
        found -= means[:, None]
        found -= means[train] - means[train].mean()
        if len(apart):
            changed = changed - centre[apart]
            found += (changed * ratio[apart]) @ changed[train].T
        return found

    def _exact(self, number: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Return inner products of rows with the training rows of a fold."""
        ready = self._ready - self._centres[:, number]
        train = ready[self._divisions[number].train]
        found: np.ndarray = (
            (ready if rows is None else ready[rows]) * self._ratios[:, number]
        ) @ train.T
        return found

    def _product(self, weights: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
        """Return what folds' true Gram matrices make of weights of rows, ``[rows, numbers]``."""
        centres = self._centres[:, numbers]
        inside = self._ready.T @ weights
        inside -= centres * weights.sum(0)
        inside *= self._ratios[:, numbers]
        product: np.ndarray = self._ready @ inside
        product -= (centres * inside).sum(0)
        return product

    def _logistic(self, positive: np.ndarray, strength: float, start: np.ndarray) -> np.ndarray:
        tasks = [
            newton.Task(
                division.train,
                self.space(number).gram,
                positive[division.train],
                start[division.train],
                partial(self._exact, number, division.train),
            )
            for number, division in enumerate(self._divisions)
        ]
        return newton.solve(tasks, self._product, len(positive), 1 / strength).scores

    def _ridge(self, positive: np.ndarray, strength: float) -> np.ndarray:
        numbers = range(len(self._divisions))
        targets = np.zeros((len(positive), len(numbers)), self._ready.dtype)
        means = np.zeros(len(numbers), self._ready.dtype)
        for number, (train, _) in enumerate(self._divisions):
            sides = np.where(positive[train], 1, -1).astype(means.dtype)
            means[number] = sides.mean()
            targets[train, number] = sides - means[number]
        weights = np.zeros_like(targets)
        scores = np.zeros_like(targets)
        spaces = [self.space(number) for number in numbers]
        enough = float(np.finfo(targets.dtype).eps) ** 0.5 / 3
        missed, near = np.full(len(numbers), np.inf), np.ones(len(numbers), bool)
        for _ in range(_ROUNDS):
            for number, (train, _) in enumerate(self._divisions):
                left = targets[train, number] - scores[train, number]
                left -= weights[train, number] / strength
                most = float(np.abs(left).max())
                if near[number] and most > missed[number] / 2:
                    # Where a tiny penalty bears the weight, near is not near enough.
                    exact = self._exact(number, train)
                    spaces[number], near[number] = Space(gram=exact, cross=exact[:0]), False
                missed[number] = most
                weights[train, number] += spaces[number].ridge(left[:, None], 1 / strength)[:, 0]
            if missed.max() < enough:
                break
            scores = self._product(weights, numbers)
        return scores + means

    def _mean_difference(self, positive: np.ndarray) -> np.ndarray:
        weights = np.zeros((len(positive), len(self._divisions)), self._ready.dtype)
        for number, (train, _) in enumerate(self._divisions):
            weights[train, number] = linear.difference_weights(positive[train, None])[:, 0]
        scores = self._product(weights, range(len(self._divisions)))
        for number, (train, _) in enumerate(self._divisions):
            scores[:, number] -= linear.half_way(scores[train, number, None], positive[train, None])
        return scores
