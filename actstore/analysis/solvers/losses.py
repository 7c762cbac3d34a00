"""What probes minimise besides the penalty: the losses of scores, with their derivatives."""

from __future__ import annotations

from typing import Protocol

import numpy as np

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


def _expit(values: np.ndarray | float) -> np.ndarray:
    found: np.ndarray = 1 / (1 + np.exp(np.minimum(-np.asarray(values, np.float64), 700.0)))
    return found
