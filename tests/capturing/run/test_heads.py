"""Heads and patterns in a store: their shape is on record, and what cannot be is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import actstore
from actstore.api.capture import CaptureResult
from actstore.capturing.prompts.encode import Prompter
from actstore.capturing.prompts.example import from_dict
from actstore.errors import MixedRunError, UsageError
from actstore.storage import manifest
from tests.capturing import families, references, vision_families

KEYS = 20
QUESTIONS = [
    {"id": f"q{number}", "question": "which is larger " + "1 2 3 " * number}
    for number in (1, 4, 2, 3)
]


def capture(model: Any, store: Path, **options: Any) -> CaptureResult:
    wanted: dict[str, Any] = {"sites": "attn_pattern", "pattern_length": KEYS, **options}
    questions = wanted.pop("examples", QUESTIONS)
    return actstore.capture(
        model,
        None if model is None else families.tokenizer(),
        questions,
        store=store,
        model_name="tiny",
        **wanted,
    )


@pytest.fixture(scope="module")
def model() -> Any:
    return families.build("llama", attn="eager")


def test_stored_heads_and_patterns_are_those_of_each_text_alone(model: Any, tmp_path: Path) -> None:
    done = capture(
        model, tmp_path / "s", sites="head_out,attn_pattern", pool="prompt.last,prompt.tokens"
    )
    assert done.self_check is not None
    assert done.self_check["attentions"] == 0
    assert done.self_check["head_out"] < 1e-6
    assert done.self_check["alone"] < 1e-5
    (run,) = manifest.load(tmp_path / "s").runs
    assert run.settings["shapes"] == {
        "head_out": {"0": [4, 8], "1": [4, 8], "2": [4, 8]},
        "attn_pattern": {"0": [4, KEYS], "1": [4, KEYS], "2": [4, KEYS]},
    }
    store = actstore.open(tmp_path / "s")
    prompter = Prompter(model, families.tokenizer())
    for example in QUESTIONS:
        inputs = prompter.batch([from_dict(example)]).inputs
        expected = references.alone("llama", model, inputs)
        expected |= references.patterns("llama", model, inputs, KEYS)
        for site, width in (("head_out", 8), ("attn_pattern", KEYS)):
            found = store.select(layer=2, site=site, pooling="none", example_id=example["id"])
            heads = found.heads()
            assert heads.shape == (inputs["input_ids"].shape[1], 4, width)
            flat = heads.reshape(len(heads), -1)
            assert references.distances(flat, expected[site, 2]).max() < 1e-5
    weights = store.select(layer=0, site="attn_pattern", pooling="last").heads()
    np.testing.assert_allclose(weights.sum(axis=2), 1, rtol=1e-5)
    assert (weights[0, :, 10:] == 0).all()  # beyond the shortest prompt


def test_heads_of_responses_are_stored_beside_other_sites(model: Any, tmp_path: Path) -> None:
    done = capture(
        model,
        tmp_path / "s",
        sites="head_out,resid_post",
        pool="response.mean,response.tokens",
        max_new_tokens=4,
        generation={"min_new_tokens": 4},
    )
    assert done.self_check is not None
    assert done.self_check["response"] < 1e-5
    store = actstore.open(tmp_path / "s")
    mean = store.select(site="head_out", layer=1, pooling="mean").heads()
    tokens = store.select(site="head_out", layer=1, pooling="none").heads()
    np.testing.assert_allclose(mean, tokens.reshape(4, 3, 4, 8).mean(axis=1), rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match=r"rows of resid_post from run .* are not by head"):
        store.select(site="resid_post", layer=1, pooling="mean").heads()
    assert store.select(site="head_out", layer=1, pooling="mean")[:0].heads().shape == (0, 4, 8)


def test_patterns_of_prompts_go_along_where_answers_are_generated(
    model: Any, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"pool": "prompt.last", "sites": "attn_pattern,resid_post"}
    capture(model, tmp_path / "a", **options, padding_side="left")
    capture(model, tmp_path / "b", **options, max_new_tokens=4, grade="contains", examples=[
        {**question, "oracle": "1"} for question in QUESTIONS
    ])  # fmt: skip
    plain, answered = (
        actstore.open(tmp_path / name).select(site="attn_pattern", layer=1).numpy()
        for name in ("a", "b")
    )
    np.testing.assert_allclose(plain, answered, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pool": "prompt.mean"}, r"prompt\.mean: site attn_pattern keeps rows of single query"),
        ({"pool": "prompt.last,prompt.max"}, r"pool prompt\.max: site attn_pattern keeps rows"),
        ({"pool": "response.last", "max_new_tokens": 2}, r"response\.last: .* prompt's tokens"),
        ({"pool": "all.tokens", "max_new_tokens": 2}, r"all\.tokens: .* the prompt's tokens"),
        ({"pattern_length": 0}, "pattern_length 0: at least 1"),
    ],
)
def test_what_a_pattern_cannot_be_is_refused(
    model: Any, tmp_path: Path, options: Any, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        capture(model, tmp_path / "s", **options)


def test_longer_prompts_are_refused_by_name_and_the_others_stored(
    model: Any, tmp_path: Path
) -> None:
    done = capture(model, tmp_path / "s", pattern_length=16)
    (refused,) = done.refused
    assert "q4" in refused.example
    assert "19 tokens" in refused.reason
    assert "room for 16: give a --pattern-length of 19 or more" in refused.reason
    assert done.examples == 3


def test_patterns_of_another_length_are_refused_and_those_stored_are_recalled(
    model: Any, tmp_path: Path
) -> None:
    first = capture(model, tmp_path / "s", layers="0,2")
    assert (capture(None, tmp_path / "s", layers="2").row_ids == first.row_ids[1::2]).all()
    for other in (model, None):
        with pytest.raises(MixedRunError, match=r"patterns of 20 keys .* and 30 are asked for"):
            capture(other, tmp_path / "s", layers="0,2", pattern_length=30)
    with pytest.raises(MixedRunError, match="--pattern-length 20, or another store"):
        capture(model, tmp_path / "s", dataset="more", pattern_length=30)
    # what else is captured of these prompts is no matter of the length
    capture(model, tmp_path / "s", sites="head_out", pattern_length=30)


def test_layers_whose_heads_differ_are_taken_one_by_one(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "gemma4_text", hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, global_head_dim=16, intermediate_size=48,
        layer_types=["sliding_attention", "full_attention"], vocab_size=families.VOCAB,
        hidden_size_per_layer_input=0, max_position_embeddings=128, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = families.enliven(AutoModelForCausalLM.from_config(config), 0)
    capture(model, tmp_path / "s", sites="head_out")
    store = actstore.open(tmp_path / "s")
    assert store.select(layer=0).heads().shape == (4, 4, 8)
    assert store.select(layer=1).heads().shape == (4, 4, 16)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")
def test_pictures_count_among_the_keys(tmp_path: Path) -> None:
    model, processor = families.build_vlm("llava", attn="eager")
    examples = []
    for number, words in enumerate(("1 2", "1 2 3 4 5 6 7 8 9")):
        path = tmp_path / f"{number}.png"
        vision_families.picture(number).save(path)
        examples.append({"id": str(number), "question": f"yes or no {words}", "image": str(path)})
    done = actstore.capture(
        model, processor, examples, store=tmp_path / "s", model_name="tiny",
        sites="attn_pattern", pattern_length=16, layers="last",
    )  # fmt: skip
    assert done.examples == 1
    assert "have room for 16" in done.refused[0].reason
    inputs = Prompter(model, processor).batch([from_dict(examples[0])]).inputs
    expected = references.patterns("llava", model, inputs, 16)["attn_pattern", 2][-1]
    stored = actstore.open(tmp_path / "s").select(layer=2).numpy()
    assert references.distances(stored, expected).max() < 1e-5
