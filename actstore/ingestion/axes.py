"""What the axes of a tensor mean: rows, tokens, values; and how tokens become one vector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from actstore.errors import LayoutError
from actstore.ingestion.options import Pool
from actstore.ingestion.tensor import Tensor

CHUNK_BYTES = 32 << 20
"""Vectors are handed on in pieces of at most this size."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A tensor read as rows of vectors, each perhaps over several tokens."""

    tensor: Tensor
    """Shape ``[*row axes, token?, hidden]``; a view."""
    rows: Mapping[str, int]
    """Axes that count rows (``example``, ``layer``) and their lengths, in order."""
    tokens: int | None
    """Length of the token axis, None where there is none."""
    width: int

    @property
    def count(self) -> int:
        """How many rows there are before tokens are told apart."""
        number = 1
        for length in self.rows.values():
            number *= length
        return number


def interpret(tensor: Tensor, axes: Mapping[int, tuple[str, ...]], *, squeeze: bool = True) -> Grid:
    """Read a tensor by the meaning of its axes.

    Args:
        tensor: any rank.
        axes: rank: the meaning of each axis.
        squeeze: whether a token axis of length 1 is taken for no token axis.

    Raises:
        LayoutError: no reading for this rank, a batch axis longer than 1, or no values.
    """
    shape = tensor.shape
    meaning = axes.get(len(shape))
    if meaning is None:
        ranks = ", ".join(f"[{', '.join(axes[rank])}]" for rank in sorted(axes))
        raise LayoutError(f"shape {list(shape)}: expected {ranks}")
    if 0 in shape:
        raise LayoutError(f"shape {list(shape)} holds no values; expected {_words(meaning)}")
    if meaning == ("hidden",):
        return Grid(tensor, {}, None, shape[0])
    rows: dict[str, int] = {}
    tokens: int | None = None
    dropped = []
    for axis, (name, length) in enumerate(zip(meaning, shape, strict=True)):
        if name == "batch":
            if length != 1:
                raise LayoutError(
                    f"shape {list(shape)}: the batch axis must be 1, got {length}; where it "
                    "counts examples, the recipe must call it 'example'"
                )
            dropped.append(axis)
        elif name == "token":
            if length == 1 and squeeze:
                dropped.append(axis)
            else:
                tokens = length
        elif name != "hidden":
            rows[name] = length
    view = tensor.squeeze(dropped) if dropped else tensor
    if tokens is not None:
        left = [name for axis, name in enumerate(meaning) if axis not in dropped]
        at = left.index("token")
        if at != len(left) - 2:  # a grid has its tokens right before the values
            others = [axis for axis in range(len(left) - 1) if axis != at]
            view = view.permute([*others, at, len(left) - 1])
    return Grid(view, rows, tokens, shape[-1])


def _words(meaning: tuple[str, ...]) -> str:
    return f"[{', '.join(meaning)}]"


def limited(grid: Grid, axis: str, length: int) -> Grid:
    """Return the grid cut to ``length`` along a row axis; as it is where it has no such axis."""
    if grid.rows.get(axis, 0) <= length:
        return grid
    names = list(grid.rows)
    index = (*([slice(None)] * names.index(axis)), slice(0, length))
    return Grid(grid.tensor[index], {**grid.rows, axis: length}, grid.tokens, grid.width)


class Block(NamedTuple):
    """Some vectors of a grid, in order."""

    vectors: np.ndarray
    """``[n, width]``, as the file holds them (bfloat16 as float32)."""
    row: int
    """Number of the first row."""
    rows: int
    """How many rows the block covers."""
    positions: list[int] | None
    """Token of each vector, where vectors are tokens."""
    counts: list[int] | None
    """Tokens pooled into each vector, where they were pooled."""


