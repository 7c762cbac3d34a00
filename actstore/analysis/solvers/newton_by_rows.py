"""Regressions with one weight for each row, by Newton's method: for fewer rows than dimensions.

The scores of a linear model are ``K @ weights + intercept`` with the rows' Gram matrix K.
Several regressions advance side by side, so that what multiplies by K may serve all of
them at once. It does so exactly. Each of Newton's steps is found by conjugate gradients,
which a matrix near K leads there: how near it is changes how many products it takes, and
not where they lead. A regression has converged when what is left to go is a small part of
the weights of the dimensions, not of the loss: the loss hardly knows of badly conditioned
weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from actstore.analysis.solvers.cholesky import CholeskyFactor, slack

Product = Callable[[np.ndarray, list[int]], np.ndarray]
"""Returns ``K @ weights`` of each regression that is named, float64 ``[rows, named]``."""

ENOUGH = 1e-4
"""What is left to go, as a part of the weights' length, when a regression has converged."""
STEPS = 100
"""Of Newton's method."""
INNER = 60
"""Products for one of them."""
FORCING = 0.1
"""Part of a step that conjugate gradients may leave to the next one."""
_PATIENCE = 5
"""Products for one step from which on a new factorisation, or the true matrix, is better."""
_ROUGH = 0.3
"""Change of a score from which on the true matrix takes over."""
_SHORT = 1e-4
"""Part of a step that is not worth going."""
_FAR = 4
"""Score of the wrong sign that is far from the right one."""
_FLAT = 1e-15
"""A curve below this is as good as none; divisions need it."""


class Loss(Protocol):
    """A convex loss of some rows' scores, float64 ``[rows]``."""

    bend: float
    """How much of itself the curve changes by at most when a score changes by 1."""
    idle: float
    """Its value without a model."""

    def value(self, scores: np.ndarray) -> float:
        """Return the sum over the rows."""

    def pull(self, scores: np.ndarray) -> np.ndarray:
        """Return minus its derivative."""

    def curve(self, scores: np.ndarray, cautious: bool) -> np.ndarray:
        """Return its second derivative, never quite 0; or what is safe far from the optimum."""

    def reach(self, size: float) -> np.ndarray:
        """Return about where scores of rows at right angles end up.

        Args:
            size: the rows' squared length over the penalty.
        """


class Logistic:
    """Minus the logarithm of the chance that a logistic model gives the labels.

    Args:
        positive: bool ``[rows]``.
    """

    bend = 1.0

    def __init__(self, positive: np.ndarray) -> None:
        self._sign = np.where(positive, 1.0, -1.0)
        self.idle = float(np.log(2) * len(positive))

    def value(self, scores: np.ndarray) -> float:
        """Return the sum over the rows."""
        return float(np.logaddexp(0, -self._sign * scores).sum())

    def pull(self, scores: np.ndarray) -> np.ndarray:
        """Return minus its derivative: labels minus chances, with all digits."""
        found: np.ndarray = self._sign * _expit(-self._sign * scores)
        return found

    def curve(self, scores: np.ndarray, cautious: bool) -> np.ndarray:
        """Return its second derivative, never quite 0; or what is safe far from the optimum."""
        found: np.ndarray = np.maximum(_expit(scores) * _expit(-scores), _FLAT)
        if cautious:
            # Far on the wrong side the loss is a straight line, and steps by its curve go too
            # far. Jaakkola and Jordan's (2000) is that of a parabola which lies above the loss.
            wrong = self._sign * scores < -_FAR
            found[wrong] = np.maximum(found[wrong], 0.5 / np.abs(scores[wrong]))
        return found

    def reach(self, size: float) -> np.ndarray:
        """Return the scores ``z`` with ``z = size * expit(-z)``, of the labels' signs."""
        low, high = 0.0, max(1.0, float(np.log1p(size)) + 1)
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if middle < size * float(_expit(-middle)) else (low, middle)
        found: np.ndarray = self._sign * low
        return found


