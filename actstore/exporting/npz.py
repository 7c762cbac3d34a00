"""One ``.npz`` file per model, site and layer, with its rows' metadata beside it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from actstore.errors import ExportError
from actstore.exporting.export_context import Scene
from actstore.exporting.places import Place, blocks, places
from actstore.exporting.plan import File, Gather, Stream
from actstore.exporting.sidecar import sidecar


def plan(scene: Scene) -> Iterator[File]:
    """Yield an archive with one matrix named after its site, and its table, for each place.

    No pickle is needed to read them.

    Raises:
        ExportError: bfloat16, which NumPy does not have.
    """
    if scene.dtype == "bfloat16":
        raise ExportError("NumPy has no bfloat16: leave out --dtype, or export to safetensors")
    for place in places(scene):
        yield _matrix(place)
        yield sidecar(scene, place)


def _matrix(place: Place) -> Stream:
    def write(path: Path, gather: Gather) -> None:
        # A fixed date, so that equal rows give equal bytes.
        entry = zipfile.ZipInfo(f"{place.site}.npy")
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(place.dtype)),
            "fortran_order": False,
            "shape": (len(place.rows), place.width),
        }
        with (
            zipfile.ZipFile(path, "w", allowZip64=True) as archive,
            archive.open(entry, "w", force_zip64=True) as member,
        ):
            np.lib.format.write_array_header_1_0(member, header)
            for block in blocks(place, gather):
                member.write(block.reshape(-1).view(np.uint8).data)

    return Stream(f"{place.stem}.npz", len(place.rows), write)
