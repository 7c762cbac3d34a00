"""What a tap hands back for a batch: rows per pool, vectors per place in the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from actstore.capturing.forward.pooling import Pool


class Rows(NamedTuple):
    """Which rows a pool has in a batch; an example whose region is empty has none."""

    example: np.ndarray
    """Row of the batch, int64 ``[n]``, ascending."""
    position: np.ndarray | None
    """Place among the example's real tokens (no pads), prompt then response, int32 ``[n]``;
    None for means and maxima."""
    column: np.ndarray | None
    """Place among the padded tokens, int64 ``[n]``: below T in the prompt, T + k for response
    token k; None for means and maxima."""
    token_count: np.ndarray
    """Tokens that the pooling covered, int32 ``[n]``; 1 for tokens and offsets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """The vectors of one batch, on the CPU."""

    rows: dict[Pool, Rows]
    vectors: dict[tuple[str, int | None], dict[Pool, np.ndarray]]
    """By (site, layer) and pool, ``[n, width]``: float16 where a model in float16 had single
    tokens picked, else float32."""
    response_tokens: np.ndarray
    """Response tokens of each example that have a state, int64 ``[B]``."""
    steps: int
    """Decode steps that the tap saw: tokens generated less one."""
