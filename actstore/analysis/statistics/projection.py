"""Principal components of vectors: found on a sample, applied to all in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from actstore.errors import TooFewRowsError
from actstore.querying import vector_math
from actstore.storage import floats

if TYPE_CHECKING:
    from collections.abc import Callable

    from actstore.storage.snapshot import Snapshot

_BLOCK = 1 << 20
_LARGE = 1e37


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """Directions of largest variance."""

    mean: np.ndarray
    """Float32 ``[width]``."""
    directions: np.ndarray
    """Unit vectors, float32 ``[components, width]``; their largest value is positive."""
    explained: np.ndarray
    """Share of the variance along each, float64 ``[components]``."""

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Return float ``[rows, width]`` as coordinates, float32 ``[rows, components]``.

        A row that is not finite has none, nor has one whose coordinates float32 cannot hold.
        """
        found = np.empty((len(vectors), len(self.directions)), np.float32)
        axes = self.directions.T.astype(np.float64)
        step = max(1, _BLOCK // len(self.mean))
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(vectors), step):
                wide = vectors[start : start + step].astype(np.float64)
                found[start : start + step] = (wide - self.mean) @ axes
        return found


def fit(vectors: np.ndarray, count: int = 2) -> Components:
    """Return the first principal components of float16 or float32 ``[rows, width]``.

    Sums are in float64, so that the components do not depend on how many threads add up.
    Rows that are not finite are left out. There are always ``count`` components; those
    that the rows do not have (fewer rows than that) are zero and explain nothing.

    Raises:
        TooFewRowsError: no row is finite.
    """
    wide = floats.widen(vectors)
    wide = wide[np.isfinite(wide).all(axis=1)]
    rows, width = wide.shape
    if not rows:
        raise TooFewRowsError("no vector is finite, so there is nothing to project")
    mean = wide.mean(axis=0, dtype=np.float64).astype(np.float32)
    if float(np.abs(wide).max()) > _LARGE:  # the difference may be more than float32 holds
        centred = np.subtract(wide, mean, dtype=np.float64)
    else:
        centred = wide - mean
    # Scaled, so that large values do not leave float32's range when they are squared.
    scale = float(np.abs(centred).max(initial=0)) or 1.0
    centred /= scale
    centred = centred.astype(np.float32, copy=False)
    values, basis = np.linalg.eigh(_small(centred))
    values, basis = values[::-1], basis[:, ::-1]
    total = float(np.maximum(values, 0).sum())
    directions = np.zeros((count, width), np.float32)
    explained = np.zeros(count)
    for number in range(min(count, len(values))):
        if values[number] <= 1e-7 * max(float(values[0]), 1e-30):
            break
        axis = _combined(centred, basis[:, number]) if rows < width else basis[:, number]
        axis = axis / np.linalg.norm(axis)
        # A component's sign means nothing; the same data should give the same picture.
        directions[number] = axis * np.sign(axis[np.argmax(np.abs(axis))])
        explained[number] = values[number] / total
    return Components(mean=mean, directions=directions, explained=explained)


def _small(centred: np.ndarray) -> np.ndarray:
    """Return the smaller of the two matrices that have the rows' components, float64."""
    rows, width = centred.shape
    side, length = min(rows, width), max(rows, width)
    # Whichever it is, what is summed over are the columns of this view.
    view = centred if rows < width else centred.T
    total = np.zeros((side, side))
    step = max(1, _BLOCK // side)
    for start in range(0, length, step):
        part = view[:, start : start + step].astype(np.float64)
        total += part @ part.T
    return total


def _combined(centred: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the sum of the rows times their weights, float64 ``[width]``."""
    rows, width = centred.shape
    step = max(1, _BLOCK // rows)
    parts = [
        weights @ centred[:, start : start + step].astype(np.float64)
        for start in range(0, width, step)
    ]
    return np.concatenate(parts)


def project(
    snapshot: Snapshot,
    rows: np.ndarray,
    components: Components,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Return the coordinates of ``rows`` (int64), float32 ``[rows, components]``, in blocks."""
    found = np.empty((len(rows), len(components.directions)), np.float32)
    most = max(1, _BLOCK // len(components.mean))
    for start, stop, stored in vector_math.blocks(snapshot, rows, most):
        found[start:stop] = components.apply(stored)
        if progress is not None:
            progress(stored.nbytes, stop - start)
    return found
