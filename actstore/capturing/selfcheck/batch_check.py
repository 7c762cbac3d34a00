"""Compares a batch with each example run alone, and generated responses with one forward pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from actstore.capturing.forward.engine import Captured, Engine, excluded
from actstore.capturing.forward.generation import Generation
from actstore.capturing.forward.pooling import Pool, SiteLayer
from actstore.capturing.prompts.encode import PromptBatch
from actstore.capturing.selfcheck.reference import (
    Pair,
    Watch,
    as_numpy,
    pooled_plainly,
    shaped,
    watching,
)
from actstore.capturing.selfcheck.stepwise import fed_in_steps
from actstore.capturing.selfcheck.subject import (
    SAME_PASS,
    SUMMED,
    SeenVectors,
    Subject,
    named,
    rounded,
)
from actstore.errors import ModelError, SelfCheckError
from actstore.models.blocks import points

_FLIPPED = 1 / 3
"""Share of vectors that may be further off in a mixture of experts: a rounding error can send a
token to another expert, and all later layers differ."""
_NEW_TOKENS = 12
_GENERATED = ("response", "all")
_BEFORE = "what goes into the first block's experts"


def batched(subject: Subject) -> dict[str, Any]:
    """Compare what a batch of the run gives with its own modules, and with every example alone."""
    engine = _engine(subject.engine)
    batch = subject.prompter.batch(subject.examples, engine.padding_side)
    _check_regions(subject, batch)
    seen: SeenVectors = {}
    pools = [pool for pool in engine.pools if _lies_in_prompt(pool, batch, engine)]
    plain = subject.pooling(batch.regions, excluded(batch, engine.exclude), pools, seen)
    routed: list[np.ndarray] = []
    with watching([*plain, *_before_experts(subject, batch, routed)]), engine:
        captured = engine.forward(batch, list(range(len(subject.examples))))
    found: dict[str, Any] = {}
    hooks = list(_against(captured, seen, subject))
    picked = [pair for pool, pair in hooks if pool.picks]
    summed = [pair for pool, pair in hooks if not pool.picks]
    errors = (
        subject.worst("hooks", picked, SAME_PASS),
        subject.worst("hooks", summed, SUMMED),
    )
    found["hooks"] = rounded(max((each for each in errors if each is not None), default=None))
    allowed = _FLIPPED if subject.experts else 0.0
    pairs = list(_alone(subject, captured, pools, routed))
    before = [pair for pair in pairs if pair.name.startswith(_BEFORE)]
    subject.worst("alone", before, subject.tolerance)
    found["alone"] = rounded(subject.worst("alone", pairs, subject.tolerance, allowed))
    if engine.generation is not None:
        _check_lengths(subject, captured, engine.generation)
        texts = list(_texts(subject, captured))
        if texts:
            found["response"] = rounded(_check_responses(subject, captured, texts, allowed))
    return found


def _engine(given: Engine) -> Engine:
    """Return an engine like the run's that generates a few tokens only."""
    generation: Generation | None = given.generation
    if generation is not None:
        few = min(generation.max_new_tokens, _NEW_TOKENS)
        config = generation.config.__class__.from_dict(generation.config.to_dict())
        config.max_new_tokens = few
        generation = dataclasses.replace(generation, config=config, max_new_tokens=few)
    return Engine(
        given.anatomy,
        given.prompter,
        given.points,
        given.pools,
        exclude=given.exclude,
        generation=generation,
        padding_side=given.padding_side,
        seed=given.seed,
    )


def _check_regions(subject: Subject, batch: PromptBatch) -> None:
    """The prompt is every token that the mask does not hide, no pad and none less."""
    real = batch.inputs["attention_mask"].bool()
    for region in ("prompt", "all"):
        if region in batch.regions and not torch.equal(batch.regions[region].bool(), real):
            raise subject.fail(
                f"the region {region!r} of a batch is not what its attention mask says is no "
                "padding: pads are taken for tokens, or tokens are left out"
            )


def _lies_in_prompt(pool: Pool, batch: PromptBatch, engine: Engine) -> bool:
    return pool.region in batch.regions and (pool.region != "all" or engine.generation is None)


