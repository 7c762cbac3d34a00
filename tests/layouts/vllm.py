"""Writes the files of vLLM's extract_hidden_states: a safetensors file and a lock per request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

LAYERS = (0, 2, 4)
MODEL = "Qwen/Qwen3-8B"
Row = dict[str, Any]


def write(
    folder: Path,
    *,
    requests: int = 3,
    layers: Sequence[int] = LAYERS,
    width: int = 8,
    dtype: torch.dtype = torch.bfloat16,
    layer_ids: bool = True,
    missing: int = 0,
    table: bool = False,
    seed: int = 0,
) -> list[Row]:
    """Write requests of 2, 3, ... tokens; return a row per token and layer.

    Args:
        folder: vLLM's shared_storage_path.
        layers: as vLLM counts them.
        layer_ids: whether ``speculative_config.json`` lies beside the files.
        missing: states that a cached prefix leaves out of the last file.
        table: whether ``requests.jsonl`` tells questions, and generated tokens: the last one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    rows: list[Row] = []
    lines: list[str] = []
    for number in range(requests):
        name = f"cmpl-{number:04x}-0"
        tokens = number + 2
        ids = torch.arange(tokens) + 100 * number
        states = torch.randn(tokens, len(layers), width, generator=generator).to(dtype)
        cut = missing if number == requests - 1 else 0
        save_file(
            {"hidden_states": states[cut:].contiguous(), "token_ids": ids},
            folder / f"{name}.safetensors",
        )
        (folder / f"{name}.safetensors.lock").touch()
        record = {"request_id": name, "question": f"Why {number}?", "label": "yes", "seed": 7}
        lines.append(json.dumps({**record, "prompt_tokens": tokens - 1}))
        for index, k in enumerate(layers):
            for position in range(tokens):
                vector = states[position, index]
                rows.append(
                    {
                        "example_id": name,
                        "model": MODEL,
                        "site": "embeddings" if k == 0 else "resid_post",
                        "layer": k - 1,
                        "pooling": "none",
                        "region": None,
                        "position": position,
                        "token_id": int(ids[position]),
                        "token_role": "generated" if table and position == tokens - 1 else None,
                        "question": f"Why {number}?" if table else None,
                        "label": "yes" if table else None,
                        "extra": '{"seed": 7}' if table else None,
                        "source": f"{name}.safetensors#hidden_states.{index}",
                        "activation": (
                            vector.float() if dtype == torch.bfloat16 else vector
                        ).numpy(),
                    }
                )
    if layer_ids:
        config = {"draft_model_config": {"hf_config": {}}, "method": "extract_hidden_states"}
        config["draft_model_config"]["hf_config"] = {  # type: ignore[index]
            "eagle_aux_hidden_state_layer_ids": list(layers)
        }
        (folder / "speculative_config.json").write_text(json.dumps(config))
    if table:
        (folder / "requests.jsonl").write_text("\n".join(lines))
    return rows
