"""Linear classifiers on standardised vectors, solved through inner products where rows are few.

An L2-regularised linear model's weights are a combination of the training rows. So with
fewer rows than dimensions everything is computed from the rows' Gram matrix: the same
model as scikit-learn's on the standardised vectors, at the cost of the rows.
"""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from actstore.errors import MissingExtraError

Method = Literal["logistic", "mean-difference", "ridge", "mlp"]
METHODS: tuple[Method, ...] = ("logistic", "mean-difference", "ridge", "mlp")

_STEPS = 50
_EPOCHS, _BATCH = 100, 32
_BLOCK = 256
_ENOUGH = 1e-2
"""Change of a training row's score at which Newton's method stops: the error is its square."""


class Standard(NamedTuple):
    """Mean and scale of the training rows, float32 ``[width]``."""

    mean: np.ndarray
    scale: np.ndarray

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Return float32 vectors standardised."""
        result: np.ndarray = vectors - self.mean
        result /= self.scale
        return result


def standards(vectors: np.ndarray, parts: Sequence[np.ndarray]) -> list[Standard]:
    """Return mean and standard deviation of each dimension over some parts of the rows.

    The deviation is given as 1 where a dimension does not vary.

    Args:
        vectors: float32 ``[rows, width]``.
        parts: positions of the rows of each part, none empty.
    """
    member = np.zeros((len(parts), len(vectors)), np.float32)
    for number, part in enumerate(parts):
        member[number, part] = 1
    counts = member.sum(1, dtype=np.float64)[:, None]
    # Moments about a value in the midst of each dimension: squares of offsets would drown it.
    centre = vectors[:: max(1, len(vectors) // 64)].mean(0, dtype=np.float64).astype(np.float32)
    sums = np.zeros((len(parts), vectors.shape[1]))
    squares = np.zeros_like(sums)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK] - centre
        chosen = member[:, start : start + _BLOCK]
        sums += chosen @ block
        squares += chosen @ np.square(block, out=block)
    means = sums / counts
    deviations = np.sqrt(np.maximum(squares / counts - np.square(means), 0))
    # A constant comes out with the deviation of its rounding error.
    varies = deviations > 1e-6 * np.maximum(np.abs(centre), np.sqrt(squares / counts))
    scales = np.where(varies, deviations, 1).astype(np.float32)
    return [
        Standard((centre + mean).astype(np.float32), scale)
        for mean, scale in zip(means, scales, strict=True)
    ]


class Space:
    """Training rows and rows to score, standardised on the former.

    Args:
        vectors: float32 ``[rows, width]``, standardised.
        train: positions of the training rows.
        test: positions of the rows to score.
    """

    def __init__(self, vectors: np.ndarray, train: np.ndarray, test: np.ndarray) -> None:
        self._vectors = vectors
        self._train = train
        self._test = test
        self.dual = len(train) <= vectors.shape[1]
        """Whether rows are so few that the Gram matrix is the smaller one."""
        if self.dual and len(test) <= len(train):
            # One matrix times its own transpose takes half the work of two matrices.
            gram = vectors @ vectors.T
            self.gram = gram[np.ix_(train, train)]
            self.cross = gram[np.ix_(test, train)]
        elif self.dual:
            rows = self.train
            self.gram = rows @ rows.T
            self.cross = self.test @ rows.T
        self._ridge: tuple[float, Any] | None = None

    @property
    def train(self) -> np.ndarray:
        """The training rows, ``[train, width]``."""
        return _rows(self._vectors, self._train)

    @property
    def test(self) -> np.ndarray:
        """The rows to score, ``[test, width]``."""
        return _rows(self._vectors, self._test)

    def scores(self, weights: np.ndarray) -> np.ndarray:
        """Return what linear models give for the rows to score, without their intercepts.

        Args:
            weights: ``[train, models]`` of the rows where :attr:`dual`, else ``[width, models]``.
        """
        product: np.ndarray = (self.cross if self.dual else self.test) @ weights
        return product

    def fitted(self, weights: np.ndarray) -> np.ndarray:
        """The same for the training rows."""
        product: np.ndarray = (self.gram if self.dual else self.train) @ weights
        return product

    def primal(self, weights: np.ndarray) -> np.ndarray:
        """Return the weights of the dimensions, float32 ``[width]``."""
        found = self.train.T @ weights if self.dual else weights
        return np.asarray(found, np.float32)

    def ridge(self, targets: np.ndarray, penalty: float) -> np.ndarray:
        """Return the weights of least squares with an L2 penalty.

        Args:
            targets: float32 ``[train, models]`` with mean 0 in each column.
            penalty: of the squared weights.
        """
        from scipy.linalg import cho_solve

        if self._ridge is None or self._ridge[0] != penalty:
            rows = None if self.dual else self.train
            matrix = self.gram.copy() if rows is None else rows.T @ rows
            matrix[np.diag_indices_from(matrix)] += penalty + _slack(matrix)
            self._ridge = penalty, _factor(matrix)
        right = targets if self.dual else self.train.T @ targets
        found: np.ndarray = cho_solve(self._ridge[1], right, check_finite=False)
        return found


class Linear(NamedTuple):
    """Linear models: score = vectors @ weights + intercept."""

    weights: np.ndarray
    """Of rows or dimensions, as :class:`Space` has it: ``[…, models]``."""
    intercepts: np.ndarray
    """``[models]``."""


def mean_difference(space: Space, positive: np.ndarray) -> Linear:
    """Return the difference of the classes' means; scores are 0 half way between the two.

    Args:
        space: the rows.
        positive: bool ``[train, models]``.
    """
    count = positive.sum(0)
    rows = np.where(positive, 1 / count, -1 / (len(positive) - count)).astype(np.float32)
    weights = rows if space.dual else space.train.T @ rows
    fitted = space.fitted(weights)
    sums = np.where(positive, fitted, 0).sum(0)
    middle = (sums / count + (fitted.sum(0) - sums) / (len(positive) - count)) / 2
    return Linear(weights, -middle)


def ridge(space: Space, positive: np.ndarray, strength: float) -> Linear:
    """Return least squares on classes -1 and 1 with penalty ``1 / strength``."""
    targets = np.where(positive, 1, -1).astype(np.float32)
    offset = targets.mean(0)
    weights = space.ridge(targets - offset, 1 / strength)
    # Standardised training rows have mean 0, so the mean target is the intercept.
    return Linear(weights, offset)


def newton_step(space: Space, positive: np.ndarray, strength: float) -> Linear:
    """Return where Newton's first step leads logistic regressions; cheap for many labels.

    It is a ridge regression whose penalty is four times that of the logistic one.
    """
    found = ridge(space, positive, strength / 4)
    return Linear(2 * found.weights, 2 * found.intercepts)


def logistic(space: Space, positive: np.ndarray, strength: float, seed: int) -> Linear:
    """Return the logistic regression of scikit-learn's default: L2 with ``C = strength``.

    Args:
        space: the rows.
        positive: bool ``[train]``.
        strength: inverse of the penalty.
        seed: for scikit-learn, where it is used.
    """
    if space.dual:
        weights, intercept = _kernel_logistic(space.gram, positive, 1 / strength)
    else:
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=strength, max_iter=2000, random_state=seed)
        model.fit(space.train, positive)
        weights, intercept = model.coef_[0], float(model.intercept_[0])
    return Linear(weights[:, None].astype(np.float32), np.array([intercept]))


def _kernel_logistic(
    gram: np.ndarray, positive: np.ndarray, penalty: float
) -> tuple[np.ndarray, float]:
    """Minimise the logistic loss by Newton's method over the rows' weights."""
    from scipy.linalg import cho_solve

    rows = len(gram)
    target = positive.astype(np.float32)
    sign = 2 * target - 1
    slack = _slack(gram)
    # Where rows are nearly orthogonal, all scores end up near the same distance from 0:
    # starting there saves the steps that lead there from 0.
    size = float(np.mean(np.diagonal(gram)))
    reach = _balance(size / penalty)
    weight = np.full(rows, 1 / (2 + 2 * np.cosh(reach)), np.float32)
    weights = np.zeros(rows, np.float32)
    intercept = 0.0
    scores = np.zeros(rows, np.float32)
    loss = np.inf
    ones = np.ones(rows, np.float32)
    for step in range(_STEPS):
        if step == 0:
            residual = weight * sign * reach
        else:
            chance = _expit(scores)
            weight = np.maximum(chance * (1 - chance), 1e-7)
            residual = target - chance - penalty * weights
        root = np.sqrt(weight)
        matrix = gram * root
        matrix *= root[:, None]
        matrix[np.diag_indices_from(matrix)] += penalty + slack * weight
        factor = _factor(matrix)
        sides = np.stack([residual / root, root * ones], 1)
        moves = root[:, None] * cho_solve(factor, sides, check_finite=False)
        shift = (moves[:, 0].sum() + weights.sum()) / moves[:, 1].sum()
        move = moves[:, 0] - shift * moves[:, 1]
        change = gram @ move + shift
        length = 1.0
        while True:
            tried = weights + length * move
            level = scores + length * change
            inner = float(tried @ (level - (intercept + length * shift)))
            new = float(np.logaddexp(0, -sign * level).sum() + penalty / 2 * inner)
            if step == 0 or new <= loss + 1e-6 * abs(loss) or length < 1e-3:
                break
            length /= 2
        weights, scores, intercept, loss = tried, level, intercept + length * float(shift), new
        if step and length * float(np.abs(change).max(initial=0)) < _ENOUGH * max(1.0, reach):
            break
    return weights, intercept


def _rows(vectors: np.ndarray, places: np.ndarray) -> np.ndarray:
    return vectors if len(places) == len(vectors) else vectors[places]


def _balance(size: float) -> float:
    """Return the score ``z`` with ``z = size * expit(-z)``."""
    low, high = 0.0, max(1.0, np.log1p(size) + 1)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if middle < size / (1 + np.exp(middle)) else (low, middle)
    return float(low)


def _slack(matrix: np.ndarray) -> float:
    """Return what float32 rounding may have taken from the smallest eigenvalue."""
    return 1e-6 * float(np.mean(np.diagonal(matrix))) + 1e-12


def _factor(matrix: np.ndarray) -> Any:
    from scipy.linalg import LinAlgError, cho_factor

    try:
        return cho_factor(matrix, lower=True, check_finite=False)
    except LinAlgError:
        # Rounding went further than foreseen: float64 holds what float32 could not.
        exact = matrix.astype(np.float64)
        exact[np.diag_indices_from(exact)] += 1e-4 * float(np.mean(np.diagonal(exact)))
        return cho_factor(exact, lower=True, check_finite=False)


def _expit(values: np.ndarray) -> np.ndarray:
    result: np.ndarray = 0.5 * (1 + np.tanh(values / 2))
    return result


@dataclass(frozen=True, slots=True)
class Perceptron:
    """A network with one hidden layer: ``relu(x @ hidden + bias) @ out + intercept``."""

    hidden: np.ndarray
    """Float32 ``[width, units]``."""
    bias: np.ndarray
    """``[units]``."""
    out: np.ndarray
    """``[units]``."""
    intercept: float

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """Return the log odds of standardised vectors, ``[rows]``."""
        inside = np.maximum(vectors @ self.hidden + self.bias, 0)
        result: np.ndarray = inside @ self.out + self.intercept
        return result


def perceptron(space: Space, positive: np.ndarray, strength: float, seed: int) -> Perceptron:
    """Train scikit-learn's ``MLPClassifier`` with 64 hidden units.

    Where rows are fewer than dimensions it is trained on the rows' principal components,
    all of them, which lose nothing.
    """
    from sklearn.neural_network import MLPClassifier

    features, back = space.train, None
    if space.dual:
        values, axes = np.linalg.eigh(space.gram)
        kept = values > max(0.0, float(values[-1])) * 1e-6
        size = np.sqrt(values[kept])
        features = axes[:, kept] * size
        back = space.train.T @ (axes[:, kept] / size)
    model = MLPClassifier(
        (64,),
        alpha=1 / strength,
        batch_size=min(_BATCH, len(features)),
        learning_rate_init=3e-3,
        max_iter=_EPOCHS,
        tol=1e-3,
        random_state=seed,
    )
    model.fit(features, positive)
    first, last = model.coefs_
    hidden = first if back is None else back @ first
    return Perceptron(
        hidden.astype(np.float32),
        model.intercepts_[0].astype(np.float32),
        last[:, 0].astype(np.float32),
        float(model.intercepts_[1][0]),
    )


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let arithmetic use ``count`` threads in each caller, or as many as it likes."""
    import scipy.linalg  # noqa: F401  limits reach only the libraries that are loaded
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    # Filters are the process's, so they are set before there are threads.
    with threadpool_limits(count), warnings.catch_warnings():
        # The number of steps is the setting: scores hardly move any more when it is reached.
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def require() -> None:
    """Check that scikit-learn is there.

    Raises:
        MissingExtraError: it is not.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise MissingExtraError("probing", "probe")