def _against(
    captured: Captured, seen: SeenVectors, subject: Subject
) -> Iterable[tuple[Pool, Pair]]:
    """Pair what was kept of a batch with what was seen of it."""
    for place, kept in captured.pooled.vectors.items():
        for pool, vectors in kept.items():
            for row, name in enumerate(subject.names):
                if (place, pool, row) not in seen:
                    continue
                mine = vectors[captured.pooled.rows[pool].example == row]
                what = f"{named(place)}, {pool.text} of {name}"
                expected = seen[place, pool, row]
                _check_count(subject, what, len(mine), len(expected), "the tokens of its region")
                for one, other in zip(mine, expected, strict=True):
                    yield pool, Pair(what, one, other)


def _check_count(subject: Subject, what: str, got: int, expected: int, of: str) -> None:
    if got != expected:
        raise subject.fail(
            f"{what} has {got} rows in a batch and {expected} by {of}: tokens were "
            "dropped, or pads taken in"
        )


def _before_experts(subject: Subject, batch: PromptBatch, found: list[np.ndarray]) -> list[Watch]:
    """Watch what goes into the first block's experts: there no token was routed yet.

    What experts make may be far off where a rounding error sends a token elsewhere. What
    comes before them may not, in no example.
    """
    if not subject.experts:
        return []
    try:
        (point,) = points(subject.anatomy, ["mlp_in"], [0])
    except ModelError:
        return []
    mask = batch.inputs["attention_mask"].bool()

    def keep(tensors: list[torch.Tensor]) -> None:
        states = shaped(tensors[0], *mask.shape) if tensors else None
        if states is not None:
            found.extend(
                as_numpy(each[row.to(each.device)]) for each, row in zip(states, mask, strict=True)
            )

    return [(point.module, "input", keep)]


def _alone(
    subject: Subject, captured: Captured, pools: list[Pool], routed: list[np.ndarray]
) -> Iterable[Pair]:
    """Pair what was kept of a batch with one pass over each example alone, unpadded.

    ``routed`` is what went into the first block's experts, of each example of the batch.
    """
    for row, name in enumerate(subject.names):
        single = subject.prompter.batch([subject.examples[row]], "right")
        _check_regions(subject, single)
        left_out = excluded(single, subject.engine.exclude)
        seen: SeenVectors = {}
        watches = subject.pooling(single.regions, left_out, pools, seen)
        unrouted: list[np.ndarray] = []
        watches += _before_experts(subject, single, unrouted)
        states = subject.reported(single, watches=watches).states
        if routed and unrouted:
            yield Pair(f"{_BEFORE} of {name}", routed[row], unrouted[0])
        for place, kept in captured.pooled.vectors.items():
            entry = subject.entry(place)
            for pool in pools:
                mask = single.regions[pool.region][0]
                if entry is not None:
                    expected = pooled_plainly(pool, states[entry][0], mask, left_out)
                else:
                    expected = seen[place, pool, 0]
                mine = kept[pool][captured.pooled.rows[pool].example == row]
                what = f"{named(place)}, {pool.text} of {name}"
                _check_count(subject, what, len(mine), len(expected), "the example alone")
                for one, other in zip(mine, expected, strict=True):
                    yield Pair(what, one, other)


def _check_lengths(subject: Subject, captured: Captured, generation: Generation) -> None:
    """Every token of a response but the last one that was generated has gone through the model."""
    width = captured.ids.shape[1] - captured.pooled.steps - 1
    for row, name in enumerate(subject.names):
        said = len(captured.responses[row])
        after = captured.ids[row, width + said : width + said + 1]
        ended = len(after) > 0 and int(after[0]) in generation.eos_ids
        expected = said if ended else max(0, said - 1)
        kept = int(captured.pooled.response_tokens[row])
        if kept != expected:
            raise subject.fail(
                f"{kept} tokens of the response of {name} were kept, where {expected} went through "
                "the model: tokens were dropped, or others taken in"
            )


class _CheckedText(NamedTuple):
    """A prompt and the response to it that went through the model, unpadded."""

    row: int
    single: PromptBatch
    """The prompt alone."""
    response: list[int]
    regions: dict[str, torch.Tensor]
    """``all`` and ``response``, bool ``[1, T + n]``."""
    left_out: torch.Tensor
    """Tokens that means and maxima leave out, bool ``[1, T + n]``."""


