"""One ``.safetensors`` file per model, site and layer, with its rows' metadata beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from actstore.exporting.export_context import ExportContext
from actstore.exporting.layer_matrices import (
    LayerMatrix,
    blocks,
    layer_matrices,
    note_mixture,
    sidecar,
)
from actstore.exporting.planned_files import File, Gather, Stream

_TYPES = {
    "float16": ("F16", 2),
    "float32": ("F32", 4),
    "bfloat16": ("BF16", 2),
    "float64": ("F64", 8),
}
_ALIGNED = 8


def plan(context: ExportContext) -> Iterator[File]:
    """Yield a matrix named after its site, ``[rows, width]``, and its table, for each matrix."""
    for matrix in layer_matrices(context):
        note_mixture(context, matrix)
        yield _matrix(matrix)
        yield sidecar(context, matrix)


def _matrix(matrix: LayerMatrix) -> Stream:
    def write(path: Path, gather: Gather) -> None:
        kind, size = _TYPES[matrix.dtype]
        shape = [len(matrix.rows), matrix.width]
        header = {
            "__metadata__": {"format": "pt", "model": matrix.model, "site": matrix.site}
            | ({} if matrix.layer is None else {"layer": str(matrix.layer)}),
            matrix.site: {
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
            for block in blocks(matrix, gather):
                file.write(block.reshape(-1).view(np.uint8).data)

    return Stream(f"{matrix.stem}.safetensors", len(matrix.rows), write)