class Squares:
    """Half the squared distance from targets that add up to 0.

    Args:
        targets: ``[rows]``.
    """

    bend = 0.0

    def __init__(self, targets: np.ndarray) -> None:
        self._targets = targets.astype(np.float64)
        self.idle = self.value(np.zeros_like(self._targets))

    def value(self, scores: np.ndarray) -> float:
        """Return the sum over the rows."""
        return float(np.square(scores - self._targets).sum()) / 2

    def pull(self, scores: np.ndarray) -> np.ndarray:
        """Return minus its derivative."""
        found: np.ndarray = self._targets - scores
        return found

    def curve(self, scores: np.ndarray, cautious: bool) -> np.ndarray:
        """Return its second derivative, which is 1."""
        return np.ones_like(scores)

    def reach(self, size: float) -> np.ndarray:
        """Return no scores: where it begins does not matter."""
        return np.zeros_like(self._targets)


class Regression(NamedTuple):
    """One regression."""

    rows: np.ndarray
    """Which rows it is trained on, int64 ``[train]``."""
    gram: np.ndarray
    """Of these rows or near it: the eigenvalues of its inverse times the true one should not be
    far from 1. Float32 or float64 ``[train, train]``."""
    loss: Loss
    """Of these rows' scores."""
    start: np.ndarray | None = None
    """Scores of these rows to begin at, from a similar regression."""
    exact: Callable[[], np.ndarray] | None = None
    """Returns the true matrix in float64, for where one near it leads no further."""


class Regressions(NamedTuple):
    """Weights, intercepts and scores of solved regressions."""

    weights: np.ndarray
    """Of each row, 0 where it was not trained on; float64 ``[rows, tasks]``."""
    intercepts: np.ndarray
    """Float64 ``[tasks]``."""
    scores: np.ndarray
    """Of all rows, trained on or not; float64 ``[rows, tasks]``."""
    converged: np.ndarray
    """Bool ``[tasks]``: whether the weights are within :data:`ENOUGH`."""


def solve(tasks: Sequence[Regression], product: Product, rows: int, penalty: float) -> Regressions:
    """Minimise losses plus ``penalty / 2`` times the squared weights of dimensions.

    Args:
        tasks: the regressions.
        product: multiplies by their true Gram matrices.
        rows: how many rows there are, trained on or not.
        penalty: inverse of scikit-learn's ``C``.
    """
    ends = [_End(np.zeros(0), 0.0, np.zeros(0), False)] * len(tasks)
    descents = [_NewtonDescent(task, rows, penalty).run() for task in tasks]
    wanted = {number: next(descent) for number, descent in enumerate(descents)}
    while wanted:
        active = list(wanted)
        weights = np.zeros((rows, len(active)))
        for column, number in enumerate(active):
            weights[tasks[number].rows, column] = wanted[number]
        products = product(weights, active)
        wanted = {}
        for column, number in enumerate(active):
            try:
                wanted[number] = descents[number].send(products[:, column])
            except StopIteration as stop:
                ends[number] = stop.value
    weights = np.zeros((rows, len(tasks)))
    for number, end in enumerate(ends):
        weights[tasks[number].rows, number] = end.weights
    return Regressions(
        weights,
        np.array([end.intercept for end in ends]),
        np.column_stack([end.scores for end in ends]),
        np.array([end.converged for end in ends]),
    )


class _End(NamedTuple):
    """The result of one regression."""

    weights: np.ndarray
    intercept: float
    scores: np.ndarray
    converged: bool


_Products = Generator[np.ndarray, np.ndarray, "_Step"]
"""Yields weights of rows, is sent what K makes of them for all rows, and returns a step."""


@dataclass(slots=True)
class _Step:
    """One of Newton's steps."""

    move: np.ndarray
    """Of the weights, ``[train]``."""
    shift: float
    """Of the intercept."""
    change: np.ndarray
    """Of the scores of all rows, ``[rows]``."""
    left: float
    """Length, in weights of dimensions, that conjugate gradients left to go."""


