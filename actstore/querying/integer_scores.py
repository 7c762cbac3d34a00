"""Dot product and cosine of vectors of int8 with a query, on the whole numbers where they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore.storage import floats, kernels
from actstore.storage.quantised import LARGEST

if TYPE_CHECKING:
    from actstore.storage.snapshot import Snapshot

_BLOCK = 1 << 20
"""Whole numbers at a time: they are read once from memory, and from the cache for each part."""
_WIDEST = ((1 << 31) - 1) // LARGEST**2
"""Values whose products the kernels' 32 bits can add up."""
_PARTS = 3
"""Parts of a query, of 8 bits each: together they hold what float32 does."""


class _Wholes(NamedTuple):
    """A query as a sum of whole numbers times weights."""

    parts: np.ndarray
    """Int8 ``[parts, width]``."""
    weights: np.ndarray
    """Float64 ``[parts]``."""


def scores(
    snapshot: Snapshot,
    rows: np.ndarray,
    query: np.ndarray,
    metric: str,
    norms: np.ndarray | None = None,
) -> np.ndarray | None:
    """Return the dot product or cosine of each row with a query, float32 ``[rows]``.

    Products of whole numbers are exact, and the query is taken in three parts of 8 bits, which
    hold each of its values to 2^-24 of the largest: the result is that of float32 arithmetic on
    the vectors as they are handed out, as far as its sums are not of small values alone. None
    where it must be computed on those: not all rows are of int8 on this machine, or there are no
    kernels.

    Args:
        snapshot: where the vectors are.
        rows: int64 ``[n]``, all of the query's width.
        query: float32 ``[width]``.
        metric: ``cosine`` or ``dot``; others are not for whole numbers.
        norms: stored norms of the rows.
    """
    numkong = kernels.library()
    if numkong is None or metric not in ("cosine", "dot") or not _are_whole(snapshot, rows, query):
        return None
    wholes = _wholes(query)
    size = float(np.linalg.norm(query.astype(np.float64)))
    result = np.empty(len(rows), np.float32)
    step = max(1, _BLOCK // len(query))
    with np.errstate(all="ignore"):  # overflow and 0/0 show as infinity and NaN in the result
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            numbers, scales = _stored(snapshot, part)
            products = np.column_stack(
                [
                    np.asarray(numkong.cdist(numbers, each[None], metric="dot"))[:, 0]
                    for each in wholes.parts
                ]
            )
            found = (products @ wholes.weights) * scales
            if metric == "cosine":
                given = None if norms is None else norms[start : start + step]
                if given is None or not _held(given):
                    squares = np.asarray(numkong.dot(numbers, numbers))
                    given = np.sqrt(squares) * scales.astype(np.float64)
                lengths = given.astype(np.float64)  # times the query's, beyond float32
                found = np.clip(found / (lengths * size), -1, 1)
            result[start : start + step] = found
    return result


def _held(norms: np.ndarray) -> bool:
    """Say whether float32 holds these norms: those of zeros too."""
    return bool(((np.isfinite(norms) & (norms >= floats.SHORT)) | (norms == 0)).all())


def _are_whole(snapshot: Snapshot, rows: np.ndarray, query: np.ndarray) -> bool:
    if snapshot.files.portion is not None or not len(rows) or len(query) > _WIDEST:
        return False
    if not np.isfinite(query).all():
        return False
    involved = snapshot.involved(rows).tolist()
    return all(snapshot.shards[number].dtype == "int8" for number in involved)


def _stored(snapshot: Snapshot, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, last = int(rows[0]), int(rows[-1])
    if last - first == len(rows) - 1 and bool((np.diff(rows) == 1).all()):
        run = snapshot.stored_run(first, last + 1)
        if run is not None:
            return run
    numbers, scales = snapshot.stored(rows)
    assert scales is not None
    return numbers, scales


def _wholes(query: np.ndarray) -> _Wholes:
    rest = query.astype(np.float64)
    weight = float(np.abs(rest).max(initial=0)) / LARGEST or 1.0
    parts: list[np.ndarray] = []
    weights: list[float] = []
    for _ in range(_PARTS):
        parts.append(np.rint(rest / weight).astype(np.int8))
        weights.append(weight)
        rest = rest - parts[-1] * weight
        weight /= 2 * LARGEST  # what is left is half a weight at most
    return _Wholes(np.array(parts), np.array(weights))
