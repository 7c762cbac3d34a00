"""A store with rows of several models, sites, poolings, regions and layers of the same examples."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actstore.storage.manifest import Run
from actstore.storage.rows import RowBatch
from actstore.storage.writer import StoreWriter

WIDTH = 4
Place = dict[str, Any]


def places(
    *,
    model: Sequence[str] = ("m",),
    site: Sequence[str] = ("resid_post",),
    pools: Sequence[tuple[str, str | None]] = (("last", "prompt"),),
    layer: Sequence[int | None] = (3,),
) -> list[Place]:
    """Return every combination as columns."""
    return [
        {"model": m, "site": s, "layer": number, "pooling": pooling, "region": region}
        for m, s, number, (pooling, region) in itertools.product(model, site, layer, pools)
    ]


def write(
    root: Path, found: Sequence[Place], *, examples: int = 6, dtype: str = "float32", **same: Any
) -> None:
    """Commit a row of each example for each place; no two rows have one vector."""
    width = {"features": 2 * WIDTH}
    with StoreWriter(root, run=Run(run_id="run", kind="test", started_at="")) as writer:
        for place in found:
            values = np.random.default_rng(zlib.crc32(str(place).encode())).standard_normal(
                (examples, width.get(place["site"], WIDTH))
            )
            writer.add(
                RowBatch(
                    vectors=values.astype(dtype),
                    constants={**place, **same},
                    columns={
                        "example_id": [f"e{number}" for number in range(examples)],
                        "label": [("yes", "no")[number % 2] for number in range(examples)],
                    },
                )
            )
        writer.commit(operation="test", message="rows")
