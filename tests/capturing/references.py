"""What a model computes for one text alone: plain passes, without pads and without a tap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from actstore.models import blocks
from tests.capturing import families

States = dict[tuple[str, int | None], np.ndarray]
"""By (site, layer), float32 ``[T, width]``."""

# Written out by hand: the tests must not ask the code they test where things are.
_BLOCKS = {
    "gpt2": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
    "opt": "model.decoder.layers",
    "falcon": "transformer.h",
    "mamba": "backbone.layers",
    "smolvlm": "model.text_model.layers",
    "idefics2": "model.text_model.layers",
    "idefics3": "model.text_model.layers",
    "llama4": "language_model.model.layers",
}
_NORM = {
    "gpt2": "transformer.ln_f",
    "gpt_neox": "gpt_neox.final_layer_norm",
    "opt": "model.decoder.final_layer_norm",
    "falcon": "transformer.ln_f",
    "mamba": "backbone.norm_f",
    "lfm2": "model.embedding_norm",
    "lfm2_moe": "model.embedding_norm",
    "lfm2_vl": "model.language_model.embedding_norm",
    "jamba": "model.final_layernorm",
    "zamba": "model.final_layernorm",
    "zamba2": "model.final_layernorm",
    "bamba": "model.final_layernorm",
    "falcon_h1": "model.final_layernorm",
    "nemotron_h": "model.norm_f",
    "recurrent_gemma": "model.final_norm",
}
_ATTENTION: dict[str, dict[int, str]] = {
    "gpt2": dict.fromkeys(range(3), "attn"),
    "gpt_neox": dict.fromkeys(range(3), "attention"),
    "falcon": dict.fromkeys(range(3), "self_attention"),
    "qwen3_next": {0: "linear_attn", 1: "self_attn", 2: "linear_attn"},
    "mamba": {},
    "lfm2": {1: "self_attn"},
    "lfm2_moe": {1: "self_attn"},
    "lfm2_vl": {1: "self_attn"},
    "jamba": {1: "self_attn"},
    "zamba": {},
    "zamba2": {},
    "falcon_h1": {},  # attention and Mamba side by side
    "bamba": {1: "self_attn"},
    "granitemoehybrid": {1: "self_attn"},
    "nemotron_h": {1: "mixer"},
    "recurrent_gemma": {1: "temporal_block"},
}
_MLP: dict[str, dict[int, tuple[str, str]]] = {
    "opt": dict.fromkeys(range(3), ("fc1", "fc2")),
    "mamba": {},
    **{
        name: dict.fromkeys(range(3), ("feed_forward", "feed_forward"))
        for name in (
            "lfm2", "lfm2_moe", "lfm2_vl", "jamba", "bamba", "falcon_h1", "llama4_text", "llama4",
        )
    },
    "zamba": {},  # its attention and MLP feed the Mamba of their block
    "zamba2": {},
    "granitemoehybrid": {},  # two MLPs side by side
    "nemotron_h": dict.fromkeys((2, 3), ("mixer", "mixer")),
    "recurrent_gemma": dict.fromkeys(range(3), ("mlp_block", "mlp_block")),
}  # fmt: skip
_PROJECTION = {
    "gpt2": "attn.c_proj",
    "gpt_neox": "attention.dense",
    "falcon": "self_attention.dense",
    "opt": "self_attn.out_proj",
    "lfm2": "self_attn.out_proj",
    "lfm2_moe": "self_attn.out_proj",
    "lfm2_vl": "self_attn.out_proj",
    "nemotron_h": "mixer.o_proj",
    "recurrent_gemma": "temporal_block.o_proj",
}
"""What takes the outputs of the heads; ``self_attn.o_proj`` elsewhere."""
_HEADS: dict[str, tuple[int, ...]] = {"qwen3_next": (1,), "falcon_h1": (0, 1, 2)}
"""Layers with heads, where they are not those with ``attn_out``."""
_MIXERS: dict[str, dict[str, tuple[int, ...]]] = {
    "mamba": {"mixer": (0, 1, 2)},
    "lfm2": {"conv": (0, 2)},
    "lfm2_moe": {"conv": (0, 2)},
    "lfm2_vl": {"conv": (0, 2)},
    "jamba": {"mamba": (0, 2)},
    "zamba": {
        "mamba": (0, 2),
        "mamba_decoder.mamba": (1, 3),
        "shared_transf.self_attn": (1, 3),
        "shared_transf.feed_forward": (1, 3),
    },
    "zamba2": {
        "mamba": (0, 2),
        "mamba_decoder.mamba": (1, 3),
        "shared_transformer.self_attn": (1, 3),
        "shared_transformer.feed_forward": (1, 3),
    },
    "bamba": {"mamba": (0, 2)},
    "falcon_h1": {"mamba": (0, 1, 2), "self_attn": (0, 1, 2)},
    "granitemoehybrid": {
        "mamba": (0, 2),
        "block_sparse_moe": (0, 1, 2),
        "shared_mlp.input": (0, 1, 2),
        "shared_mlp": (0, 1, 2),
    },
    "nemotron_h": {"mixer": (0,)},
    "recurrent_gemma": {"temporal_block": (0, 2)},
}
"""What is captured by its path: modules that are neither attention nor the block's one MLP."""
_UNCHAINED = ("mamba", "qwen3_vl")
"""Entries of ``hidden_states`` shifted; features added between blocks."""


