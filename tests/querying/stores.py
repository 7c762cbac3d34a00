"""Small real stores that the query tests ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from actstore.storage.manifest import Run
from actstore.storage.rows import RowBatch
from actstore.storage.writer import StoreWriter

MODEL = "org/model"


def vectors(rows: int, width: int, dtype: str, seed: int) -> np.ndarray:
    """Return ``[rows, width]`` of reproducible values."""
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(dtype)


def add(
    root: Path,
    matrix: np.ndarray,
    *,
    layer: int | None = 0,
    model: str = MODEL,
    site: str = "resid_post",
    pooling: str | list[str] = "last",
    narrow: Any = None,
    **columns: Any,
) -> None:
    """Commit ``matrix`` as rows of one layer; examples are numbered e0, e1, …"""
    count = len(matrix)
    given = {
        "example_id": [f"e{number}" for number in range(count)],
        "label": [("yes", "no", None)[number % 3] for number in range(count)],
        "task": ["maze" if number < count // 2 else "grid" for number in range(count)],
        "pooling": [pooling] * count if isinstance(pooling, str) else pooling,
        **columns,
    }
    run = Run(run_id="run", kind="test", started_at="")
    with StoreWriter(root, run=run, narrow=narrow) as writer:
        writer.add(
            RowBatch(
                vectors=matrix,
                constants={"model": model, "site": site, "layer": layer},
                columns=given,
            )
        )
        writer.commit(operation="test", message="rows")


def layered(
    root: Path, *, layers: int = 3, rows: int = 12, width: int = 8, dtype: str = "float16"
) -> list[np.ndarray]:
    """Make a store of some layers and return each layer's matrix."""
    matrices = [vectors(rows, width, dtype, layer) for layer in range(layers)]
    for layer, matrix in enumerate(matrices):
        add(root, matrix, layer=layer)
    return matrices


def mixed(root: Path) -> dict[int, np.ndarray]:
    """Make a store of two models of different width and return each width's matrix."""
    found = {4: vectors(5, 4, "float16", 1), 6: vectors(3, 6, "float32", 2)}
    add(root, found[4], model="a/small")
    add(root, found[6], model="b/large", layer=7)
    return found


def rows_of(kind: str) -> np.ndarray:
    """Return numbers of rows of a store of 300, in an order of some kind."""
    kinds: dict[str, np.ndarray] = {
        "all": np.arange(300),
        "runs": np.r_[5:60, 140:170, 290:300],
        "scattered": np.random.default_rng(0).permutation(300)[:99],
        "one": np.array([7]),
        "none": np.empty(0, np.int64),
    }
    return kinds[kind]
