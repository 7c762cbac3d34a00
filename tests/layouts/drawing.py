"""Vectors to save, and the rows that a store should hold of them."""

from __future__ import annotations

from typing import Any

import torch

WIDTH = 8
Row = dict[str, Any]


def draw(*shape: int) -> torch.Tensor:
    """Return values that no other tensor of the test holds."""
    draw.count = getattr(draw, "count", 0) + 1  # type: ignore[attr-defined]
    return torch.randn(*shape, generator=torch.Generator().manual_seed(draw.count))  # type: ignore[attr-defined]


def rows_of(tensor: torch.Tensor, **columns: Any) -> list[Row]:
    """Return a row per vector of a matrix, each a token."""
    return [{**columns, "position": at, "activation": v.numpy()} for at, v in enumerate(tensor)]


def row(vector: torch.Tensor, **columns: Any) -> Row:
    """Return the row of one vector."""
    return {**columns, "activation": vector.numpy()}
