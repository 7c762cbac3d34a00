"""Responses end where generation ended them, whatever the ids look like."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import actstore
from actstore.capturing.forward import generation
from actstore.capturing.forward.engine import Engine
from actstore.capturing.forward.pooling import Pool, parse_pools
from actstore.capturing.forward.stopping import Stops, going_on, response_of, watched
from actstore.capturing.prompts.encode import Prompter
from actstore.capturing.prompts.example import Example
from actstore.models.blocks import find, points
from tests.capturing import families
from tests.ingestion.storing import stored_rows

PAD, EOS = families.PAD, families.EOS
EXAMPLES = [
    Example(id=str(number), question="which is larger " + "1 2 3 " * number) for number in (1, 3, 2)
]
POOLS = (
    "response.mean,response.max,response.tokens,response.last,response.first,response.1,all.mean"
)
INSIDE = [11, 31, 34, PAD, 40, 20]


@contextmanager
def scripted(model: Any, script: Sequence[Sequence[int]]) -> Any:
    """Let the model say these ids, row by row, whatever it computes."""
    steps = {"done": 0}

    def after(module: Any, args: Any, logits: torch.Tensor) -> torch.Tensor:
        said = torch.full_like(logits, -100.0)
        for row, ids in enumerate(script):
            said[row, -1, ids[min(steps["done"], len(ids) - 1)]] = 100.0
        steps["done"] += 1
        return said

    handle = model.lm_head.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def expected(model: Any, prompts: Sequence[list[int]], fed: Sequence[list[int]]) -> list[Any]:
    """Return the states of each response's tokens from one pass over each whole text."""
    found = []
    for prompt, response in zip(prompts, fed, strict=True):
        with torch.no_grad():
            output = model(input_ids=torch.tensor([prompt + response]), output_hidden_states=True)
        found.append(output.hidden_states[1][0, len(prompt) :].numpy())
    return found


CASES: dict[str, tuple[list[list[int]], dict[str, Any], list[list[int]], list[int]]] = {
    # script of each row, settings, responses, how many of each have a state
    "pad inside": ([INSIDE] * 3, {}, [INSIDE] * 3, [5, 5, 5]),
    "rows end at different times": (
        [[11, EOS], [20, PAD, 21, EOS], [31, 32, 33, 34, PAD, 36]],
        {},
        [[11], [20, PAD, 21], [31, 32, 33, 34, PAD, 36]],
        [1, 3, 5],
    ),
    "end at once": ([[EOS], [20, 21, EOS], [PAD, EOS]], {}, [[], [20, 21], [PAD]], [0, 2, 1]),
    "all end at once": ([[EOS]] * 3, {}, [[]] * 3, [0, 0, 0]),
    "the pad is the end": (
        [[11, PAD], [20, 21, 22, PAD], INSIDE],
        {"eos_token_id": PAD, "pad_token_id": PAD},
        [[11], [20, 21, 22], [11, 31, 34]],
        [1, 3, 3],
    ),
    "several ends": (
        [[11, 50], [20, EOS, 7], [31, PAD, 51]],
        {"eos_token_id": [50, 51]},
        [[11], [20, EOS, 7, 7, 7, 7], [31, PAD]],
        [1, 5, 2],
    ),
    "an end as the last token": (
        [[11, 12, 13, 14, 15, EOS], [20, 21, EOS], INSIDE],
        {},
        [[11, 12, 13, 14, 15], [20, 21], INSIDE],
        [5, 2, 5],
    ),
    "no end": (
        [INSIDE, [PAD], [20]],
        {"eos_token_id": None},
        [INSIDE, [PAD] * 6, [20] * 6],
        [5] * 3,
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [1, 3])
def test_a_capture_keeps_every_token_that_was_generated(case: str, size: int) -> None:
    scripts, settings, responses, counts = CASES[case]
    model = families.build("llama")
    model.generation_config.update(**settings)
    if "eos_token_id" in settings and settings["eos_token_id"] is None:
        model.generation_config.eos_token_id = None
    prompter = Prompter(model, families.tokenizer())
    anatomy = find(model)
    running = Engine(
        anatomy,
        prompter,
        points(anatomy, ["resid_post"], [0]),
        parse_pools(POOLS),
        generation=generation.settle(model, prompter.pad_id, 6),
    )
    for start in range(0, 3, size):
        chosen = slice(start, start + size)
        with running, scripted(model, scripts[chosen]):
            captured = running.run(EXAMPLES[chosen], list(range(3))[chosen])
        assert captured.responses == responses[chosen]
        assert captured.pooled.response_tokens.tolist() == counts[chosen]
        prompts = [prompter.batch([each]).inputs["input_ids"][0].tolist() for each in EXAMPLES]
        fed = [
            response[:count]
            for response, count in zip(responses[chosen], counts[chosen], strict=True)
        ]
        kept = captured.pooled.vectors["resid_post", 0]
        rows = captured.pooled.rows
        for row, states in enumerate(expected(model, prompts[chosen], fed)):
            for pool, want in {
                "tokens": states,
                "mean": states.mean(0, keepdims=True) if len(states) else states,
                "max": states.max(0, keepdims=True) if len(states) else states,
                "last": states[-1:],
                "first": states[:1],
                "1": states[1:2],
            }.items():
                place = Pool("response", pool)
                found = kept[place][rows[place].example == row]
                assert found.shape == want.shape, (pool, row)
                np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)


