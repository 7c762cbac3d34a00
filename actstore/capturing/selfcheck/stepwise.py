"""Feeds responses once more, text by text and token by token, as generation does.

Some architectures compute a step by another rule than a whole text: Mamba 2 keeps its smallest
time step in whole texts alone. What generation computed is then held against steps, not a pass.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from actstore.capturing.forward.pooling import SiteLayer
from actstore.capturing.prompts.encode import PromptBatch
from actstore.capturing.selfcheck.reference import Watch, expected_module, watching
from actstore.capturing.selfcheck.subject import Subject, side_of

_NEVER = 2**31 - 1
"""A token that no vocabulary has: nothing ends a response before its time."""


def fed_in_steps(
    subject: Subject, single: PromptBatch, response: Sequence[int]
) -> dict[SiteLayer, torch.Tensor]:
    """Return the states ``[T + n, width]`` of one unpadded prompt and its ``n`` response tokens."""
    engine = subject.engine
    assert engine.generation is not None
    config = copy.deepcopy(engine.generation.config)
    config.update(
        do_sample=False,
        eos_token_id=_NEVER,
        max_new_tokens=len(response) + 1,
        min_new_tokens=None,
        min_length=0,
        stop_strings=None,
        max_time=None,
    )
    seen: dict[SiteLayer, list[torch.Tensor]] = {}
    watches = [_watch(subject, point, seen) for point in engine.points]
    prompt = single.inputs["input_ids"].shape[1]
    # one more token is chosen than is fed: that it is the pad does not matter
    forced = [*response, engine.generation.config.pad_token_id]

    def choose(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = torch.full_like(scores, -torch.inf)
        chosen[:, forced[ids.shape[1] - prompt]] = 0
        return chosen

    model: Any = subject.anatomy.model
    with watching(watches):
        model.generate(**engine.inputs(single), generation_config=config, logits_processor=[choose])
    return {place: torch.cat(states) for place, states in seen.items()}


def _watch(subject: Subject, point: Any, seen: dict[SiteLayer, list[torch.Tensor]]) -> Watch:
    def keep(tensors: list[torch.Tensor]) -> None:
        if tensors:
            states = tensors[0].detach().reshape(-1, tensors[0].shape[-1])
            kept = seen.setdefault((point.site, point.layer), [])
            kept.append(states[-1:].clone() if kept else states.clone())

    return expected_module(subject.anatomy, point), side_of(point), keep
