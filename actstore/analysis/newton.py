"""L2-regularised logistic regression over the rows' weights, by Newton's method.

The scores of a linear model are ``K @ weights + intercept`` with the rows' Gram matrix K.
Several regressions advance side by side, so that what multiplies by K may serve all of
them at once. It does so exactly; the steps may be taken with a matrix near K, which
changes how many there are and not where they lead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from actstore.analysis.cholesky import Factor

Product = Callable[[np.ndarray, list[int]], np.ndarray]
"""Returns ``K @ weights`` of each regression that is named, ``[rows, named]``."""

_STEPS = 50
_ENOUGH = 3e-4
"""Change of a score, as a part of where scores end up, that the next step would not reach."""
_SLOW = 0.3
"""A step this much of the one before is not good enough for the old factorisation."""
_HALTING, _SHORT = 0.1, 1e-3
"""Part of a step that tells of a matrix that is not near enough, or is not worth going."""
_FAR = 4
"""Score of the wrong sign that is far from the right one."""


class Task(NamedTuple):
    """One regression."""

    rows: np.ndarray
    """Which rows it is trained on, int64 ``[train]``."""
    gram: np.ndarray
    """Of these rows or near it: the eigenvalues of its inverse times the true one should not be
    far from 1. ``[train, train]``, of whose type all is."""
    positive: np.ndarray
    """Bool ``[train]``."""
    start: np.ndarray | None = None
    """Scores of these rows to begin at, from a similar regression."""
    exact: Callable[[], np.ndarray] | None = None
    """Returns the true matrix, for where one near it leads no further."""


class Found(NamedTuple):
    """What the regressions came to."""

    weights: np.ndarray
    """Of each row, 0 where it was not trained on; ``[rows, tasks]``."""
    intercepts: np.ndarray
    """Float64 ``[tasks]``."""
    scores: np.ndarray
    """Of all rows, trained on or not; ``[rows, tasks]``."""


def solve(tasks: Sequence[Task], product: Product, rows: int, penalty: float) -> Found:
    """Minimise the logistic losses plus ``penalty / 2`` times the squared weights of dimensions.

    Args:
        tasks: the regressions.
        product: multiplies by their true Gram matrices.
        rows: how many rows there are, trained on or not.
        penalty: inverse of scikit-learn's ``C``.
    """
    descents = [_Descent(task, rows, penalty) for task in tasks]
    active = list(range(len(tasks)))
    dtype = tasks[0].gram.dtype
    for _ in range(_STEPS):
        moves = np.zeros((rows, len(active)), dtype)
        shifts = np.zeros(len(active), dtype)
        for column, number in enumerate(active):
            moves[tasks[number].rows, column], shifts[column] = descents[number].direction()
        changes = product(moves, active) + shifts
        active = [
            number
            for column, number in enumerate(active)
            if not descents[number].advance(changes[:, column])
        ]
        if not active:
            break
    weights = np.zeros((rows, len(tasks)), dtype)
    for number, descent in enumerate(descents):
        weights[tasks[number].rows, number] = descent.weights
    return Found(
        weights,
        np.array([descent.intercept for descent in descents]),
        np.column_stack([descent.scores for descent in descents]),
    )


class _Descent:
    """One regression on its way."""

    def __init__(self, task: Task, rows: int, penalty: float) -> None:
        self._rows, self._gram, self._penalty = task.rows, task.gram, penalty
        self._exact = task.exact
        dtype = task.gram.dtype
        self._target = task.positive.astype(dtype)
        self._sign = 2 * self._target - 1
        size = float(np.mean(np.diagonal(task.gram)))
        # Where rows are nearly orthogonal, all scores end up near the same distance from 0:
        # starting there saves the steps that lead there from 0.
        self._reach = _balance(size / penalty)
        self._slack = slack(task.gram)
        self._least = float(np.finfo(dtype).eps)
        self._others = [np.zeros_like(self._sign), self._sign * self._reach]
        self._begin: np.ndarray | None = self._others.pop() if task.start is None else task.start
        self.weights: np.ndarray = np.zeros(len(task.rows), dtype)
        self.intercept = 0.0
        self.scores: np.ndarray = np.zeros(rows, dtype)
        self._loss = np.inf
        self._last = np.inf
        self._factor: Factor | None = None

    def direction(self) -> tuple[np.ndarray, float]:
        """Return what to add to the weights and to the intercept."""
        if self._begin is not None:
            # Scores without weights that give them: the step leads to weights from none.
            chance = _expit(self._begin)
            curve = self._curve(self._begin, chance)
            residual = self._target - chance + curve * self._begin
        else:
            chance = _expit(self.scores[self._rows])
            curve = self._curve(self.scores[self._rows], chance)
            residual = self._target - chance - self._penalty * self.weights
        if self._factor is None:
            root = np.sqrt(curve)
            matrix = self._gram * root
            matrix *= root[:, None]
            matrix[np.diag_indices_from(matrix)] += self._penalty + self._slack * curve
            self._root, self._factor = root, Factor(matrix)
            self._base = root * self._factor.solve(root)
        move = self._root * self._factor.solve(residual / self._root)
        # The weights of the optimum add up to 0.
        self._shift = float((move.sum() + self.weights.sum()) / self._base.sum())
        self._move = move - self._shift * self._base
        return self._move, self._shift

    def advance(self, change: np.ndarray) -> bool:
        """Go as far as it helps, given the change of all scores; say whether this is the end."""
        own, before = change[self._rows], self.scores[self._rows]
        length = 1.0
        while True:
            tried = self.weights + length * self._move
            level = before + length * own
            intercept = self.intercept + length * self._shift
            squared = float(tried @ (level - intercept))
            loss = float(np.logaddexp(0, -self._sign * level).sum() + self._penalty / 2 * squared)
            if loss <= self._loss * (1 + 8 * self._least) or length < _SHORT:
                break
            length /= 2
        if self._begin is not None and self._others and loss > math.log(2) * len(own):
            # Worse than no weights at all: steps from far away lead anywhere.
            self._begin, self._factor = self._others.pop(), None
            return False
        if length < _HALTING and self._exact is not None:
            # Where few rows' directions hold most of the loss, near is not near enough.
            self._gram, self._exact, self._factor = self._exact(), None, None
            self._slack = slack(self._gram)
            return False
        moved = level - (before if self._begin is None else self._begin)
        size = float(np.abs(moved).max(initial=0))
        self.weights, self.intercept, self._loss = tried, intercept, loss
        self.scores = self.scores + length * change
        rate = size / self._last if self._last else 0.0
        first, self._begin, self._last = self._begin is not None, None, size
        if length < 1 or rate > _SLOW or size > 1:
            self._factor = None
        if length < 1:
            return length < _SHORT
        # The next step is shorter by this one's rate, or its size: the curve of the loss
        # changes by no more than the change of a score.
        following = size * max(rate, min(1.0, size))
        return not first and following < _ENOUGH * max(1.0, self._reach)

    def _curve(self, level: np.ndarray, chance: np.ndarray) -> np.ndarray:
        """Return the loss's second derivative, never quite 0."""
        curve: np.ndarray = np.maximum(chance * (1 - chance), self._least)
        # Far on the wrong side the loss is a straight line, and steps by its curve go too far.
        # Jaakkola and Jordan's (2000) is that of a parabola which lies above the loss.
        wrong = self._sign * level < -_FAR
        curve[wrong] = np.maximum(curve[wrong], 0.5 / np.abs(level[wrong]))
        return curve


def slack(matrix: np.ndarray) -> float:
    """Return what rounding may have taken from the smallest eigenvalue."""
    return 8 * float(np.finfo(matrix.dtype).eps) * float(np.mean(np.diagonal(matrix))) + 1e-12


def _balance(size: float) -> float:
    """Return the score ``z`` with ``z = size * expit(-z)``."""
    low, high = 0.0, max(1.0, np.log1p(size) + 1)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if middle < size / (1 + np.exp(middle)) else (low, middle)
    return float(low)


def _expit(values: np.ndarray) -> np.ndarray:
    result: np.ndarray = 0.5 * (1 + np.tanh(values / 2))
    return result
