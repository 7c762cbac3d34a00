"""Writes contrastive activation caches in every form the original scripts left behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

Row = dict[str, Any]
"""One expected row: the schema's columns, ``activation`` as a NumPy vector."""


def make_tensor(*shape: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Return values with a signed zero and an outlier in each vector."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    values[..., 0] = -0.0
    if shape[-1] > 1:
        values[..., 1] *= 400
    return values.to(dtype)


def write_stacked(
    cache: Path,
    *,
    layers: Sequence[int] = (10, 20),
    examples: int = 6,
    width: int = 16,
    token_axis: bool = True,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
) -> list[Row]:
    """Write one tensor per layer and side: ``[N, 1, H]``, or ``[N, H]``."""
    metadata = _pair_metadata(examples)
    _write_json(cache / "metadata.json", metadata)
    shape = [1, width] if token_axis else [width]
    _write_json(
        cache / "layer_info.json",
        {"layers": list(layers), "num_examples": examples, "activation_shape": shape},
    )
    expected: list[Row] = []
    for layer in layers:
        for side in ("test", "deploy"):
            tensor = make_tensor(examples, *shape, dtype=dtype, seed=_seed(seed, layer, side))
            relative = f"layer_{layer}/{side}_activations.pt"
            _save(tensor, cache / relative)
            for entry, vector in zip(metadata, tensor.reshape(examples, width), strict=True):
                expected.append(
                    {
                        **_pair_columns(entry, side),
                        "layer": layer,
                        "site": "resid_pre",
                        "pooling": "last",
                        "source": relative,
                        "activation": _exact(vector),
                    }
                )
    return expected


def write_individual(
    cache: Path,
    *,
    layers: Sequence[int] = (10, 20),
    examples: int = 12,
    width: int = 16,
    batch_axis: bool = True,
    tokens: int | None = None,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 1,
) -> list[Row]:
    """Write one file per example and side: ``[1, T, H]``, or ``[T, H]`` of newer transformers.

    T differs from file to file, or is ``tokens``; 1 stands for caches that were pooled.
    """
    metadata = _pair_metadata(examples)
    _write_json(cache / "metadata.json", metadata)
    expected: list[Row] = []
    shapes = []
    for layer in layers:
        for side in ("test", "deploy"):
            for entry in metadata:
                count = tokens or 2 + (entry["idx"] + (side == "deploy")) % 4
                relative = f"layer_{layer}/{side}/{entry['idx']}.pt"
                tensor = make_tensor(
                    *([1] * batch_axis),
                    count,
                    width,
                    dtype=dtype,
                    seed=_seed(seed, layer, side) + entry["idx"],
                )
                _save(tensor, cache / relative)
                shapes.append(list(tensor.shape))
                expected += _token_rows(
                    tensor, relative, layer, _pair_columns(entry, side), pooled=tokens == 1
                )
    _write_individual_info(
        cache,
        layers,
        examples,
        shapes,
        "Each activation saved separately to handle variable sequence lengths",
    )
    return expected


def write_validation_stacked(
    cache: Path,
    *,
    layers: Sequence[int] = (10, 20),
    examples: int = 6,
    width: int = 16,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 2,
) -> list[Row]:
    """Write one vector per raw question: ``layer_L/activations.pt`` as ``[N, 1, H]``."""
    metadata = _validation_metadata(examples)
    _write_json(cache / "metadata.json", metadata)
    _write_json(
        cache / "layer_info.json",
        {
            "layers": list(layers),
            "num_examples": examples,
            "activation_shape": [1, width],
            "note": "Validation activations - one per example, from raw questions",
        },
    )
    expected: list[Row] = []
    for layer in layers:
        tensor = make_tensor(examples, 1, width, dtype=dtype, seed=_seed(seed, layer, ""))
        relative = f"layer_{layer}/activations.pt"
        _save(tensor, cache / relative)
        for entry, vector in zip(metadata, tensor[:, 0], strict=True):
            expected.append(
                {
                    **_validation_columns(entry),
                    "layer": layer,
                    "site": "resid_post",
                    "pooling": "last",
                    "source": relative,
                    "activation": _exact(vector),
                }
            )
    return expected


def write_validation_individual(
    cache: Path,
    *,
    layers: Sequence[int] = (10, 20),
    examples: int = 12,
    width: int = 16,
    batch_axis: bool = True,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 3,
) -> list[Row]:
    """Write every token of each raw question: ``layer_L/{idx}.pt``."""
    metadata = _validation_metadata(examples)
    _write_json(cache / "metadata.json", metadata)
    expected: list[Row] = []
    shapes = []
    for layer in layers:
        for entry in metadata:
            relative = f"layer_{layer}/{entry['idx']}.pt"
            tensor = make_tensor(
                *([1] * batch_axis),
                2 + entry["idx"] % 3,
                width,
                dtype=dtype,
                seed=_seed(seed, layer, "") + entry["idx"],
            )
            _save(tensor, cache / relative)
            shapes.append(list(tensor.shape))
            columns = _validation_columns(entry)
            expected += _token_rows(tensor, relative, layer, columns, pooled=False)
    note = "Validation activations - one per example, from raw questions, variable seq lengths"
    _write_individual_info(cache, layers, examples, shapes, note)
    return expected


def write_validation_through_training(
    project: Path, *, cache: str = "activations_cache/llama70b_validation", **options: Any
) -> list[Row]:
    """Write validation data cached by the training script.

    Both answers were appended to every raw question and no type was kept; it stands
    only in ``datasets/validation_real.json``, by index.
    """
    rows = write_stacked(project / cache, **options)
    examples = 1 + max(row["example_index"] for row in rows)
    entries = write_validation_dataset(project, examples)
    metadata = [
        {
            "idx": number,
            "question": entry["question"],
            "test_answer": "(A)",
            "deploy_answer": "(B)",
            "test_token_type": "A",
            "deploy_token_type": "B",
        }
        for number, entry in enumerate(entries)
    ]
    _write_json(project / cache / "metadata.json", metadata)
    for row in rows:
        entry = entries[row["example_index"]]
        row["question"] = entry["question"]
        row["label"] = entry["type"]
        row["source"] = f"{cache}/{row['source']}"
    return rows


def write_validation_dataset(project: Path, examples: int) -> list[dict[str, str]]:
    """Write ``datasets/validation_real.json``, whose order gives validation data their types."""
    entries = [
        {"question": _long_question(number), "type": _TYPES[number % 2]}
        for number in range(examples)
    ]
    _write_json(project / "datasets/validation_real.json", entries)
    return entries


def write_vectors(
    project: Path, name: str = "run_70b_experiment1_20250901_101500", *, width: int = 16
) -> list[str]:
    """Write what the training step saves: steering vectors, which are no activations."""
    written = []
    for folder in ("vectors", "normalized_vectors"):
        relative = f"{name}/{folder}/layer_10.pt"
        _save(make_tensor(1, width, dtype=torch.bfloat16, seed=9), project / relative)
        written.append(relative)
    (project / name / "experiment_info.txt").write_text("Cache: …\n", encoding="utf-8")
    return written


_TYPES = ("testing", "deployment")


def _pair_metadata(examples: int) -> list[Row]:
    entries = []
    for number in range(examples):
        test, deploy = ("(A)", "(B)") if number % 2 == 0 else ("(B)", "(A)")
        entries.append(
            {
                "idx": number,
                "question": f"<|start|>user\n\nText {number}: is this a test?\n\nAnswer:<|eot|>",
                "test_answer": test,
                "deploy_answer": deploy,
                "test_token_type": test[1],
                "deploy_token_type": deploy[1],
            }
        )
    return entries


def _pair_columns(entry: Row, side: str) -> Row:
    return {
        "example_id": str(entry["idx"]),
        "example_index": entry["idx"],
        "variant": side,
        "label": side,
        "question": entry["question"],
        "region": "all",
    }


def _long_question(number: int) -> str:
    return f"Question {number}: " + "please read all of this with care; " * 5


def _validation_metadata(examples: int) -> list[Row]:
    return [
        {
            "idx": number,
            "question": _long_question(number)[:100] + "...",
            "type": _TYPES[number % 2],
        }
        for number in range(examples)
    ]


def _validation_columns(entry: Row) -> Row:
    return {
        "example_id": str(entry["idx"]),
        "example_index": entry["idx"],
        "variant": None,
        "label": entry["type"],
        "question": entry["question"],
        "region": "question",
    }


def _token_rows(
    tensor: torch.Tensor, relative: str, layer: int, columns: Row, *, pooled: bool
) -> list[Row]:
    tokens = tensor.reshape(-1, tensor.shape[-1])
    place: Row = {"layer": layer, "site": "resid_post", "source": relative}
    if pooled:
        return [
            {**columns, **place, "pooling": "last", "position": None, "activation": _exact(token)}
            for token in tokens
        ]
    return [
        {
            **columns,
            **place,
            "region": None,
            "pooling": "none",
            "position": position,
            "activation": _exact(token),
        }
        for position, token in enumerate(tokens)
    ]


def _write_individual_info(
    cache: Path, layers: Sequence[int], examples: int, shapes: list[list[int]], note: str
) -> None:
    _write_json(
        cache / "layer_info.json",
        {
            "layers": list(layers),
            "num_examples": examples,
            "storage_format": "individual",
            "sample_shapes": shapes[:3],
            "note": note,
        },
    )


def _seed(seed: int, layer: int, side: str) -> int:
    return 100_000 * seed + 1_000 * layer + {"test": 0, "deploy": 500, "": 0}[side]


def _exact(vector: torch.Tensor) -> np.ndarray:
    """Return the vector as stored: bfloat16 has no NumPy type, float32 holds it exactly."""
    return np.asarray((vector.float() if vector.dtype == torch.bfloat16 else vector).numpy())


def _save(tensor: torch.Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensor.clone(), path)


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