def blocks_path(name: str, *, sees: bool = False) -> str:
    """Return where the family keeps its blocks."""
    return _BLOCKS.get(name, "model.language_model.layers" if sees else "model.layers")


def sites(name: str) -> dict[str, tuple[int, ...]]:
    """Return the sites that a family has, and the layers that have each."""
    every = tuple(range(families.depth(name)))
    found = {"resid_post": every, "resid_pre": every, "embeddings": every, "final_norm": every}
    mlp = tuple(_MLP.get(name, dict.fromkeys(every)))
    attention = tuple(_ATTENTION.get(name, every))
    named = {"attn_out": attention, "mlp_in": mlp, "mlp_out": mlp}
    named["head_out"] = _HEADS.get(name, attention)
    named |= _MIXERS.get(name, {})
    return found | {site: layers for site, layers in named.items() if layers}


def points(name: str, anatomy: blocks.Anatomy) -> list[blocks.HookPoint]:
    """Return where to hook for all of these."""
    return [
        point
        for site, layers in sites(name).items()
        for point in blocks.points(anatomy, [site], layers)
    ]


def patterns(name: str, model: Any, inputs: Mapping[str, Any], keys: int) -> States:
    """Return the attention of one text ``[1, T]``: per query, its heads' rows over ``keys``."""
    layers = sites(name).get("head_out", ())
    with torch.inference_mode():
        output = model(**inputs, output_attentions=True, use_cache=False)
    reported = [each for each in output.attentions or () if each is not None] if layers else []
    found: States = {}
    for layer, weights in zip(layers, reported, strict=True):
        heads, length = weights.shape[1:3]
        rows = np.zeros((length, heads, keys), np.float32)
        for query in range(length):
            rows[query, :, :length] = weights[0, :, query].float().numpy()
        found["attn_pattern", layer] = rows.reshape(length, -1)
    return found


def alone(name: str, model: Any, inputs: Mapping[str, Any], *, sees: bool = False) -> States:
    """Return all states of one text ``[1, T]``, from one pass of the model.

    The residual stream comes from ``output_hidden_states``; hooks are used only for modules,
    for the last block, whose entry transformers overwrites, and where blocks are not chained.
    """
    with _recording(name, model, sees=sees) as parts, torch.inference_mode():
        output = model(**inputs, output_hidden_states=True, use_cache=False)
    return _joined(name, parts, [output.hidden_states])


def step_by_step(name: str, model: Any, prompt: Sequence[int], response: Sequence[int]) -> States:
    """Return all states of one text whose response is fed token by token, as in generation."""
    forced = [*response, families.PAD]
    with _recording(name, model) as parts, torch.inference_mode():
        output = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            prefix_allowed_tokens_fn=lambda _, ids: [forced[len(ids) - len(prompt)]],
            max_new_tokens=len(forced),
            do_sample=False,
            eos_token_id=None,
            pad_token_id=families.PAD,
            output_hidden_states=True,
            return_dict_in_generate=True,
        )
    return _joined(name, parts, output.hidden_states)


