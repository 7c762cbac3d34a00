"""Writes training pairs for cross-layer transcoders as the original capture script does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

Row = dict[str, Any]
"""One expected row: the schema's columns, ``activation`` as a NumPy vector."""

Form = Literal["dict", "data", "bare"]


def write_multi_target(
    folder: Path,
    *,
    layers: int = 5,
    batches: int = 3,
    batch_size: int = 1,
    samples: int | None = None,
    tokens: int = 3,
    width: int = 16,
    targets: int = 3,
    squeezable: bool = False,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
) -> list[Row]:
    """Write ``L*/batch_i_x.pt`` and ``_y.pt`` with every target of each layer.

    Targets past the last layer are zeros, ``y`` is ``targets[0]``, and each MLP output
    stands in up to ``targets`` files. ``samples`` short of ``batches * batch_size`` leaves
    the last batch smaller. ``squeezable`` writes the older ``[N, 1, T, H]``.
    """
    expected: list[Row] = []
    for batch, size in enumerate(_sizes(batches, batch_size, samples)):
        length = tokens + batch % 2
        captured = _capture(layers, (size, length, width), dtype, 1000 * seed + batch)
        for layer in range(layers):
            inputs = _shaped(captured["mlp_in"][layer], squeezable)
            outputs = [
                _shaped(captured["mlp_out"][layer + 1 + k], squeezable)
                if layer + 1 + k < layers
                else torch.zeros_like(inputs)
                for k in range(targets)
            ]
            _save({"x": inputs}, folder / f"L{layer}/batch_{batch}_x.pt")
            document = {"y": outputs[0], "targets": outputs, "n_targets": len(outputs)}
            _save(document, folder / f"L{layer}/batch_{batch}_y.pt")
        first = batch * batch_size
        for layer in range(layers):
            source = f"L{layer}/batch_{batch}_x.pt#x"
            expected += _rows(captured["mlp_in"][layer], "mlp_in", layer, first, source)
        for layer in range(1, layers):
            owner = max(0, layer - targets)
            source = f"L{owner}/batch_{batch}_y.pt#targets.{layer - owner - 1}"
            expected += _rows(captured["mlp_out"][layer], "mlp_out", layer, first, source)
    return expected


def write_single_target(
    folder: Path,
    *,
    layers: int = 4,
    batches: int = 2,
    tokens: int = 3,
    width: int = 16,
    form: Form = "dict",
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 1,
) -> list[Row]:
    """Write the per-layer form: ``{'y': next layer's output}``, under ``data``, or bare."""
    expected: list[Row] = []
    for batch in range(batches):
        captured = _capture(layers, (1, tokens, width), dtype, 1000 * seed + batch)
        for layer in range(layers):
            inputs = captured["mlp_in"][layer]
            last = layer + 1 == layers
            output = torch.zeros_like(inputs) if last else captured["mlp_out"][layer + 1]
            for side, tensor in (("x", inputs), ("y", output)):
                path = folder / f"L{layer}/batch_{batch}_{side}.pt"
                key = {"dict": side, "data": "data", "bare": ""}[form]
                _save({key: tensor} if key else tensor, path)
                if side == "y" and last:
                    continue
                site, at = ("mlp_in", layer) if side == "x" else ("mlp_out", layer + 1)
                source = f"L{layer}/batch_{batch}_{side}.pt" + (f"#{key}" if key else "")
                expected += _rows(tensor, site, at, batch, source)
    return expected


def write_queries(path: Path, samples: int, *, ids: bool = False) -> list[dict[str, Any]]:
    """Write the queries that were captured, in order; AMBER's carry 1-based ids."""
    queries: list[dict[str, Any]] = [
        {"image": f"AMBER_{number + 1}.jpg", "query": f"Describe image {number + 1}."}
        for number in range(samples)
    ]
    if ids:
        queries = [{"id": number + 1, **query} for number, query in enumerate(queries)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(queries), encoding="utf-8")
    return queries


def write_consumer_output(folder: Path) -> list[str]:
    """Write what the training saves: weights and mappings, which are no activations."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(
        {"layer": 0, "hidden_dim": 16, "feature_dim": 32, "state_dict": {"w": torch.ones(2, 2)}},
        folder / "transcoder_L0.pt",
    )
    torch.save({"layer": 0, "mlp_to_clt_mapping": torch.ones(16, 32)}, folder / "mapping_L0.pt")
    (folder / "metrics_L0.json").write_text("{}", encoding="utf-8")
    return ["transcoder_L0.pt", "mapping_L0.pt", "metrics_L0.json"]


def _capture(
    layers: int, shape: tuple[int, int, int], dtype: torch.dtype, seed: int
) -> dict[str, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)

    def draw() -> torch.Tensor:
        values = torch.randn(*shape, generator=generator)
        values[..., 0] = -0.0
        return values.to(dtype)

    return {site: [draw() for _ in range(layers)] for site in ("mlp_in", "mlp_out")}


def _sizes(batches: int, batch_size: int, samples: int | None) -> Sequence[int]:
    total = batches * batch_size if samples is None else samples
    return [min(batch_size, total - first) for first in range(0, total, batch_size)]


def _shaped(tensor: torch.Tensor, squeezable: bool) -> torch.Tensor:
    return tensor.unsqueeze(1) if squeezable else tensor


def _rows(tensor: torch.Tensor, site: str, layer: int, first: int, source: str) -> list[Row]:
    values = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return [
        {
            "example_id": str(first + number),
            "example_index": first + number,
            "layer": layer,
            "site": site,
            "pooling": "none",
            "region": None,
            "position": position,
            "source": source,
            "activation": np.asarray(vector.numpy()),
        }
        for number, sample in enumerate(values)
        for position, vector in enumerate(sample)
    ]


def _save(document: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(document, path)
