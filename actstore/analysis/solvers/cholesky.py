"""Cholesky factors of symmetric matrices, while other threads go on with their own fits.

Many fits run side by side, and a quarter of their time goes into these factors. Measured on
matrices of 1,004, 803, 602 and 200 rows (``python -m benchmarks probes`` has such):
``scipy.linalg`` holds Python's lock while it factorises and solves, so the fits of other cores
would wait. ``torch.linalg.cholesky_ex`` does not hold it, but takes twice the time of LAPACK
for the factor and up to three times for 100 right sides, and loading torch takes longer than
small probes do. ``numpy.linalg.cholesky`` does not hold it either; NumPy has no triangular
solver, and takes two to five times as long for a whole float32 matrix. So the factor is made
of blocks here: NumPy factorises and inverts those on the diagonal, and all the rest is
products of matrices, which is near LAPACK's own time.
"""

from __future__ import annotations

import numpy as np

_BLOCK = 64
"""Rows of a block: few enough that NumPy's own factor is cheap, many enough for its products."""


class CholeskyFactor:
    """The lower Cholesky factor of a matrix that is positive definite up to rounding.

    Args:
        matrix: float32 or float64 ``[rows, rows]``, symmetric. It is overwritten.

    Raises:
        ArithmeticError: the matrix is far from positive definite.
    """

    def __init__(self, matrix: np.ndarray) -> None:
        try:
            self._inverses = _factorise(matrix)
        except np.linalg.LinAlgError:
            # Rounding went further than foreseen: float64 holds what float32 could not.
            upper = np.triu(matrix).astype(np.float64)
            diagonal = np.diagonal(upper)
            matrix = upper + np.triu(upper, 1).T
            matrix[np.diag_indices_from(matrix)] += 1e-4 * float(diagonal.mean())
            try:
                self._inverses = _factorise(matrix)
            except np.linalg.LinAlgError as error:
                raise ArithmeticError("a matrix of inner products is not positive") from error
        self._lower = matrix

    def solve(self, right: np.ndarray) -> np.ndarray:
        """Return ``x`` with ``matrix @ x = right``, for ``[rows]`` or ``[rows, columns]``."""
        lower, rows = self._lower, len(self._lower)
        found = right.astype(lower.dtype)
        starts = range(0, rows, _BLOCK)
        for start, inverse in zip(starts, self._inverses, strict=True):
            own = slice(start, start + _BLOCK)
            if start:
                found[own] -= lower[own, :start] @ found[:start]
            found[own] = inverse @ found[own]
        for start, inverse in zip(reversed(starts), reversed(self._inverses), strict=True):
            own, below = slice(start, start + _BLOCK), slice(start + _BLOCK, rows)
            if start + _BLOCK < rows:
                found[own] -= lower[below, own].T @ found[below]
            found[own] = inverse.T @ found[own]
        return found


def slack(matrix: np.ndarray) -> float:
    """Return what rounding may have taken from the smallest eigenvalue."""
    return 8 * float(np.finfo(matrix.dtype).eps) * float(np.mean(np.diagonal(matrix))) + 1e-12


def _factorise(matrix: np.ndarray) -> list[np.ndarray]:
    """Write the factor's blocks below the diagonal ones; return the inverses of these.

    The diagonal blocks and the upper triangle stay as they were.
    """
    inverses = []
    for start in range(0, len(matrix), _BLOCK):
        stop = min(start + _BLOCK, len(matrix))
        columns = matrix[start:, start:stop]
        if start:
            columns = columns - matrix[start:, :start] @ matrix[start:stop, :start].T
        inverse = np.linalg.inv(np.linalg.cholesky(columns[: stop - start]))
        if stop < len(matrix):
            np.matmul(columns[stop - start :], inverse.T, out=matrix[stop:, start:stop])
        inverses.append(inverse)
    return inverses
