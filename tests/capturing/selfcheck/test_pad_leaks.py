"""Models that let pads into their states: noticed, and run in batches that need no pads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import actstore
from actstore.capturing.forward import generation
from actstore.capturing.forward.engine import Engine
from actstore.capturing.forward.pooling import parse_pools
from actstore.capturing.prompts.encode import Prompter, Side
from actstore.capturing.prompts.example import Example
from actstore.capturing.selfcheck import pad_leaks
from actstore.capturing.selfcheck.pad_leaks import Padding
from actstore.models import blocks
from tests.capturing import families, references, vision_families

EXAMPLE = Example(id="a", question="which is larger 1 2 or 3 ?")
QUESTIONS = [
    {"id": f"q{number}", "question": "which is larger " + "1 2 3 " * (1 + number % 3)}
    for number in range(9)
]


def engine(model: Any, side: Side, *, new: int = 0) -> Engine:
    anatomy = blocks.find(model)
    prompter = Prompter(model, families.tokenizer())
    return Engine(
        anatomy,
        prompter,
        blocks.points(anatomy, ["resid_post"], [0]),
        parse_pools("prompt.last"),
        generation=generation.settle(model, prompter.pad_id, new),
        padding_side=side,
    )


def other(kind: str, **settings: Any) -> Any:
    """Build a model that is in no table of families."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        kind,
        hidden_size=families.WIDTH,
        num_hidden_layers=2,
        vocab_size=families.VOCAB,
        pad_token_id=families.PAD,
        bos_token_id=families.BOS,
        eos_token_id=families.EOS,
        **settings,
    )
    torch.manual_seed(0)
    return families.enliven(AutoModelForCausalLM.from_config(config), 0)


def rwkv() -> Any:
    return other("rwkv", attention_hidden_size=families.WIDTH, intermediate_size=48)


def minimax() -> Any:
    return other(
        "minimax",
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
        block_size=4,
        layer_types=["linear_attention", "full_attention"],
    )


@pytest.mark.parametrize("new", [0, 4])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "mamba", "lfm2", "jamba", "zamba2"])
def test_models_that_keep_pads_out_share_batches(name: str, side: Side, new: int) -> None:
    found = pad_leaks.measure(engine(families.build(name), side, new=new), EXAMPLE)
    assert found.fits is None
    assert found.error < 1e-4
    assert found.note is None


@pytest.mark.parametrize("new", [0, 4])
@pytest.mark.parametrize("make", [lambda: families.build("recurrent_gemma"), rwkv])
def test_models_that_let_pads_in_are_noticed(make: Any, new: int) -> None:
    found = pad_leaks.measure(engine(make(), "left", new=new), EXAMPLE)
    assert found.fits == 0
    assert found.error > 0.01
    assert "examples of one length" in str(found.note)
    if not new:  # pads behind a text come too late
        assert pad_leaks.measure(engine(make(), "right"), EXAMPLE).fits is None


def test_pads_that_show_only_in_generated_tokens_are_noticed() -> None:
    """MiniMax: a cache that begins with linear attention misplaces the mask of each step."""
    model = minimax()
    assert pad_leaks.measure(engine(model, "left"), EXAMPLE).fits is None
    assert pad_leaks.measure(engine(model, "left", new=4), EXAMPLE).fits == 0


def test_a_missing_position_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_counts_positions", lambda self: False)
    assert pad_leaks.measure(engine(families.build("gpt2"), "left"), EXAMPLE).fits == 0


def test_images_go_alone_where_pads_get_in() -> None:
    found = Padding(error=1.0, fits=0)
    kinds = found.alike([5, 5, 7, 5, 5], [False, False, False, True, True])
    assert kinds[0] == kinds[1]
    assert len(set(kinds)) == 4
    assert found.together([7, 5, 5], [False] * 3) == [1, 2]
    assert Padding().alike([5, 7], [False, True]) == [False, True]
    short, _, longer, same, _ = Padding(fits=6).alike([5, 6, 7, 7, 8], [False] * 5)
    assert short is False
    assert longer == same
    assert len(set(Padding(fits=6).alike([5, 6, 7, 7, 8], [False] * 5))) == 3


def test_a_vision_language_model_is_measured_with_its_images() -> None:
    model, processor = families.build_vlm("llava")
    anatomy = blocks.find(model)
    found = pad_leaks.measure(
        Engine(
            anatomy,
            Prompter(model, processor),
            blocks.points(anatomy, ["resid_post"], [0]),
            parse_pools("prompt.last"),
            padding_side="left",
        ),
        Example(id="a", question="yes or no ?", image=vision_families.picture(0)),
    )
    assert found.fits is None
    assert found.error < 1e-4