def _texts(subject: Subject, captured: Captured) -> Iterator[_CheckedText]:
    engine, prompter = subject.engine, subject.prompter
    if not any(pool.region in _GENERATED for pool in engine.pools):
        return
    special = prompter.tokenizer.all_special_ids if "special" in engine.exclude else []
    images = set(prompter.known_ids["image_ids"])
    for row in range(len(subject.examples)):
        response = captured.responses[row][: int(captured.pooled.response_tokens[row])]
        if images & set(response):
            continue  # an image that was never given cannot be fed again
        single = prompter.batch([subject.examples[row]], "right")
        width = single.inputs["input_ids"].shape[1]
        length = width + len(response)
        regions = {
            "all": torch.ones((1, length), dtype=torch.bool),
            "response": (torch.arange(length) >= width)[None],
        }
        left_out = torch.zeros((1, length), dtype=torch.bool)
        before = excluded(single, engine.exclude)
        if before is not None:
            left_out[:, :width] = before
        left_out[0, width:] = torch.tensor(
            [token in special for token in response], dtype=torch.bool
        )
        yield _CheckedText(row, single, response, regions, left_out)


def _check_responses(
    subject: Subject, captured: Captured, texts: Sequence[_CheckedText], allowed: float
) -> float | None:
    """Hold generated tokens against one pass, or steps where the model's own steps differ."""
    passed = [pair for text in texts for pair in _in_one_pass(subject, captured, text)]
    try:
        return subject.worst("response", passed, subject.tolerance, allowed)
    except SelfCheckError:
        stepped = [pair for text in texts for pair in _in_steps(subject, captured, text)]
        if sum(not pair.error <= subject.tolerance for pair in stepped) > allowed * len(stepped):
            raise
    apart = max(pair.error for pair in passed)
    subject.notes.append(
        "the model computes a text otherwise token by token than in one pass (states of "
        f"responses are up to {apart:.2g} apart, without any hook): responses were held against "
        "steps over each text alone"
    )
    return max(pair.error for pair in stepped)


def _in_one_pass(subject: Subject, captured: Captured, text: _CheckedText) -> Iterator[Pair]:
    """Pair generated tokens' states with one pass over prompt and response."""
    more = torch.tensor([text.response], dtype=text.single.inputs["input_ids"].dtype)
    more = more.reshape(1, -1)
    pools = [pool for pool in subject.engine.pools if pool.region in _GENERATED]
    seen: SeenVectors = {}
    watches = subject.pooling(text.regions, text.left_out, pools, seen)
    inputs = subject.engine.inputs(
        dataclasses.replace(text.single, inputs=_extended(text.single, more))
    )
    inputs.pop("position_ids", None)  # unpadded: the model counts for itself
    states = subject.run(inputs, watches=watches).states

    def expected(place: SiteLayer, pool: Pool) -> np.ndarray:
        entry = subject.entry(place)
        if entry is None:
            return seen[place, pool, 0]
        return pooled_plainly(pool, states[entry][0], text.regions[pool.region][0], text.left_out)

    yield from _against_text(subject, captured, text, expected, "one pass over the text")


def _in_steps(subject: Subject, captured: Captured, text: _CheckedText) -> Iterator[Pair]:
    """Pair them with steps over the same text alone."""
    states = fed_in_steps(subject, text.single, text.response)

    def expected(place: SiteLayer, pool: Pool) -> np.ndarray:
        return pooled_plainly(pool, states[place], text.regions[pool.region][0], text.left_out)

    yield from _against_text(subject, captured, text, expected, "steps over the text")


def _against_text(
    subject: Subject,
    captured: Captured,
    text: _CheckedText,
    expected: Callable[[SiteLayer, Pool], np.ndarray],
    of: str,
) -> Iterator[Pair]:
    for place, kept in captured.pooled.vectors.items():
        for pool in subject.engine.pools:
            if pool.region not in _GENERATED:
                continue
            mine = kept[pool][captured.pooled.rows[pool].example == text.row]
            what = f"{named(place)}, {pool.text} of {subject.names[text.row]}"
            other = expected(place, pool)
            _check_count(subject, what, len(mine), len(other), of)
            yield from (Pair(what, *pair) for pair in zip(mine, other, strict=True))


def _extended(single: PromptBatch, more: torch.Tensor) -> dict[str, Any]:
    """Return the inputs of one text with its response put behind the prompt."""
    found = dict(single.inputs)
    length = found["input_ids"].shape[1]
    found["input_ids"] = torch.cat([found["input_ids"], more], dim=1)
    for key, value in single.inputs.items():
        if key == "input_ids" or not isinstance(value, torch.Tensor):
            continue
        if value.shape != (1, length):
            continue
        fill = int(key == "attention_mask")
        if key == "token_type_ids" and not value.any():
            fill = 1  # PaliGemma's word for what comes after the prompt; others mark images by it
        found[key] = torch.cat([value, torch.full_like(more, fill, dtype=value.dtype)], dim=1)
    return found