class _NewtonDescent:
    """One regression while it is solved, step by step."""

    def __init__(self, task: Regression, rows: int, penalty: float) -> None:
        self._rows, self._gram, self._penalty = task.rows, task.gram, penalty
        self._exact, self._loss = task.exact, task.loss
        if self._exact is not None and _rounded(task.gram) > penalty:
            self._gram, self._exact = self._exact(), None
        reach = task.loss.reach(float(np.mean(np.diagonal(task.gram))) / penalty)
        # Scores to begin at, the best guess last.
        self._begins = [np.zeros(len(task.rows)), reach]
        if task.start is not None:
            self._begins.append(task.start.astype(np.float64))
        self._weights = np.zeros(len(task.rows))
        self._intercept = 0.0
        self._scores = np.zeros(rows)
        self._factor: _Preconditioner | None = None
        self._forcing = FORCING if task.loss.bend else 0.0
        self._rough = True

    def run(self) -> Generator[np.ndarray, np.ndarray, _End]:
        """Yield weights of rows, be sent what K makes of them, and return the end."""
        value, cautious = math.inf, True
        for _ in range(STEPS):
            begin = self._begins.pop() if value == math.inf else None
            # Without weights yet, scores that no weights give: the step leads from there.
            own = self._scores[self._rows] if begin is None else begin
            curve = self._loss.curve(own, cautious)
            right = self._loss.pull(own) - self._penalty * self._weights
            if begin is not None:
                right = right + curve * begin
            step = yield from self._step(right, curve)
            length, reached = self._search(step, value)
            if begin is not None and self._begins and reached > self._loss.idle:
                # Worse than no weights at all: steps from far away lead anywhere.
                self._factor = None
                continue
            after = self._scores[self._rows] + length * step.change[self._rows]
            moved = float(np.abs(after - own).max())
            size = _length(step.move, step.change[self._rows])
            self._weights = self._weights + length * step.move
            self._intercept += length * step.shift
            self._scores = self._scores + length * step.change
            value = reached
            total = _length(self._weights, self._scores[self._rows])
            # The curve of the loss changes by no more than the change of a score.
            left = step.left + size * (1 - length + self._loss.bend / 2 * min(1.0, moved))
            if self._rough and (not self._loss.bend or moved < _ROUGH or length < _SHORT):
                # The near matrix has led as far as it can: from here on the true one does.
                self._rough = False
                self._scores = (yield self._weights) + self._intercept
                value = self._value(self._weights, self._scores[self._rows], self._intercept)
                continue
            if settled(left, total, self._loss.bend / 2 * moved, after) and (
                begin is None or not self._loss.bend
            ):
                return self._end(True)
            if length < _SHORT and step.left <= 1e-3 * size:
                break
            if length < 1:
                self._forcing *= 0.1
            if length < 1 or moved > 1:
                self._factor = None
            # Far from the end the loss's own curve leads too far.
            cautious = moved > 1
        if self._rough:
            self._scores = (yield self._weights) + self._intercept
        return self._end(False)

    def _end(self, converged: bool) -> _End:
        return _End(self._weights, self._intercept, self._scores, converged)

    def _search(self, step: _Step, value: float) -> tuple[float, float]:
        """Return which part of a step helps, and the value of the objective there."""
        own, length = step.change[self._rows], 1.0
        while True:
            level = self._scores[self._rows] + length * own
            weights = self._weights + length * step.move
            reached = self._value(weights, level, self._intercept + length * step.shift)
            if reached <= value + 1e-13 * abs(value) or length < _SHORT:
                return length, reached
            length /= 2

    def _value(self, weights: np.ndarray, own: np.ndarray, intercept: float) -> float:
        """Return the objective for weights of the training rows that give these scores."""
        return self._loss.value(own) + self._penalty / 2 * float(weights @ (own - intercept))

    def _step(self, right: np.ndarray, curve: np.ndarray) -> _Products:
        """Solve ``curve * (K @ move + shift) + penalty * move = right``.

        The move is such that the weights add up to 0, as they do at the optimum. So it is a
        symmetric problem with one constraint, and conjugate gradients stay within it when what
        leads them does (Gould, Hribar and Nocedal 2001).
        """
        fresh = self._factor is None
        near = self._factor or _Preconditioner(self._gram, curve, self._penalty)
        step, products = yield from self._conjugate(right, curve, near)
        self._factor = near if products <= _PATIENCE else None
        if products > _PATIENCE and fresh and self._exact is not None:
            # Where few rows' directions hold most of the loss, near is not near enough.
            self._gram, self._exact = self._exact(), None
        return step

    def _conjugate(
        self, right: np.ndarray, curve: np.ndarray, near: _Preconditioner
    ) -> Generator[np.ndarray, np.ndarray, tuple[_Step, int]]:
        """Conjugate gradients in the weights of dimensions, told by weights of rows.

        ``rest`` stands for the gradient ``rows.T @ rest`` of what is left, ``ahead`` for the
        direction ``rows.T @ ahead``; so their inner product is that of ``rest`` and the scores
        that the direction gives. Each direction is made conjugate to all before it, because
        what leads is near the truth only (Notay 2000).
        """
        step = _Step(np.zeros(len(right)), 0.0, np.zeros(len(self._scores)), math.inf)
        known: list[_Direction] = []
        rest, first = right, 0.0
        while True:
            ahead, level = near.solve(rest)
            guess = self._gram @ ahead.astype(self._gram.dtype)
            energy = float((guess + level) @ rest)
            first = first or energy
            step.left = math.sqrt(max(0.0, float(ahead @ guess)))
            reached = (self._scores + step.change)[self._rows]
            enough = 0.1 * ENOUGH * _length(self._weights + step.move, reached)
            done = energy <= self._forcing**2 * first or step.left <= enough
            if len(known) == INNER or (known and done):
                return step, len(known)
            if self._rough:
                image = np.zeros(len(self._scores))
                image[self._rows] = guess
            else:
                image = yield ahead
            towards = _Direction(ahead, level, image + level)
            for other in known:
                towards.take(other, float(towards.image[self._rows] @ other.down) / other.bend)
            own = towards.image[self._rows]
            towards.down = curve * own + self._penalty * towards.weights
            towards.bend = float(own @ towards.down)
            if towards.bend <= 0:
                return step, len(known)
            size = float(own @ rest) / towards.bend
            step.move = step.move + size * towards.weights
            step.shift += size * towards.level
            step.change = step.change + size * towards.image
            rest = rest - size * towards.down
            known.append(towards)


