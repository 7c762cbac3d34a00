"""What a model computes for one text alone: plain passes, without pads and without a tap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

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
}
_ATTENTION = {
    "gpt2": "attn",
    "gpt_neox": "attention",
    "falcon": "self_attention",
    "mamba": "mixer",
}
_MLP: dict[str, tuple[str, str] | None] = {"opt": ("fc1", "fc2"), "mamba": None}
_NORM = {
    "gpt2": "transformer.ln_f",
    "gpt_neox": "gpt_neox.final_layer_norm",
    "opt": "model.decoder.final_layer_norm",
    "falcon": "transformer.ln_f",
    "mamba": "backbone.norm_f",
    "smolvlm": "model.text_model.norm",
}


def blocks_path(name: str, *, sees: bool = False) -> str:
    """Return where the family keeps its blocks."""
    return _BLOCKS.get(name, "model.language_model.layers" if sees else "model.layers")


def sites(name: str) -> tuple[str, ...]:
    """Return the sites that a family has."""
    every = ("resid_post", "resid_pre", "attn_out", "mlp_in", "mlp_out", "embeddings", "final_norm")
    return every if _MLP.get(name, ("", "")) else tuple(s for s in every if "mlp" not in s)


def alone(name: str, model: Any, inputs: Mapping[str, Any], *, sees: bool = False) -> States:
    """Return all states of one text ``[1, T]``, from one pass of the model.

    The residual stream comes from ``output_hidden_states``; hooks are used only for modules,
    for the last block, whose entry transformers overwrites, and where blocks are not chained.
    """
    path = blocks_path(name, sees=sees)
    blocks = model.get_submodule(path)
    count = len(blocks)
    norm = model.get_submodule(_NORM.get(name, path.rpartition(".")[0] + ".norm"))
    seen: States = {}
    with _recording(seen) as record, torch.inference_mode():
        record(blocks[-1], ("resid_post", count - 1))
        record(norm, ("final_norm", None))
        for layer, block in enumerate(blocks):
            record(_attention(name, block), ("attn_out", layer))
            if (mlp := _MLP.get(name, ("mlp", "mlp"))) is not None:
                record(block.get_submodule(mlp[0]), ("mlp_in", layer), takes_input=True)
                record(block.get_submodule(mlp[1]), ("mlp_out", layer))
            if name in ("mamba", "qwen3_vl"):  # entries shifted; features added between blocks
                record(block, ("resid_pre", layer), takes_input=True)
                record(block, ("resid_post", layer))
        output = model(**inputs, output_hidden_states=True, use_cache=False)
    hidden = [state[0].float().numpy() for state in output.hidden_states]
    if name == "mamba":
        seen["embeddings", -1] = seen["resid_pre", 0]
        return seen
    seen["embeddings", -1] = hidden[0]
    for layer in range(count):
        seen.setdefault(("resid_pre", layer), hidden[layer])
        seen.setdefault(("resid_post", layer), hidden[layer + 1])
    assert np.array_equal(hidden[-1], seen["final_norm", None])
    return seen


def _attention(name: str, block: Any) -> Any:
    if name == "qwen3_next" and hasattr(block, "linear_attn"):
        return block.linear_attn
    return block.get_submodule(_ATTENTION.get(name, "self_attn"))


@contextmanager
def _recording(seen: States) -> Iterator[Any]:
    handles = []

    def record(module: Any, key: tuple[str, int | None], *, takes_input: bool = False) -> None:
        def before(_: Any, args: Any, kwargs: Any) -> None:
            keep(args[0] if args else kwargs["hidden_states"])

        def after(_: Any, __: Any, output: Any) -> None:
            keep(output[0] if isinstance(output, tuple) else output)

        def keep(states: torch.Tensor) -> None:
            seen[key] = states.detach().clone().float().numpy().reshape(-1, states.shape[-1])

        handles.append(
            module.register_forward_pre_hook(before, with_kwargs=True)
            if takes_input
            else module.register_forward_hook(after)
        )

    try:
        yield record
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
