"""Exact nearest neighbours: scores every chosen row on the memory map and returns the best k."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from actstore.errors import NotInStoreError, UsageError
from actstore.querying import mixture, scoring
from actstore.querying.vector_math import METRICS, Metric

if TYPE_CHECKING:
    import pyarrow as pa

    from actstore.querying.selected import SelectedRows
    from actstore.storage.snapshot import Snapshot

SCORE = "score"


def nearest(
    selection: SelectedRows,
    query: np.ndarray,
    k: int,
    *,
    metric: Metric = "cosine",
    columns: list[str] | None = None,
    mixed: bool = False,
) -> pa.Table:
    """Return the ``k`` best rows of ``selection``, best first; equal scores in row order.

    All rows are scored, in blocks, so the result is exact and memory stays bounded. Rows of
    another width than the query's are left out, and so are rows without a score (the cosine
    of a zero vector).

    Args:
        selection: the rows to search, in row order.
        query: float32 ``[width]``.
        k: how many; fewer come back when there are fewer.
        metric: ``cosine`` or ``dot``, the largest first, or ``l2``, the smallest first.
        columns: metadata columns of the result; all and ``row_id`` when missing.
        mixed: whether rows of several places may be compared.

    Returns:
        A table with ``score`` (float32) and the metadata.

    Raises:
        UsageError: ``k`` or ``metric`` is none.
        NotInStoreError: no row has the query's width.
        MixedVectorsError: rows of that width are of several places, and nobody asked for that.
    """
    import pyarrow as pa

    if k < 1:
        raise UsageError(f"k is how many neighbours to return, at least 1, got {k}")
    if metric not in METRICS:
        raise UsageError(f"metric {metric!r} is unknown: use {', '.join(METRICS)}")
    fitting = selection.at(_of_width(selection.snapshot, selection.rows, len(query)))
    # Scores of several layers do not compare: norms and common directions differ too much.
    mixture.refuse(fitting, mixed=mixed, instead="")
    scores = scoring.scores(
        selection.snapshot, fitting.rows, scoring.Query(query), metric, shared=True
    )
    order = _best(scores if metric == "l2" else -scores, k)
    table = fitting.take(order).table(columns)
    return table.add_column(0, SCORE, pa.array(scores[order]))


def _of_width(snapshot: Snapshot, rows: np.ndarray, width: int) -> np.ndarray:
    widths = np.array([shard.width for shard in snapshot.shards], np.int64)
    if not len(rows):
        return rows
    of_rows = widths[np.searchsorted(snapshot.offsets, rows, "right") - 1]
    fitting = of_rows == width
    if not fitting.any():
        have = ", ".join(map(str, np.unique(of_rows).tolist()))
        raise NotInStoreError(
            f"the query vector has {width} values, the rows to search have {have}"
        )
    return rows if fitting.all() else rows[fitting]


def _best(keys: np.ndarray, k: int) -> np.ndarray:
    """Return the positions of the ``k`` smallest keys in order, the first of equals first."""
    usable = np.flatnonzero(~np.isnan(keys))
    if len(usable) > k:
        limit = np.partition(keys[usable], k - 1)[k - 1]
        usable = usable[keys[usable] <= limit]
    return usable[np.argsort(keys[usable], kind="stable")[:k]]


def several(example: str, found: SelectedRows) -> str:
    """Return the message for an example with more than one row, saying what tells them apart."""
    table = found.table()
    differing = []
    for name in ("model", "site", "layer", "mode", "variant", "pooling", "region", "position"):
        values = table[name].unique().to_pylist()
        if len(values) > 1:
            shown = ", ".join(map(str, values[:6])) + (", …" if len(values) > 6 else "")
            differing.append(f"{name} ({shown})")
    return (
        f"example {example!r} has {len(found)} rows here: choose by "
        f"{' or '.join(differing) or 'row_id'}"
    )
