"""Linear classifiers on standardised vectors, solved through inner products where rows are few.

An L2-regularised linear model's weights are a combination of the training rows. So with
fewer rows than dimensions everything is computed from the rows' Gram matrix: the same
model as scikit-learn's on the standardised vectors, at the cost of the rows.
"""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from actstore.analysis.solvers import newton_by_dimensions, newton_by_rows
from actstore.analysis.solvers.cholesky import CholeskyFactor, slack
from actstore.analysis.solvers.newton_by_rows import Logistic, Loss, Squares
from actstore.analysis.solvers.standardise import Standard, StandardisedRows, neutral
from actstore.errors import MissingExtraError

Method = Literal["logistic", "mean-difference", "ridge", "mlp"]
METHODS: tuple[Method, ...] = ("logistic", "mean-difference", "ridge", "mlp")

_EPOCHS, _BATCH = 100, 32


class TrainTest:
    """Training rows and rows to score, standardised on the former.

    Args:
        gram: inner products of the training rows, ``[train, train]``; None where rows are so
            many that they are worked on by dimension.
        cross: inner products of the rows to score with them, ``[test, train]``.
        train: the training rows; needed for all but many labels at once.
        test: the rows to score.
    """

    def __init__(
        self,
        gram: np.ndarray | None,
        cross: np.ndarray | None,
        train: StandardisedRows | None = None,
        test: StandardisedRows | None = None,
    ) -> None:
        self._gram, self._cross = gram, cross
        self._train, self._test = train, test
        self._ridge: tuple[float, CholeskyFactor] | None = None

    @classmethod
    def of(
        cls,
        vectors: np.ndarray,
        train: np.ndarray,
        test: np.ndarray,
        standard: Standard | None = None,
    ) -> TrainTest:
        """Return the products of some vectors; by rows where those are the fewer.

        Args:
            vectors: float32 or float64 ``[rows, width]``.
            train: positions of the training rows among them.
            test: positions of the rows to score.
            standard: what they are to be standardised on; they are already when missing.
        """
        ways = [standard] if standard is not None else [neutral(vectors.shape[1])]
        own, others = (
            StandardisedRows.of(vectors, ways, train),
            StandardisedRows.of(vectors, ways, test),
        )
        if len(train) > vectors.shape[1]:
            return cls(None, None, own, others)
        ready = vectors if standard is None else standard.apply(vectors)
        if len(test) <= len(train):
            # One matrix times its own transpose takes half the work of two matrices.
            # Products of rows to score with one another may overflow; nobody asks for them.
            with np.errstate(over="ignore", invalid="ignore"):
                whole = ready @ ready.T
            gram, cross = _picked(whole, train, train), _picked(whole, test, train)
        else:
            rows = _rows(ready, train)
            gram, cross = rows @ rows.T, _rows(ready, test) @ rows.T
        return cls(gram, cross, own, others)

    @property
    def dual(self) -> bool:
        """Whether models have weights of rows, not of dimensions."""
        return self._gram is not None

    @property
    def gram(self) -> np.ndarray:
        """Inner products of the training rows, where :attr:`dual`; to float32's digits."""
        assert self._gram is not None
        return self._gram

    @property
    def train(self) -> StandardisedRows:
        """The training rows."""
        assert self._train is not None
        return self._train

    @property
    def test(self) -> StandardisedRows:
        """The rows to score."""
        assert self._test is not None
        return self._test

    def scores(self, weights: np.ndarray) -> np.ndarray:
        """Return what linear models give for the rows to score, without their intercepts.

        Args:
            weights: ``[train, models]`` of the rows where :attr:`dual`, else ``[width, models]``.
        """
        return self.test.scores(self._dimensions(weights))

    def many_scores(self, weights: np.ndarray) -> np.ndarray:
        """The same at little cost, to the digits of the vectors' type."""
        if self._cross is None:
            return self.scores(weights)
        product: np.ndarray = self._cross @ weights
        return product

    def fitted(self, weights: np.ndarray) -> np.ndarray:
        """Return the scores of the training rows, to the digits of the vectors' type."""
        return self.gram @ weights if self.dual else self.train.scores(weights)

    def primal(self, weights: np.ndarray) -> np.ndarray:
        """Return the weights of the dimensions, float32 ``[width]``."""
        return self._dimensions(weights[:, None])[:, 0].astype(np.float32)

    def ridge(self, targets: np.ndarray, penalty: float) -> np.ndarray:
        """Return the weights of least squares with an L2 penalty, of many targets at once.

        Args:
            targets: ``[train, models]`` with mean 0 in each column.
            penalty: of the squared weights.
        """
        if self._ridge is None or self._ridge[0] != penalty:
            matrix = self.gram.copy() if self.dual else self._moments()
            matrix[np.diag_indices_from(matrix)] += penalty + slack(matrix)
            self._ridge = penalty, CholeskyFactor(matrix)
        right = targets if self.dual else self.train.combined(targets)
        return self._ridge[1].solve(right)

    def fit(self, loss: Loss, penalty: float) -> LinearModels:
        """Return the linear model that minimises a loss of the training rows, to 1 in 10,000.

        Args:
            loss: of their scores.
            penalty: half of it times the squared weights is added.
        """
        if not self.dual:
            found = newton_by_dimensions.solve(self.train, loss, penalty)
            weights = found.weights[:, None]
            return LinearModels(weights, np.array([found.intercept]), found.converged)
        exact = None
        if self.gram.dtype != np.float64:
            exact = self.train.gram
        task = newton_by_rows.Regression(np.arange(len(self.train)), self.gram, loss, exact=exact)
        rows = self.train
        ends = newton_by_rows.solve(
            [task], lambda w, _: rows.scores(rows.combined(w)), len(rows), penalty
        )
        return LinearModels(ends.weights, ends.intercepts, bool(ends.converged[0]))

    def _dimensions(self, weights: np.ndarray) -> np.ndarray:
        return self.train.combined(weights) if self.dual else weights

    def _moments(self) -> np.ndarray:
        return self.train.moments(np.ones(len(self.train)))[:-1, :-1].copy()


