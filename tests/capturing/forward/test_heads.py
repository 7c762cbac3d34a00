"""Heads add up to their attention, are those of TransformerLens, and patterns lose their pads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actstore.capturing.forward.hooks import Tap
from actstore.capturing.forward.pooling import Pool, PooledBatch, parse_pools
from actstore.errors import HookError
from actstore.models import blocks
from tests.capturing import comparing, families, odd_families, references

EVERY = Pool("prompt", "tokens")


def tapped(model: Any, ids: torch.Tensor, sites: list[str], layers: Any) -> PooledBatch:
    """Return every token's states of texts without pads."""
    anatomy = blocks.find(model)
    wanted = blocks.points(anatomy, sites, layers, pattern_length=ids.shape[1])
    with torch.inference_mode(), Tap(wanted, [EVERY], anatomy=anatomy) as tap:
        tap.begin({"prompt": torch.ones_like(ids, dtype=torch.bool)})
        tap.call(anatomy.base, input_ids=ids, use_cache=False)
        return tap.end()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("llama", "model.layers.1.self_attn.o_proj"),
        ("deepseek_v3", "model.layers.1.self_attn.o_proj"),
        ("qwen3_next", "model.layers.1.self_attn.o_proj"),  # gated before its projection
        ("gpt2", "transformer.h.1.attn.c_proj"),  # with a bias, and the other way round
        ("gpt_neox", "gpt_neox.layers.1.attention.dense"),
        ("bloom", "transformer.h.1.self_attention.dense"),
    ],
)
def test_what_the_projection_makes_of_each_head_adds_up_to_attention(name: str, path: str) -> None:
    source: Any = odd_families if name in odd_families.ODD else families
    model = source.build(name)
    ids = torch.tensor(comparing.texts(lengths=(7, 7)))
    pooled = tapped(model, ids, ["head_out", "attn_out"], [1])
    (point,) = blocks.points(blocks.find(model), ["head_out"], [1])
    assert point.shape is not None
    heads, width = point.shape
    projection = model.get_submodule(path)
    weight = projection.weight.detach().double().numpy()
    weight = weight if name == "gpt2" else weight.T
    z = pooled.vectors["head_out", 1][EVERY].astype(np.float64).reshape(-1, heads, width)
    parts = [z[:, head] @ weight[head * width : (head + 1) * width] for head in range(heads)]
    bias = 0 if projection.bias is None else projection.bias.detach().numpy()
    attention = pooled.vectors["attn_out", 1][EVERY]
    assert references.distances(sum(parts) + bias, attention).max() < 1e-5
    assert all(references.distances(part, attention).max() > 0.1 for part in parts)


@pytest.mark.filterwarnings("ignore")
def test_heads_and_patterns_are_those_of_transformer_lens(tmp_path: Path) -> None:
    lens = pytest.importorskip(
        "transformer_lens.model_bridge", reason="TransformerLens is not installed"
    )
    model = families.build("llama", attn="eager")
    families.tokenizer().save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    ids = torch.tensor(comparing.texts(lengths=(7, 7)))
    pooled = tapped(model, ids, ["head_out", "attn_pattern"], [0, 1, 2])
    bridge = lens.TransformerBridge.boot_transformers(
        str(tmp_path), hf_model=model, tokenizer=AutoTokenizer.from_pretrained(tmp_path)
    )
    _, cache = bridge.run_with_cache(ids)
    for layer in range(3):
        z = cache[f"blocks.{layer}.attn.hook_z"].flatten(0, 1).flatten(1).numpy()
        assert references.distances(pooled.vectors["head_out", layer][EVERY], z).max() < 1e-5
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"].transpose(1, 2)
        rows = pattern.flatten(0, 1).flatten(1).numpy()
        found = pooled.vectors["attn_pattern", layer][EVERY]
        assert references.distances(found, rows).max() < 1e-5


def test_patterns_of_a_prompt_are_the_same_where_an_answer_follows() -> None:
    model = families.build("gemma3", attn="eager")  # its window is shorter than the prompts
    prompts = comparing.texts()
    ids, mask = comparing.padded(prompts, "left")
    anatomy = blocks.find(model)
    wanted = blocks.points(anatomy, ["attn_pattern"], range(3), pattern_length=12)
    with torch.inference_mode(), Tap(wanted, parse_pools("prompt.tokens"), anatomy=anatomy) as tap:
        tap.begin(comparing.regions(mask))
        model.generate(input_ids=ids, attention_mask=mask.long(), max_new_tokens=5)
        pooled = tap.end()
    expected = [
        references.patterns("gemma3", model, {"input_ids": torch.tensor([p])}, 12) for p in prompts
    ]
    spans = comparing.prompt_spans(prompts)
    assert comparing.distances(pooled, expected, spans).max() < 1e-5


@pytest.mark.parametrize(
    ("attn", "said"),
    [
        ("eager", r"7 tokens does not fit .*6 keys.*--pattern-length of 7 or more"),
        ("sdpa", r"returned no attention weights \[1, 4, 7, 7\].*--attn eager"),
    ],
)
def test_prompts_that_do_not_fit_and_attention_without_weights_end_the_pass(
    attn: str, said: str
) -> None:
    model = families.build("llama", attn="eager")
    ids = torch.tensor(comparing.texts(lengths=(7,)))
    anatomy = blocks.find(model)
    short = blocks.points(anatomy, ["attn_pattern"], [0], pattern_length=6)
    model.config._attn_implementation = attn
    with Tap(short, [EVERY], anatomy=anatomy) as tap:
        tap.begin({"prompt": torch.ones_like(ids, dtype=torch.bool)})
        with pytest.raises(HookError, match=said):
            tap.call(anatomy.base, input_ids=ids, use_cache=False)
