"""Stored vectors as the tensors their files held, and torch files of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actstore.errors import ExportError

if TYPE_CHECKING:
    import torch


def tensor(vectors: np.ndarray, dtype: str | None, shape: Sequence[int]) -> torch.Tensor:
    """Return vectors as a tensor of a type and shape, every value exact.

    Args:
        vectors: float16 or float32, as stored.
        dtype: name of a torch type; None for the stored one.
        shape: with as many elements.

    Raises:
        ExportError: the type cannot hold a value, or torch has no such type.
    """
    import torch

    shaped = np.ascontiguousarray(vectors).reshape(tuple(shape))
    if dtype is None or dtype == shaped.dtype.name:
        return torch.from_numpy(shaped if shaped.flags.writeable else shaped.copy())
    if dtype == "bfloat16":
        return _bfloat16(shaped)
    wanted = getattr(torch, dtype, None)
    if not isinstance(wanted, torch.dtype):
        raise ExportError(f"torch has no type {dtype!r}: use one such as float32")
    source = torch.from_numpy(np.array(shaped))
    result = source.to(wanted)
    same = (result.to(source.dtype) == source) | source.isnan()
    if not bool(same.all()):
        raise _inexact(shaped, same.logical_not().numpy(), dtype)
    return result


def _bfloat16(values: np.ndarray) -> torch.Tensor:
    import torch

    # By bits: a conversion would make one NaN of all, and round in silence.
    bits = values.astype(np.float32, copy=False).view(np.uint32)
    lost = (bits & 0xFFFF) != 0
    if lost.any():
        raise _inexact(values, lost, "bfloat16")
    return torch.from_numpy((bits >> 16).astype(np.uint16)).view(torch.bfloat16)


def _inexact(values: np.ndarray, lost: np.ndarray, dtype: str) -> ExportError:
    value = values[np.unravel_index(int(np.argmax(lost)), lost.shape)]
    return ExportError(
        f"{dtype} cannot hold {int(np.count_nonzero(lost)):,} of {lost.size:,} values exactly "
        f"(one is {value!s}); leave out --dtype, or choose float32"
    )


def save(document: Any, path: Path) -> None:
    """Write a torch file that ``weights_only`` loads; equal documents give equal bytes."""
    import torch

    torch.save(document, path)


def shape_of(rank: int, *axes: int) -> tuple[int, ...]:
    """Return ``axes`` (the last ones that matter) led by as many ones as the rank takes."""
    return (1,) * max(0, rank - len(axes)) + axes
