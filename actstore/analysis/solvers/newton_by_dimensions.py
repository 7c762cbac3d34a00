"""Regressions with one weight for each dimension, by Newton's method: for many rows.

As in :mod:`actstore.analysis.solvers.newton_by_rows`, each of Newton's steps is found by
conjugate gradients in float64, led by a factor of the loss's curve that need not be of the
very point, and the end is reached when little of the weights' length is left to go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from actstore.analysis.solvers.cholesky import CholeskyFactor, slack
from actstore.analysis.solvers.newton_by_rows import ENOUGH, FORCING, INNER, STEPS, Loss, settled
from actstore.analysis.solvers.standardise import StandardisedRows

_PATIENCE = 5
_CHEAP = 100
"""Dimensions for which a factor costs one product more than :data:`_PATIENCE`."""
_SHORT = 1e-4


class DimensionWeights(NamedTuple):
    """The weights of a regression."""

    weights: np.ndarray
    """Float64 ``[width]``."""
    intercept: float
    converged: bool
    """Whether the weights are within :data:`~actstore.analysis.solvers.newton_by_rows.ENOUGH`."""


@dataclass(slots=True)
class _DimensionStep:
    move: np.ndarray
    """``[width + 1]``, the intercept's last."""
    change: np.ndarray
    """Of the scores."""
    left: float
    """Length that conjugate gradients left to go."""
    products: int


def solve(rows: StandardisedRows, loss: Loss, penalty: float) -> DimensionWeights:
    """Minimise a loss plus ``penalty / 2`` times the squared weights.

    Args:
        rows: what is trained on, standardised in one way.
        loss: of their scores.
        penalty: inverse of scikit-learn's ``C``.
    """
    scores = np.zeros(len(rows))
    weights = np.zeros(1)
    value, cautious = loss.value(scores), False
    factor: CholeskyFactor | None = None
    for _ in range(STEPS):
        curve, pull = loss.curve(scores, cautious), loss.pull(scores)
        right = np.append(rows.combined(pull[:, None]), pull.sum())
        if len(weights) < len(right):
            weights = np.zeros(len(right))
        right[:-1] -= penalty * weights[:-1]
        if factor is None:
            factor = _factor(rows, curve, penalty)
        step = _conjugate(rows, curve, penalty, right, factor, weights, not loss.bend)
        if step.products > _PATIENCE + len(right) / _CHEAP:
            factor = None
        length, value = _search(loss, penalty, scores, weights, step, value)
        size = float(np.linalg.norm(step.move[:-1]))
        moved = length * float(np.abs(step.change).max())
        weights = weights + length * step.move
        scores = scores + length * step.change
        total = float(np.linalg.norm(weights[:-1]))
        left = step.left + size * (1 - length + loss.bend / 2 * min(1.0, moved))
        if settled(left, total, loss.bend / 2 * moved, scores):
            return DimensionWeights(weights[:-1], float(weights[-1]), True)
        if length < _SHORT:
            break
        if loss.bend * moved > 1 and len(right) < _CHEAP:
            factor = None
        cautious = moved > 1
    return DimensionWeights(weights[:-1], float(weights[-1]), False)


def _factor(rows: StandardisedRows, curve: np.ndarray, penalty: float) -> CholeskyFactor:
    matrix = rows.moments(curve)
    penalties = np.full(len(matrix), penalty + slack(matrix))
    penalties[-1] = 0
    matrix[np.diag_indices_from(matrix)] += penalties
    return CholeskyFactor(matrix)


def _conjugate(
    rows: StandardisedRows,
    curve: np.ndarray,
    penalty: float,
    right: np.ndarray,
    factor: CholeskyFactor,
    weights: np.ndarray,
    thorough: bool,
) -> _DimensionStep:
    """Solve for one of Newton's steps."""
    move, change, rest = np.zeros(len(right)), np.zeros(len(rows)), right
    towards = before = rest
    last = first = 0.0
    products = 0
    while True:
        ahead = factor.solve(rest)
        energy = float(rest @ ahead)
        left = float(np.linalg.norm(ahead[:-1]))
        first = first or left
        enough = 0.1 * ENOUGH * float(np.linalg.norm((weights + move)[:-1]))
        done = products > 0 and left <= max(enough, 0.0 if thorough else FORCING * first)
        if done or products == INNER or energy <= 0:
            return _DimensionStep(move, change, left, products)
        if products == 0:
            towards = ahead
        else:
            towards = ahead + max(0.0, (energy - float(before @ ahead)) / last) * towards
        image = rows.scores(towards[:-1, None])[:, 0] + towards[-1]
        bent = curve * image
        down = np.append(rows.combined(bent[:, None]), bent.sum())
        down[:-1] += penalty * towards[:-1]
        size = float(rest @ towards) / float(down @ towards)
        move, change = move + size * towards, change + size * image
        before, last = rest, energy
        rest = rest - size * down
        products += 1


def _search(
    loss: Loss,
    penalty: float,
    scores: np.ndarray,
    weights: np.ndarray,
    step: _DimensionStep,
    value: float,
) -> tuple[float, float]:
    """Return which part of a step helps, and the value of the objective there."""
    length = 1.0
    while True:
        tried = (weights + length * step.move)[:-1]
        reached = loss.value(scores + length * step.change) + penalty / 2 * float(tried @ tried)
        if reached <= value + 1e-13 * abs(value) or length < _SHORT:
            return length, reached
        length /= 2