def captured(model: Any, store: Path, **options: Any) -> Any:
    return actstore.capture(
        model,
        families.tokenizer(),
        QUESTIONS,
        store=store,
        model_name="tiny",
        pool="prompt.last,prompt.mean",
        batch_size=4,
        **options,
    )


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("options", "make"),
    [
        ({"padding_side": "left"}, lambda: families.build("recurrent_gemma")),
        ({"max_new_tokens": 3}, lambda: families.build("recurrent_gemma")),
        ({"padding_side": "left"}, rwkv),
    ],
)
def test_what_is_stored_is_that_of_each_example_alone(
    tmp_path: Path, options: dict[str, Any], make: Any, check: bool
) -> None:
    model = make()
    summary = captured(model, tmp_path / "s", self_check=check, **options)
    assert any("pads change this model's states" in note for note in summary.notes)
    assert summary.batches >= 3
    stored = actstore.open(tmp_path / "s").select(layer=-1 + len(blocks.find(model).blocks))
    found = {
        (row["example_id"], row["pooling"]): vector
        for row, vector in zip(stored.table().to_pylist(), stored.numpy(mixed=True), strict=True)
    }
    tokenizer = families.tokenizer()
    block = blocks.find(model).blocks[-1]
    for question in QUESTIONS:
        seen: list[torch.Tensor] = []
        handle = block.register_forward_hook(
            lambda _, __, output, seen=seen: seen.append(
                output if torch.is_tensor(output) else output[0]
            )
        )
        example = Example(id=question["id"], question=question["question"])
        prompt = Prompter(model, tokenizer).batch([example]).inputs["input_ids"]
        with torch.no_grad():
            model(prompt)
        handle.remove()
        states = seen[0][0].numpy()
        last = found[question["id"], "last"]
        assert references.distances(last, states[-1]).max() < 1e-5
        assert references.distances(found[question["id"], "mean"], states[1:].mean(0)).max() < 1e-5


def test_pads_are_measured_also_where_the_first_examples_are_stored_already(tmp_path: Path) -> None:
    model = families.build("recurrent_gemma")
    captured(model, tmp_path / "s", padding_side="left", self_check=False)
    again = actstore.capture(
        model,
        families.tokenizer(),
        [*QUESTIONS[::-1], *({**each, "id": each["id"] + "b"} for each in QUESTIONS)],
        store=tmp_path / "s",
        model_name="tiny",
        pool="prompt.last,prompt.mean",
        batch_size=4,
        padding_side="left",
        self_check=False,
    )
    assert again.skipped == len(QUESTIONS)
    assert any("pads change" in note for note in again.notes)
    stored = actstore.open(tmp_path / "s").select(layer=2, pooling="last")
    vectors = dict(
        zip([row["example_id"] for row in stored.table().to_pylist()], stored.numpy(), strict=True)
    )
    for each in QUESTIONS:
        assert references.distances(vectors[each["id"] + "b"], vectors[each["id"]]).max() < 1e-5


def test_long_prompts_of_llama_4_share_no_pads() -> None:
    """Its temperature of attention counts pads; it changes every ``floor_scale`` columns."""
    model = families.build("llama4_text")
    assert pad_leaks.measure(engine(model, "left"), EXAMPLE).fits == 8191
    assert pad_leaks.measure(engine(model, "right"), EXAMPLE).fits is None
    for layer in model.model.layers:
        layer.self_attn.floor_scale = 4
    assert pad_leaks.measure(engine(model, "left"), EXAMPLE).fits == 0
    assert np.isfinite(pad_leaks.measure(engine(model, "left"), EXAMPLE).error)


@pytest.mark.parametrize("new", [0, 3])
@pytest.mark.parametrize("check", [True, False])
def test_texts_beyond_the_switch_of_long_rope_do_not_turn_those_beside_them(
    tmp_path: Path, new: int, check: bool
) -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [3.0] * 4,
        "original_max_position_embeddings": 16,
    }
    model = families.build("llama", rope_parameters=rope)
    counts = (3, 4, 5, 6, 20, 30)
    questions = [{"id": str(n), "question": "what is" + " 7" * n} for n in counts]
    given: dict[str, Any] = {"max_new_tokens": new, "self_check": check, "chat_template": False}
    vectors = {}
    for size in (1, 4):
        done = actstore.capture(
            model,
            families.tokenizer(),
            questions,
            store=tmp_path / str(size),
            model_name="tiny",
            layers="last",
            pool="all.mean",
            batch_size=size,
            **given,
        )
        assert done.refused == ()
        vectors[size] = done.selection().numpy()
    assert references.distances(vectors[4], vectors[1]).max() < 1e-5
