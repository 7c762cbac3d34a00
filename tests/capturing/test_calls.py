"""Calls told apart on models of several kinds: what is recorded is what a capture stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import actstore
from actstore.capturing.calls import Listener, check_rows
from actstore.capturing.forward.pooling import parse_pools
from actstore.capturing.prompts.encode import ROLES, Prompter
from actstore.capturing.prompts.example import from_dict
from actstore.errors import HookError
from actstore.models.blocks import find, points
from tests.capturing import families
from tests.capturing.comparing import padded, positions
from tests.capturing.pictures import picture
from tests.ingestion.storing import stored_rows

POOLS = "prompt.last,prompt.mean,response.mean,response.last"
NEW = {"max_new_tokens": 5, "min_new_tokens": 5}


def compare(model: Any, processor: Any, questions: list[dict[str, Any]], folder: Path) -> None:
    pools = f"{POOLS},image.mean" if "image" in questions[0] else POOLS
    actstore.capture(
        model,
        processor,
        questions,
        store=folder / "captured",
        model_name="m",
        pool=pools,
        max_new_tokens=5,
        generation={"min_new_tokens": 5},
        self_check=False,
    )
    batch = Prompter(model, processor).batch([from_dict(each) for each in questions])
    with actstore.record(
        model, folder / "recorded", model_name="m", pool=pools, processor=processor
    ) as rec:
        ids = [each["id"] for each in questions]
        with rec.example(ids, question=[each["question"] for each in questions]):
            model.generate(**batch.inputs, **NEW)
    captured, recorded = (stored_rows(folder / name) for name in ("captured", "recorded"))
    names = ("example_id", "layer", "pooling", "region", "token_id", "token_count", "prediction")
    assert len(captured) == len(recorded) > 0
    for one, other in zip(captured, recorded, strict=True):
        assert [one[name] for name in names] == [other[name] for name in names]
        # A capture batches by length, and rows of another order may differ in the last bit.
        np.testing.assert_allclose(one["activation"], other["activation"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "mamba", "qwen3_next", "gemma3"])
def test_a_padded_batch_of_text(name: str, tmp_path: Path) -> None:
    questions = [
        {"id": "a", "question": "what is larger ?"},
        {"id": "b", "question": "which is larger : 31 or 5 ? be brief"},
    ]
    compare(families.build(name), families.tokenizer(), questions, tmp_path)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_an_image(name: str, tmp_path: Path) -> None:
    model, processor = families.build_vlm(name)
    questions = [{"id": "a", "question": "what is larger ?", "image": picture(tmp_path, "sky.png")}]
    compare(model, processor, questions, tmp_path)


def listener(model: Any, pools: str = "prompt.last") -> Listener:
    anatomy = find(model)
    return Listener(
        anatomy,
        points(anatomy, ["resid_post"], [0]),
        parse_pools(pools),
        exclude=frozenset({"bos"}),
        special_ids=[0, 1, 2],
        bos_id=1,
        image_ids=[],
    )


def test_what_a_call_knows() -> None:
    model = families.build("llama")
    ids = torch.tensor([[0, 1, 20, 21], [1, 22, 23, 24]])
    with listener(model) as heard:
        heard.listen()
        model.generate(ids, attention_mask=(ids != 0).long(), **NEW, eos_token_id=[50, 51])
        with torch.no_grad():
            model(ids[1:])
        first, second = heard.finish()
    assert (first.batch, first.generates, second.generates) == (2, True, False)
    assert first.ends == {50, 51}
    assert first.ids.shape == (2, 9)
    assert first.real.tolist() == [[False, True, True, True], [True] * 4]
    assert first.roles.tolist() == [[-1, 0, -1, -1], [0, -1, -1, -1]]
    assert [len(response) for response in first.responses] == [5, 5]
    assert second.ids.tolist() == [[1, 22, 23, 24]]
    assert second.responses == [[]]
    assert first.pooled is not None
    assert np.isfinite(next(iter(first.pooled.vectors["resid_post", 0].values()))).all()
    check_rows(first, 2)
    with pytest.raises(HookError, match="2 rows inside a block for 1 example: give"):
        check_rows(first, 1)


def test_nothing_is_heard_before_and_after() -> None:
    model = families.build("llama")
    ids = torch.tensor([[1, 20]])
    with listener(model) as heard, torch.no_grad():
        model(ids)
        heard.listen()
        assert heard.finish() == []
        model(ids)
        heard.listen()
        model(ids)
        heard.drop()
        assert heard.finish() == []
    assert "generate" not in model.__dict__
    assert not any(module._forward_hooks for module in model.modules())


def test_bos_behind_an_image_is_bos(tmp_path: Path) -> None:
    model, processor = families.build_vlm("paligemma")
    given = {"id": "a", "question": "what is 1 ?", "image": picture(tmp_path, "1.png")}
    prompter = Prompter(model, processor, chat_template=False)
    batch = prompter.batch([from_dict(given)])
    (at,) = np.flatnonzero(batch.inputs["input_ids"][0].numpy() == families.BOS)
    assert at > 0
    assert batch.roles[0, at] == ROLES.index("bos")


@pytest.mark.parametrize("side", ["left", "right"])
def test_pads_are_told_from_a_mask_of_four_dimensions(side: str) -> None:
    model = families.build("mistral")
    prompts = [[1, 20, 21], [1, 30, 31, 32, 33]]
    ids, mask = padded(prompts, side)
    seen = mask[:, None] & torch.ones(5, 5, dtype=torch.bool).tril()
    added = torch.zeros(2, 1, 5, 5).masked_fill(~seen[:, None], torch.finfo(torch.float32).min)
    with listener(model, "prompt.mean,prompt.last") as heard, torch.no_grad():
        heard.listen()
        model(ids, attention_mask=added, position_ids=positions(mask))
        for prompt in prompts:
            model(torch.tensor([prompt]))
        together, *alone = heard.finish()
    assert together.real.tolist() == mask.tolist()
    assert together.pooled is not None
    for pool, vectors in together.pooled.vectors["resid_post", 0].items():
        expected = [call.pooled.vectors["resid_post", 0][pool] for call in alone if call.pooled]
        np.testing.assert_allclose(vectors, np.concatenate(expected), rtol=1e-4, atol=1e-5)


def test_pads_are_told_where_generate_makes_the_mask_itself() -> None:
    model = families.build("gemma3")
    ids, mask = padded([[1, 20, 21], [1, 30, 31, 32, 33]], "left")
    with listener(model) as heard:
        heard.listen()  # its mask comes of the pads, and one of four dimensions of the cache
        model.generate(ids, cache_implementation="static", **NEW)
        (call,) = heard.finish()
    assert call.real.tolist() == mask.tolist()


@pytest.mark.parametrize("whole", [True, False], ids=["all of it again", "the rest"])
def test_an_answer_after_a_cache_of_the_beginning(whole: bool) -> None:
    model = families.build("llama")
    beginning, rest = torch.tensor([[1, 40, 41]]), torch.tensor([[20, 21]])
    both = torch.cat([beginning, rest], dim=1)
    expected = model.generate(both, attention_mask=torch.ones_like(both), **NEW)[0, 5:].tolist()
    with listener(model, "response.tokens") as heard, torch.no_grad():
        cache = model(beginning, use_cache=True).past_key_values
        heard.listen()
        model.generate(
            both if whole else rest,
            attention_mask=torch.ones_like(both),
            past_key_values=cache,
            **NEW,
        )
        (call,) = heard.finish()
    assert call.prompt.tolist() == rest.tolist()
    assert call.responses == [expected]
    assert call.ids.tolist() == [[20, 21, *expected]]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("prefill_chunk_size", 4),  # the last piece is one token, as a decode step's is
        ("guidance_scale", 1.5),
        ("token_healing", True),
        ("use_mtp", True),
        ("prompt_lookup_num_tokens", 2),
    ],
)
@pytest.mark.parametrize("of_the_model", [False, True])
def test_generations_that_hooks_could_not_follow_are_refused_by_name(
    setting: str, value: Any, of_the_model: bool, tmp_path: Path
) -> None:
    model, ids = families.build("gpt2"), torch.tensor([[1, 20, 30, 40, 50]])
    given: dict[str, Any] = {} if of_the_model else {setting: value}
    if of_the_model:
        setattr(model.generation_config, setting, value)
    with (
        actstore.record(model, tmp_path / "s", model_name="m", pool="prompt.last") as rec,
        pytest.raises(HookError, match=f"{setting} cannot be captured: .*outside of the block"),
        rec.example("a"),
    ):
        model.generate(ids, max_new_tokens=4, **given)


def test_a_logits_processor_that_runs_the_model_is_noticed(tmp_path: Path) -> None:
    model, ids = families.build("gpt2"), torch.tensor([[1, 20, 30, 40, 50]])

    def again(read: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(read[:, -1:]).logits[:, -1]
        return logits

    with actstore.record(model, tmp_path / "s", model_name="m", pool="response.mean") as rec:
        said = r"ran 8 times while generate wrote 4 tokens"
        with pytest.raises(HookError, match=said), rec.example("a"):
            model.generate(ids, max_new_tokens=4, logits_processor=[again])
        with rec.example("b"):
            model.generate(ids, guidance_scale=1, token_healing=False, **NEW)
    assert {row["example_id"] for row in stored_rows(tmp_path / "s")} == {"b"}


def test_hooks_that_are_put_on_during_a_recording_are_seen_as_passed_on(tmp_path: Path) -> None:
    """An ablation inside the loop: what a block returns, and what the next is given, are one."""
    model, ids = families.build("gpt2"), torch.tensor([[1, 20, 30]])
    sites = ["resid_pre", "resid_post", "mlp_in"]
    blocks, seen = model.transformer.h, []

    def ablate(module: Any, args: Any, output: Any) -> Any:
        return output * 0 + 1

    def double(module: Any, args: Any) -> Any:
        return (args[0] * 2, *args[1:])

    with actstore.record(model, tmp_path / "s", sites=sites, model_name="m") as rec:
        for id in ("plain", "changed", "again"):
            handles = []
            if id == "changed":
                handles = [
                    blocks[1].register_forward_hook(ablate),
                    blocks[2].mlp.register_forward_pre_hook(double),
                    blocks[2].mlp.c_fc.register_forward_hook(
                        lambda module, args, output: seen.append(args[0][0, -1])
                    ),
                ]
            with rec.example(id), torch.no_grad():
                model(ids)
            for handle in handles:
                handle.remove()
    found = {
        (row["example_id"], row["site"], row["layer"]): row["activation"]
        for row in stored_rows(tmp_path / "s")
    }
    np.testing.assert_array_equal(found["changed", "resid_post", 1], np.ones(families.WIDTH))
    np.testing.assert_array_equal(found["changed", "mlp_in", 2], seen[0].numpy())
    for id in ("plain", "changed", "again"):
        for layer in (0, 1):
            np.testing.assert_array_equal(
                found[id, "resid_post", layer], found[id, "resid_pre", layer + 1]
            )
    for site in sites:
        np.testing.assert_array_equal(found["plain", site, 2], found["again", site, 2])