class LinearModels(NamedTuple):
    """Linear models: score = vectors @ weights + intercept."""

    weights: np.ndarray
    """Of rows or dimensions, as :class:`TrainTest` has it: ``[…, models]``."""
    intercepts: np.ndarray
    """``[models]``."""
    converged: bool = True
    """Whether the weights are those of the optimum to 1 in 10,000."""


def mean_difference(data: TrainTest, positive: np.ndarray) -> LinearModels:
    """Return the difference of the classes' means; scores are 0 half way between the two.

    Args:
        data: the rows.
        positive: bool ``[train, models]``.
    """
    rows = difference_weights(positive)
    weights = rows if data.dual else data.train.combined(rows)
    return LinearModels(weights, -half_way(data.fitted(weights), positive))


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


def ridge(data: TrainTest, positive: np.ndarray, strength: float) -> LinearModels:
    """Return least squares on classes -1 and 1 with penalty ``1 / strength``.

    Args:
        data: the rows.
        positive: bool ``[train]``.
        strength: inverse of the penalty.
    """
    targets = np.where(positive, 1.0, -1.0)
    offset = float(targets.mean())
    found = data.fit(Squares(targets - offset), 1 / strength)
    return found._replace(intercepts=found.intercepts + offset)


def ridges(data: TrainTest, positive: np.ndarray, strength: float) -> LinearModels:
    """Return ridge regressions of many labels at little cost, to the digits of the vectors.

    Args:
        data: the rows.
        positive: bool ``[train, models]``.
        strength: inverse of the penalty.
    """
    targets = np.where(positive, 1, -1).astype(np.float32)
    offset = targets.mean(0)
    weights = data.ridge(targets - offset, 1 / strength)
    # Standardised training rows have mean 0, so the mean target is the intercept.
    return LinearModels(weights, offset)


def newton_step(data: TrainTest, positive: np.ndarray, strength: float) -> LinearModels:
    """Return where Newton's first step leads logistic regressions; cheap for many labels.

    It is a ridge regression whose penalty is four times that of the logistic one.
    """
    found = ridges(data, positive, strength / 4)
    return LinearModels(2 * found.weights, 2 * found.intercepts)


def logistic(data: TrainTest, positive: np.ndarray, strength: float) -> LinearModels:
    """Return the logistic regression that scikit-learn has by default: L2 with ``C = strength``.

    Args:
        data: the rows.
        positive: bool ``[train]``.
        strength: inverse of the penalty.
    """
    return data.fit(Logistic(positive), 1 / strength)


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


def perceptron(data: TrainTest, positive: np.ndarray, strength: float, seed: int) -> Perceptron:
    """Train scikit-learn's ``MLPClassifier`` with 64 hidden units.

    Where rows are fewer than dimensions it is trained on the rows' principal components,
    all of them, which lose nothing.
    """
    from sklearn.neural_network import MLPClassifier

    rows = data.train.ready()
    features, back = rows, None
    if data.dual:
        values, axes = np.linalg.eigh(data.gram)
        kept = values > max(0.0, float(values[-1])) * 1e-6
        size = np.sqrt(values[kept])
        features = axes[:, kept] * size
        back = rows.T @ (axes[:, kept] / size)
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
