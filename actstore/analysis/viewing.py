"""A store as a table for Apple's embedding-atlas: metadata, and a projection to look at."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore.analysis.statistics import group_by, projection, sampling
from actstore.errors import TooFewRowsError
from actstore.schema import PLACE
from actstore.storage import unfinished

if TYPE_CHECKING:
    from actstore.querying.selected import SelectedRows

X, Y = "projection_x", "projection_y"
PROGRAM = "embedding-atlas"
_FITTED = 2000
"""Rows that components are found on; all rows are projected on them."""
_SECURE = ("localhost", "127.0.0.1", "::1")
_TEXTS = ("question", "prediction", "oracle", "example_id")
TEXT_BYTES = 128 << 20
"""Of each column of texts, what the viewer is given at most: it holds all of it in memory."""
_SHORTEST = 200
_AT_ONCE = 8192
"""Rows whose metadata are held at a time."""
_SPACING = 2.6
"""Distance between two layers' clouds, each of which is about two wide."""


class Exported(NamedTuple):
    """A Parquet file for the viewer."""

    path: Path
    rows: int
    text: str
    """The column to show as text."""
    note: str


def export(
    selection: SelectedRows,
    path: Path,
    *,
    most: int = 100_000,
    text_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write all metadata of a selection and a projection of its vectors to Parquet.

    Each model, site, pooling, region and layer has components of its own. Their clouds lie side
    by side, scaled to the same size, so that the viewer shows the layers as a row of
    pictures; columns that are wholly null are left out. Metadata pass through in batches, so
    that memory holds a few thousand rows of them and twelve bytes of each.

    Args:
        selection: which rows.
        path: the file, replaced if it exists.
        most: rows at most; more are sampled.
        text_bytes: how much a column of texts may come to; longer texts are cut, to what is
            left for each. None for texts as they are.
        progress: called with the bytes and rows read since the last call.

    Raises:
        TooFewRowsError: there are no rows.
    """
    if not len(selection):
        raise TooFewRowsError("there are no rows to show: loosen the condition")
    drawn = sampling.draw(selection, most)
    part = drawn.selection
    points = np.full((len(part), 2), np.nan, np.float32)
    groups = group_by.group(part, PLACE)
    columns = math.ceil(math.sqrt(len(groups)))
    for number, found in enumerate(groups):
        here = part.take(found.places)
        sample = sampling.draw(here, _FITTED).selection
        try:
            components = projection.fit(sample.numpy())
        except TooFewRowsError:
            continue  # no vector is finite; the rows are in the table, but not in the picture
        cloud = projection.project(part.snapshot, here.rows, components, progress)
        lengths = np.linalg.norm(cloud, axis=1)
        known = lengths[np.isfinite(lengths)]
        size = float(np.quantile(known, 0.98)) if len(known) else 0.0
        corner = np.array([number % columns, -(number // columns)], np.float32) * _SPACING
        points[found.places] = cloud / (size or 1.0) + corner
    names = _filled(part)
    with unfinished.replacing(path) as draft:
        limit = None if text_bytes is None else max(_SHORTEST, text_bytes // len(part))
        cut = _write(part, names, points, draft, limit)
    text = next(name for name in _TEXTS if name in names)
    layers = len({found.key["layer"] for found in groups})
    what = "layers" if layers == len(groups) else "places (layers, sites, poolings …)"
    note = drawn.note + (f", {len(groups)} {what} side by side" if len(groups) > 1 else "")
    if cut:
        note += f", texts cut at {limit:,} characters"
    return Exported(path, len(part), text, note)


def _filled(part: SelectedRows) -> list[str]:
    """Return the columns in which some row has a value."""
    import pyarrow as pa

    names = part[:0].table().column_names
    empty = set(names)
    for start in range(0, len(part), _AT_ONCE):
        table = part[start : start + _AT_ONCE].table([name for name in names if name in empty])
        empty -= {name for name in table.column_names if table[name].null_count < len(table)}
        if not empty:
            break
        del table
        # The allocator keeps what was freed, and would come to hold several batches.
        pa.default_memory_pool().release_unused()
    return [name for name in names if name not in empty]


def _write(
    part: SelectedRows, names: list[str], points: np.ndarray, path: Path, limit: int | None
) -> bool:
    """Write columns and points, batch by batch; return whether a text was cut."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    cut = False
    writer: pq.ParquetWriter | None = None
    try:
        for start in range(0, len(part), _AT_ONCE):
            table = part[start : start + _AT_ONCE].table(names)
            for at, name in enumerate(names):
                if limit is not None and pa.types.is_string(table.schema.types[at]):
                    longest = pc.max(pc.utf8_length(table[name])).as_py() or 0
                    if longest > limit:
                        shorter = pc.utf8_slice_codeunits(table[name], 0, limit)
                        table, cut = table.set_column(at, name, shorter), True
            for column, name in enumerate((X, Y)):
                values = points[start : start + _AT_ONCE, column]
                array = pa.array(values, pa.float32(), mask=~np.isfinite(values))
                table = table.append_column(name, array)
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
            del table
            pa.default_memory_pool().release_unused()
    finally:
        if writer is not None:
            writer.close()
    return cut


def program() -> str | None:
    """Return the viewer's program: of this environment, or else on the path; None without it."""
    own = Path(sys.executable).with_name(PROGRAM)
    return str(own) if own.exists() else shutil.which(PROGRAM)


def needs(host: str, port: int) -> str:
    """Return what a browser needs for the viewer, and what works without it."""
    told = (
        "its field of points needs a browser with WebGPU (Chrome or Edge 113, Safari 26, Firefox "
        "147, or newer, and a graphics card that it may use); without, the field stays empty, and "
        "the table, search and filters beside it work"
    )
    if host not in _SECURE:
        told += (
            f"; browsers give WebGPU to pages of their own machine or of https alone: from "
            f"elsewhere open it through `ssh -L {port}:localhost:{port}` at http://localhost:{port}"
        )
    return told


def command_line(
    program: str, exported: Exported, *, host: str, port: int, site: Path | None = None
) -> list[str]:
    """Return the words that start the viewer, or that make it write a folder or ``.zip``."""
    words = [program, str(exported.path), "--x", X, "--y", Y, "--text", exported.text]
    if site is not None:
        return [*words, "--export-application", str(site)]
    return [*words, "--host", host, "--port", str(port)]
