"""Cholesky factors solve what they were made of, also where rounding spoils them."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from actstore.analysis.solvers.cholesky import CholeskyFactor


def matrix(rows: int, rank: int) -> np.ndarray:
    vectors = np.random.default_rng(rows).standard_normal((rows, rank)).astype(np.float32)
    return vectors @ vectors.T


@pytest.mark.parametrize("columns", [None, 1, 7])
def test_it_solves(columns: int | None) -> None:
    given = matrix(50, 80)
    shape = (50,) if columns is None else (50, columns)
    right = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    kept = right.copy()
    found = CholeskyFactor(given.copy()).solve(right)
    assert found.shape == shape
    np.testing.assert_allclose(given @ found, right, atol=1e-3)
    np.testing.assert_array_equal(right, kept)


def test_a_matrix_that_is_not_positive_is_taken_for_one_that_rounding_spoiled() -> None:
    given = matrix(40, 40) + 10 * np.eye(40, dtype=np.float32)
    given[5] = given[:, 5] = given[6]
    given[5, 5] = given[6, 6] * (1 - 1e-5)
    assert np.linalg.eigvalsh(given.astype(np.float64)).min() < 0
    right = np.zeros(40, np.float32)
    right[7] = 1
    found = CholeskyFactor(given.copy()).solve(right)
    np.testing.assert_allclose(given @ found, right, atol=0.02)


def test_what_is_far_from_positive_is_refused() -> None:
    with pytest.raises(ArithmeticError):
        CholeskyFactor(-np.eye(4, dtype=np.float32))


def test_threads_do_not_get_in_one_anothers_way() -> None:
    given = [matrix(rows, 90) for rows in range(30, 70)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda each: CholeskyFactor(each.copy()).solve(each[0]), given))
    for each in found:
        np.testing.assert_allclose(each, np.eye(1, len(each))[0], atol=1e-3)
