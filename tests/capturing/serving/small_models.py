"""Small models with random weights that vLLM runs on a CPU, where heads are 32 wide at least."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.capturing import families

FAMILIES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3")
_SLIDING = {"sliding_window": 8, "query_pre_attn_scalar": 32}
_MORE: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 32},
    "gemma2": {"head_dim": 32, **_SLIDING},
    "gemma3": {"head_dim": 32, **_SLIDING},
}


def build(family: str) -> Any:
    """Return a model of transformers in float32 whose parts all matter."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "gemma3_text" if family == "gemma3" else family,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        vocab_size=families.VOCAB,
        tie_word_embeddings=family.startswith("gemma"),
        pad_token_id=families.PAD,
        bos_token_id=families.BOS,
        eos_token_id=families.EOS,
        **_MORE.get(family, {}),
    )
    torch.manual_seed(0)
    return families.enliven(AutoModelForCausalLM.from_config(config), 0)


def save(family: str, folder: Path) -> Path:
    """Write model and tokenizer into a folder as they would be downloaded."""
    build(family).save_pretrained(folder)
    families.tokenizer().save_pretrained(folder)
    return folder
