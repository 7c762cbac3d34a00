"""Rebuilds NumPy arrays and scalars of a pickle from their bytes, without NumPy's own loaders."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from actstore.errors import UnreadableFileError, UnsafeFileError
from actstore.ingestion.containers.allowlist import Call, Held, Name, Rebuilder


class _Dtype:
    """A dtype on its way: its code, and the byte order that BUILD adds."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if not isinstance(code, str) or not code or code[0] not in "biufUSc?":
            raise UnsafeFileError(
                f"holds a NumPy array of type {code!r:.40}; arrays of objects or of structures "
                "are not opened; save plain numbers or text"
            )
        self.code = code
        self.order: Literal["=", "<", ">", "|"] = "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise UnsafeFileError("a NumPy type has a state that NumPy does not write")
        # Everything past the byte order describes structures, text width and dates' units.
        if len(state) > 4 and (state[2] is not None or state[3] is not None):
            raise UnsafeFileError("holds a NumPy array of structures, which is not opened")
        self.order = state[1]

    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.code).newbyteorder(self.order)


class _Array(Held):
    """An array on its way: empty until BUILD brings its bytes."""

    __slots__ = ("_budget",)

    def __init__(self, budget: Rebuilder) -> None:
        super().__init__(None)
        self._budget = budget

    def __setstate__(self, state: Any) -> None:
        if self.value is not None or not isinstance(state, tuple) or len(state) != 5:
            raise UnsafeFileError("a NumPy array has a state that NumPy does not write")
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, "F" if fortran else "C", self._budget)


class ArrayRebuilder:
    """The functions by which a pickle builds NumPy arrays; shares its Rebuilder's budget."""

    def __init__(self, budget: Rebuilder) -> None:
        self._budget = budget

    def names(self) -> dict[tuple[str, str], Held]:
        """What the unpickler may call, under NumPy 2's names; NumPy 1's are mapped to them."""
        return {
            ("numpy", "ndarray"): Name("ndarray"),
            ("numpy", "dtype"): Call(_Dtype),
            ("numpy._core.multiarray", "_reconstruct"): Call(self._reconstruct),
            ("numpy._core.multiarray", "scalar"): Call(self._scalar),
            ("numpy._core.numeric", "_frombuffer"): Call(self._from_buffer),
        }

    def types(self) -> list[type]:
        """The classes of values that BUILD may reach, for loaders that ask."""
        return [_Dtype, _Array]

    def _reconstruct(self, kind: Any, shape: Any, code: Any) -> _Array:
        if not isinstance(kind, Name) or kind.value != "ndarray":
            raise UnsafeFileError("a NumPy array is of a class of its own")
        return _Array(self._budget)

    def _from_buffer(self, data: Any, dtype: Any, shape: Any, order: Any) -> Held:
        if order not in ("C", "F"):
            raise UnsafeFileError("a NumPy array has an order that NumPy does not write")
        return Held(_array(data, dtype, shape, order, self._budget))

    def _scalar(self, dtype: Any, data: Any) -> Any:
        return _array(data, dtype, (), "C", self._budget).item()


def _array(data: Any, dtype: Any, shape: Any, order: Any, budget: Rebuilder) -> np.ndarray:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise UnsafeFileError("holds a NumPy array of objects, which is not opened")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise UnsafeFileError("a NumPy array has a shape that is none")
    budget.spend(len(shape) + 1)
    real = dtype.dtype()
    if math.prod(shape) * real.itemsize != len(data):
        raise UnreadableFileError(
            f"a NumPy array of shape {list(shape)[:8]} {real} needs "
            f"{math.prod(shape) * real.itemsize:,} bytes, {len(data):,} are there"
        )
    return np.frombuffer(data, dtype=real).reshape(shape, order=order)
