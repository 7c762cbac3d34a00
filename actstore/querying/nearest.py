"""Nearest neighbours: every chosen row is compared with each query, and the best k come back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from actstore.errors import NotInStoreError, UsageError
from actstore.querying import approximate, mixture, ranking
from actstore.querying.ranking import Best
from actstore.querying.vector_math import METRICS, Metric
from actstore.storage import arrow_numbers

if TYPE_CHECKING:
    import pyarrow as pa

    from actstore.querying.selected import SelectedRows
    from actstore.storage.snapshot import Snapshot

SCORE = "score"
QUERY = "query"


def nearest(
    selection: SelectedRows,
    queries: np.ndarray,
    k: int,
    *,
    metric: Metric = "cosine",
    columns: list[str] | None = None,
    mixed: bool = False,
    of_rows: Sequence[int] | None = None,
    include_self: bool = False,
    index: bool = False,
) -> pa.Table:
    """Return the ``k`` best rows of ``selection``, best first; equal scores in row order.

    All rows are scored, in blocks, so the result is exact (see
    :func:`actstore.querying.ranking.search`) and memory stays bounded. Rows of another width
    than the query's are left out, and so are rows without a score (the cosine of a zero vector).

    Args:
        selection: the rows to search, in row order.
        queries: float32 ``[width]``, or several as ``[queries, width]``.
        k: how many for each; fewer come back when there are fewer.
        metric: ``cosine`` or ``dot``, the largest first, or ``l2``, the smallest first.
        columns: metadata columns of the result; all and ``row_id`` when missing.
        mixed: whether rows of several places may be compared.
        of_rows: the numbers of the rows that the queries are the vectors of.
        include_self: whether they may find themselves.
        index: ask the approximate index of these rows, which must be there.

    Returns:
        A table with ``score`` (float32) and the metadata; of several queries all results one
        after the other, with ``query`` (int64), the number of each in ``queries``, in front.

    Raises:
        UsageError: ``k`` or ``metric`` is none, a query has no score with any row, or there is no
            index of just these rows.
        NotInStoreError: no row has the query's width.
        MixedVectorsError: rows of that width are of several places, and nobody asked for that.
    """
    matrix = np.atleast_2d(queries)
    _refuse_hopeless(matrix, metric, of_rows)
    fitting = searched(selection, queries.shape[-1], k, metric, mixed)
    omitted = np.full(len(matrix), -1)
    if of_rows is not None and not include_self:
        omitted[:] = of_rows
    if index:
        best = approximate.search(fitting, matrix, k, metric, omitted)
    else:
        best = ranking.search(
            fitting.snapshot, fitting.rows, matrix, k, metric, omitted, fitting.norms()
        )
    found = [Best(np.empty(0, np.int64), np.empty(0, np.float32)), *best]
    places = np.concatenate([each.places for each in found])
    table = fitting.take(places).table(columns)
    scores = np.concatenate([each.scores for each in found])
    table = table.add_column(0, SCORE, arrow_numbers.array(scores))
    if queries.ndim == 1:
        return table
    numbers = np.repeat(np.arange(len(matrix)), [len(each.places) for each in best])
    return table.add_column(0, QUERY, arrow_numbers.array(numbers))


def searched(selection: SelectedRows, width: int, k: int, metric: str, mixed: bool) -> SelectedRows:
    """Return the rows that a search is over, once what was asked makes sense.

    Raises:
        UsageError, NotInStoreError, MixedVectorsError: as :func:`nearest`.
    """
    if k < 1:
        raise UsageError(f"k is how many neighbours to return, at least 1, got {k}")
    if metric not in METRICS:
        raise UsageError(f"metric {metric!r} is unknown: use {', '.join(METRICS)}")
    fitting = selection.at(_of_width(selection.snapshot, selection.rows, width))
    # Scores of several layers do not compare: norms and common directions differ too much.
    mixture.refuse(fitting, mixed=mixed, instead="")
    return fitting


def _refuse_hopeless(queries: np.ndarray, metric: Metric, of_rows: Sequence[int] | None) -> None:
    """Stop if a query has no score with any row: that no row was found would not say why."""
    wrong = np.isnan(queries).any(axis=1)
    if metric == "cosine":
        wrong |= np.isinf(queries).any(axis=1) | ~queries.any(axis=1)
    if not wrong.any():
        return
    number = int(np.argmax(wrong))
    if of_rows is not None:
        name = f"row {of_rows[number]}"
    else:
        name = "the query vector" if len(queries) == 1 else f"query {number}"
    if np.isnan(queries[number]).any():
        instead = "give it numbers" if of_rows is None else "search around another row"
        raise UsageError(f"{name} has NaN among its values, so that no row is near it: {instead}")
    kind = "infinite values" if queries[number].any() else "zeros alone"
    raise UsageError(
        f"{name} has {kind}, and a cosine with such a vector is undefined: search by dot or l2"
    )


def _of_width(snapshot: Snapshot, rows: np.ndarray, width: int) -> np.ndarray:
    if not len(rows):
        return rows
    widths = {number: snapshot.shards[number].width for number in snapshot.involved(rows).tolist()}
    have = sorted(set(widths.values()))
    if have == [width]:
        return rows
    if width not in have:
        raise NotInStoreError(
            f"the query vector has {width} values, the rows to search have "
            f"{', '.join(map(str, have))}"
        )
    fitting = [number for number, of_shard in widths.items() if of_shard == width]
    return rows[np.isin(np.searchsorted(snapshot.offsets, rows, "right") - 1, fitting)]


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
