"""Stores whose rows have two classes, told apart by as much as a test wants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actstore.storage.manifest import Run
from actstore.storage.rows import RowBatch
from actstore.storage.writer import StoreWriter

MODEL = "org/model"


def vectors(
    positive: np.ndarray, width: int, signal: float, seed: int, dtype: str = "float16"
) -> np.ndarray:
    """Return noise about an offset, with the classes ``2 * signal`` apart along one direction."""
    draw = np.random.default_rng(seed)
    direction = np.random.default_rng(99).standard_normal(width)
    direction *= signal / np.linalg.norm(direction)
    noise = draw.standard_normal((len(positive), width))
    offset = 3 * np.random.default_rng(98).standard_normal(width)
    return (noise + offset + np.where(positive, 1, -1)[:, None] * direction).astype(dtype)


def add(
    root: Path,
    matrix: np.ndarray,
    labels: Sequence[str | None],
    *,
    questions: Sequence[str | None] | None = None,
    model: str = MODEL,
    site: str = "resid_post",
    layer: int | None = 0,
    pooling: str = "last",
    first: int = 0,
    run: str = "run",
    **columns: Any,
) -> None:
    """Commit rows of one layer; examples and questions are numbered from ``first``."""
    numbers = range(first, first + len(matrix))
    given: dict[str, Any] = {
        "example_id": [f"e{number}" for number in numbers],
        "question": questions or [f"question {number}?" for number in numbers],
        "label": list(labels),
        **columns,
    }
    with StoreWriter(root, run=Run(run_id=run, kind="test", started_at="")) as writer:
        writer.add(
            RowBatch(
                vectors=matrix,
                constants={"model": model, "site": site, "layer": layer, "pooling": pooling},
                columns=given,
            )
        )
        writer.commit(operation="test", message="rows")


def layered(
    root: Path,
    signals: dict[int | None, float],
    *,
    rows: int = 60,
    width: int = 96,
    dtype: str = "float16",
    seed: int = 0,
    **columns: Any,
) -> np.ndarray:
    """Make a store with a layer for each signal; return which rows are positive."""
    positive = np.random.default_rng([seed, 7]).permutation(np.arange(rows) % 2 == 0)
    labels = ["yes" if each else "no" for each in positive]
    for number, (layer, signal) in enumerate(signals.items()):
        matrix = vectors(positive, width, signal, 100 * seed + number, dtype)
        add(root, matrix, labels, layer=layer, **columns)
    return positive


def vectors_of_noise(rows: int, width: int) -> np.ndarray:
    """Return noise that has nothing to do with any class."""
    return np.random.default_rng(rows).standard_normal((rows, width)).astype(np.float16)
