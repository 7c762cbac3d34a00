"""The tap of a serving engine: hooks that pool states step by step, of many texts at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from actstore.capturing.forward.assembly import Fed, assemble
from actstore.capturing.forward.attached import Attached
from actstore.capturing.forward.pooling import Pool, PooledBatch
from actstore.capturing.forward.prompt_pooling import GrowingPrompt, PromptPart, PromptPlan
from actstore.capturing.forward.response_pooling import (
    Like,
    Responses,
    UnevenResponses,
    needs,
    side_by_side,
)
from actstore.capturing.serving.ledger import Decoded, Ledger
from actstore.errors import HookError, ModelError
from actstore.models.blocks import HookPoint

Scheduled = Callable[[], Sequence[tuple[int, int]]]
"""Says which texts the step that begins is made of: each one's row in the batch, and its tokens."""

_BLOCK = ("resid_post", "resid_pre", "embeddings")
_STATES, _RESIDUAL = "hidden_states", "residual"


class ServingTap(Attached):
    """Hooks in a serving engine's model that keep what ``pools`` want of a batch of texts.

    The model sees one row of tokens per step, ``[tokens, width]``, of whatever texts there are.
    Its blocks may hand the residual stream on in two parts, which are summed here: what the last
    MLP returned, and the stream before it. Everything is pooled in the hook itself, since the
    engine uses the memory again.
    """

    def __init__(
        self,
        model: nn.Module,
        points: Sequence[HookPoint],
        pools: Sequence[Pool],
        scheduled: Scheduled,
    ) -> None:
        """Attach nothing yet.

        Raises:
            ModelError: blocks do not take ``hidden_states``, and what goes into them is wanted.
        """
        super().__init__()
        self.model = model
        self.points = tuple(points)
        self.pools = tuple(pools)
        self._scheduled = scheduled
        self._inputs = {
            number: _signature(point)
            for number, point in enumerate(self.points)
            if point.take == "input" and point.site in _BLOCK
        }
        self._reset()

    def _reset(self) -> None:
        self.ledger = Ledger(())
        self._plan: PromptPlan | None = None
        self._open = False
        self._fired = [0] * len(self.points)
        self._part: PromptPart | None = None
        self._decoded: list[Decoded] = []
        self._tokens = 0
        self._prompts: list[GrowingPrompt | None] = [None] * len(self.points)
        self._likes: list[Like | None] = [None] * len(self.points)
        self._places: list[tuple[Responses, int]] = []

    def _hooks(self) -> Iterator[torch.utils.hooks.RemovableHandle]:
        yield self.model.register_forward_pre_hook(self._opened, with_kwargs=True)
        yield self.model.register_forward_hook(self._closed)
        for number, point in enumerate(self.points):
            yield self._attach(number, point)

    def _attach(self, number: int, point: HookPoint) -> torch.utils.hooks.RemovableHandle:
        if point.take == "input":

            def before(module: nn.Module, args: Any, kwargs: Any) -> None:
                if self._open:
                    self._keep(number, self._given(number, args, kwargs))

            return point.module.register_forward_pre_hook(before, with_kwargs=True)

        def after(module: nn.Module, args: Any, output: Any) -> None:
            if self._open:
                self._keep(number, _returned(output, whole=point.site in _BLOCK))

        return point.module.register_forward_hook(after)

    def _given(self, number: int, args: Any, kwargs: Mapping[str, Any]) -> torch.Tensor | None:
        signature = self._inputs.get(number)
        if signature is None:
            every = [*args, *([kwargs[_STATES]] if _STATES in kwargs else []), *kwargs.values()]
            return next((each for each in every if isinstance(each, torch.Tensor)), None)
        named = signature.bind(*args, **kwargs).arguments
        return _summed(named.get(_STATES), named.get(_RESIDUAL))

    def begin(
        self,
        regions: Mapping[str, torch.Tensor],
        excluded: torch.Tensor | None,
        prompts: Sequence[Sequence[int]],
        *,
        special_ids: frozenset[int] = frozenset(),
    ) -> None:
        """Expect the texts of a batch.

        Args:
            regions: masks ``[B, T]`` over the prompts as they would be padded.
            excluded: tokens that means and maxima leave out, ``[B, T]``.
            prompts: the tokens of each prompt, without padding.
            special_ids: generated tokens that means and maxima leave out.
        """
        self._reset()
        self._plan = PromptPlan(regions, excluded, self.pools)
        self._needs = needs(self.pools, frozenset(regions))
        self._special = np.array(sorted(special_ids), np.int64)
        self._first = self._plan.real.argmax(1)
        self.ledger = Ledger(prompts)

    def drop(self) -> None:
        """Forget the batch that was begun: what the model runs now is nobody's."""
        self._reset()

    def end(
        self, generated: Sequence[Sequence[int]], answer: torch.Tensor | None = None
    ) -> PooledBatch:
        """Return what was kept of the batch.

        Args:
            generated: all tokens that each text was answered with, the last of which was not fed.
            answer: where the answer was found in them, boolean ``[B, N]``.

        Raises:
            HookError: states of some tokens are missing, or there are some of other tokens.
        """
        plan = self._plan
        if plan is None:
            raise HookError("the tap was ended before begin(): no batch was expected")
        try:
            for row, tokens in enumerate(generated):
                self.ledger.finish(row, tokens)
            prompt = [growing.states() for growing in self._prompts if growing is not None]
            if len(prompt) < len(self.points):
                raise HookError("the model did not run between begin() and end()")
            return assemble(
                plan=plan,
                points=self.points,
                pools=self.pools,
                prompt=prompt,
                groups=self._places if self._needs.any else (),
                fed=self._fed(),
                answer=answer,
            )
        finally:
            self._reset()

    def _fed(self) -> Fed:
        assert self._plan is not None
        rows = [self.ledger.fed(row) for row in range(self._plan.batch)]
        steps = max(map(len, rows), default=0)
        real = np.zeros((steps, len(rows)), np.bool_)
        averaged = np.zeros_like(real)
        for row, tokens in enumerate(rows):
            real[: len(tokens), row] = True
            averaged[: len(tokens), row] = ~np.isin(tokens, self._special)
        return Fed(real, averaged)

    def _opened(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        if self._plan is None:
            return
        ids, positions = kwargs.get("input_ids"), kwargs.get("positions")
        if not isinstance(ids, torch.Tensor) or not isinstance(positions, torch.Tensor):
            raise HookError(
                f"{type(module).__name__} was called without input_ids and positions: whose "
                "tokens a step has cannot be told"
            )
        if ids.ndim != 1 or positions.ndim != 1:
            raise HookError(
                f"{type(module).__name__} was called with input_ids {list(ids.shape)} and "
                f"positions {list(positions.shape)}; one row of tokens is expected (models that "
                "see images count positions in several ways)"
            )
        scheduled = list(self._scheduled())
        step = self.ledger.take(scheduled, ids.cpu().numpy(), positions.cpu().numpy())
        pieces = [
            (piece.row, int(self._first[piece.row]) + piece.start, piece.at, piece.length)
            for piece in step.pieces
        ]
        self._part = self._plan.part(pieces) if pieces else None
        self._decoded = step.decoded if self._needs.any else []
        self._tokens = sum(count for _, count in scheduled)
        self._fired = [0] * len(self.points)
        self._open = True

    def _keep(self, number: int, states: torch.Tensor | None) -> None:
        point = self.points[number]
        self._fired[number] += 1
        if self._fired[number] > 1:
            raise HookError(
                f"{point.path} ran {self._fired[number]} times in one step: layers share it, so "
                f"its {point.take} is no single state"
            )
        if states is None or states.ndim != 2 or len(states) < self._tokens:
            got = "no tensor" if states is None else f"a tensor {list(states.shape)}"
            raise HookError(
                f"the {point.take} of {point.path} is {got}, expected one row per token, "
                f"[{self._tokens}, width]"
            )
        states = states.detach()
        assert self._plan is not None
        growing = self._prompts[number]
        if growing is None:
            like = states.device, states.dtype, states.shape[-1]
            self._likes[number] = like
            growing = self._prompts[number] = GrowingPrompt(self._plan, like)
        if self._part is not None:
            growing.add(states, self._part)
        if self._decoded:
            self._stage(number, states)

    def _stage(self, number: int, states: torch.Tensor) -> None:
        assert self._plan is not None
        if not self._places:
            likes = [like for like in self._likes if like is not None]
            assert len(likes) == len(self.points)  # a prompt came before, through every hook
            self._places = side_by_side(likes, self._plan.lengths, self._needs, UnevenResponses)
        group, slot = self._places[number]
        rows = torch.tensor([each.row for each in self._decoded], device=states.device)
        places = torch.tensor([each.at for each in self._decoded], device=states.device)
        group.stage[slot].index_copy_(0, rows, states[places])

    def _closed(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._open:
            return
        self._open = False
        silent = [point for point, fired in zip(self.points, self._fired, strict=True) if not fired]
        if silent:
            raise HookError(
                f"{len(silent)} of {len(self.points)} hooks did not fire in a step, the first at "
                f"{silent[0].path}: the engine runs compiled code, or another path through the "
                "model"
            )
        if not self._decoded:
            return
        assert self._plan is not None
        real = torch.zeros(self._plan.batch, dtype=torch.bool)
        averaged = torch.zeros_like(real)
        counts = torch.zeros(self._plan.batch, dtype=torch.int64)
        for each in self._decoded:
            real[each.row] = True
            averaged[each.row] = each.token not in self._special
            counts[each.row] = each.before
        for group in dict.fromkeys(group for group, _ in self._places):
            group.add(real, averaged, counts)


def _signature(point: HookPoint) -> inspect.Signature:
    signature = inspect.signature(point.module.forward)
    if _STATES not in signature.parameters:
        raise ModelError(
            f"site {point.site!r}: {type(point.module).__name__} takes no {_STATES}, so what goes "
            f"into it is not known; use resid_post, or another engine"
        )
    return signature


def _returned(output: Any, *, whole: bool) -> torch.Tensor | None:
    """Return what a module returned; of a whole block both parts of the stream, summed."""
    parts = output if isinstance(output, tuple | list) else (output,)
    tensors = [each for each in parts if isinstance(each, torch.Tensor)]
    if not tensors:
        return None
    return _summed(*tensors[:2]) if whole else tensors[0]


def _summed(
    states: torch.Tensor | None, residual: torch.Tensor | None = None
) -> torch.Tensor | None:
    if states is None or residual is None:
        return states
    return states + residual
