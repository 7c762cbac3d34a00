"""The tap: forward hooks that pool hidden states while a model runs, in a pass or generation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from actstore.capturing.forward.assembly import Fed, assemble
from actstore.capturing.forward.attached import Attached
from actstore.capturing.forward.masks import left_out
from actstore.capturing.forward.patterns import Patterns
from actstore.capturing.forward.pooling import Pool, PooledBatch
from actstore.capturing.forward.prompt_pooling import PromptPlan, PromptStates
from actstore.capturing.forward.response_pooling import (
    Like,
    ResponseNeeds,
    Responses,
    needs,
    side_by_side,
)
from actstore.capturing.forward.stopping import Stops, going_on
from actstore.errors import HookError
from actstore.models.blocks import Anatomy, HookPoint


class _Stop(Exception):
    """Ends a forward pass after the last wanted state."""


class Tap(Attached):
    """Hooks at ``points`` that keep what ``pools`` want of each batch, and nothing else.

    Between `begin` and `end` comes either one forward call of the model or of its base,
    or one ``generate``. Decode steps are recognised and pooled as they run: a step's state
    belongs to the token that is its *input*, so the last generated token has none. Hooks
    keep copies, never views, and return nothing; they are removed on leaving the context.
    """

    def __init__(
        self,
        points: Sequence[HookPoint],
        pools: Sequence[Pool],
        *,
        anatomy: Anatomy,
        stop_early: bool = False,
    ) -> None:
        """``stop_early`` ends a pass made with `call` once every point has fired."""
        super().__init__()
        self.points = tuple(points)
        self.pools = tuple(pools)
        self.anatomy = anatomy
        self.stop_early = stop_early
        self._at_points: list[torch.utils.hooks.RemovableHandle] = []
        self._stops = False
        self._fired = [0] * len(self.points)
        self._left = 0
        self._plan: PromptPlan | None = None
        self._open: nn.Module | None = None
        self._width = 0
        self._step = -1
        self._reset()

    def _reset(self) -> None:
        self._plan = None
        self._patterns: Patterns | None = None
        self._open = None
        self._step = -1
        self._prompt: list[PromptStates | None] = [None] * len(self.points)
        self._likes: list[Like | None] = [None] * len(self.points)
        self._places: list[tuple[Responses, int]] = []
        self._slots: list[torch.Tensor] = []
        self._alive: torch.Tensor | None = None
        self._counts: torch.Tensor | None = None
        self._history: list[torch.Tensor] = []
        self._averaged: list[torch.Tensor] = []
        self._told: Stops | None = None
        self._fed: list[torch.Tensor] = []
        self._masked: list[torch.Tensor] = []
        self._waiting: list[list[torch.Tensor]] = []

    def _hooks(self) -> Iterator[torch.utils.hooks.RemovableHandle]:
        for module in dict.fromkeys((self.anatomy.model, self.anatomy.base)):
            yield module.register_forward_pre_hook(self._opened, with_kwargs=True)
            yield module.register_forward_hook(self._closed)
        self._at_points.clear()
        for number, point in enumerate(self.points):
            self._at_points.append(self._attach(number, point))
            yield self._at_points[-1]

    def _attach(self, number: int, point: HookPoint) -> torch.utils.hooks.RemovableHandle:
        if point.take == "input":

            def before(module: nn.Module, args: Any, kwargs: Any) -> None:
                if self._open is not None:
                    self._keep(number, _state((args, kwargs.get("hidden_states"), kwargs)))

            return point.module.register_forward_pre_hook(before, with_kwargs=True)

        def after(module: nn.Module, args: Any, output: Any) -> None:
            if self._open is None:
                return
            if point.take == "weights":
                self._keep_pattern(number, output)
            else:
                self._keep(number, _state(output))

        return point.module.register_forward_hook(after)

    def begin(
        self,
        regions: Mapping[str, torch.Tensor],
        excluded: torch.Tensor | None = None,
        *,
        eos_ids: frozenset[int] = frozenset(),
        special_ids: frozenset[int] = frozenset(),
        stops: Stops | None = None,
        pad_ids: frozenset[int] = frozenset(),
    ) -> None:
        """Expect a batch whose padded prompts ``[B, T]`` have these regions, as boolean masks.

        ``all`` (or the union of the masks) says which tokens are no pads. A region that is not
        among them, ``response`` or ``answer``, is looked for in what is generated; any other is
        empty. ``excluded`` are tokens that means and maxima leave out, ``special_ids`` the same
        for generated ones.

        ``stops`` hears from ``generate`` which rows are over. Where it hears nothing, the first
        of ``eos_ids`` that is fed ends an example's response, without being part of it; in
        somebody's own loop over a batch, ``pad_ids`` that nothing follows fill a row up.

        Raises:
            UsageError: the masks differ in shape, or are not boolean.
        """
        self._reset()
        self._plan = PromptPlan(regions, excluded, self.pools)
        self._patterns = Patterns(self._plan)
        self._needs: ResponseNeeds = needs(self.pools, frozenset(regions))
        self._eos = sorted(eos_ids)
        self._special = sorted(special_ids)
        self._told = stops
        self._pads = sorted(pad_ids) if self._plan.batch > 1 else []

    def call(self, module: Callable[..., Any], /, **inputs: Any) -> Any:
        """Call the model or its base; with ``stop_early`` the pass ends early and gives None."""
        self._stops = self.stop_early
        try:
            return module(**inputs)
        except _Stop:
            self._finish_step()
            return None
        finally:
            self._stops = False

    def end(self, answer: torch.Tensor | None = None) -> PooledBatch:
        """Return what was kept of the batch, with one copy off each device.

        ``answer``, boolean ``[B, N]`` over the generated tokens, is where the answer was found.

        Raises:
            HookError: the model did not run, or the pass was broken off.
        """
        plan = self._plan
        if plan is None:
            raise HookError("the tap was ended before begin(): no batch was expected")
        if self._step < 0 or self._open is not None:
            state = "was broken off" if self._open is not None else "did not run"
            raise HookError(
                f"the model {state} between begin() and end(): call "
                f"{type(self.anatomy.model).__name__} itself, uncompiled, inside the tap's context"
            )
        try:
            self._settle()
            return assemble(
                plan=plan,
                points=self.points,
                pools=self.pools,
                prompt=[states for states in self._prompt if states is not None],
                groups=self._places,
                fed=Fed(self._stacked(self._history), self._stacked(self._averaged)),
                answer=answer,
            )
        finally:
            self._reset()

    def drop(self) -> None:
        """Forget the batch that was begun; calls of the model are nobody's until the next."""
        self._reset()

    def _stacked(self, steps: Sequence[torch.Tensor]) -> np.ndarray:
        assert self._plan is not None
        if not steps:
            return np.zeros((0, self._plan.batch), np.bool_)
        stacked: np.ndarray = torch.stack(list(steps)).cpu().numpy()
        return stacked

    def _opened(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        plan = self._plan
        if plan is None or self._open is not None:
            return
        kwargs = arguments(module, args, kwargs)
        ids = kwargs.get("input_ids")
        fed = ids if isinstance(ids, torch.Tensor) else kwargs.get("inputs_embeds")
        if not isinstance(fed, torch.Tensor) or fed.ndim < 2:
            raise HookError(
                f"{type(module).__name__} was called without input_ids or inputs_embeds [B, T]: "
                "the tap cannot tell tokens from pads"
            )
        batch, width = fed.shape[:2]
        self._check_call(plan, batch, width)
        self._come_last()
        self._step += 1
        self._open = module
        self._width = width
        self._fired = [0] * len(self.points)
        self._left = len(self.points)
        if self._step > 0:
            self._count(plan, fed, kwargs)

    def _come_last(self) -> None:
        """Stand behind hooks that were put on after the tap: what they make is passed on."""
        for handle in self._at_points:
            hooks = handle.hooks_dict_ref()
            if hooks is not None and handle.id in hooks:
                hooks.move_to_end(handle.id)

    def _check_call(self, plan: PromptPlan, batch: int, width: int) -> None:
        step = self._step + 1
        if batch != plan.batch:
            raise HookError(
                f"pass {step} has {batch} rows where the batch has {plan.batch}: beams, "
                "num_return_sequences and assisted decoding change the rows and cannot be captured"
            )
        if step == 0 and width != plan.width:
            raise HookError(
                f"the first pass has {width} tokens where the masks have {plan.width}: a prefill "
                "in chunks (prefill_chunk_size) or other inputs than the masks were made for"
            )
        if step > 0 and width not in (1, plan.width + step):
            raise HookError(
                f"decode step {step} has {width} tokens; one is expected (or all "
                f"{plan.width + step} without a cache): assisted decoding cannot be captured"
            )

    def _count(self, plan: PromptPlan, fed: torch.Tensor, kwargs: Mapping[str, Any]) -> None:
        """Tell which examples go on: a token counts as long as its row is not over."""
        if fed.ndim != 2:
            raise HookError(f"decode step {self._step} was fed embeddings, not token ids")
        ids = fed[:, -1]
        if self._alive is None or self._counts is None:
            self._alive = torch.ones_like(ids, dtype=torch.bool)
            self._counts = torch.zeros_like(ids, dtype=torch.int64)
        else:
            self._counts = self._counts + self._alive
        if self._told is not None and self._told.over is not None:
            # Over with the token that is fed now: it is an end token, or the last one, which
            # is fed only because other rows go on.
            self._alive = ~self._told.over.to(ids.device)
        else:
            masked = left_out(kwargs, fed)
            if self._pads:
                self._fed.append(ids)
                self._masked.append(masked)
            ended = _among(ids, self._eos) | masked if self._eos else masked
            self._alive = self._alive & ~ended
        self._history.append(self._alive)
        self._averaged.append(
            self._alive & ~_among(ids, self._special) if self._special else self._alive
        )
        if self._needs.any and not self._places:
            self._make_groups(plan)

    def _settle(self) -> None:
        """Take in what waited for its end: whether pads fill a row up, or something follows."""
        if not self._fed:
            return
        ids = torch.stack(self._fed).cpu().numpy()
        masked = np.stack([each.cpu().numpy() for each in self._masked])
        real = going_on(ids, masked, self._eos, self._pads)
        averaged = real & ~np.isin(ids, self._special)
        device = self._fed[0].device
        self._history = list(torch.from_numpy(real).to(device))
        self._averaged = list(torch.from_numpy(averaged).to(device))
        counts = torch.zeros(real.shape[1], dtype=torch.int64, device=device)
        for step, stages in enumerate(self._waiting):
            for group, stage in zip(self._groups, stages, strict=True):
                group.stage.copy_(stage)
                group.add(self._history[step], self._averaged[step], counts)
            counts = counts + self._history[step]

    def _make_groups(self, plan: PromptPlan) -> None:
        likes = [like for like in self._likes if like is not None]
        assert len(likes) == len(self.points)  # every hook fired in the first pass
        self._places = side_by_side(likes, plan.lengths, self._needs)
        self._slots = [group.stage[slot] for group, slot in self._places]

    @property
    def _groups(self) -> list[Responses]:
        return list(dict.fromkeys(group for group, _ in self._places))

    def _keep(self, number: int, found: torch.Tensor | None) -> None:
        plan = self._plan
        if plan is None:
            return
        states = self._shaped(self.points[number], plan, found)
        self._count_hook(number)
        if self._step == 0:
            self._prompt[number] = plan.take(states)
            self._likes[number] = (states.device, states.dtype, states.shape[-1])
        elif self._places:
            self._slots[number].copy_(states[:, -1])
        self._stop_if_last()

    def _keep_pattern(self, number: int, output: Any) -> None:
        """Keep patterns of the prompt; those of generated tokens have no place in a row."""
        if self._plan is None or self._patterns is None:
            return
        self._count_hook(number)
        if self._step == 0:
            rows = self._patterns.rows(self.points[number], output)
            self._prompt[number] = self._plan.take(rows)
            self._likes[number] = (rows.device, rows.dtype, rows.shape[-1])
        self._stop_if_last()

    def _count_hook(self, number: int) -> None:
        self._fired[number] += 1
        if self._fired[number] > 1:
            point = self.points[number]
            raise HookError(
                f"{point.path} ran {self._fired[number]} times in one pass: layers share it, so "
                f"its {point.take} is no single state"
            )
        self._left -= 1

    def _stop_if_last(self) -> None:
        if self._stops and self._left == 0:
            raise _Stop

    def _shaped(
        self, point: HookPoint, plan: PromptPlan, found: torch.Tensor | None
    ) -> torch.Tensor:
        if found is not None and found.ndim == 2 and len(found) == plan.batch * self._width:
            found = found.view(plan.batch, self._width, -1)  # MLPs that see tokens in one row
        expected = (plan.batch, self._width)
        if found is None or found.ndim != 3 or found.shape[:2] != expected:
            got = "no tensor" if found is None else f"a tensor {list(found.shape)}"
            raise HookError(
                f"the {point.take} of {point.path} is {got}, expected [{expected[0]}, "
                f"{expected[1]}, width]: the block works on other tokens than the model was given "
                "(images that are not merged into the text, several streams, a compressed sequence)"
            )
        return found.detach()

    def _closed(self, module: nn.Module, args: Any, output: Any) -> None:
        if module is self._open:
            self._finish_step()

    def _finish_step(self) -> None:
        self._open = None
        silent = [point for point, fired in zip(self.points, self._fired, strict=True) if not fired]
        if silent:
            raise HookError(
                f"pass {self._step}: {len(silent)} of {len(self.points)} hooks did not fire, the "
                f"first at {silent[0].path}: the model skips or replaces this module (compiled "
                "code, dropped layers, another path through the model)"
            )
        if self._step > 0 and self._places and self._alive is not None:
            assert self._counts is not None
            if self._fed:
                self._waiting.append([group.stage.clone() for group in self._groups])
                return
            for group in self._groups:
                group.add(self._alive, self._averaged[-1], self._counts)


def arguments(module: nn.Module, args: Any, kwargs: Any) -> dict[str, Any]:
    """Return what a module is called with, each under its name: a mask may come without one."""
    names = inspect.signature(module.forward).parameters if len(args) > 1 else ("input_ids",)
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _state(value: Any) -> torch.Tensor | None:
    """Return the hidden states among what a module takes or returns: the first tensor."""
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for item in value:
            found = _state(item)
            if found is not None:
                return found
    return None


def _among(ids: torch.Tensor, listed: Sequence[int]) -> torch.Tensor:
    wanted = torch.tensor(listed, dtype=ids.dtype).to(ids.device, non_blocking=True)
    return (ids[:, None] == wanted).any(dim=1)
