"""Tiny models whose blocks put their parts together in an unusual way."""

from __future__ import annotations

from typing import Any

import torch

from tests.capturing import families

_BLOOM = {"hidden_size": families.WIDTH, "n_layer": families.BLOCKS, "n_head": 4}
_OPT = {
    "hidden_size": families.WIDTH,
    "ffn_dim": 48,
    "num_hidden_layers": families.BLOCKS,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
_GRANITE = {
    "hidden_size": families.WIDTH,
    "intermediate_size": 48,
    "shared_intermediate_size": 24,
    "num_hidden_layers": families.BLOCKS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "max_position_embeddings": 256,
}
_SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    # attention and MLP are given the residual, and return the sum
    "bloom": ("bloom", _BLOOM),
    "bloom_post_norm": ("bloom", {**_BLOOM, "apply_residual_connection_post_layernorm": True}),
    # the MLP alone is
    "mpt": (
        "mpt",
        {
            "d_model": families.WIDTH,
            "n_layers": families.BLOCKS,
            "n_heads": 4,
            "max_seq_len": 256,
            "use_cache": True,
        },
    ),
    # norms after the sums, embeddings of another width, no final norm
    "opt_350m": ("opt", {**_OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "opt_projected": ("opt", {**_OPT, "word_embed_proj_dim": 16}),
    "opt_post_norm": ("opt", {**_OPT, "do_layer_norm_before": False}),
    # a shared MLP beside the experts
    "granitemoeshared": ("granitemoeshared", {**_GRANITE, "residual_multiplier": 0.5}),
    # counts positions from the pad's id on, unless it is given others; its parts are normed in them
    "roberta": (
        "roberta",
        {
            "hidden_size": families.WIDTH,
            "intermediate_size": 48,
            "num_hidden_layers": families.BLOCKS,
            "num_attention_heads": 4,
            "max_position_embeddings": 256,
            "is_decoder": True,
        },
    ),
}
NAMES = tuple(_SETTINGS)
ODD = tuple(name for name in NAMES if name not in ("granitemoeshared", "roberta"))
"""Those of which every site is what its name says."""


def build(name: str, seed: int = 0, *, dtype: torch.dtype = torch.float32) -> Any:
    """Return a causal model of that kind, as `families.build` makes them."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, settings = _SETTINGS[name]
    config = AutoConfig.for_model(
        kind,
        **settings,
        vocab_size=families.VOCAB,
        tie_word_embeddings=False,
        pad_token_id=families.PAD,
        bos_token_id=families.BOS,
        eos_token_id=families.EOS,
    )
    torch.manual_seed(seed)
    return families.enliven(AutoModelForCausalLM.from_config(config), seed).to(dtype)
