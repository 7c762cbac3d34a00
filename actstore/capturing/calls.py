"""Watches the calls of a model in somebody's own loop: where each begins, prompt and response."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from actstore.capturing.forward.generation import unfollowed
from actstore.capturing.forward.hooks import Tap, arguments
from actstore.capturing.forward.masks import cache_of, held_by, left_out, real_tokens
from actstore.capturing.forward.pooling import Pool, PooledBatch
from actstore.capturing.forward.stopping import Stops, going_on, response_of, watched
from actstore.capturing.prompts.encode import PAD, ROLES
from actstore.capturing.selfcheck.first_call import FirstCall
from actstore.errors import HookError, UsageError
from actstore.models.blocks import Anatomy, HookPoint

_ROLE = {name: number for number, name in enumerate(ROLES)}

Locate = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]
"""Of ids and mask ``[B, T]``: masks of further regions of the prompt."""
Answer = Callable[["ModelCall"], torch.Tensor | None]
"""Of a call: where in its response the answer stands, bool ``[B, N]``."""


@dataclass(slots=True, kw_only=True)
class ModelCall:
    """One call: a forward pass with the decode steps that follow it, or one ``generate``."""

    prompt: np.ndarray
    """Ids, int64 ``[B, T]``."""
    real: np.ndarray
    """Which are no padding, bool ``[B, T]``."""
    roles: np.ndarray
    """Int8 ``[B, T]``, index into the schema's roles; -1 where nothing is known."""
    ends: frozenset[int]
    """The end tokens."""
    pads: frozenset[int]
    """What rows of a batch are filled up with in somebody's own loop."""
    generates: bool
    stops: Stops = field(default_factory=Stops)
    """What ``generate`` said about the rows' ends; nothing in somebody's own loop."""
    steps: list[torch.Tensor] = field(default_factory=list)
    """Ids fed after the prompt, ``[B]`` each."""
    masked: list[torch.Tensor] = field(default_factory=list)
    """Rows that the attention mask left out of each step of somebody's own loop, bool ``[B]``."""
    generated: np.ndarray | None = None
    """What ``generate`` returned after its input, int64 ``[B, N]``."""
    pooled: PooledBatch | None = None

    @property
    def batch(self) -> int:
        """Rows of the call."""
        return len(self.prompt)

    @property
    def ids(self) -> np.ndarray:
        """Prompt and response, int64 ``[B, T + N]``."""
        if self.generated is not None and self.generated.shape[1]:
            return np.concatenate([self.prompt, self.generated], axis=1)
        if not self.steps:
            return self.prompt
        fed = torch.stack(self.steps, dim=1).cpu().numpy()
        return np.concatenate([self.prompt, fed], axis=1)

    @property
    def responses(self) -> list[list[int]]:
        """What came after each prompt, without the end token."""
        rows = self.ids[:, self.prompt.shape[1] :].tolist()
        lengths: list[int] | list[None] = self.stops.lengths or [None] * self.batch
        if not self.generates and self.steps:
            fed, masked = (torch.stack(each).cpu().numpy() for each in (self.steps, self.masked))
            lengths = going_on(fed, masked, self.ends, self.pads).sum(axis=0).tolist()
        return [
            response_of(row, length, self.ends) for row, length in zip(rows, lengths, strict=True)
        ]


