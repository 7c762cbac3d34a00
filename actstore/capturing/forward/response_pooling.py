"""Pools the states of a response while it is generated, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from actstore.capturing.forward.pooling import Pool
from actstore.capturing.forward.prompt_pooling import off_device


class ResponseNeeds(NamedTuple):
    """What must be kept of a response, for pools whose tokens are not known beforehand."""

    mean: bool
    max: bool
    tail: int
    """How many of the last tokens."""
    heads: tuple[tuple[str, int], ...]
    """(region, offset from its start)."""
    every: bool
    """All tokens: wanted as tokens, or an answer is looked for in the response later."""

    @property
    def any(self) -> bool:
        """Return whether decode steps have to be looked at at all."""
        return self.mean or self.max or self.every or self.tail > 0 or bool(self.heads)


def needs(pools: Sequence[Pool], fixed: frozenset[str]) -> ResponseNeeds:
    """Return what ``pools`` need of a response; ``fixed`` are regions that lie in the prompt."""
    growing = [pool for pool in pools if pool.region in {"response", "all"} - (fixed - {"all"})]
    offsets = [(pool.region, pool.offset) for pool in growing if pool.offset is not None]
    late = any(pool.region == "answer" for pool in pools) and "answer" not in fixed
    return ResponseNeeds(
        mean=any(pool.pool == "mean" for pool in growing),
        max=any(pool.pool == "max" for pool in growing),
        tail=max((-offset for _, offset in offsets if offset < 0), default=0),
        heads=tuple(sorted({(region, offset) for region, offset in offsets if offset >= 0})),
        every=late or any(pool.pool == "tokens" for pool in growing),
    )


class ResponseStates(NamedTuple):
    """What is kept of one hook's response states, or of several hooks' (first axis)."""

    sums: torch.Tensor | None
    """Float32 ``[hooks, B, width]``."""
    maxima: torch.Tensor | None
    """``[hooks, B, width]``."""
    tail: torch.Tensor | None
    """``[hooks, B, tail + 1, width]``: token k of an example stands at k mod tail."""
    heads: torch.Tensor | None
    """``[heads, hooks, B, width]``."""


class Responses:
    """Accumulators for the hooks that share a device, type and width."""

    def __init__(
        self,
        hooks: int,
        batch: int,
        like: tuple[torch.device, torch.dtype, int],
        wanted: ResponseNeeds,
        targets: np.ndarray,
    ) -> None:
        """Take ``targets`` ``[heads, B]``: which response token each head is, negative if none."""
        device, dtype, width = like
        self.device = device
        self.wanted = wanted
        shape = (hooks, batch, width)
        self.stage = torch.zeros(shape, dtype=dtype, device=device)
        """Where the hooks put this step's states."""
        self._sums = torch.zeros(shape, device=device) if wanted.mean else None
        self._maxima = (
            torch.full(shape, -torch.inf, dtype=dtype, device=device) if wanted.max else None
        )
        self._tail = (
            torch.zeros((hooks, batch, wanted.tail + 1, width), dtype=dtype, device=device)
            if wanted.tail
            else None
        )
        self._heads = (
            torch.zeros((len(wanted.heads), *shape), dtype=dtype, device=device)
            if wanted.heads
            else None
        )
        self._targets = torch.from_numpy(targets).to(device)
        self._examples = torch.arange(batch, device=device)
        self.kept: list[torch.Tensor] = []
        """Every step's states, ``[hooks, B, width]`` each, if all are wanted."""

    def add(self, real: torch.Tensor, averaged: torch.Tensor, counts: torch.Tensor) -> None:
        """Take the staged states in: ``real`` and ``averaged`` say whose count, boolean ``[B]``.

        ``counts`` is how many real response tokens each example had before this one. Nothing
        here waits for the device.
        """
        real, averaged, counts = (t.to(self.device) for t in (real, averaged, counts))
        stage = self.stage
        mean_mask = averaged[None, :, None]
        if self._sums is not None:
            self._sums.add_(torch.where(mean_mask, stage, 0.0))
        if self._maxima is not None:
            masked = torch.where(mean_mask, stage, -torch.inf)
            self._maxima = torch.maximum(self._maxima, masked)
        if self._tail is not None:
            tail = self.wanted.tail
            slots = torch.where(real, counts % tail, tail)
            self._tail[:, self._examples, slots] = stage
        if self._heads is not None:
            hits = real & (counts == self._targets)
            self._heads = torch.where(hits[:, None, :, None], stage, self._heads)
        if self.wanted.every:
            self.kept.append(off_device(stage) if stage.is_cuda else stage.clone())

    def states(self) -> ResponseStates:
        """Return what was accumulated, for all hooks."""
        return ResponseStates(self._sums, self._maxima, self._tail, self._heads)
