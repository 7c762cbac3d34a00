"""What is taken of a text's states: regions, how their tokens are pooled, and the vectors then."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from actstore.errors import UsageError

REGIONS = ("prompt", "question", "image", "response", "answer", "all")
POOLS = ("last", "first", "mean", "max", "tokens")
EXCLUSIONS = ("bos", "special")
"""What ``exclude`` can leave out of means and maxima."""
_OFFSET = re.compile(r"-?\d+")


class Pool(NamedTuple):
    """One vector, or with ``tokens`` all vectors, of one region of every example."""

    region: str
    pool: str
    """``last``, ``first``, ``mean``, ``max``, ``tokens`` or an offset such as ``-2``: the second
    token from the region's end; ``0`` is its first."""

    @property
    def text(self) -> str:
        """Return it as it is written: ``prompt.last``."""
        return f"{self.region}.{self.pool}"

    @property
    def stored(self) -> str:
        """Return the schema's word for the column ``pooling``: single tokens are ``none``."""
        return self.pool if self.pool in ("last", "first", "mean", "max") else "none"

    @property
    def picks(self) -> bool:
        """Return whether vectors are kept as the model computed them, not averaged."""
        return self.pool not in ("mean", "max")

    @property
    def offset(self) -> int | None:
        """Return which token is meant, from the end if negative; None unless it is one token."""
        if _OFFSET.fullmatch(self.pool):
            return int(self.pool)
        return {"first": 0, "last": -1}.get(self.pool)


def parse_pools(specs: str | Sequence[str]) -> tuple[Pool, ...]:
    """Return the pools that ``prompt.last,response.mean`` or a list of such words names.

    Raises:
        UsageError: a word outside the vocabulary, or none at all.
    """
    words = specs.split(",") if isinstance(specs, str) else list(specs)
    found: dict[Pool, None] = {}
    for word in words:
        text = word.strip()
        if not text:
            continue
        region, _, pool = text.partition(".")
        if region not in REGIONS or (pool not in POOLS and not _OFFSET.fullmatch(pool)):
            raise UsageError(
                f"pool {text!r} is not understood: write REGION.POOL with a region of "
                f"{', '.join(REGIONS)} and a pool of {', '.join(POOLS)} or an offset such as -2"
            )
        found[Pool(region, pool if pool in POOLS else str(int(pool)))] = None
    if not found:
        raise UsageError("no pool was named: write, say, prompt.last or prompt.mean,response.mean")
    return tuple(found)


def parse_exclude(specs: str | Sequence[str], known: Sequence[str] = EXCLUSIONS) -> frozenset[str]:
    """Return the kinds of token to leave out of means and maxima: words of ``known``.

    Raises:
        UsageError: another word.
    """
    words = specs.split(",") if isinstance(specs, str) else list(specs)
    found = frozenset(word.strip() for word in words) - {"", "none"}
    unknown = sorted(found - set(known))
    if unknown:
        raise UsageError(
            f"exclude {', '.join(unknown)!r} is unknown: use {', '.join(known)} or none"
        )
    return found


SiteLayer = tuple[str, int | None]
"""Where in the model a state is taken."""


class PoolRows(NamedTuple):
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
class PooledBatch:
    """The vectors of one batch, on the CPU."""

    rows: dict[Pool, PoolRows]
    vectors: dict[SiteLayer, dict[Pool, np.ndarray]]
    """By (site, layer) and pool, ``[n, width]``: float16 where a model in float16 had single
    tokens picked, else float32."""
    response_tokens: np.ndarray
    """Response tokens of each example that have a state, int64 ``[B]``."""
    steps: int
    """Decode steps that the tap saw: tokens generated less one."""
