"""Linear centred kernel alignment: how alike two representations of the same examples are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_COLUMNS = 512
"""Dimensions that are turned into float64 at a time."""


class Alignment(NamedTuple):
    """Linear CKA, 0 to 1; None where a side does not vary or there are too few rows."""

    cka: float | None
    """As Kornblith et al. (2019) define it; near 1 for any two sides of fewer rows than widths."""
    debiased: float | None
    """With the unbiased estimator of HSIC (Song et al., 2012): about 0 where nothing is alike."""


def linear_cka(left: np.ndarray, right: np.ndarray) -> Alignment:
    """Compare two matrices whose rows belong together.

    Sums are in float64: over rows where there are fewer rows than dimensions (the Gram
    form), over dimensions otherwise. Memory is that of two square matrices of that size.

    Args:
        left: float ``[rows, width]``, finite.
        right: float ``[rows, other width]``, finite.
    """
    rows = len(left)
    if rows < 2:
        return Alignment(None, None)
    left, right = _centred(left), _centred(right)
    if rows <= max(left.shape[1], right.shape[1]):
        sums = _by_rows(left, right)
    else:
        sums = _by_dimensions(left, right)
    cka = _ratio(*(each.total for each in sums))
    debiased = _ratio(*(_unbiased(each, rows) for each in sums)) if rows >= 4 else None
    return Alignment(None if cka is None else min(1.0, max(0.0, cka)), debiased)


class _Sums(NamedTuple):
    """Of the elementwise product of two Gram matrices, and what the diagonals have in them."""

    total: float
    """Sum of K * L."""
    diagonal: float
    """Sum over the diagonal of K * L."""
    k: float
    """Sum of K off the diagonal."""
    l: float  # noqa: E741 - the letter of the formula
    """Sum of L off the diagonal."""
    cross: float
    """Sum of (row sums of K) * (row sums of L), both off the diagonal."""


def _centred(matrix: np.ndarray) -> np.ndarray:
    mean = matrix.mean(axis=0, dtype=np.float64)
    centred = np.subtract(matrix, mean, dtype=np.float64).astype(np.float32)
    # CKA does not know of scale; without this, squares of large values leave float64's range.
    largest = float(np.abs(centred).max())
    return np.asarray(centred / np.float32(largest)) if largest else centred


def _by_rows(left: np.ndarray, right: np.ndarray) -> tuple[_Sums, _Sums, _Sums]:
    k, l = _gram(left), _gram(right)  # noqa: E741 - likewise
    return _of(k, l), _of(k, k), _of(l, l)


def _gram(matrix: np.ndarray) -> np.ndarray:
    total = np.zeros((len(matrix), len(matrix)))
    for start in range(0, matrix.shape[1], _COLUMNS):
        part = matrix[:, start : start + _COLUMNS].astype(np.float64)
        total += part @ part.T
    return total


def _of(k: np.ndarray, l: np.ndarray) -> _Sums:  # noqa: E741 - likewise
    own_k, own_l = np.diagonal(k), np.diagonal(l)
    rows_k, rows_l = k.sum(axis=1) - own_k, l.sum(axis=1) - own_l
    return _Sums(
        float(np.vdot(k, l)),
        float(own_k @ own_l),
        float(rows_k.sum()),
        float(rows_l.sum()),
        float(rows_k @ rows_l),
    )


def _by_dimensions(left: np.ndarray, right: np.ndarray) -> tuple[_Sums, _Sums, _Sums]:
    x, y = left.astype(np.float64), right.astype(np.float64)
    own = [np.einsum("ij,ij->i", side, side) for side in (x, y)]
    rows = [side @ side.sum(axis=0) - each for side, each in zip((x, y), own, strict=True)]

    def sums(a: int, b: int) -> _Sums:
        sides = (x, y)
        product = sides[a].T @ sides[b]
        return _Sums(
            float(np.vdot(product, product)),
            float(own[a] @ own[b]),
            float(rows[a].sum()),
            float(rows[b].sum()),
            float(rows[a] @ rows[b]),
        )

    return sums(0, 1), sums(0, 0), sums(1, 1)


def _unbiased(sums: _Sums, n: int) -> float:
    trace = sums.total - sums.diagonal
    return (trace + sums.k * sums.l / ((n - 1) * (n - 2)) - 2 * sums.cross / (n - 2)) / (
        n * (n - 3)
    )


def _ratio(both: float, left: float, right: float) -> float | None:
    if left <= 0 or right <= 0:
        return None
    return both / float(np.sqrt(left) * np.sqrt(right))
