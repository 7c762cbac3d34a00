"""One ``.safetensors`` file per model, site and layer, with its rows' metadata beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from actstore.exporting.export_context import Scene
from actstore.exporting.places import Place, blocks, places
from actstore.exporting.plan import File, Gather, Stream
from actstore.exporting.sidecar import sidecar

_TYPES = {
    "float16": ("F16", 2),
    "float32": ("F32", 4),
    "bfloat16": ("BF16", 2),
    "float64": ("F64", 8),
}
_ALIGNED = 8


def plan(scene: Scene) -> Iterator[File]:
    """Yield a matrix named after its site, ``[rows, width]``, and its table, for each place."""
    for place in places(scene):
        yield _matrix(place)
        yield sidecar(scene, place)


def _matrix(place: Place) -> Stream:
    def write(path: Path, gather: Gather) -> None:
        kind, size = _TYPES[place.dtype]
        shape = [len(place.rows), place.width]
        header = {
            "__metadata__": {"format": "pt", "model": place.model, "site": place.site}
            | ({} if place.layer is None else {"layer": str(place.layer)}),
            place.site: {
                "dtype": kind,
                "shape": shape,
                "data_offsets": [0, shape[0] * shape[1] * size],
            },
        }
        text = json.dumps(header, ensure_ascii=False).encode()
        text += b" " * (-len(text) % _ALIGNED)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little"))
            file.write(text)
            for block in blocks(place, gather):
                file.write(block.reshape(-1).view(np.uint8).data)

    return Stream(f"{place.stem}.safetensors", len(place.rows), write)
