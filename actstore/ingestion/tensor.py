"""One view over torch and NumPy arrays, so that readers need not know which library made them."""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable, Iterator, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from actstore.errors import LayoutError

if TYPE_CHECKING:
    import torch

Index = int | slice | None | tuple[int | slice | None, ...]

# NumPy kinds with a plain element: bool, ints, floats, text, dates. Text is allowed because
# an .npz keeps example ids that way.
_NUMPY_KINDS = "biufUSMm"


class Tensor:
    """An array of a source file, not copied until :meth:`numpy` is called.

    Wraps a strided ``torch.Tensor`` on the CPU or a ``numpy.ndarray``. Indexing, ``reshape``
    and ``squeeze`` give views of the same memory.

    Raises LayoutError for arrays that are no plain grid of real values: sparse, quantized,
    nested, complex, meta (no data), object and structured ones, and packed sub-byte types.
    """

    __slots__ = ("_array", "_tensor")

    def __init__(self, source: torch.Tensor | np.ndarray) -> None:
        self._array: np.ndarray | None = None
        self._tensor: Any = None
        if isinstance(source, np.ndarray):
            self._array = _checked_array(source)
        elif _is_torch(source):
            self._tensor = _checked_tensor(source)
        else:
            raise LayoutError(
                f"expected a torch tensor or a NumPy array, got {type(source).__name__}"
            )

    @property
    def _any(self) -> Any:
        return self._tensor if self._array is None else self._array

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return tuple(self._any.shape)

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return int(self._any.ndim)

    @property
    def dtype(self) -> str:
        """The element type as torch and NumPy spell it: ``bfloat16``, ``float32``, ``int64``; text is ``str``."""  # noqa: E501
        if self._array is None:
            return str(self._tensor.dtype).removeprefix("torch.")
        return _numpy_name(self._array.dtype)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return int(self._any.itemsize)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements in view, however much larger the memory behind them is."""
        return math.prod(self.shape) * self.itemsize

    def __len__(self) -> int:
        if not self.ndim:
            raise LayoutError("a tensor without axes has no length; use .item()")
        return self.shape[0]

    def __getitem__(self, index: Index) -> Tensor:
        """A view; IndexError where the index lies outside."""
        part = self._any[index]
        # NumPy hands out a bare scalar where torch hands out a tensor without axes.
        return Tensor(part if self._array is None else np.asarray(part))

    def __iter__(self) -> Iterator[Tensor]:
        """Views along the first axis."""
        return (self[index] for index in range(len(self)))

    def reshape(self, *shape: int) -> Tensor:
        """The same elements in another shape; a view wherever the memory order allows one.

        Raises LayoutError where the number of elements differs.
        """
        try:
            return Tensor(self._any.reshape(shape))
        except (ValueError, RuntimeError) as error:
            raise LayoutError(
                f"a tensor of shape {list(self.shape)} cannot take the shape {list(shape)}"
            ) from error

    def squeeze(self, axis: int | Sequence[int]) -> Tensor:
        """A view without the named axes; LayoutError where one of them is longer than 1."""
        axes = (axis,) if isinstance(axis, int) else tuple(axis)
        for each in axes:
            if not -self.ndim <= each < self.ndim or self.shape[each] != 1:
                raise LayoutError(
                    f"axis {each} of a tensor of shape {list(self.shape)} cannot be dropped: "
                    "it must be there and have length 1"
                )
        return Tensor(self._any.squeeze(axes))

    def permute(self, order: Sequence[int]) -> Tensor:
        """A view with its axes in another order."""
        if self._array is not None:
            return Tensor(self._array.transpose(tuple(order)))
        return Tensor(self._tensor.permute(tuple(order)))

    def numpy(self) -> np.ndarray:
        """The values, exact: same shape, native byte order.

        bfloat16 and the float8 types come as float32, which holds each of their values; every
        other type comes as it is. May share memory with the file: treat it as read-only.
        """
        if self._array is not None:
            if self._array.dtype.kind == "V":  # ml_dtypes' bfloat16 and float8
                return self._array.astype(np.float32)
            # The test is on the byte order's meaning: '=' , '|' and the machine's own are native.
            return self._array.astype(self._array.dtype.newbyteorder("="), copy=False)
        tensor = self._tensor.resolve_neg()
        if self.dtype == "bfloat16" or self.dtype.startswith("float8_"):
            tensor = tensor.float()
        result: np.ndarray = tensor.numpy()
        return result

    def item(self) -> Any:
        """The only element, as a Python scalar; LayoutError where there is not exactly one."""
        if math.prod(self.shape) != 1:
            raise LayoutError(f"a single value was expected, got shape {list(self.shape)}")
        return self._any.item()

    def tolist(self) -> Any:
        """The elements as nested Python lists."""
        return self.numpy().tolist()

    def same_bits(self, other: Tensor) -> bool:
        """Whether ``other`` has the same shape, type and, bit for bit, values; nothing is copied.

        NaN equals the NaN of the same bits, and -0.0 differs from 0.0.
        """
        if self.shape != other.shape or self.dtype != other.dtype:
            return False
        if self.identity() == other.identity():
            return True
        if self._array is None and other._array is None:
            import torch

            whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[self.itemsize]
            mine, theirs = (each._tensor.resolve_neg().view(whole) for each in (self, other))
            return bool(torch.equal(mine, theirs))
        mine, theirs = self.numpy(), other.numpy()
        if mine.dtype.kind not in "biuf":
            return bool(np.array_equal(mine, theirs))
        unsigned = f"u{mine.itemsize}"
        return bool(np.array_equal(mine.view(unsigned), theirs.view(unsigned)))

    def is_zero(self) -> bool:
        """Whether every value is zero; of either sign."""
        return not bool(self._any.any())

    def identity(self) -> Hashable:
        """Equal for two tensors that show the same memory the same way.

        So that one tensor stored under two names is seen to be one. Valid only while both
        tensors are alive: freed memory is used again.
        """
        if self._array is not None:
            pointer = int(self._array.__array_interface__["data"][0])
            strides = self._array.strides
        else:
            pointer = int(self._tensor.data_ptr())
            strides = tuple(step * self.itemsize for step in self._tensor.stride())
        # A step along an axis of one element moves nowhere, and writers fill it in differently.
        steps = tuple(
            step if length > 1 else 0 for step, length in zip(strides, self.shape, strict=True)
        )
        return (pointer, self.dtype, self.shape, steps)

    def __repr__(self) -> str:
        return f"Tensor({self.dtype} {list(self.shape)})"


@lru_cache(maxsize=256)
def _numpy_name(dtype: np.dtype[Any]) -> str:
    # Each row asks for it, and NumPy makes the name anew each time.
    return "str" if dtype.kind in "US" else dtype.newbyteorder("=").name


def is_array(value: object) -> bool:
    """Whether a value is an array, of whatever library."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _is_torch(source: object) -> TypeGuard[torch.Tensor]:
    # A torch tensor cannot exist before torch is imported, so torch need not be imported to ask.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.Tensor)


