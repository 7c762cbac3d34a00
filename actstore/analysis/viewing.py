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

if TYPE_CHECKING:
    from actstore.querying.selected import SelectedRows

X, Y = "projection_x", "projection_y"
PROGRAM = "embedding-atlas"
_FITTED = 2000
"""Rows that components are found on; all rows are projected on them."""
_TEXTS = ("question", "prediction", "oracle", "example_id")
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
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write all metadata of a selection and a projection of its vectors to Parquet.

    Each model, site, pooling, region and layer has components of its own. Their clouds lie side
    by side, scaled to the same size, so that the viewer shows the layers as a row of
    pictures; columns that are wholly null are left out.

    Args:
        selection: which rows.
        path: the file, replaced if it exists.
        most: rows at most; more are sampled.
        progress: called with the bytes and rows read since the last call.

    Raises:
        TooFewRowsError: there are no rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

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
    table = part.table()
    empty = [name for name in table.column_names if table[name].null_count == len(table)]
    table = table.drop_columns(empty)
    for column, name in enumerate((X, Y)):
        values = points[:, column]
        missing = ~np.isfinite(values)
        table = table.append_column(name, pa.array(values, pa.float32(), mask=missing))
    beside = path.with_name(f".{path.name}.part")
    try:
        pq.write_table(table, beside, compression="zstd")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    text = next(name for name in _TEXTS if name in table.column_names)
    layers = len({found.key["layer"] for found in groups})
    what = "layers" if layers == len(groups) else "places (layers, sites, poolings …)"
    note = drawn.note + (f", {len(groups)} {what} side by side" if len(groups) > 1 else "")
    return Exported(path, len(part), text, note)


def program() -> str | None:
    """Return the viewer's program: of this environment, or else on the path; None without it."""
    own = Path(sys.executable).with_name(PROGRAM)
    return str(own) if own.exists() else shutil.which(PROGRAM)


def command_line(
    program: str, exported: Exported, *, host: str, port: int, site: Path | None = None
) -> list[str]:
    """Return the words that start the viewer, or that make it write a folder or ``.zip``."""
    words = [program, str(exported.path), "--x", X, "--y", Y, "--text", exported.text]
    if site is not None:
        return [*words, "--export-application", str(site)]
    return [*words, "--host", host, "--port", str(port)]
