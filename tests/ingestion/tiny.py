"""A small Llama of transformers, and what plain hooks see in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

MODEL = "org/model"


def tiny_model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
        vocab_size=30,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    for block in model.model.layers:  # not ones, so that a norm without its weights is seen
        torch.nn.init.uniform_(block.post_attention_layernorm.weight, 0.5, 1.5)
    torch.nn.init.uniform_(model.model.norm.weight, 0.5, 1.5)
    return model


def hooked(model: Any, ids: torch.Tensor) -> dict[tuple[str, int | None], np.ndarray]:
    """Return what plain hooks see, by site and layer."""
    seen: dict[tuple[str, int | None], np.ndarray] = {}

    def keep(site: str, layer: int | None, value: Any) -> None:
        value = value if isinstance(value, torch.Tensor) else value[0]
        seen[site, layer] = value.detach().numpy().copy()

    handles = []
    for number, block in enumerate(model.model.layers):
        for site, module in (
            ("resid_post", block),
            ("mlp_out", block.mlp),
            ("attn_out", block.self_attn),
        ):
            handles.append(
                module.register_forward_hook(
                    lambda _, __, out, site=site, number=number: keep(site, number, out)
                )
            )
        handles.append(
            block.mlp.register_forward_hook(
                lambda _, args, __, number=number: keep("mlp_in", number, args[0])
            )
        )
    handles.append(
        model.model.norm.register_forward_hook(lambda _, __, out: keep("final_norm", None, out))
    )
    with torch.no_grad():
        model(ids)
    for handle in handles:
        handle.remove()
    return seen


IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
