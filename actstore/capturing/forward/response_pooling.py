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
    """Float64 ``[hooks, B, width]``; float32 where the device has no float64."""
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
        # Token by token, thousands of them: in float32 what is lost each time would add up.
        wide = torch.float32 if device.type == "mps" else torch.float64
        self._sums = torch.zeros(shape, dtype=wide, device=device) if wanted.mean else None
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
        """The states of each response's token 0, 1 …, ``[hooks, B, width]`` each, if all are
        wanted."""

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
            self._keep(real, counts)

    def _keep(self, real: torch.Tensor, counts: torch.Tensor) -> None:
        """Keep this step's states; all examples are at the same token of their responses."""
        self.kept.append(off_device(self.stage) if self.stage.is_cuda else self.stage.clone())

    def states(self) -> ResponseStates:
        """Return what was accumulated, for all hooks."""
        return ResponseStates(self._sums, self._maxima, self._tail, self._heads)


class UnevenResponses(Responses):
    """Accumulators for a batch whose examples are at different tokens of their responses."""

    def _keep(self, real: torch.Tensor, counts: torch.Tensor) -> None:
        for example in torch.nonzero(real).flatten().tolist():
            at = int(counts[example])
            while len(self.kept) <= at:
                self.kept.append(torch.zeros_like(self.stage, device="cpu"))
            self.kept[at][:, example] = self.stage[:, example].cpu()


Like = tuple[torch.device, torch.dtype, int]
"""Device, type and width of a hook's states."""


def side_by_side(
    likes: Sequence[Like],
    lengths: np.ndarray,
    wanted: ResponseNeeds,
    kind: type[Responses] = Responses,
) -> list[tuple[Responses, int]]:
    """Return each hook's accumulators, and its place in them.

    Hooks of one device, type and width share theirs: a step then costs a few kernels.

    Args:
        likes: of each hook.
        lengths: tokens of each example's prompt, ``[B]``.
        wanted: what is kept of responses.
        kind: of accumulators.
    """
    starts = {"all": lengths, "response": np.zeros_like(lengths)}
    heads = [offset - starts[region] for region, offset in wanted.heads]
    targets = np.stack(heads) if heads else np.zeros((0, len(lengths)), np.int64)
    members: dict[Like, int] = {}
    places: list[tuple[Like, int]] = []
    for like in likes:
        places.append((like, members.get(like, 0)))
        members[like] = members.get(like, 0) + 1
    groups = {
        like: kind(count, len(lengths), like, wanted, targets) for like, count in members.items()
    }
    return [(groups[like], slot) for like, slot in places]
