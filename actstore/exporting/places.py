"""Rows grouped by model, site and layer: one matrix each, for the common formats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actstore.exporting.export_context import Scene
from actstore.exporting.plan import Gather, file_name, folder_name

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK = 32 << 20
_BITS_LOST = 0xFFFF


class Place(NamedTuple):
    """Where vectors were taken, and the rows that were."""

    model: str
    site: str
    layer: int | None
    width: int
    dtype: str
    """Of the matrix: float32 where both types meet."""
    rows: np.ndarray

    @property
    def stem(self) -> str:
        """Path of its files without the ending: ``org__name/resid_post/layer_12``.

        Layers are named as the recipes for such folders read them; the embeddings and
        unknown layers have none.
        """
        name = "unknown" if self.layer is None else str(self.layer)
        layer = "embeddings" if self.layer == -1 else f"layer_{name}"
        return f"{folder_name(self.model)}/{file_name(self.site)}/{layer}"


def places(scene: Scene) -> Iterator[Place]:
    """Yield the places that have rows, in the store's order."""
    selection = scene.selection
    snapshot = selection.snapshot
    shards = np.searchsorted(snapshot.offsets, selection.rows, "right") - 1
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number in np.unique(shards).tolist():
        shard = snapshot.shards[number]
        groups.setdefault((shard.model, shard.site, shard.layer, shard.width), []).append(number)
    for (model, site, layer, width), numbers in groups.items():
        rows = selection.rows[np.isin(shards, numbers)]
        dtype = scene.dtype or snapshot.shape(rows)[1]
        yield Place(model, site, layer, width, dtype, rows)


def blocks(place: Place, gather: Gather) -> Iterator[np.ndarray]:
    """Yield a place's vectors in pieces, in the type of its matrix.

    bfloat16 comes as its bits in uint16.

    Raises:
        ExportError: the type cannot hold a value exactly.
    """
    from actstore.exporting.tensors import tensor

    step = max(1, _BLOCK // (4 * place.width))
    for start in range(0, len(place.rows), step):
        vectors = gather(place.rows[start : start + step])
        if vectors.dtype.name == place.dtype:
            yield np.ascontiguousarray(vectors)
            continue
        exact = tensor(vectors, place.dtype, vectors.shape)
        if place.dtype == "bfloat16":
            import torch

            yield exact.view(torch.uint16).numpy()
        else:
            yield exact.numpy()


def table_of(scene: Scene, place: Place) -> pa.Table:
    """Return the metadata of a place's rows, with ``row_id`` and without empty columns."""
    table = scene.store.rows_at(place.rows).table()
    kept = [name for name in table.column_names if table[name].null_count < len(table)]
    return table.select(kept)