def _checked_tensor(source: torch.Tensor) -> torch.Tensor:
    import torch

    kind = None
    if source.is_nested:
        kind = "a nested tensor"
    elif source.is_quantized:
        kind = f"a quantized tensor ({source.dtype})"
    elif source.layout != torch.strided:
        kind = f"a sparse tensor ({str(source.layout).removeprefix('torch.')})"
    elif source.device.type != "cpu":
        kind = f"a tensor on the device {source.device.type!r}, without data here"
    elif source.is_complex():
        kind = f"a complex tensor ({str(source.dtype).removeprefix('torch.')})"
    elif source.dtype not in _torch_dtypes():
        kind = f"a tensor of the packed type {str(source.dtype).removeprefix('torch.')}"
    if kind:
        raise LayoutError(
            f"{kind} of shape {list(source.shape)} cannot become rows; "
            "save it again as a dense tensor of real numbers"
        )
    return source.detach()


@cache
def _torch_dtypes() -> frozenset[torch.dtype]:
    import torch

    names = (
        "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 bfloat16 float32 float64 "
        "float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu"
    )
    return frozenset(getattr(torch, name) for name in names.split() if hasattr(torch, name))


def _checked_array(source: np.ndarray) -> np.ndarray:
    dtype = source.dtype
    if dtype.kind in _NUMPY_KINDS:
        return source
    if dtype.names is not None:
        kind = f"a structured array with the fields {', '.join(dtype.names)}"
    elif dtype.kind == "O":
        kind = "an array of Python objects"
    elif dtype.kind == "c":
        kind = f"a complex array ({dtype.name})"
    elif dtype.name == "bfloat16" or dtype.name.startswith("float8_"):
        return source
    elif dtype.kind == "V" and dtype.itemsize in (1, 2):
        # NumPy writes a type it does not know as raw bytes; ml_dtypes' types end up so.
        lost = "bfloat16" if dtype.itemsize == 2 else "a float8 type"
        kind = (
            f"an array of raw {dtype.itemsize}-byte values ({dtype.str}), perhaps {lost} whose "
            "type NumPy could not write down, so that the numbers cannot be told for certain,"
        )
    else:
        kind = f"an array of type {dtype.str}"
    raise LayoutError(
        f"{kind} of shape {list(source.shape)} cannot become rows; "
        "save it again as float16, float32, or as .safetensors, which knows bfloat16"
    )
