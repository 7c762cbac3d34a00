"""One ``.npz`` file per model, site and layer, with its rows' metadata beside it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from actstore.errors import ExportError
from actstore.exporting.export_context import ExportContext
from actstore.exporting.layer_matrices import (
    LayerMatrix,
    blocks,
    layer_matrices,
    note_mixture,
    sidecar,
)
from actstore.exporting.planned_files import File, Gather, Stream


def plan(context: ExportContext) -> Iterator[File]:
    """Yield an archive with one matrix named after its site, and its table, for each matrix.

    No pickle is needed to read them.

    Raises:
        ExportError: bfloat16, which NumPy does not have.
    """
    if context.dtype == "bfloat16":
        raise ExportError("NumPy has no bfloat16: leave out --dtype, or export to safetensors")
    for matrix in layer_matrices(context):
        note_mixture(context, matrix)
        yield _matrix(matrix)
        yield sidecar(context, matrix)


def _matrix(matrix: LayerMatrix) -> Stream:
    def write(path: Path, gather: Gather) -> None:
        # A fixed date, so that equal rows give equal bytes.
        entry = zipfile.ZipInfo(f"{matrix.site}.npy")
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(matrix.dtype)),
            "fortran_order": False,
            "shape": (len(matrix.rows), matrix.width),
        }
        with (
            zipfile.ZipFile(path, "w", allowZip64=True) as archive,
            archive.open(entry, "w", force_zip64=True) as member,
        ):
            np.lib.format.write_array_header_1_0(member, header)
            for block in blocks(matrix, gather):
                member.write(block.reshape(-1).view(np.uint8).data)

    return Stream(f"{matrix.stem}.npz", len(matrix.rows), write)
