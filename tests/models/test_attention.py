"""Where the heads of an attention are, and which blocks have none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from actstore.errors import ModelError, UsageError
from actstore.models import blocks
from tests.capturing import families

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 96, "num_attention_heads": 4}


def anatomy_of(kind: str, **settings: Any) -> blocks.Anatomy:
    """Return the parts of a model of a kind, built without memory."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        config = AutoConfig.for_model(kind, **settings)
        return blocks.find(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize(
    ("kind", "settings", "path", "shape"),
    [
        ("gpt2", {"n_embd": 64, "n_head": 4, "n_layer": 2}, "attn.c_proj", (4, 16)),
        ("gpt_neo", {"hidden_size": 64, "num_heads": 4}, "attn.attention.out_proj", (4, 16)),
        ("bert", {**SMALL, "is_decoder": True}, "attention.output.dense", (4, 16)),
        ("cpmant", {**SMALL, "dim_head": 8}, "self_att.self_attention.attention_out", (4, 8)),
        ("modernbert-decoder", {**SMALL, "pad_token_id": 0}, "attn.Wo", (4, 16)),
        ("gemma", {**SMALL, "head_dim": 32}, "self_attn.o_proj", (4, 32)),
    ],
)
def test_heads_leave_attention_where_its_output_projection_takes_them(
    kind: str, settings: Any, path: str, shape: tuple[int, int]
) -> None:
    (point,) = blocks.points(anatomy_of(kind, **settings), ["head_out"], [0])
    assert point.path.endswith(f".0.{path}")
    assert (point.take, point.shape) == ("input", shape)


def test_query_heads_count_where_several_share_keys_and_values_are_of_their_own_width() -> None:
    grouped = blocks.find(families.build("llama"))  # 4 query heads, 2 of keys and values
    assert [point.shape for point in blocks.points(grouped, ["head_out"], [0, 2])] == [(4, 8)] * 2
    latent = blocks.find(families.build("deepseek_v3"))  # keys are 12 wide, values 6
    assert blocks.points(latent, ["head_out"], [1])[0].shape == (4, 6)


def test_layers_whose_heads_differ_say_so_one_by_one() -> None:
    anatomy = anatomy_of(
        "gemma4_text", **SMALL, head_dim=16, global_head_dim=32, num_key_value_heads=2,
        layer_types=["sliding_attention", "full_attention"], hidden_size_per_layer_input=0,
    )  # fmt: skip
    found = blocks.points(anatomy, ["head_out"], [0, 1])
    assert [point.shape for point in found] == [(4, 16), (4, 32)]


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("mamba", {}, r"blocks 0 to 1 of backbone.layers lack it: block 0 \(MambaBlock\).*mixer"),
        ("rwkv", {}, "has no attention heads: in attention's place stands attention"),
        ("xlnet", {"d_model": 64, "n_head": 4}, "XLNetRelativeAttention.* without an output proj"),
        ("diffllama", {"hidden_size": 64}, "subtracts heads from each other.*o_proj.input"),
    ],
)
def test_attention_without_heads_of_its_own_is_refused_with_the_reason(
    kind: str, settings: Any, said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        blocks.points(anatomy_of(kind, **settings), ["head_out"], [0, 1])


def test_hybrids_have_heads_in_the_blocks_with_attention() -> None:
    anatomy = blocks.find(families.build("qwen3_next"))
    assert blocks.points(anatomy, ["head_out"], [1])[0].path == "model.layers.1.self_attn.o_proj"
    with pytest.raises(ModelError, match=r"blocks 0, 2 of .* lack it.*linear_attn.*layers 1 have"):
        blocks.points(anatomy, ["head_out"], [0, 1, 2])
    shared = blocks.find(families.build("zamba"))
    with pytest.raises(ModelError, match=r"inside shared_transf .*shared_transf\.self_attn\.o_pro"):
        blocks.points(shared, ["head_out"], [1])


def test_patterns_need_eager_attention_and_a_length() -> None:
    anatomy = blocks.find(families.build("llama"))
    with pytest.raises(ModelError, match=r"runs sdpa attention.*--attn eager"):
        blocks.points(anatomy, ["attn_pattern"], [0], pattern_length=8)
    with pytest.raises(UsageError, match=r"captured by `actstore capture` .*--pattern-length"):
        blocks.points(anatomy, ["attn_pattern"], [0])
    eager = blocks.find(families.build("llama", attn="eager"))
    (point,) = blocks.points(eager, ["attn_pattern"], [0], pattern_length=8)
    assert (point.path, point.take, point.shape) == ("model.layers.0.self_attn", "weights", (4, 8))