def test_what_is_no_token_ends_a_response_alone_as_in_a_batch(tmp_path: Path) -> None:
    """Without an end token, rows that are over are not filled up: they go on talking."""
    from transformers import StoppingCriteria

    class Said(StoppingCriteria):  # type: ignore[misc]
        def __call__(self, input_ids: Any, scores: Any, **named: Any) -> Any:
            return input_ids[:, -1] == 40

    scripts = [[30, 40, 30, 30], [30] * 8, [40, 40]]
    model = families.build("llama")
    model.generation_config.eos_token_id = None
    ids = torch.tensor([[1, 20, 21], [1, 22, 23], [1, 24, 25]])
    options: dict[str, Any] = {"model_name": "m", "layers": 0, "pool": "response.tokens"}
    stored = {}
    for name, chosen in {"all": (0, 1, 2), "0": (0,), "1": (1,), "2": (2,)}.items():
        with actstore.record(model, tmp_path / name, **options) as rec:
            script = [scripts[row] for row in chosen]
            with rec.example([f"r{row}" for row in chosen]) as ex, scripted(model, script):
                model.generate(ids[list(chosen)], stopping_criteria=[Said()], max_new_tokens=5)
            expected_responses = [[30, 40], [30] * 5, [40]]
            assert ex.calls[0].responses == [expected_responses[row] for row in chosen]
        stored[name] = [
            (row["example_id"], row["token_id"], np.round(row["activation"], 3).tolist())
            for row in (stored_rows(tmp_path / name) if name != "2" else [])
        ]
    assert stored["all"] == stored["0"] + stored["1"]
    assert [len(stored[name]) for name in "01"] == [1, 4]


@pytest.mark.parametrize("case", CASES)
def test_a_recording_keeps_every_token_that_was_generated(case: str, tmp_path: Path) -> None:
    scripts, settings, responses, counts = CASES[case]
    model = families.build("llama")
    model.generation_config.update(**settings)
    if "eos_token_id" in settings and settings["eos_token_id"] is None:
        model.generation_config.eos_token_id = None
    ids = torch.tensor([[PAD, 1, 21], [1, 22, 23], [1, 24, 25]])
    with actstore.record(
        model,
        tmp_path / "s",
        model_name="m",
        layers=0,
        pool="response.tokens,response.mean",
        processor=families.tokenizer(),
    ) as rec:
        with rec.example(["a", "b", "c"]) as ex, scripted(model, scripts):
            model.generate(ids, attention_mask=(ids != 0).long(), max_new_tokens=6)
        assert ex.calls[0].responses == responses
    stored = stored_rows(tmp_path / "s") if any(counts) else []
    for name, response, count in zip("abc", responses, counts, strict=True):
        rows = [row for row in stored if row["example_id"] == name and row["pooling"] == "none"]
        assert [row["token_id"] for row in rows] == response[:count]
        means = [row for row in stored if row["example_id"] == name and row["pooling"] == "mean"]
        assert [row["token_count"] for row in means] == [count] * bool(count)


