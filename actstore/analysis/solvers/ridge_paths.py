"""Ridge regressions for all penalties and targets at once, without some parts of the rows.

One decomposition of the training rows' products serves every penalty and every column of
targets, so a penalty can be chosen for each column by what it does on rows left out, also for
hundreds of shuffled columns. Rows are standardised anew by those that are trained on, in
float64: each model is that of scikit-learn's ``StandardScaler`` and ``Ridge``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from actstore.analysis.solvers.standardise import Standard, StandardisedRows, standards_of

PENALTIES = 10.0 ** (np.arange(-4, 15) / 2)
"""Among which a penalty is chosen, from 0.01 to 10,000,000."""
_LOST = 1e-13
"""Part of the largest eigenvalue below which others are rounding."""


class Path(NamedTuple):
    """The regressions of some training rows, whatever the penalty."""

    values: np.ndarray
    """Eigenvalues of the rows' products, ``[axes]``."""
    targets: np.ndarray
    """Products of the axes with the targets, ``[axes, columns]``."""
    means: np.ndarray
    """Of the targets, ``[columns]``."""
    directions: np.ndarray
    """Weights of the dimensions for each axis, ``[width, axes]``."""
    centre: np.ndarray
    """What is taken off standardised rows, ``[width]``."""
    standard: Standard

    def projected(self, vectors: np.ndarray) -> np.ndarray:
        """Return rows in terms of the axes, ``[rows, axes]``."""
        rows = StandardisedRows.of(vectors, [self.standard])
        offsets = self.centre @ self.directions
        found: np.ndarray = rows.scores(self.directions) - offsets
        return found

    def predicted(self, projected: np.ndarray, penalties: np.ndarray) -> np.ndarray:
        """Return the number that each column's regression gives rows, ``[rows, columns]``.

        Args:
            projected: the rows, of :meth:`projected`.
            penalties: of each column, ``[columns]``.
        """
        shrunk = self.targets / (self.values[:, None] + penalties)
        found: np.ndarray = projected @ shrunk + self.means
        return found

    def errors(self, projected: np.ndarray, truth: np.ndarray, penalties: np.ndarray) -> np.ndarray:
        """Return sums of squared errors, ``[penalties, columns]``."""
        columns = np.ones(truth.shape[1])
        return np.array(
            [
                np.square(self.predicted(projected, penalty * columns) - truth).sum(0)
                for penalty in penalties
            ]
        )

    def weights(self, penalty: float) -> tuple[np.ndarray, float]:
        """Return the first column's weights of standardised dimensions, and its intercept."""
        weights = self.directions @ (self.targets[:, 0] / (self.values + penalty))
        return weights, float(self.means[0] - self.centre @ weights)


class Parts:
    """Rows in parts, some of which are left out of the training.

    Args:
        vectors: float32 ``[rows, width]``, not standardised.
        targets: float64 ``[rows, columns]``.
        part: number of each row's part, int64 ``[rows]``; rows of -1 are never trained on.
        left: the sets of parts that will be left out.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        targets: np.ndarray,
        part: np.ndarray,
        left: Sequence[Collection[int]],
    ) -> None:
        self._vectors, self._targets, self._part = vectors, targets, part
        self._numbers = [number for number in np.unique(part).tolist() if number >= 0]
        rows = [self._rows(out) for out in left]
        self._standards = {
            frozenset(out): standard
            for out, standard in zip(left, standards_of(vectors, rows), strict=True)
        }
        self._dual = len(vectors) <= vectors.shape[1]
        if self._dual:
            self._exact = vectors.astype(np.float64)
            return
        (self._whole,) = standards_of(vectors, [self._rows(())])
        self._moments, self._products, self._sums = {}, {}, {}
        for number in self._numbers:
            own = np.flatnonzero(part == number)
            ready = StandardisedRows.of(vectors, [self._whole], own)
            self._moments[number] = ready.moments(np.ones(len(own)))
            self._products[number] = ready.combined(targets[own])
            self._sums[number] = targets[own].sum(0)

    def path(self, out: Collection[int]) -> Path:
        """Return the regressions of all rows but those of some parts."""
        return self._by_rows(out) if self._dual else self._by_dimensions(out)

    def _rows(self, out: Collection[int]) -> np.ndarray:
        return np.flatnonzero((self._part >= 0) & ~np.isin(self._part, list(out)))

    def _by_rows(self, out: Collection[int]) -> Path:
        standard, rows = self._standards[frozenset(out)], self._rows(out)
        ready = StandardisedRows.of(self._exact, [standard], rows).ready()
        centre = ready.mean(0)
        ready -= centre
        means = self._targets[rows].mean(0)
        values, axes = np.linalg.eigh(ready @ ready.T)
        kept = values > _LOST * max(1.0, float(values[-1])) * len(rows)
        values, axes = values[kept], axes[:, kept]
        # Of rows' weights ``a`` the dimensions' are ``ready.T @ a``.
        return Path(
            values,
            axes.T @ (self._targets[rows] - means),
            means,
            ready.T @ axes,
            centre,
            standard,
        )

    def _by_dimensions(self, out: Collection[int]) -> Path:
        standard = self._standards[frozenset(out)]
        numbers = [number for number in self._numbers if number not in out]
        # Added up, not taken off the whole: nothing cancels.
        matrix = np.sum([self._moments[number] for number in numbers], axis=0)
        products = np.sum([self._products[number] for number in numbers], axis=0)
        count = matrix[-1, -1]
        middle, matrix = matrix[:-1, -1] / count, matrix[:-1, :-1]
        means = np.sum([self._sums[number] for number in numbers], axis=0) / count
        matrix -= count * np.outer(middle, middle)
        products -= count * np.outer(middle, means)
        scale = standard.scale.astype(np.float64)
        ratio = self._whole.scale / scale
        matrix *= ratio[:, None]
        matrix *= ratio
        values, axes = np.linalg.eigh(matrix)
        kept = values > _LOST * max(1.0, float(values[-1])) * len(matrix)
        values, axes = values[kept], axes[:, kept]
        offset = self._whole.mean.astype(np.float64) - standard.mean
        centre = (offset + middle * self._whole.scale) / scale
        return Path(values, axes.T @ (products * ratio[:, None]), means, axes, centre, standard)