def _joined(name: str, parts: Mapping[Any, list[np.ndarray]], passes: Sequence[Any]) -> States:
    """Put the passes of one text behind each other."""
    seen: States = {key: np.concatenate(found) for key, found in parts.items()}
    if name == "mamba":
        seen["embeddings", -1] = seen["resid_pre", 0]
        return seen
    hidden = [
        np.concatenate([each[0].float().numpy() for each in entry])
        for entry in zip(*passes, strict=True)
    ]
    seen["embeddings", -1] = hidden[0]
    for layer in range(len(hidden) - 1):
        seen.setdefault(("resid_pre", layer), hidden[layer])
        seen.setdefault(("resid_post", layer), hidden[layer + 1])
    assert np.array_equal(hidden[-1], seen["final_norm", None])
    return seen


@contextmanager
def _recording(
    name: str, model: Any, *, sees: bool = False
) -> Iterator[dict[tuple[str, int | None], list[np.ndarray]]]:
    """Keep what the family's modules take and return, pass by pass."""
    parts: dict[tuple[str, int | None], list[np.ndarray]] = {}
    handles = []

    def record(module: Any, key: tuple[str, int | None], *, takes_input: bool = False) -> None:
        def before(_: Any, args: Any, kwargs: Any) -> None:
            keep(args[0] if args else kwargs.get("hidden_states", kwargs.get("x")))

        def after(_: Any, __: Any, output: Any) -> None:
            keep(output[0] if isinstance(output, tuple) else output)

        def keep(states: torch.Tensor) -> None:
            flat = states.detach().clone().float().numpy().reshape(-1, states.shape[-1])
            parts.setdefault(key, []).append(flat)

        handles.append(
            module.register_forward_pre_hook(before, with_kwargs=True)
            if takes_input
            else module.register_forward_hook(after)
        )

    path = blocks_path(name, sees=sees)
    found = model.get_submodule(path)
    record(found[-1], ("resid_post", len(found) - 1))
    record(
        model.get_submodule(_NORM.get(name, path.rpartition(".")[0] + ".norm")),
        ("final_norm", None),
    )
    every = range(len(found))
    attention = _ATTENTION.get(name, dict.fromkeys(every, "self_attn"))
    mlp = _MLP.get(name, dict.fromkeys(every, ("mlp", "mlp")))
    for layer, block in enumerate(found):
        if layer in attention:
            record(block.get_submodule(attention[layer]), ("attn_out", layer))
        if layer in _HEADS.get(name, tuple(attention)):
            projection = block.get_submodule(_PROJECTION.get(name, "self_attn.o_proj"))
            record(projection, ("head_out", layer), takes_input=True)
        if layer in mlp:
            record(block.get_submodule(mlp[layer][0]), ("mlp_in", layer), takes_input=True)
            record(block.get_submodule(mlp[layer][1]), ("mlp_out", layer))
        for site, layers in _MIXERS.get(name, {}).items():
            inner, is_input, _ = site.partition(".input")
            if layer in layers:
                record(block.get_submodule(inner), (site, layer), takes_input=bool(is_input))
        if name in _UNCHAINED:
            record(block, ("resid_pre", layer), takes_input=True)
            if layer < len(found) - 1:
                record(block, ("resid_post", layer))
    try:
        yield parts
    finally:
        for handle in handles:
            handle.remove()


def distances(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return the relative L2 distance of every row."""
    found, expected = np.atleast_2d(found).astype(np.float64), np.atleast_2d(expected)
    assert found.shape == expected.shape
    scale = np.maximum(np.linalg.norm(expected, axis=1), 1e-30)
    apart: np.ndarray = np.linalg.norm(found - expected, axis=1) / scale
    return apart


def noise(rough: States, exact: States) -> np.ndarray:
    """Return the relative distances of all states of one text."""
    return np.concatenate([distances(states, exact[key]) for key, states in rough.items()])
