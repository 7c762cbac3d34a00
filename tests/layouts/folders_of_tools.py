"""Folders of activations as TransformerLens, nnsight and speculators save them."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.layouts.drawing import WIDTH, Row, draw, rows_of


def transformer_lens(folder: Path) -> list[Row]:
    """``torch.save(dict(cache.items()))``: hook names, [batch, pos, …]."""
    rows = []
    for number in range(2):
        tokens = 3 + number
        cache = {"hook_embed": draw(1, tokens, WIDTH)}
        for layer in (0, 1):
            cache[f"blocks.{layer}.hook_resid_pre"] = draw(1, tokens, WIDTH)
            cache[f"blocks.{layer}.ln1.hook_scale"] = draw(1, tokens, 1)
            cache[f"blocks.{layer}.attn.hook_pattern"] = draw(1, 2, tokens, tokens)
            cache[f"blocks.{layer}.attn.hook_z"] = draw(1, tokens, 2, WIDTH // 2)
            cache[f"blocks.{layer}.hook_mlp_out"] = draw(1, tokens, WIDTH)
        torch.save(cache, folder / f"cache_{number}.pt")
        known = {"example_id": f"cache_{number}", "pooling": "none"}
        rows += rows_of(cache["hook_embed"][0], site="embeddings", layer=-1, **known)
        for layer in (0, 1):
            for site in ("resid_pre", "mlp_out"):
                tensor = cache[f"blocks.{layer}.hook_{site}"][0]
                rows += rows_of(tensor, site=site, layer=layer, **known)
    return rows


def nnsight_list(folder: Path) -> list[Row]:
    """``torch.save([layer.output[0].save() for layer in model.transformer.h])``."""
    saved = [draw(1, 5, WIDTH) for _ in range(4)]
    torch.save(saved, folder / "run.pt")
    return [
        each
        for layer, states in enumerate(saved)
        for each in rows_of(states[0], example_id="run", layer=layer, pooling="none")
    ]


def nnsight_paths(folder: Path) -> list[Row]:
    """``torch.save({path: cache[path].output …})`` of ``tracer.cache()``."""
    rows = []
    for name in ("first", "second"):
        states = {
            f"model.transformer.h.{layer}{part}": draw(1, 4, WIDTH)
            for layer in (0, 1)
            for part in ("", ".mlp")
        }
        torch.save(states, folder / f"{name}.pt")
        for path, tensor in states.items():
            layer = int(path.split(".")[3])
            site = "mlp_out" if path.endswith(".mlp") else "resid_post"
            rows += rows_of(tensor[0], example_id=name, layer=layer, site=site, pooling="none")
    return rows


def speculators(folder: Path) -> list[Row]:
    """``data_{i}.pt`` of speculators' data_generation_offline: a list of chosen layers."""
    rows = []
    for number in range(2):
        tokens = 5 + number
        states = [draw(tokens, WIDTH) for _ in range(3)]
        document = {
            "input_ids": torch.arange(100, 100 + tokens),
            "hidden_states": states,
            "loss_mask": torch.ones(tokens, dtype=torch.long),
        }
        torch.save(document, folder / f"data_{number}.pt")
        for layer, matrix in enumerate(states):
            found = rows_of(matrix, example_id=f"data_{number}", layer=layer)
            rows += [{**each, "token_id": 100 + each["position"]} for each in found]
    return rows