@dataclass(slots=True)
class _Direction:
    """A direction that conjugate gradients went."""

    weights: np.ndarray
    """Of the training rows."""
    level: float
    """Of the intercept."""
    image: np.ndarray
    """Change of the scores of all rows."""
    down: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """What the second derivative makes of it, in weights of the training rows."""
    bend: float = 0.0
    """The second derivative along it."""

    def take(self, other: _Direction, part: float) -> None:
        """Take part of another direction off."""
        self.weights = self.weights - part * other.weights
        self.level -= part * other.level
        self.image = self.image - part * other.image


class _Preconditioner:
    """Solves an approximation of a step's equations, to lead conjugate gradients."""

    def __init__(self, gram: np.ndarray, curve: np.ndarray, penalty: float) -> None:
        self._root = np.sqrt(curve)
        root = self._root.astype(gram.dtype)
        matrix = gram * root
        matrix *= root[:, None]
        matrix[np.diag_indices_from(matrix)] += penalty + slack(gram) * np.square(root)
        self._factor = CholeskyFactor(matrix)
        self._base = self._root * self._factor.solve(self._root)

    def solve(self, right: np.ndarray) -> tuple[np.ndarray, float]:
        """Return a move that adds up to 0, and the level that goes with it."""
        move = self._root * self._factor.solve(right / self._root)
        level = float(move.sum() / self._base.sum())
        return move - level * self._base, level


def settled(left: float, total: float, moved: float, scores: np.ndarray) -> bool:
    """Return whether little is left to go, also for the intercept.

    Args:
        left: length of weights that is left to go.
        total: length of the weights.
        moved: by how much a score changed at most; its square may be left.
        scores: of the training rows.
    """
    return left <= ENOUGH * total and moved * moved <= ENOUGH * float(np.abs(scores).max())


def _rounded(matrix: np.ndarray) -> float:
    """Return what rounding may make of the small eigenvalues of a matrix."""
    return 8 * float(np.finfo(matrix.dtype).eps) * float(np.linalg.norm(matrix))


def _length(weights: np.ndarray, scores: np.ndarray) -> float:
    """Return the length in dimensions of weights of rows that give these scores.

    An intercept in the scores does not matter: the weights add up to 0.
    """
    return math.sqrt(max(0.0, float(weights @ scores)))


def _expit(values: np.ndarray | float) -> np.ndarray:
    found: np.ndarray = 1 / (1 + np.exp(np.minimum(-np.asarray(values, np.float64), 700.0)))
    return found
