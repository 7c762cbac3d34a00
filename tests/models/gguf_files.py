"""Small GGUF files, written by the package gguf from models with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

WIDTH, BLOCKS, HEADS, KV_HEADS, FEED = 64, 3, 4, 2, 96
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} {{ message['content'] }}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# Names of llama.cpp's parts of a block, and those of transformers.
_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_HEADS = {"attn_q": HEADS, "attn_k": KV_HEADS}

Change = Callable[[gguf.GGUFWriter], None]


def vocabulary() -> list[str]:
    """Return special tokens, the 256 letters that bytes are written with, and two merges."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [*SPECIAL, *bytes_to_unicode().values(), "th", "Ġi"]


def model(kind: str = "llama", seed: int = 0) -> Any:
    """Return a model of the size that the files have; ``qwen2`` has biases in its attention."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.capturing import families

    config = AutoConfig.for_model(
        kind,
        vocab_size=len(vocabulary()),
        hidden_size=WIDTH,
        intermediate_size=FEED,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    torch.manual_seed(seed)
    return families.enliven(AutoModelForCausalLM.from_config(config), seed)


def write(
    path: Path,
    source: Any,
    *,
    kind: str = "llama",
    quantization: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    leave_out: str | None = None,
    change: Change | None = None,
) -> dict[str, torch.Tensor]:
    """Write ``source`` to ``path``; return its weights as they stand in the file, unpacked.

    ``leave_out`` names a tensor that is not written; ``change`` may add keys and tensors.
    """
    writer = gguf.GGUFWriter(path, kind)
    writer.add_name("tiny")
    writer.add_block_count(BLOCKS)
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(vocabulary()))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary())
    writer.add_token_types([3] * len(SPECIAL) + [1] * 258)
    writer.add_token_merges(["t h", "Ġ i"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    unpacked = {}
    for name, (own, values) in _tensors(source).items():
        if name == leave_out:
            continue
        plain = values.ndim == 1
        packed = values if plain else gguf.quants.quantize(values, quantization)
        writer.add_tensor(name, packed, raw_dtype=None if plain else quantization)
        kept = values if plain else gguf.quants.dequantize(packed, quantization)
        unpacked[own] = torch.from_numpy(np.array(kept if plain else _unfolded(kept, name, source)))
    if change is not None:
        change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return unpacked


def _tensors(source: Any) -> dict[str, tuple[str, Any]]:
    """Return the model's tensors by their names in the file, with transformers' names."""
    weights = source.state_dict()
    named = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    for block in range(BLOCKS):
        for short, long in _PARTS.items():
            for end in ("weight", "bias"):
                own = f"model.layers.{block}.{long}.{end}"
                if own in weights:
                    named[f"blk.{block}.{short}.{end}"] = own
    return {
        name: (own, _folded(weights[own].float().numpy(), name, source))
        for name, own in named.items()
    }


def _folded(values: Any, name: str, source: Any) -> Any:
    """Return queries and keys in the order of rows that llama.cpp wants of a Llama."""
    heads = _HEADS.get(name.split(".")[-2])
    if heads is None or source.config.model_type != "llama":
        return values
    rows = values.reshape(heads, 2, -1, *values.shape[1:])
    return np.ascontiguousarray(rows.swapaxes(1, 2).reshape(values.shape))


def _unfolded(values: Any, name: str, source: Any) -> Any:
    heads = _HEADS.get(name.split(".")[-2])
    if heads is None or source.config.model_type != "llama":
        return values
    rows = values.reshape(heads, -1, 2, *values.shape[1:])
    return rows.swapaxes(1, 2).reshape(values.shape)
