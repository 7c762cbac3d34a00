"""Writes AMBER sample files (transcoder features per layer) and the tables around them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

Row = dict[str, Any]
"""One expected row: the schema's columns, ``activation`` as a NumPy vector."""

MODEL = "llava-hf/llava-1.5-7b-hf"


def write_samples(
    folder: Path,
    *,
    samples: int = 6,
    layers: int = 31,
    width: int = 32,
    nested: bool = True,
    keys: Literal["int", "str"] = "int",
    dtype: torch.dtype = torch.float16,
    batch_axis: bool = False,
    first: int = 0,
    seed: int = 0,
) -> list[Row]:
    """Write ``sample_0000.pt`` …: ``{'activations': {layer: vector}}`` or the inner table.

    Values are outputs of a ReLU: none is negative and most are zero. ``first`` is the number
    of the first file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    expected: list[Row] = []
    for number in range(first, first + samples):
        generator = torch.Generator().manual_seed(1_000_003 * seed + number)
        values = torch.randn(layers, width, generator=generator).sub_(1.0).relu_().to(dtype)
        table = {
            (layer if keys == "int" else str(layer)): (
                values[layer].clone()[None] if batch_axis else values[layer].clone()
            )
            for layer in range(layers)
        }
        name = f"sample_{number:04d}.pt"
        torch.save({"activations": table} if nested else table, folder / name)
        for layer in range(layers):
            stored = values[layer].float() if dtype == torch.bfloat16 else values[layer]
            expected.append(
                {
                    "example_id": str(number + 1),
                    "example_index": number,
                    "dataset": "AMBER",
                    "question": None,
                    "prediction": None,
                    "label": None,
                    "layer": layer,
                    "site": "features",
                    "pooling": "unknown",
                    "region": None,
                    "position": None,
                    "source": f"{name}#{'activations.' if nested else ''}{layer}",
                    "activation": stored.numpy(),
                }
            )
    return expected


def write_responses(project: Path, samples: int) -> dict[str, str]:
    """Write AMBER's answers, ``{"id": 1, "response": ...}`` per line; ids count from 1."""
    path = project / "results/amber/answer/model_responses.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    answers = {
        str(number): f'The image {number} features a café\u2028and a "table".'
        for number in range(1, samples + 1)
    }
    lines = [{"id": int(name), "response": answer} for name, answer in answers.items()]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    return answers


def write_classification(
    project: Path, good: list[int], bad: list[int]
) -> dict[str, dict[str, Any]]:
    """Write which answers are good and bad, with their scores; most samples are in neither.

    Returns the entries by id, ``class`` among their values.
    """
    path = project / "analysis/amber_classification.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    groups: dict[str, list[dict[str, Any]]] = {
        "GOOD": [{"id": number, "coverage": 1.0, "hallucinated": []} for number in good],
        "BAD": [{"id": number, "coverage": 0.4, "hallucinated": ["dog"]} for number in bad],
    }
    path.write_text(json.dumps(groups), encoding="utf-8")
    features = {"dataset": "AMBER", "layer_distribution": {"0": 3}, "features": []}
    (path.parent / "amber_good_features.json").write_text(json.dumps(features), encoding="utf-8")
    return {
        str(entry["id"]): {"class": name, **entry}
        for name, entries in groups.items()
        for entry in entries
    }


def write_queries(project: Path, samples: int) -> list[dict[str, Any]]:
    """Write AMBER's own prompts."""
    queries: list[dict[str, Any]] = [
        {"id": number, "image": f"AMBER_{number}.jpg", "query": "Describe this image."}
        for number in range(1, samples + 1)
    ]
    path = project / "data/query/query_generative.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(queries), encoding="utf-8")
    return queries


def vectors(rows: list[Row], layer: int) -> np.ndarray:
    """Return the vectors of one layer in the order of the samples: ``[samples, width]``."""
    return np.stack([row["activation"] for row in rows if row["layer"] == layer])
