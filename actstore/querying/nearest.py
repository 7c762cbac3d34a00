"""Exact nearest neighbours: every chosen row is scored on the map, the best k come back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from actstore.errors import NotInStoreError, UsageError
from actstore.querying import scoring
from actstore.querying.scoring import METRICS, Metric

if TYPE_CHECKING:
    import pyarrow as pa

    from actstore.querying.metadata import Metadata
    from actstore.storage.snapshot import Snapshot

SCORE = "score"


def nearest(
    snapshot: Snapshot,
    metadata: Metadata,
    rows: np.ndarray,
    query: np.ndarray,
    k: int,
    *,
    metric: Metric = "cosine",
    columns: list[str] | None = None,
) -> pa.Table:
    """Return the ``k`` best of ``rows``, best first; equal scores in row order.

    All rows are scored, in blocks, so the result is exact and memory stays bounded. Rows of
    another width than the query's are left out, and so are rows without a score (the cosine
    of a zero vector).

    Args:
        snapshot: where the vectors are.
        metadata: the same snapshot's metadata.
        rows: int64 row numbers, ascending.
        query: float32 ``[width]``.
        k: how many; fewer come back when there are fewer.
        metric: ``cosine`` or ``dot``, the largest first, or ``l2``, the smallest first.
        columns: metadata columns of the result; all and ``row_id`` when missing.

    Returns:
        A table with ``score`` (float32) and the metadata.

    Raises:
        UsageError: ``k`` or ``metric`` is none.
        NotInStoreError: no row has the query's width.
    """
    import pyarrow as pa

    if k < 1:
        raise UsageError(f"k is how many neighbours to return, at least 1, got {k}")
    if metric not in METRICS:
        raise UsageError(f"metric {metric!r} is unknown: use {', '.join(METRICS)}")
    fitting = _of_width(snapshot, rows, len(query))
    scores = scoring.scores(snapshot, fitting, query, metric)
    order = _best(scores if metric == "l2" else -scores, k)
    table = metadata.read(fitting[order], columns)
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
