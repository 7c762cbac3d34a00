"""Tiny models with random weights of every family that capture is tested on, and a tokenizer."""

from __future__ import annotations

import functools
from typing import Any

import torch

VOCAB = 96
WIDTH = 32
BLOCKS = 3
PAD, BOS, EOS = 0, 1, 2

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|{{ message['role'] }}|>"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Roles are single special tokens; an image part becomes ``<image>``."""

_COMMON = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_MAMBA2 = {
    "mamba_d_state": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 4,
}
_SETTINGS: dict[str, dict[str, Any]] = {
    "llama": _COMMON,
    "qwen2": _COMMON,
    "qwen3": {**_COMMON, "head_dim": 8},
    "qwen3_moe": {**_COMMON, **_MOE, "head_dim": 8},
    "gemma2": {**_COMMON, "head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8},
    "gemma3": {**_COMMON, "head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8},
    "mistral": {**_COMMON, "head_dim": 8, "sliding_window": 8},
    "mixtral": {**_COMMON, "num_local_experts": 4},
    "phi3": _COMMON,
    "gpt2": {"n_embd": WIDTH, "n_layer": BLOCKS, "n_head": 4, "n_positions": 256},
    "gpt_neox": _COMMON,
    "opt": {**_COMMON, "ffn_dim": 48, "word_embed_proj_dim": WIDTH},
    "falcon": {
        "hidden_size": WIDTH,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": 4,
        "num_kv_heads": 2,
        "new_decoder_architecture": True,
    },
    "olmo2": _COMMON,
    "mamba": {"hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "state_size": 4},
    "qwen3_next": {
        **_COMMON,
        **_MOE,
        "head_dim": 8,
        "shared_expert_intermediate_size": 24,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    },
    "deepseek_v3": {
        **_COMMON,
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 6,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "moe_intermediate_size": 24,
        "first_k_dense_replace": 1,
    },
    "granite": {**_COMMON, "residual_multiplier": 0.5, "embedding_multiplier": 3.0},
    "nemotron": _COMMON,
    "ernie4_5": {**_COMMON, "head_dim": 8},
    "ernie4_5_moe": {
        **_COMMON,
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_intermediate_size": 24,
        "moe_num_shared_experts": 1,
        "moe_layer_start_index": 1,
    },
    "seed_oss": {**_COMMON, "head_dim": 8},
    "smollm3": {**_COMMON, "no_rope_layers": [1, 0, 1]},
    "gpt_oss": {
        **_COMMON,
        "head_dim": 8,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "llama4_text": {
        **_COMMON,
        "head_dim": 8,
        "intermediate_size_mlp": 48,
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 2,
        "attention_chunk_size": 8,
        "no_rope_layers": [1, 0, 1],
    },
    "lfm2": {**_COMMON, "layer_types": ["conv", "full_attention", "conv"]},
    "lfm2_moe": {
        **_COMMON,
        **_MOE,
        "layer_types": ["conv", "full_attention", "conv"],
        "num_dense_layers": 1,
    },
    "jamba": {
        **_COMMON,
        "num_experts": 4,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
    },
    "zamba": {
        **_COMMON,
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
        "n_mamba_heads": 2,
        "attention_head_dim": 16,
    },
    "zamba2": {
        **_COMMON,
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "mamba_d_state": 8,
        "mamba_ngroups": 1,
        "n_mamba_heads": 8,
        "mamba_headdim": 8,
        "chunk_size": 4,
        "num_mem_blocks": 1,
        "adapter_rank": 4,
    },
    "bamba": {**_COMMON, **_MAMBA2, "attn_layer_indices": [1]},
    "falcon_h1": {
        **_COMMON,
        **_MAMBA2,
        "mamba_d_ssm": 64,
        "ssm_out_multiplier": 0.7,
        "attention_out_multiplier": 0.6,
    },
    "granitemoehybrid": {
        **_COMMON,
        **_MAMBA2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 24,
        "layers_block_type": ["mamba", "attention", "mamba"],
        "residual_multiplier": 0.5,
    },
    "nemotron_h": {
        **_COMMON,
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "attention", "moe", "mlp"],
        "head_dim": 8,
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "ssm_state_size": 8,
        "n_groups": 1,
        "chunk_size": 4,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "moe_shared_expert_intermediate_size": 24,
    },
    "recurrent_gemma": {
        **_COMMON,
        "lru_width": WIDTH,
        "attention_window_size": 4,
        "head_dim": 8,
        "block_types": ["recurrent", "attention"],
    },
}
_GAIN = {"qwen3_next": 0.8, "zamba": 0.8, "zamba2": 0.8, "nemotron_h": 0.8}
"""Their recurrences multiply rounding errors: with larger weights the same pass in batches of other
sizes is 2e-5 apart in float32, and equal in float64."""
LANGUAGE = tuple(_SETTINGS)
"""Every family of text models that capture is tested on."""


def depth(name: str) -> int:
    """Return how many blocks the tests' model of a family has."""
    return int(_SETTINGS.get(name, {}).get("num_hidden_layers", BLOCKS))


def build(
    name: str,
    seed: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
    attn: str | None = None,
    **further: Any,
) -> Any:
    """Return a causal model of the family, in evaluation mode; ``further`` are settings of it.

    Weights are several times larger than at a usual start, so that attention and experts do
    something, and one token does not simply repeat for ever in generation.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {**_SETTINGS[name], "vocab_size": VOCAB, "tie_word_embeddings": False, **further}
    kind = "gemma3_text" if name == "gemma3" else name
    config = AutoConfig.for_model(
        kind, **settings, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attn)
    return cast(enliven(model, seed, gain=_GAIN.get(name, 1.2)), dtype)


def cast(model: Any, dtype: torch.dtype) -> Any:
    """Convert a model; complex numbers (Llama 4's rotations) stay what they are."""
    return model._apply(lambda each: each.to(dtype) if each.is_floating_point() else each)


def enliven(model: Any, seed: int, *, gain: float = 1.2) -> Any:
    """Give matrices and norms values that make every part of the model matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "A_log" not in name:
                fan = parameter.shape[-1]
                noise = torch.randn(parameter.shape, generator=generator)
                scale = 1.0 if "embed" in name or "wte" in name else gain / fan**0.5
                parameter.copy_(noise * scale)
            elif "norm" in name or "bias" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.eval()
    generation = model.generation_config
    generation.do_sample = False
    generation.pad_token_id, generation.bos_token_id, generation.eos_token_id = PAD, BOS, EOS
    return model


@functools.cache
def _vocabulary() -> dict[str, int]:
    special = ["<pad>", "<bos>", "<eos>", "<unk>", "<|system|>", "<|user|>", "<|assistant|>"]
    special += ["<|end|>", "<image>", "<video>", "<|vision_start|>", "<|vision_end|>"]
    special += ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    words = (
        "what is larger smaller which the of two numbers answer a b c yes no or and you be brief"
    )
    marks = list("0123456789:?.,!+-*/=()")
    return {word: number for number, word in enumerate(special + words.split() + marks)}


def build_vlm(
    name: str, seed: int = 0, *, dtype: torch.dtype = torch.float32, attn: str | None = None
) -> tuple[Any, Any]:
    """Return a vision-language model of the family and its processor; see `vision_families`."""
    from tests.capturing import vision_families

    return vision_families.build_vlm(name, seed, dtype=dtype, attn=attn)


def tokenizer(
    *, padding_side: str = "left", bos: bool = True, named: dict[str, str] | None = None
) -> Any:
    """Return a fast tokenizer of words and single digits, which begins texts with ``<bos>``.

    ``named`` gives tokens a name as attributes, as processors want them (``image_token``).
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = _vocabulary()
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s+"), "removed"),
            pre_tokenizers.Split(Regex(r"\d|[^\w\s]"), "isolated"),
        ]
    )
    if bos:
        inner.post_processor = processors.TemplateProcessing(
            single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", BOS)]
        )
    special = [word for word in vocabulary if word.startswith("<") and len(word) > 1]
    found = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        extra_special_tokens=[word for word in special if word not in _NAMED],
        padding_side=padding_side,
        **(named or {}),
    )
    found.chat_template = CHAT_TEMPLATE
    return found


_NAMED = ("<pad>", "<bos>", "<eos>", "<unk>")
