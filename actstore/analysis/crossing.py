"""Linear probes of all folds of a cross-validation, from one Gram matrix.

Each fold is standardised on its own training rows, so each has a Gram matrix of its own,
and those products would be most of the work. But the folds' scales hardly differ from
those of all rows. One Gram matrix, centred for each fold and corrected in the dimensions
whose scale does differ, is near enough to lead each fold to its solution; what that is,
products with the vectors themselves decide, which are cheap and serve all folds at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from actstore.analysis import linear, newton
from actstore.analysis.folds import Fold
from actstore.analysis.linear import Method, Space, Standard

_APART = 0.25
"""Change of a dimension's variance from which on it is corrected."""
_ROUNDS, _ENOUGH = 20, 1e-4
"""Rounds of ridge regression, and the part of a target that may be missed after the last."""


class Crossed:
    """The folds of a cross-validation with no more rows than dimensions.

    Args:
        ready: float32 ``[rows, width]``, standardised on all rows.
        whole: on what.
        standards: what each fold is standardised on.
        divisions: the folds.
    """

    def __init__(
        self,
        ready: np.ndarray,
        whole: Standard,
        standards: Sequence[Standard],
        divisions: Sequence[Fold],
    ) -> None:
        self._ready = ready
        self._divisions = divisions
        every = np.arange(len(ready))
        self.whole = Space.of(ready, every, every[:0])
        """All rows, for the probe that is kept."""
        self._centres = np.column_stack(
            [(each.mean - whole.mean) / whole.scale for each in standards]
        )
        self._ratios = np.column_stack([np.square(whole.scale / each.scale) for each in standards])
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
            exact = self._ready - centre
            found: np.ndarray = (exact * ratio) @ exact[train].T
            return found
        found = self.whole.gram[:, train]
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
            )
            for number, division in enumerate(self._divisions)
        ]
        return newton.solve(tasks, self._product, len(positive), 1 / strength).scores

    def _ridge(self, positive: np.ndarray, strength: float) -> np.ndarray:
        numbers = range(len(self._divisions))
        targets = np.zeros((len(positive), len(numbers)), np.float32)
        means = np.zeros(len(numbers), np.float32)
        for number, (train, _) in enumerate(self._divisions):
            sides = np.where(positive[train], 1, -1).astype(np.float32)
            means[number] = sides.mean()
            targets[train, number] = sides - means[number]
        weights = np.zeros_like(targets)
        scores = np.zeros_like(targets)
        for _ in range(_ROUNDS):
            missed = 0.0
            for number, (train, _) in enumerate(self._divisions):
                left = (
                    targets[train, number]
                    - scores[train, number]
                    - weights[train, number] / strength
                )
                missed = max(missed, float(np.abs(left).max()))
                weights[train, number] += self.space(number).ridge(left[:, None], 1 / strength)[
                    :, 0
                ]
            if missed < _ENOUGH:
                break
            scores = self._product(weights, numbers)
        return scores + means

    def _mean_difference(self, positive: np.ndarray) -> np.ndarray:
        weights = np.zeros((len(positive), len(self._divisions)), np.float32)
        for number, (train, _) in enumerate(self._divisions):
            weights[train, number] = linear.difference_weights(positive[train, None])[:, 0]
        scores = self._product(weights, range(len(self._divisions)))
        for number, (train, _) in enumerate(self._divisions):
            scores[:, number] -= linear.half_way(scores[train, number, None], positive[train, None])
        return scores
