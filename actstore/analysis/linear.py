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
from typing import Literal, NamedTuple

import numpy as np

from actstore.analysis import newton
from actstore.analysis.cholesky import Factor
from actstore.errors import MissingExtraError

Method = Literal["logistic", "mean-difference", "ridge", "mlp"]
METHODS: tuple[Method, ...] = ("logistic", "mean-difference", "ridge", "mlp")

_EPOCHS, _BATCH = 100, 32
_BLOCK = 256


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
    # The median is in the midst even where a few rows are far out.
    centre = np.median(vectors[:: max(1, len(vectors) // 64)], axis=0).astype(np.float32)
    sums = np.zeros((len(parts), vectors.shape[1]))
    squares = np.zeros_like(sums)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK] - centre
        chosen = member[:, start : start + _BLOCK]
        # Squares of values from 1e19 on are beyond float32.
        with np.errstate(over="ignore", invalid="ignore"):
            sums += chosen @ block
            squares += chosen @ np.square(block, out=block)
    beyond = ~np.isfinite(squares)
    squares[beyond] = sums[beyond] = 0
    means = sums / counts
    squares /= counts
    deviations = np.sqrt(np.maximum(squares - np.square(means), 0))
    means += centre
    # Where a part lies far from the midst for its own width, float32 did lose digits.
    for number, lost in enumerate(beyond | (deviations < 1e-2 * np.sqrt(squares))):
        if lost.any():
            exact = vectors[np.ix_(parts[number], np.flatnonzero(lost))].astype(np.float64)
            means[number, lost], deviations[number, lost] = exact.mean(0), exact.std(0)
    # A constant comes out with the deviation of its rounding error, which a large one's
    # deviation must not let loom large.
    least = 1e-6 * np.abs(means)
    scales = np.where(deviations > least, deviations, np.maximum(least, 1))
    return [
        Standard(mean.astype(np.float32), scale.astype(np.float32))
        for mean, scale in zip(means, scales, strict=True)
    ]


class Space:
    """Training rows and rows to score, standardised on the former.

    Args:
        gram: inner products of the training rows, ``[train, train]``; None where rows are so
            many that they are worked on by dimension.
        cross: inner products of the rows to score with them, ``[test, train]``.
        vectors: ``[rows, width]``, standardised; needed for weights of dimensions.
        train: positions of the training rows among them.
        test: positions of the rows to score.
    """

    def __init__(
        self,
        gram: np.ndarray | None,
        cross: np.ndarray | None,
        vectors: np.ndarray | None = None,
        train: np.ndarray | None = None,
        test: np.ndarray | None = None,
    ) -> None:
        self._gram, self._cross = gram, cross
        self._vectors, self._train, self._test = vectors, train, test
        self._ridge: tuple[float, Factor] | None = None

    @classmethod
    def of(cls, vectors: np.ndarray, train: np.ndarray, test: np.ndarray) -> Space:
        """Return the space of standardised vectors; by rows where those are the fewer."""
        if len(train) > vectors.shape[1]:
            return cls(None, None, vectors, train, test)
        if len(test) <= len(train):
            # One matrix times its own transpose takes half the work of two matrices.
            # Products of rows to score with one another may overflow; nobody asks for them.
            with np.errstate(over="ignore", invalid="ignore"):
                whole = vectors @ vectors.T
            gram, cross = _picked(whole, train, train), _picked(whole, test, train)
        else:
            rows = _rows(vectors, train)
            gram, cross = rows @ rows.T, _rows(vectors, test) @ rows.T
        return cls(gram, cross, vectors, train, test)

    @property
    def dual(self) -> bool:
        """Whether models have weights of rows, not of dimensions."""
        return self._gram is not None

    @property
    def gram(self) -> np.ndarray:
        """Inner products of the training rows, where :attr:`dual`."""
        assert self._gram is not None
        return self._gram

    @property
    def train(self) -> np.ndarray:
        """The training rows, ``[train, width]``."""
        assert self._vectors is not None
        assert self._train is not None
        return _rows(self._vectors, self._train)

    @property
    def test(self) -> np.ndarray:
        """The rows to score, ``[test, width]``."""
        assert self._vectors is not None
        assert self._test is not None
        return _rows(self._vectors, self._test)

    def scores(self, weights: np.ndarray) -> np.ndarray:
        """Return what linear models give for the rows to score, without their intercepts.

        Args:
            weights: ``[train, models]`` of the rows where :attr:`dual`, else ``[width, models]``.
        """
        product: np.ndarray = (self.test if self._cross is None else self._cross) @ weights
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
            targets: ``[train, models]`` with mean 0 in each column.
            penalty: of the squared weights.
        """
        if self._ridge is None or self._ridge[0] != penalty:
            rows = None if self.dual else self.train
            matrix = self.gram.copy() if rows is None else rows.T @ rows
            matrix[np.diag_indices_from(matrix)] += penalty + newton.slack(matrix)
            self._ridge = penalty, Factor(matrix)
        right = targets if self.dual else self.train.T @ targets
        return self._ridge[1].solve(right)


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
    rows = difference_weights(positive)
    weights = rows if space.dual else space.train.T @ rows
    return Linear(weights, -half_way(space.fitted(weights), positive))


def difference_weights(positive: np.ndarray) -> np.ndarray:
    """Return the rows' weights in the difference of the classes' means, ``[train, models]``."""
    count = positive.sum(0)
    found: np.ndarray = np.where(positive, 1 / count, -1 / (len(positive) - count))
    return found.astype(np.float32)


def half_way(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Return the score in the middle between the classes' mean scores, ``[models]``."""
    count = positive.sum(0)
    sums = np.where(positive, scores, 0).sum(0)
    middle: np.ndarray = (sums / count + (scores.sum(0) - sums) / (len(positive) - count)) / 2
    return middle


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
        every = np.arange(len(positive))
        task = newton.Task(every, space.gram, positive)
        found = newton.solve(
            [task], lambda weights, _: space.gram @ weights, len(every), 1 / strength
        )
        return Linear(found.weights, found.intercepts)
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=2000, random_state=seed)
    model.fit(space.train, positive)
    return Linear(model.coef_[0][:, None].astype(np.float32), model.intercept_.astype(float))


def _rows(vectors: np.ndarray, places: np.ndarray) -> np.ndarray:
    return vectors if len(places) == len(vectors) else vectors[places]


def _picked(matrix: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return matrix if len(rows) == len(columns) == len(matrix) else matrix[np.ix_(rows, columns)]


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
    import scipy.linalg  # noqa: F401 - limits reach only what is loaded
    from threadpoolctl import threadpool_limits

    # Filters are the process's, so they are set before there are threads.
    with threadpool_limits(count), warnings.catch_warnings():
        # The number of steps is the setting: scores hardly move any more when it is reached.
        # Told by its text, because scikit-learn takes two seconds to load and is not always
        # used.
        warnings.filterwarnings("ignore", "lbfgs failed to converge|Stochastic Optimizer: Maximum")
        yield


def require() -> None:
    """Check that scikit-learn is there.

    Raises:
        MissingExtraError: it is not.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise MissingExtraError("probing", "probe")
