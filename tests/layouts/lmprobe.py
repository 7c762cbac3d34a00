"""Writes lmprobe data sets of format 2: an index in Parquet and a safetensors file per shard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

MODEL = "Qwen/Qwen2.5-0.5B"
Row = dict[str, Any]


def write(
    folder: Path,
    *,
    prompts: int = 7,
    per_shard: int = 4,
    layers: Sequence[int] = (0, 3),
    width: int = 12,
    dtype: torch.dtype = torch.float32,
    sequences: bool = False,
    seed: int = 0,
) -> list[Row]:
    """Write a data set and return the rows of its last tokens; with ``sequences`` there are more.

    Prompts do not lie in the shards in the index's order.
    """
    order = torch.randperm(prompts, generator=torch.Generator().manual_seed(seed)).tolist()
    places = {prompt: divmod(at, per_shard) for at, prompt in enumerate(order)}
    shards = -(-prompts // per_shard)
    index = {
        "text": [f"Prompt {n}" for n in range(prompts)],
        "label": [n % 2 if n != 3 else None for n in range(prompts)],
        "num_tokens": [5 + n for n in range(prompts)],
        "shard_index": [places[n][0] for n in range(prompts)],
        "row_offset": [places[n][1] for n in range(prompts)],
        "perplexity_mean": [1.5 + n for n in range(prompts)],
        "token_ids": [list(range(5 + n)) for n in range(prompts)],
        "category": [f"c{n % 3}" for n in range(prompts)],
    }
    hidden: dict[str, Any] = {
        "type": "hidden",
        "layers": list(layers),
        "dim": width,
        "storage": "full_sequence" if sequences else "pooled",
        "pooling": "last_token",
        "file_pattern": "tensors/hidden_layer{layer:03d}_shard{shard:03d}.safetensors",
        "key_pattern": "hidden.layer_{layer}",
    }
    if sequences:
        hidden["last_token_shards"] = shards
    facts = {
        "format_version": "2.0",
        "model": {"name": MODEL, "revision": "abc"},
        "tensors": {"hidden_layers": hidden},
    }
    metadata = {f"lmprobe:{name}": json.dumps(value) for name, value in facts.items()}
    (folder / "index").mkdir(parents=True)
    (folder / "tensors").mkdir()
    table = pa.table(index).replace_schema_metadata(metadata)
    pq.write_table(table, folder / "index" / "train-00000-of-00001.parquet")
    (folder / "README.md").write_text("# Prompts\n")
    expected: list[Row] = []
    for layer in layers:
        for shard in range(2 * shards if sequences else shards):
            rows = [n for n in order if places[n][0] == shard]
            count = len(rows) if shard < shards else 9
            generator = torch.Generator().manual_seed(1000 * seed + 100 * layer + shard)
            values = torch.randn(count, width, generator=generator).to(dtype)
            name = f"tensors/hidden_layer{layer:03d}_shard{shard:03d}.safetensors"
            save_file({f"hidden.layer_{layer}": values}, folder / name)
            if shard < shards:
                exact = values.float() if dtype == torch.bfloat16 else values
                expected += [
                    {
                        "example_id": str(n),
                        "example_index": n,
                        "model": MODEL,
                        "site": "resid_post",
                        "layer": layer,
                        "pooling": "last",
                        "question": f"Prompt {n}",
                        "label": None if n == 3 else str(n % 2),
                        "token_count": 5 + n,
                        "source": f"{name}#hidden.layer_{layer}",
                        "extra": json.dumps({"perplexity_mean": 1.5 + n, "category": f"c{n % 3}"}),
                        "position": None,
                        "activation": exact[at].numpy(),
                    }
                    for at, n in enumerate(rows)
                ]
    return expected