def loop(model: Any, store: Path, fed: Sequence[Sequence[int]], masks: Any = None) -> Any:
    """Feed these ids in a loop of one's own, column by column."""
    rows = len(fed)
    with (
        actstore.record(
            model, store, model_name="m", layers=0, pool="response.tokens,response.mean"
        ) as rec,
        rec.example([f"r{row}" for row in range(rows)]) as ex,
        torch.no_grad(),
    ):
        ids = torch.tensor([[1, 20, 21]] * rows)
        out = model(input_ids=ids, use_cache=True)
        for step in range(len(fed[0])):
            named = {}
            if masks is not None:
                past = torch.tensor(masks)[:, : step + 1]
                named["attention_mask"] = torch.cat([torch.ones_like(ids), past], dim=1)
            out = model(
                input_ids=torch.tensor([[row[step]] for row in fed]),
                past_key_values=out.past_key_values,
                use_cache=True,
                **named,
            )
    stored = stored_rows(store)
    kept = [
        [r["token_id"] for r in stored if r["example_id"] == f"r{row}" and r["pooling"] == "none"]
        for row in range(rows)
    ]
    for row, tokens in enumerate(kept):
        text = torch.tensor([[1, 20, 21, *tokens]])
        with torch.no_grad():
            states = model(input_ids=text, output_hidden_states=True).hidden_states[1][0, 3:]
        mean = [
            r["activation"]
            for r in stored
            if r["example_id"] == f"r{row}" and r["pooling"] == "mean"
        ]
        assert len(mean) == bool(tokens)
        if tokens:
            np.testing.assert_allclose(mean[0], states.mean(0).numpy(), rtol=1e-4, atol=1e-4)
    assert ex.calls[0].responses == kept
    return kept


def test_a_loop_of_one_s_own_ends_with_end_tokens_masks_and_pads_behind_it(tmp_path: Path) -> None:
    model = families.build("llama")
    assert loop(model, tmp_path / "one", [INSIDE]) == [INSIDE]
    assert loop(model, tmp_path / "last", [[11, PAD]]) == [[11, PAD]]
    assert loop(
        model,
        tmp_path / "batch",
        [[11, EOS, PAD, PAD, 9], [20, PAD, 21, PAD, PAD], [31, 32, PAD, 34, 35]],
    ) == [[11], [20, PAD, 21], [31, 32, PAD, 34, 35]]
    assert loop(
        model,
        tmp_path / "masked",
        [[11, 12, 13], [20, 21, 22]],
        [[1, 0, 0], [1, 1, 1]],
    ) == [[11], [20, 21, 22]]


def test_what_is_heard_of_the_ends() -> None:
    stops = Stops()
    assert stops.lengths is None
    for done in ([False, True, False], [False, False, True], [True, True, False]):
        stops.add(torch.tensor(done))
    assert stops.lengths == [3, 1, 2]
    model = families.build("llama")
    with watched(model, stops), watched(model, Stops()):
        pass  # heard once only
    assert "_get_stopping_criteria" not in model.__dict__


def test_an_end_that_nobody_told_is_looked_for() -> None:
    assert response_of([5, 0, 6, 2, 0], None, {2}) == [5, 0, 6]
    assert response_of([5, 0, 6], None, set()) == [5, 0, 6]
    assert response_of([5, 2, 6, 2, 0], 4, {2}) == [5, 2, 6]
    assert response_of([5, 2, 6, 2, 0], 3, {2}) == [5, 2, 6]
    nothing = np.zeros((3, 2), bool)
    fed = np.array([[5, 0], [2, 0], [6, 0]])
    assert going_on(fed, nothing, {2}, {0}).T.tolist() == [[True, False, False], [False] * 3]
    assert going_on(fed, nothing, {2}, set()).T.tolist() == [[True, False, False], [True] * 3]
