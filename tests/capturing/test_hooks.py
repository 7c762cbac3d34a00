"""The tap: every language family against unbatched passes, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from actstore.capturing import blocks
from actstore.capturing.hooks import Pooled, Tap
from actstore.capturing.pooling import Pool, parse_pools
from tests.capturing import families, references

NEAR = 1e-5
LENGTHS = (9, 1, 6, 3)
PROMPT = (
    "prompt.last,prompt.first,prompt.mean,prompt.max,prompt.tokens,prompt.-2,prompt.2,"
    "question.last,question.mean,all.last,all.mean,all.max,all.tokens"
)
RESPONSE = (
    "response.last,response.first,response.mean,response.max,response.tokens,response.-2,"
    "response.1,all.last,all.first,all.mean,all.max,all.-3,all.4,prompt.last"
)
NEW = 7


def texts(seed: int = 0, lengths: Sequence[int] = LENGTHS) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(20, families.VOCAB, length).tolist() for length in lengths]


def padded(prompts: Sequence[Sequence[int]], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask ``[B, T]``."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), families.PAD)
    mask = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        place = slice(longest - len(prompt), None) if side == "left" else slice(0, len(prompt))
        ids[row, place] = torch.tensor(prompt)
        mask[row, place] = True
    return ids, mask


def positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def regions(mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """The question is what stands from each prompt's second token on."""
    place = positions(mask)
    return {"prompt": mask, "all": mask, "question": mask & (place >= 1)}


def first_tokens(mask: torch.Tensor) -> torch.Tensor:
    return mask & (positions(mask) == 0)


def pick(states: np.ndarray, pool: Pool, *, start: int, stop: int, skip: Sequence[int]) -> Any:
    """Pool one text's states over the tokens from start to stop; None if there are none."""
    part = states[start:stop]
    kept = np.array([row for place, row in enumerate(states) if place in range(start, stop)])
    if pool.pool in ("mean", "max"):
        places = [place for place in range(start, stop) if place not in skip]
        if not places:
            return None
        kept = states[places]
        return kept.mean(axis=0) if pool.pool == "mean" else kept.max(axis=0)
    if pool.pool == "tokens":
        return part if len(part) else None
    number = {"first": 0, "last": -1}.get(pool.pool)
    number = int(pool.pool) if number is None else number
    return part[number] if -len(part) <= number < len(part) else None


def compare(
    pooled: Pooled,
    expected: Sequence[references.States],
    spans: Sequence[dict[str, tuple[int, int]]],
    *,
    skip: Sequence[int] = (),
) -> float:
    """Return the largest distance; fail where rows are missing or too many."""
    worst = 0.0
    assert pooled.vectors.keys() == expected[0].keys()
    for key, by_pool in pooled.vectors.items():
        for pool, vectors in by_pool.items():
            rows = pooled.rows[pool]
            assert len(vectors) == len(rows.example) == len(rows.token_count)
            for example, states in enumerate(expected):
                start, stop = spans[example][pool.region]
                wanted = pick(states[key], pool, start=start, stop=stop, skip=skip)
                found = vectors[rows.example == example]
                if wanted is None:
                    assert len(found) == 0, (key, pool, example)
                else:
                    assert vectors.dtype == np.float32
                    worst = max(worst, references.distance(found, wanted))
    return worst


def tapped(name: str, model: Any, pools: str, *, stop_early: bool = False) -> Tap:
    anatomy = blocks.find(model)
    wanted = blocks.points(anatomy, references.sites(name), range(len(anatomy.blocks)))
    return Tap(wanted, parse_pools(pools), anatomy=anatomy, stop_early=stop_early)


def prompt_spans(prompts: Sequence[Sequence[int]]) -> list[dict[str, tuple[int, int]]]:
    return [{"prompt": (0, len(p)), "all": (0, len(p)), "question": (1, len(p))} for p in prompts]


def forward(name: str, model: Any, prompts: Sequence[Sequence[int]], side: str) -> Pooled:
    ids, mask = padded(prompts, side)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask.long()}
    if name not in ("mamba",):
        inputs["position_ids"] = positions(mask)
    with torch.inference_mode(), tapped(name, model, PROMPT) as tap:
        tap.begin(regions(mask), first_tokens(mask))
        tap.call(tap.anatomy.base, **inputs, use_cache=False)
        return tap.end()


@pytest.mark.parametrize("name", families.LANGUAGE)
def test_prompts_of_mixed_length_match_each_alone(name: str) -> None:
    model = families.build(name)
    prompts = texts()
    expected = [references.alone(name, model, {"input_ids": torch.tensor([p])}) for p in prompts]
    for side in ("left", "right"):
        pooled = forward(name, model, prompts, side)
        assert compare(pooled, expected, prompt_spans(prompts), skip=(0,)) < NEAR, side
        assert pooled.steps == 0
        assert pooled.response_tokens.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("name", families.LANGUAGE)
def test_bfloat16_is_as_near_in_a_batch_as_alone(name: str) -> None:
    exact = families.build(name)
    coarse = families.build(name).to(torch.bfloat16)
    prompts = texts()
    true = [references.alone(name, exact, {"input_ids": torch.tensor([p])}) for p in prompts]
    single = [references.alone(name, coarse, {"input_ids": torch.tensor([p])}) for p in prompts]
    noise = max(
        references.distance(one[key], other[key])
        for one, other in zip(single, true, strict=True)
        for key in one
    )
    assert 1e-3 < noise < 0.5
    for side in ("left", "right"):
        pooled = forward(name, coarse, prompts, side)
        assert compare(pooled, true, prompt_spans(prompts), skip=(0,)) < 2 * noise, side


def generated(name: str, model: Any, prompts: Sequence[Sequence[int]], eos: list[int]) -> Any:
    """Generate with a tap; return what it kept and the responses as they were returned."""
    ids, mask = padded(prompts, "left")
    with torch.inference_mode(), tapped(name, model, RESPONSE) as tap:
        tap.begin(regions(mask), first_tokens(mask), eos_ids=frozenset(eos))
        output = model.generate(
            input_ids=ids,
            attention_mask=mask.long(),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=eos or None,
            pad_token_id=families.PAD,
        )
        return tap.end(), output[:, ids.shape[1] :].tolist()


@pytest.mark.parametrize("name", families.LANGUAGE)
def test_responses_match_teacher_forced_passes(name: str) -> None:
    model = families.build(name)
    model.generation_config.eos_token_id = None
    prompts = texts()
    _, free = generated(name, model, prompts, [])
    # one example stops at once, one in the middle, and others when they happen to
    for eos in ([], [free[1][0], free[0][3]]):
        pooled, responses = generated(name, model, prompts, eos)
        expected, spans = [], []
        for prompt, response in zip(prompts, responses, strict=True):
            ends = [place for place, token in enumerate(response) if token in eos]
            fed = response[: min([*ends, len(response) - 1])]
            text = torch.tensor([[*prompt, *fed]])
            expected.append(references.alone(name, model, {"input_ids": text}))
            start, stop = len(prompt), len(prompt) + len(fed)
            spans.append({"response": (start, stop), "all": (0, stop), "prompt": (0, start)})
        lengths = [span["response"][1] - span["response"][0] for span in spans]
        assert pooled.response_tokens.tolist() == lengths
        assert pooled.steps == len(responses[0]) - 1
        if eos:
            assert lengths[1] == 0
        assert compare(pooled, expected, spans, skip=(0,)) < NEAR
