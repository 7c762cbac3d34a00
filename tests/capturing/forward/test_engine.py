"""Batches through the model: the same vectors whatever the padding, responses cut at their end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from actstore.capturing.forward import generation
from actstore.capturing.forward.engine import Engine, input_device, out_of_memory, position_ids
from actstore.capturing.forward.grading import parse
from actstore.capturing.forward.pooling import Pool, parse_pools
from actstore.capturing.prompts.encode import Prompter
from actstore.capturing.prompts.example import Example
from actstore.errors import ModelError, UsageError
from actstore.models.blocks import find, points
from tests.capturing import families

EXAMPLES = [
    Example(id=str(number), question="which is larger " + "1 2 3 " * number, oracle="a", label="x")
    for number in (1, 4, 2)
]
PLACES = (0, 1, 2)
MORE = [Example(id=str(n), question="1 2 3 " * n) for n in range(1, 9)]


def engine(name: str = "llama", *, pools: str = "prompt.last", **options: Any) -> Engine:
    model = options.pop("model", None) or families.build(name)
    anatomy = find(model)
    prompter = Prompter(model, options.pop("tokenizer", None) or families.tokenizer())
    tokens = options.pop("max_new_tokens", 0)
    wanted = options.pop("generation", None)
    return Engine(
        anatomy,
        prompter,
        points(anatomy, options.pop("sites", ("resid_post",)), [0, 2]),
        parse_pools(pools),
        generation=generation.settle(model, prompter.pad_id, tokens, wanted),
        **options,
    )


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "mamba"])
def test_both_padding_sides_give_what_examples_alone_give(name: str) -> None:
    pool = Pool("prompt", "last")
    found: dict[str, Any] = {}
    for side in ("left", "right"):
        with engine(name, padding_side=side) as running:
            found[side] = running.run(EXAMPLES, PLACES).pooled.vectors["resid_post", 2][pool]
    with engine(name) as running:
        alone = [
            running.run([each], [0]).pooled.vectors["resid_post", 2][pool] for each in EXAMPLES
        ]
    for side in found:
        assert np.allclose(found[side], np.concatenate(alone), rtol=1e-4, atol=1e-5)


def test_without_generation_neither_head_nor_cache_nor_upper_blocks_run() -> None:
    running = engine()
    model: Any = running.anatomy.model
    running.points = running.points[:1]
    running._tap.points = running.points
    ran: list[str] = []
    handles = [
        model.lm_head.register_forward_hook(lambda *_: ran.append("head")),
        model.model.layers[1].register_forward_hook(lambda *_: ran.append("block 1")),
    ]
    caches: list[Any] = []
    handles.append(
        model.model.layers[0].register_forward_pre_hook(
            lambda module, args, kwargs: caches.append(kwargs.get("past_key_values")),
            with_kwargs=True,
        )
    )
    with running:
        running.run(EXAMPLES, PLACES)
    for handle in handles:
        handle.remove()
    assert ran == []
    assert caches == [None]


def test_a_response_ends_before_its_end_token_and_its_last_token_has_no_state() -> None:
    pools = "response.tokens"
    with engine(pools=pools, max_new_tokens=5) as running:
        captured = running.run(EXAMPLES, PLACES)
    rows = captured.pooled.rows[Pool("response", "tokens")]
    for row, response in enumerate(captured.responses):
        assert families.EOS not in response
        fed = int((rows.example == row).sum())
        assert fed == min(len(response), 4)
    assert captured.predictions[0] == running.prompter.decode(captured.responses[0])
    assert captured.tokens == sum(len(ids) for ids in captured.responses) + sum(
        running.prompter.lengths(EXAMPLES)
    )


def test_an_end_at_once_is_an_empty_response() -> None:
    model = families.build("llama")
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[families.EOS] = 0
    model.generation_config.eos_token_id = 0  # all logits are equal: the first token wins
    with engine(model=model, pools="response.mean,prompt.last", max_new_tokens=4) as running:
        captured = running.run(EXAMPLES, PLACES)
    assert captured.responses == [[], [], []]
    assert captured.predictions == ["", "", ""]
    assert len(captured.pooled.rows[Pool("response", "mean")].example) == 0
    assert len(captured.pooled.rows[Pool("prompt", "last")].example) == 3


def test_tokens_are_drawn_anew_for_each_batch_and_the_same_each_time() -> None:
    def answers(seed: int, place: int) -> list[list[int]]:
        with engine(max_new_tokens=8, generation={"do_sample": True}, seed=seed) as running:
            state = torch.get_rng_state()  # the model was made before: it draws its weights
            responses = running.run(EXAMPLES[:1], [place]).responses
            assert torch.equal(torch.get_rng_state(), state)
            return responses

    assert answers(1, 0) == answers(1, 0)
    assert len({str(answers(seed, place)) for seed, place in ((1, 0), (1, 7), (2, 0))}) == 3


def test_pads_are_not_what_a_penalty_for_repetition_takes_for_said() -> None:
    """Else a response would depend on how long the others of its batch are: transformers' part."""
    model = families.build("llama")

    def prefer_the_pad(module: Any, given: Any, logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        logits[..., families.PAD] += 10
        return logits

    model.lm_head.register_forward_hook(prefer_the_pad)
    wanted = {"repetition_penalty": 50.0}
    with engine(model=model, max_new_tokens=5, generation=wanted) as running:
        together = running.run(EXAMPLES, PLACES).responses
        alone = [running.run([each], [0]).responses[0] for each in EXAMPLES]
    assert together == alone
    assert [response.count(families.PAD) for response in alone] == [1, 1, 1]


def test_answers_are_graded_and_else_keep_their_label() -> None:
    with engine(max_new_tokens=3) as running:
        assert running.run(EXAMPLES, PLACES).labels == ["x", "x", "x"]
    with engine(max_new_tokens=3, grader=parse("contains")) as running:
        captured = running.run([replace(each, oracle="a") for each in MORE], range(len(MORE)))
    for prediction, label in zip(captured.predictions, captured.labels, strict=True):
        assert prediction is not None
        expected = "correct" if "a" in prediction.split() else "incorrect"
        assert label == (expected if prediction else None)
    assert set(captured.labels) - {None}


def test_the_answer_found_in_a_response_is_pooled() -> None:
    pools = "answer.last,response.tokens"
    with engine(pools=pools, max_new_tokens=6, grader=parse("regex:(\\S+)")) as running:
        captured = running.run(EXAMPLES, PLACES)
    pooled = captured.pooled
    answers = pooled.rows[Pool("answer", "last")]
    assert len(answers.example)
    assert answers.position is not None
    tokens = pooled.rows[Pool("response", "tokens")]
    for at, (example, position) in enumerate(zip(answers.example, answers.position, strict=True)):
        (same,) = np.flatnonzero((tokens.example == example) & (tokens.position == position))
        for place in pooled.vectors:
            assert np.array_equal(
                pooled.vectors[place][Pool("answer", "last")][at],
                pooled.vectors[place][Pool("response", "tokens")][same],
            )


def test_special_tokens_without_a_name_are_left_out_of_responses_too() -> None:
    tokenizer = families.tokenizer()
    tokenizer.add_tokens(["<|reserved|>"], special_tokens=True)
    special = tokenizer.convert_tokens_to_ids("<|reserved|>")
    assert special not in tokenizer.all_special_ids
    others = [number for number in range(families.VOCAB) if number not in (special, 20, 21)]
    with engine(
        pools="response.mean,response.tokens",
        tokenizer=tokenizer,
        exclude=frozenset({"special"}),
        max_new_tokens=12,
        generation={"suppress_tokens": others, "min_new_tokens": 12, "do_sample": True},
    ) as running:
        captured = running.run(EXAMPLES, PLACES)
    mean, tokens = (Pool("response", word) for word in ("mean", "tokens"))
    rows = captured.pooled.rows[tokens]
    assert rows.column is not None
    said = captured.ids[rows.example, rows.column] != special
    assert not said.all()
    for at, example in enumerate(captured.pooled.rows[mean].example):
        kept = said & (rows.example == example)
        assert captured.pooled.rows[mean].token_count[at] == kept.sum()
        for vectors in captured.pooled.vectors.values():
            expected = vectors[tokens][kept].mean(axis=0)
            np.testing.assert_allclose(vectors[mean][at], expected, rtol=1e-5, atol=1e-6)


def test_a_model_in_training_is_in_training_afterwards() -> None:
    model = families.build("gpt2")
    model.config.resid_pdrop = 0.5
    model.train()
    with engine(model=model) as running:
        one = running.run(EXAMPLES, PLACES).pooled.vectors["resid_post", 2]
        two = running.run(EXAMPLES, PLACES).pooled.vectors["resid_post", 2]
    assert model.training
    for pool in one:
        assert np.array_equal(one[pool], two[pool])
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"num_beams": 2}, "num_beams=2"),
        ({"num_return_sequences": 3}, "num_return_sequences=3"),
        ({"prefill_chunk_size": 4}, "in pieces"),
        ({"prompt_lookup_num_tokens": 4}, "assisted"),
        ({"max_new_tokens": 4}, "capture's own"),
        ({"temprature": 1}, "no option temprature"),
    ],
)
def test_generation_that_hooks_cannot_follow_is_refused(options: Any, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        generation.settle(families.build("llama"), 0, 5, options)


def test_generation_options_need_generation() -> None:
    with pytest.raises(UsageError, match="give max_new_tokens"):
        generation.settle(families.build("llama"), 0, 0, {"do_sample": True})
    with pytest.raises(UsageError, match="or more"):
        generation.settle(families.build("llama"), 0, -1)
    with pytest.raises(ModelError, match="cannot generate"):
        generation.settle(families.build("llama").model, 0, 3)


def test_what_a_checkpoint_asks_for_is_used_and_recorded_but_not_drawing() -> None:
    model = families.build("llama")
    model.generation_config.update(do_sample=True, temperature=0.3, repetition_penalty=1.5)
    found = generation.settle(model, 0, 5)
    assert found is not None
    assert found.settings["do_sample"] is False
    assert found.settings["repetition_penalty"] == 1.5
    assert "temperature" not in found.settings
    assert found.eos_ids == {families.EOS}
    drawn = generation.settle(model, 0, 5, {"do_sample": True})
    assert drawn is not None
    assert drawn.settings["temperature"] == 0.3
    assert model.generation_config.do_sample is True


def test_positions_count_real_tokens() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]])
    assert position_ids(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3], [0, 1, 1, 1]]


def test_inputs_go_where_the_embeddings_are() -> None:
    anatomy = find(families.build("llama"))
    assert input_device(anatomy) == torch.device("cpu")
    with torch.device("meta"):
        model = families.build("llama").to("meta")
    assert input_device(find(model)) == torch.device("cpu")


def test_running_out_of_memory_is_told_from_other_errors() -> None:
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert out_of_memory(caught.value)
    assert not out_of_memory(RuntimeError("shapes do not fit"))
    assert not out_of_memory(ValueError("out of memory"))