class Listener:
    """Hooks on a model that pool what its owner computes, while it is told to listen.

    A pass is a new call unless it comes from the ``generate`` that is running, or feeds one
    token with a cache that holds some: then it is a decode step of the call before. Works on
    the model as it is, whatever accelerate or PEFT put around its ``forward``.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        points: Sequence[HookPoint],
        pools: Sequence[Pool],
        *,
        exclude: frozenset[str],
        special_ids: Sequence[int],
        bos_id: int | None,
        image_ids: Sequence[int],
    ) -> None:
        self.anatomy = anatomy
        self.pools = tuple(pools)
        self._exclude = exclude
        self._special = sorted(special_ids)
        self._bos = bos_id
        self._image = list(image_ids)
        self._tap = Tap(points, pools, anatomy=anatomy)
        self._first = FirstCall(anatomy, points)
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._listening = False
        self._inside: nn.Module | None = None
        self._generating: dict[str, Any] | None = None
        self._locate: Locate | None = None
        self._answer: Answer | None = None
        self._open: ModelCall | None = None
        self._held = 0
        self._calls: list[ModelCall] = []
        self._patched = False

    def __enter__(self) -> Self:
        try:
            for module in dict.fromkeys((self.anatomy.model, self.anatomy.base)):
                # Before the tap's own: a batch must be expected when the tap sees the pass.
                self._handles.append(
                    module.register_forward_pre_hook(self._before, with_kwargs=True)
                )
                self._handles.append(module.register_forward_hook(self._after, always_call=True))
            self._patch()
            self._tap.__enter__()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take every hook off the model again."""
        self.drop()
        self._tap.close()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._patched:
            del self.anatomy.model.__dict__["generate"]
            self._patched = False

    def listen(self, locate: Locate | None = None, answer: Answer | None = None) -> None:
        """Take what the model computes from now on.

        Args:
            locate: finds regions of a prompt that ids and mask do not show.
            answer: finds the answer in a response; asked when its call is over.
        """
        self._listening, self._locate, self._answer = True, locate, answer
        self._calls = []

    def finish(self) -> list[ModelCall]:
        """Stop listening and return the calls there were.

        Raises:
            HookError: hooks saw something else than the states of the call's tokens.
        """
        try:
            self._complete()
            return self._calls
        finally:
            self.drop()

    def drop(self) -> None:
        """Stop listening and forget everything."""
        self._listening, self._open, self._calls, self._inside = False, None, [], None
        self._tap.drop()
        self._first.drop()

    def _complete(self) -> None:
        call, self._open = self._open, None
        if call is None:
            return
        call.pooled = self._tap.end(self._answer(call) if self._answer else None)
        self._calls.append(call)

    def _patch(self) -> None:
        """Let ``generate`` tell when it begins and what ends its responses."""
        model: Any = self.anatomy.model
        if not callable(getattr(model, "generate", None)) or "generate" in model.__dict__:
            return  # somebody else's wrapper: passes are told apart by their caches
        original = model.generate

        def generate(*args: Any, **kwargs: Any) -> Any:
            if not self._listening or self._generating is not None:
                return original(*args, **kwargs)
            _check_settings(kwargs, getattr(model, "generation_config", None))
            stops = Stops()
            self._generating = {"kwargs": kwargs, "call": None, "stops": stops}
            if hasattr(model, "generation_config"):
                kwargs.setdefault("disable_compile", True)  # hooks do not fire in compiled code
            try:
                with watched(model, stops):
                    found = original(*args, **kwargs)
                call: ModelCall | None = self._generating["call"]
            finally:
                self._generating = None
            if call is not None:
                sequences = getattr(found, "sequences", found)
                if isinstance(sequences, torch.Tensor) and len(sequences) == call.batch:
                    # With a cache of its beginning the model runs on the rest of it alone.
                    given = kwargs.get("input_ids", kwargs.get("inputs", next(iter(args), None)))
                    whole = given if isinstance(given, torch.Tensor) else call.prompt
                    call.generated = sequences[:, whole.shape[1] :].cpu().numpy()
                    _check_steps(call)
            return found

        # Not setattr(): a function among the model's own attributes hides the method.
        model.__dict__["generate"] = generate
        self._patched = True

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if not self._listening or self._inside is not None:
            return
        self._inside = module
        kwargs = arguments(module, args, kwargs)
        ids = kwargs.get("input_ids")
        if self._open is not None and self._goes_on(ids, kwargs):
            if isinstance(ids, torch.Tensor):
                self._held += ids.shape[1]
                self._open.steps.append(ids[:, -1])
                if not self._open.generates:
                    self._open.masked.append(left_out(kwargs, ids))
            return
        self._complete()
        if not isinstance(ids, torch.Tensor) or ids.ndim != 2 or ids.is_floating_point():
            self._inside = None
            raise UsageError(
                f"{type(module).__name__} was called without input_ids [batch, tokens]: record() "
                "tells tokens from padding by them, also where inputs_embeds are given too"
            )
        self._begin(ids, kwargs)

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if module is self._inside:
            self._inside = None
            if output is None:  # the pass failed: there are no states of its last layers
                self._open = None
                self._tap.drop()
                self._first.drop()
            else:
                self._first.end()

    def _goes_on(self, ids: Any, kwargs: dict[str, Any]) -> bool:
        generating = self._generating
        if generating is not None:
            return generating["call"] is self._open
        assert self._open is not None
        if cache_of(kwargs) is None or not isinstance(ids, torch.Tensor) or ids.shape[1] != 1:
            return False
        # A cache that holds anything else is another text's, such as a copy of a common beginning.
        return len(ids) == self._open.batch and held_by(cache_of(kwargs)) in (None, self._held)

    def _begin(self, ids: torch.Tensor, kwargs: dict[str, Any]) -> None:
        generating = self._generating
        prompt = ids.detach().cpu().numpy()
        self._held = (held_by(cache_of(kwargs)) or 0) + ids.shape[1]
        real = self._mask(ids, kwargs)
        image = np.isin(prompt, self._image) & real
        kinds = kwargs.get("mm_token_type_ids")
        if isinstance(kinds, torch.Tensor) and kinds.shape == ids.shape:
            image |= (kinds.cpu().numpy() == 1) & real
        roles = np.full(prompt.shape, PAD, np.int8)
        roles[np.isin(prompt, self._special) & real] = _ROLE["special"]
        roles[image] = _ROLE["image"]
        if self._bos is not None and prompt.shape[1]:
            every, first = np.arange(len(prompt)), (real & ~image).argmax(1)
            begins = (prompt[every, first] == self._bos) & real[every, first]
            roles[every[begins], first[begins]] = _ROLE["bos"]
        regions = {"prompt": real, "image": image, "all": real}
        if self._locate is not None:
            regions |= self._locate(prompt, real)
        excluded = np.isin(roles, [_ROLE[word] for word in self._exclude])
        settings = generating["kwargs"] if generating is not None else {}
        ends = self._numbers("eos_token_id", settings)
        loops = generating is None and bool(ends)
        call = ModelCall(
            prompt=prompt,
            real=real,
            roles=roles,
            ends=ends,
            pads=self._numbers("pad_token_id", settings) - ends if loops else frozenset(),
            generates=generating is not None,
            stops=generating["stops"] if generating is not None else Stops(),
        )
        self._tap.begin(
            {name: torch.from_numpy(mask.copy()) for name, mask in regions.items()},
            torch.from_numpy(excluded),
            eos_ids=call.ends,
            stops=call.stops,
            pad_ids=call.pads,
            special_ids=frozenset(self._special if "special" in self._exclude else ()),
        )
        self._first.begin(real)
        self._open = call
        if generating is not None:
            generating["call"] = call

    def _mask(self, ids: torch.Tensor, kwargs: dict[str, Any]) -> np.ndarray:
        """Return which tokens are no padding: as the call says, or the ``generate`` around it."""
        masks = [kwargs.get("attention_mask")]
        if self._generating is not None:  # which may have made something else of it
            masks.insert(0, self._generating["kwargs"].get("attention_mask"))
        held = held_by(cache_of(kwargs))
        found = (real_tokens(mask, ids, held) for mask in masks)
        real = next((each for each in found if each is not None), None)
        return np.ones(tuple(ids.shape), bool) if real is None else real.cpu().numpy()

    def _numbers(self, name: str, kwargs: dict[str, Any]) -> frozenset[int]:
        """Return the ids that a generation setting has, of the call or of the model."""
        own = getattr(self.anatomy.model, "generation_config", None)
        configs = [kwargs.get("generation_config"), own]
        values = [kwargs.get(name), *(getattr(each, name, None) for each in configs if each)]
        return frozenset(_numbers(next((each for each in values if each is not None), None)))


