"""Checks, before a run, whether padding changes what a model computes for real tokens.

Most models keep pads out: attention masks them, positions count from the first token that is
no pad. Some do not (recurrences without a mask, positions counted from the first column), and
nothing in a model says so. It is measured, with the run's own hooks, padding side and way of
generating; where pads get in, batches hold examples of one length and need no pads.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from actstore.capturing.forward.engine import Captured, Engine, context_length
from actstore.capturing.forward.generation import Generation
from actstore.capturing.forward.pooling import Pool
from actstore.capturing.prompts.encode import PAD, PromptBatch, Prompter
from actstore.capturing.prompts.example import Example
from actstore.capturing.selfcheck.subject import TOLERANCES
from actstore.errors import HookError
from actstore.models.blocks import points

_PADS = 5
_STEPS = 5
"""Tokens generated: all but the last go through the model, with what it cached."""
_FLIPPED = 1 / 3
"""Share of states that a mixture of experts may throw far off, as in the self-check."""
_ALL = Pool("all", "tokens")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """What pads do to a model's states."""

    error: float = 0.0
    """Largest relative L2 distance of a state beside pads from the one without."""
    fits: int | None = None
    """Tokens up to which examples of several lengths may share a batch; None: all may."""

    def alike(self, lengths: Sequence[int], kinds: Sequence[Hashable]) -> list[Hashable]:
        """Return what examples must have in common to share a batch.

        ``kinds`` are what they must have in common anyway; True stands for images, whose
        tokens are only roughly known beforehand: those go alone.
        """
        if self.fits is None:
            return list(kinds)
        return [
            (kind, ("alone", at) if kind is True else length) if length > self.fits else kind
            for at, (length, kind) in enumerate(zip(lengths, kinds, strict=True))
        ]

    def together(self, lengths: Sequence[int], kinds: Sequence[Hashable]) -> list[int]:
        """Return the places of the most examples whose states may be compared in one batch."""
        if self.fits is None or not lengths:
            return list(range(len(lengths)))
        found = self.alike(lengths, kinds)
        ((most, _),) = Counter(found).most_common(1)
        return [at for at, kind in enumerate(found) if kind == most]

    @property
    def note(self) -> str | None:
        """What the user should know."""
        if self.fits != 0:
            return None
        return (
            f"pads change this model's states (by up to {self.error:.2g}): batches hold examples "
            "of one length, and no pads"
        )


def measure(engine: Engine, example: Example) -> Padding:
    """Compare an example's states with and without pads beside it; the engine is not entered.

    Raises:
        ExampleError: the example's input cannot be made.
    """
    anatomy, prompter = engine.anatomy, engine.prompter
    plain = prompter.batch([example], engine.padding_side)
    most = context_length(anatomy.model)
    room = _PADS if most is None else most - plain.tokens - _STEPS
    if room < 1:
        return Padding(fits=_common(engine))
    probe = Engine(
        anatomy,
        prompter,
        points(anatomy, ["resid_post"], [len(anatomy.blocks) - 1]),
        [_ALL],
        generation=_short(engine.generation),
        padding_side=engine.padding_side,
        seed=engine.seed,
    )
    try:
        with probe:
            alone = probe.forward(plain, [0])
            padded = probe.forward(
                _padded(plain, prompter, engine.padding_side, min(room, _PADS)), [0]
            )
    except HookError:  # the run, or its self-check, says more about it
        return Padding()
    errors = _errors(padded, alone, plain.tokens)
    dtype = str(getattr(anatomy.model, "dtype", torch.float32)).removeprefix("torch.")
    tolerated = TOLERANCES.get(dtype, TOLERANCES["bfloat16"])
    share = _FLIPPED if _routes(anatomy.blocks) else 0.0
    error = float(errors.max())
    # Pads may show in the prompt, or only in the steps that follow it.
    for part in (errors[: plain.tokens], errors[plain.tokens :]):
        if len(part) and (part > tolerated).mean() > share:
            return Padding(error=error, fits=0)
    return Padding(error=error, fits=_common(engine))


def _common(engine: Engine) -> int | None:
    """Return the length up to which examples of several lengths make no difference to each other.

    Llama 4's temperature of attention goes by the column, pads included, and changes every
    ``floor_scale`` columns: too far on for a measurement. Long RoPE turns the positions of a whole
    batch another way once its longest text is beyond the length that the model was first made for.
    """
    config: Any = getattr(engine.anatomy.model, "config", None)
    text = config.get_text_config(decoder=True) if config is not None else None
    found: list[int] = []
    if engine.padding_side == "left" and getattr(text, "attn_temperature_tuning", None):
        found += [int(scale) - 1 for scale in [getattr(text, "floor_scale", None)] if scale]
    ropes = getattr(text, "rope_parameters", None) or {}
    for rope in (ropes, *ropes.values()):  # of all layers, or by their kind
        if isinstance(rope, Mapping) and rope.get("rope_type") == "longrope":
            found += filter(None, [rope.get("original_max_position_embeddings")])
    return min(found, default=None)


def _short(generation: Generation | None) -> Generation | None:
    """Return settings that generate a few tokens, whatever they are."""
    if generation is None:
        return None
    config = generation.config.__class__.from_dict(generation.config.to_dict())
    config.update(max_new_tokens=_STEPS, min_new_tokens=_STEPS, stop_strings=None)
    return dataclasses.replace(
        generation,
        config=config,
        max_new_tokens=_STEPS,
        eos_ids=frozenset(),
        stops_at_text=False,
    )


def _padded(batch: PromptBatch, prompter: Prompter, side: str, count: int) -> PromptBatch:
    """Return the batch with that many more columns of padding."""
    shape = batch.inputs["input_ids"].shape

    def wider(value: Any, fill: int) -> Any:
        if not isinstance(value, torch.Tensor) or value.shape != shape:
            return value
        pads = value.new_full((shape[0], count), fill)
        return torch.cat([pads, value] if side == "left" else [value, pads], dim=1)

    fills = {"input_ids": prompter.pad_id}
    around = (count, 0) if side == "left" else (0, count)
    return dataclasses.replace(
        batch,
        inputs={name: wider(value, fills.get(name, 0)) for name, value in batch.inputs.items()},
        regions={name: wider(mask, 0) for name, mask in batch.regions.items()},
        roles=np.pad(batch.roles, ((0, 0), around), constant_values=PAD),
    )


def _errors(padded: Captured, alone: Captured, prompt: int) -> np.ndarray:
    """Return the relative L2 distance of each token's state, as far as both read the same."""
    found, expected = (
        next(iter(each.pooled.vectors.values()))[_ALL].astype(np.float64)
        for each in (padded, alone)
    )
    same = 0
    for one, other in zip(padded.responses[0], alone.responses[0], strict=False):
        if one != other:
            break
        same += 1
    count = min(len(found), len(expected), prompt + same)
    sizes = np.maximum(np.linalg.norm(expected[:count], axis=1), 1e-30)
    apart: np.ndarray = np.linalg.norm(found[:count] - expected[:count], axis=1) / sizes
    return apart if np.isfinite(apart).all() else np.zeros(1)  # refused elsewhere, by name


def _routes(blocks: Sequence[torch.nn.Module]) -> bool:
    """Say whether blocks choose among experts."""
    return any("experts" in name for block in blocks for name, _ in block.named_modules())
