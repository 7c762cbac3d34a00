"""The table beside a matrix: one line per row of the matrix, in its order."""

from __future__ import annotations

import json
from pathlib import Path

from actstore.exporting.export_context import Scene
from actstore.exporting.places import Place, table_of
from actstore.exporting.plan import Gather, Stream


def sidecar(scene: Scene, place: Place) -> Stream:
    """Return the file of metadata that goes with a place's matrix."""

    def write(path: Path, gather: Gather) -> None:
        table = table_of(scene, place)
        if scene.metadata == "parquet":
            import pyarrow.parquet as pq

            pq.write_table(table, path, compression="zstd")
            return
        with path.open("w", encoding="utf-8", newline="") as file:
            for batch in table.to_batches(max_chunksize=10_000):
                for row in batch.to_pylist():
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")

    return Stream(f"{place.stem}.metadata.{scene.metadata}", 0, write)