def _check_settings(kwargs: dict[str, Any], own: Any) -> None:
    """Refuse generations that hooks could not follow, as the call or the model's settings have it.

    Raises:
        HookError: names the setting.
    """
    configs = (kwargs.get("generation_config"), own)

    def setting(name: str) -> Any:
        given = (kwargs.get(name), *(getattr(config, name, None) for config in configs))
        return next((each for each in given if each is not None), None)

    reason = unfollowed(setting)
    if reason is not None:
        raise HookError(f"{reason}; generate without it, or do this outside of the block")


def _check_steps(call: ModelCall) -> None:
    """Refuse what was not generated pass by pass: the last token is never fed.

    Raises:
        HookError: something beside the loop ran the model.
    """
    written = 0 if call.generated is None else call.generated.shape[1]
    if len(call.steps) > written:
        raise HookError(
            f"the model ran {len(call.steps) + 1} times while generate wrote {written} tokens: "
            "something beside its loop, such as a logits processor, runs the model too, and hooks "
            "cannot tell whose states these are; generate without it, or outside of the block"
        )


def _numbers(value: Any) -> set[int]:
    if value is None:
        return set()
    if isinstance(value, torch.Tensor):
        value = value.reshape(-1).tolist()
    return {int(each) for each in (value if isinstance(value, list | tuple) else [value])}


def check_rows(call: ModelCall, examples: int) -> None:
    """Refuse a call whose rows are not the examples that were named.

    Raises:
        HookError: says both numbers.
    """
    if call.batch != examples:
        raise HookError(
            f"the model was called with {call.batch} rows inside a block for {examples} "
            f"{'example' if examples == 1 else 'examples'}: give rec.example() one id per row, "
            "id=[...]"
        )