def blocks(
    grid: Grid,
    *,
    pool: Pool | None = None,
    mask: np.ndarray | None = None,
    stop: int | None = None,
) -> Iterator[Block]:
    """Yield the vectors of a grid in pieces of at most :data:`CHUNK_BYTES`.

    Args:
        grid: what to read.
        pool: how tokens become one vector; None gives one vector per token. The mean is
            accumulated in float32 and stays float32; the others keep the type.
        mask: ``[rows, tokens]`` booleans; False leaves a token out.
        stop: read only the first rows.

    Raises:
        LayoutError: the mask leaves a row without any token.
    """
    count = grid.count if stop is None else min(stop, grid.count)
    itemsize = max(grid.tensor.itemsize, 4 if grid.tensor.dtype == "bfloat16" else 1)
    vector = max(1, grid.width * itemsize)
    if grid.tokens is None:
        step = max(1, CHUNK_BYTES // vector)
        for start in range(0, count, step):
            end = min(count, start + step)
            yield Block(_slab(grid, start, end), start, end - start, None, None)
        return
    whole = max(1, CHUNK_BYTES // (vector * grid.tokens))
    if pool is None and mask is None:
        yield from _every_token(grid, count, vector, whole)
        return
    for start in range(0, count, whole):
        end = min(count, start + whole)
        slab = _slab(grid, start, end).reshape(end - start, grid.tokens, grid.width)
        kept = None if mask is None else mask[start:end]
        if pool is None:
            assert kept is not None
            for number in range(end - start):
                positions = np.flatnonzero(kept[number])
                yield Block(slab[number][positions], start + number, 1, positions.tolist(), None)
            continue
        counts = (
            np.full(end - start, grid.tokens) if kept is None else np.count_nonzero(kept, axis=1)
        )
        if not counts.all():
            raise LayoutError(f"row {start + int(np.argmin(counts))}: the mask leaves no token")
        yield Block(pooled(slab, pool, kept), start, end - start, None, counts.tolist())


def _every_token(grid: Grid, count: int, vector: int, whole: int) -> Iterator[Block]:
    tokens = grid.tokens or 1
    step = min(tokens, max(1, CHUNK_BYTES // vector))
    if step == tokens:  # several rows fit one piece
        for start in range(0, count, whole):
            end = min(count, start + whole)
            slab = _slab(grid, start, end).reshape(-1, grid.width)
            yield Block(slab, start, end - start, list(range(tokens)) * (end - start), None)
        return
    for row in range(count):
        view = _row(grid, row)
        for first in range(0, tokens, step):
            last = min(tokens, first + step)
            yield Block(view[first:last].numpy(), row, 1, list(range(first, last)), None)


def _slab(grid: Grid, start: int, end: int) -> np.ndarray:
    """Return rows ``start`` to ``end`` as ``[rows * tokens, width]`` or ``[rows, width]``."""
    tensor = grid.tensor
    if not grid.rows:
        return tensor.numpy().reshape(-1, grid.width)
    if len(grid.rows) == 1:
        if end - start < tensor.shape[0]:
            tensor = tensor[start:end]
        return tensor.numpy().reshape(-1, grid.width)
    return np.concatenate(
        [_row(grid, row).numpy().reshape(-1, grid.width) for row in range(start, end)]
    )


def _row(grid: Grid, row: int) -> Tensor:
    lengths = tuple(grid.rows.values())
    index = tuple(int(each) for each in np.unravel_index(row, lengths)) if lengths else ()
    return grid.tensor[index] if index else grid.tensor


def pooled(slab: np.ndarray, pool: Pool, mask: np.ndarray | None = None) -> np.ndarray:
    """Pool ``[rows, tokens, width]`` over its tokens to ``[rows, width]``.

    ``mask`` is ``[rows, tokens]``, with at least one True per row. Means are summed in float64:
    in float32 those of thousands of tokens would be off in the fifth digit.
    """
    rows = np.arange(len(slab))
    if mask is None:
        if pool in ("first", "last"):
            return slab[:, 0 if pool == "first" else -1]
        if pool == "max":
            return np.asarray(slab.max(axis=1))
        return np.asarray(slab.mean(axis=1, dtype=np.float64), np.float32)
    if pool == "first":
        return np.asarray(slab[rows, mask.argmax(axis=1)])
    if pool == "last":
        return np.asarray(slab[rows, mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)])
    kept = mask[:, :, None]
    if pool == "max":
        lowest = np.array(-np.inf, dtype=slab.dtype)
        return np.asarray(np.where(kept, slab, lowest).max(axis=1))
    total = np.where(kept, slab, 0).sum(axis=1, dtype=np.float64)
    return np.asarray(total / mask.sum(axis=1)[:, None], np.float32)
