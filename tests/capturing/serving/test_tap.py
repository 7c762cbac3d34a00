"""The tap of a serving engine: pooled while the steps run, equal to pooling the whole text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from actstore.capturing.forward.pooling import Pool, SiteLayer, parse_pools
from actstore.capturing.serving.tap import ServingTap
from actstore.errors import HookError, ModelError
from actstore.models.blocks import HookPoint
from tests.capturing.serving.scheduling import Scheduler, Text, schedulers

WIDTH, SPECIAL = 4, 9
POOLS = parse_pools(
    "prompt.last,prompt.first,prompt.mean,prompt.max,prompt.tokens,prompt.-2,response.last,"
    "response.first,response.1,response.-2,response.mean,response.max,response.tokens,all.last,"
    "all.mean,all.max,all.tokens,all.2,all.-3"
)


class Block(nn.Module):
    """Hands the stream on in two parts, in memory that it writes into, as vLLM's blocks do."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(
        self, positions: torch.Tensor, hidden_states: torch.Tensor, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if residual is None:
            residual = hidden_states.clone()
        else:
            residual += hidden_states
        hidden_states[:] = residual * self.factor
        return hidden_states, residual


class Model(nn.Module):
    """Its states are functions of text, token and place, so an oracle can write them down."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block(2), Block(3)])
        self.noise = torch.zeros(0)

    def forward(self, *, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        hidden, residual = stream(input_ids, positions), None
        for block in self.layers:
            hidden, residual = block(positions, hidden, residual)
        hidden.fill_(torch.nan)
        return hidden


def stream(ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """The embeddings of tokens, integers, so that sums are exact in any order."""
    base = torch.arange(1, WIDTH + 1)
    return (ids[:, None] * base + positions[:, None] * 16 - 40).float()


def points(model: Model) -> list[HookPoint]:
    found = [HookPoint("embeddings", -1, "layers.0", "input", model.layers[0])]
    for layer, block in enumerate(model.layers):
        found.append(HookPoint("resid_pre", layer, f"layers.{layer}", "input", block))
        found.append(HookPoint("resid_post", layer, f"layers.{layer}", "output", block))
    return found


FACTORS: dict[SiteLayer, int] = {("embeddings", -1): 1, ("resid_pre", 0): 1, ("resid_post", 0): 3}
FACTORS |= {("resid_pre", 1): 3, ("resid_post", 1): 12}


def regions(texts: list[Text]) -> dict[str, torch.Tensor]:
    width = max(len(text.prompt) for text in texts)
    real = torch.zeros(len(texts), width, dtype=torch.bool)
    for row, text in enumerate(texts):
        real[row, width - len(text.prompt) :] = True
    return {"prompt": real, "all": real}


def expected(pool: Pool, text: Text, factor: int) -> np.ndarray:
    """Pool one whole text in the plainest way."""
    fed = text.prompt + text.answer[:-1]
    start, stop = {
        "prompt": (0, len(text.prompt)),
        "response": (len(text.prompt), len(fed)),
        "all": (0, len(fed)),
    }[pool.region]
    ids = torch.tensor(fed[start:stop], dtype=torch.int64)
    rows: np.ndarray = (stream(ids, torch.arange(start, stop)) * factor).numpy()
    offset = pool.offset
    if offset is not None:
        at = offset if offset >= 0 else len(rows) + offset
        return rows[at : at + 1] if 0 <= at < len(rows) else rows[:0]
    if pool.picks:
        return rows
    # The oracle's own words for what is left out: special tokens, in prompts the first one too.
    places = range(start, stop)
    kept = [
        row
        for row, place in zip(rows, places, strict=True)
        if not (place == 0 if place < len(text.prompt) else fed[place] == SPECIAL)
    ]
    if not kept:
        return rows[:0]
    stacked = np.stack(kept)
    pooled: np.ndarray = stacked.mean(0) if pool.pool == "mean" else stacked.max(0)
    return pooled[None]


@given(schedulers(least=2))
@settings(max_examples=60, deadline=None)
def test_pools_are_those_of_the_whole_text_whatever_the_steps_were(scheduler: Scheduler) -> None:
    texts, model = scheduler.texts, Model()
    masks = regions(texts)
    first = torch.zeros_like(masks["prompt"])
    for row, text in enumerate(texts):
        first[row, first.shape[1] - len(text.prompt)] = True
    now: list[tuple[int, int]] = []
    with ServingTap(model, points(model), POOLS, lambda: now) as tap:
        tap.begin(masks, first, [text.prompt for text in texts], special_ids=frozenset({SPECIAL}))
        for step in scheduler.run():
            now = step.scheduled
            model(input_ids=torch.from_numpy(step.ids), positions=torch.from_numpy(step.positions))
        pooled = tap.end([text.answer for text in texts])
    assert pooled.response_tokens.tolist() == [len(text.answer) - 1 for text in texts]
    assert pooled.vectors.keys() == FACTORS.keys()
    for place, kept in pooled.vectors.items():
        for pool in POOLS:
            rows = pooled.rows[pool]
            for row, text in enumerate(texts):
                mine = kept[pool][rows.example == row]
                exact = expected(pool, text, FACTORS[place])
                np.testing.assert_allclose(mine, exact, rtol=1e-6, err_msg=f"{place} {pool.text}")
                if pool.pool == "tokens" and rows.position is not None:
                    begin = len(text.prompt) if pool.region == "response" else 0
                    places = rows.position[rows.example == row]
                    assert places.tolist() == list(range(begin, begin + len(exact)))


def begun(tap: ServingTap, *prompts: list[int]) -> None:
    texts = [Text(prompt, []) for prompt in prompts]
    tap.begin(regions(texts), None, list(prompts))


def ask(model: Model, ids: list[int], positions: list[int]) -> None:
    model(input_ids=torch.tensor(ids), positions=torch.tensor(positions))


def test_what_runs_before_and_after_a_batch_is_nobodys() -> None:
    model = Model()
    with ServingTap(model, points(model), POOLS, lambda: [(0, 1)]) as tap:
        ask(model, [5, 6], [0, 1])  # a warm-up
        begun(tap, [3])
        ask(model, [3], [0])
        pooled = tap.end([[7]])
        ask(model, [5, 6], [0, 1])
    assert len(pooled.vectors["resid_post", 1][Pool("prompt", "last")]) == 1
    assert not model._forward_hooks


def test_a_block_that_is_passed_over_is_noticed() -> None:
    model = Model()
    with ServingTap(model, points(model), POOLS, lambda: [(0, 1)]) as tap:
        begun(tap, [3])
        model.layers = model.layers[:1]
        with pytest.raises(HookError, match=r"2 of 5 hooks did not fire.*layers\.1"):
            ask(model, [3], [0])


def test_a_model_that_did_not_run_is_noticed() -> None:
    model = Model()
    with ServingTap(model, points(model), POOLS, lambda: []) as tap:
        begun(tap, [3])
        with pytest.raises(HookError, match="1 prompt tokens of text 0"):
            tap.end([[7]])
        with pytest.raises(HookError, match="before begin"):
            tap.end([[7]])


def test_positions_that_are_counted_in_several_ways_are_refused() -> None:
    model = Model()
    with ServingTap(model, points(model), POOLS, lambda: [(0, 1)]) as tap:
        begun(tap, [3])
        with pytest.raises(HookError, match=r"positions \[3, 1\]"):
            model(input_ids=torch.tensor([3]), positions=torch.zeros(3, 1, dtype=torch.int64))


def test_blocks_that_name_their_input_otherwise_are_refused() -> None:
    model = nn.Linear(2, 2)
    point = HookPoint("resid_pre", 0, "layers.0", "input", model)
    with pytest.raises(ModelError, match="takes no hidden_states"):
        ServingTap(model, [point], POOLS, lambda: [])


def test_many_single_tokens_are_kept_off_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from actstore.capturing.forward import prompt_pooling

    monkeypatch.setattr(prompt_pooling, "_MOVED", 1)
    model = Model()
    with ServingTap(model, points(model), POOLS, lambda: [(0, 3)]) as tap:
        begun(tap, [3, 4, 5])
        ask(model, [3, 4, 5], [0, 1, 2])
        pooled = tap.end([[7]])
    found = pooled.vectors["embeddings", -1][Pool("prompt", "tokens")]
    np.testing.assert_array_equal(found, stream(torch.tensor([3, 4, 5]), torch.arange(3)))
