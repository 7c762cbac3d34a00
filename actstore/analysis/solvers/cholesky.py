"""Cholesky factors of symmetric matrices, made without holding Python's lock.

A quarter of the time of a probe goes into these factors, and threads make them side by side.
So the routines of LAPACK and BLAS that SciPy offers to compiled code are called by ctypes, which
lets other threads run. That table of routines is private to Python; what is public was measured
on the shapes of ``python -m benchmarks probes`` (processor time on AMD EPYC, SciPy 1.17,
NumPy 2.4, torch 2.13):

- ``scipy.linalg`` takes as long and holds the lock: while it factorises, another thread gets an
  eighth of its usual share, so of 16 cores four would work.
- ``torch.linalg.cholesky_ex`` does not hold it, but takes twice as long (6.8 ms instead of 3.0 ms
  for 803 rows in float32, 4.5 instead of 2.4 ms for 101 right sides), and loading torch takes
  seconds.
- ``numpy.linalg.cholesky`` does not hold it, takes two to three times as long in float32, and has
  no triangular solver. A factor of blocks, NumPy's on the diagonal and products of matrices for
  the rest, made whole runs 8 % (9 x 200 x 8,192) and 20 % (8 x 1,004 x 4,096) slower.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

_PREFIX = {np.dtype(np.float32): "s", np.dtype(np.float64): "d"}
_LOWER = ctypes.c_char(b"L")
_AS_IT_IS, _TRANSPOSED = ctypes.c_char(b"N"), ctypes.c_char(b"T")
_ONE = ctypes.c_int64(1)


class CholeskyFactor:
    """The lower Cholesky factor of a matrix that is positive definite up to rounding.

    Args:
        matrix: float32 or float64, C-contiguous ``[rows, rows]``; its memory is used, and what
            it held is lost.
    """

    def __init__(self, matrix: np.ndarray) -> None:
        diagonal = np.diagonal(matrix).copy()
        if not _factorise(matrix):
            # Rounding went further than foreseen: float64 holds what float32 could not. What
            # LAPACK calls the lower triangle is NumPy's upper one; the other is as it was.
            exact = np.tril(matrix, -1).astype(np.float64)
            exact += exact.T
            matrix = exact
            matrix[np.diag_indices_from(matrix)] = diagonal + 1e-4 * float(diagonal.mean())
            if not _factorise(matrix):
                raise ArithmeticError("a matrix of inner products is not positive")
        self._factor = matrix

    def solve(self, right: np.ndarray) -> np.ndarray:
        """Return ``x`` with ``matrix @ x = right``, for ``[rows]`` or ``[rows, columns]``."""
        dtype = self._factor.dtype
        # LAPACK has columns where NumPy has rows.
        found = np.array(right.T, dtype, order="C", copy=True)
        rows = ctypes.c_int64(len(self._factor))
        if right.ndim == 1:
            # For one vector LAPACK takes several times as long as two of BLAS's routines.
            for way in (_AS_IT_IS, _TRANSPOSED):
                _call("trsv", dtype, _LOWER, way, _AS_IT_IS, rows, self._factor, rows, found, _ONE)
            return found
        columns = ctypes.c_int64(found.size // max(1, len(self._factor)))
        status = ctypes.c_int64()
        _call("potrs", dtype, _LOWER, rows, columns, self._factor, rows, found, rows, status)
        return found.T


def slack(matrix: np.ndarray) -> float:
    """Return what rounding may have taken from the smallest eigenvalue."""
    return 8 * float(np.finfo(matrix.dtype).eps) * float(np.mean(np.diagonal(matrix))) + 1e-12


def _factorise(matrix: np.ndarray) -> bool:
    rows, status = ctypes.c_int64(len(matrix)), ctypes.c_int64()
    _call("potrf", matrix.dtype, _LOWER, rows, matrix, rows, status)
    return status.value == 0


def _call(name: str, dtype: np.dtype[Any], *arguments: Any) -> None:
    """Call a routine of LAPACK or BLAS, all of whose arguments are pointers.

    Integers are given as 64 bits, whose first half is the number where 32 are read.
    """
    _routine(_PREFIX[dtype] + name, len(arguments))(
        *(
            each.ctypes.data if isinstance(each, np.ndarray) else ctypes.addressof(each)
            for each in arguments
        )
    )


@cache
def _routine(name: str, arguments: int) -> Callable[..., None]:
    """Return one of the routines that SciPy documents for Cython."""
    from scipy.linalg import cython_blas, cython_lapack

    known = {**cython_blas.__pyx_capi__, **cython_lapack.__pyx_capi__}
    capsule = known[name]
    name_of = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)
    address_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    signature = name_of(("PyCapsule_GetName", ctypes.pythonapi))(capsule)
    address = address_of(("PyCapsule_GetPointer", ctypes.pythonapi))(capsule, signature)
    found: Callable[..., None] = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * arguments)(address)
    return found
