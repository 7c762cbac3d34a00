"""Products of standardised rows in float64, whatever they are stored in.

Rows stay as they are: a block of them at a time is widened, and the mean and scale are
applied to what it is multiplied by. So no product suffers from rounding a standardised
value to float32, which ill-conditioned weights would magnify.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from actstore.analysis.solvers.standardise import Standard

_BLOCK_BYTES = 1 << 20


class Rows:
    """Rows, each column of weights standardised in a way of its own.

    Args:
        vectors: float32 or float64 ``[rows, width]``, not standardised.
        means: ``[width, ways]``.
        inverses: what to multiply by after the mean is taken off, ``[width, ways]``: one over
            the scale, or 0 where a dimension has no say.
        places: positions of the rows that are meant; all when missing.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        means: np.ndarray,
        inverses: np.ndarray,
        places: np.ndarray | None = None,
    ) -> None:
        self._vectors = vectors
        self._places = None if places is None or len(places) == len(vectors) else places
        self._means = means.astype(np.float64)
        self._inverses = inverses.astype(np.float64)

    @classmethod
    def of(
        cls, vectors: np.ndarray, standards: Sequence[Standard], places: np.ndarray | None = None
    ) -> Rows:
        """Return rows that are standardised on each of some standards."""
        means = np.column_stack([each.mean for each in standards])
        scales = np.column_stack([each.scale for each in standards])
        return cls(vectors, means, 1 / scales.astype(np.float64), places)

    def __len__(self) -> int:
        return len(self._vectors if self._places is None else self._places)

    def scores(self, weights: np.ndarray, ways: Sequence[int] = (0,)) -> np.ndarray:
        """Return ``rows @ weights``, float64 ``[rows, columns]``.

        Args:
            weights: ``[width, columns]``.
            ways: how each column's rows are standardised; one way may serve all.
        """
        scaled = weights * self._inverses[:, ways]
        found = np.empty((len(self), scaled.shape[1]))
        for part, block in self._blocks():
            np.matmul(block, scaled, out=found[part])
        found -= (self._means[:, ways] * scaled).sum(0)
        return found

    def combined(self, weights: np.ndarray, ways: Sequence[int] = (0,)) -> np.ndarray:
        """Return ``rows.T @ weights``, float64 ``[width, columns]``, of weights of the rows."""
        found = np.zeros((self._vectors.shape[1], weights.shape[1]))
        for part, block in self._blocks():
            found += block.T @ weights[part]
        found -= self._means[:, ways] * weights.sum(0, dtype=np.float64)
        found *= self._inverses[:, ways]
        return found

    def moments(self, counts: np.ndarray) -> np.ndarray:
        """Return ``rows.T @ (counts * rows)`` with a column of ones after the rows' own.

        Args:
            counts: how much each row counts, none negative; ``[rows]``.

        Returns:
            float64 ``[width + 1, width + 1]``.
        """
        width = self._vectors.shape[1]
        found = np.zeros((width + 1, width + 1))
        # Adding up whole matrices must not cost more than making them.
        for part, block in self._blocks(width // 2):
            ready = np.empty((len(block), width + 1))
            np.subtract(block, self._means[:, 0], out=ready[:, :-1])
            ready[:, :-1] *= self._inverses[:, 0]
            ready[:, -1] = 1
            ready *= np.sqrt(counts[part])[:, None]
            found += ready.T @ ready
        return found

    def ready(self, way: int = 0) -> np.ndarray:
        """Return the rows standardised, in the type of the vectors, ``[rows, width]``."""
        found = np.empty((len(self), self._vectors.shape[1]), self._vectors.dtype)
        for part, block in self._blocks():
            found[part] = (block - self._means[:, way]) * self._inverses[:, way]
        return found

    def gram(self, way: int = 0) -> np.ndarray:
        """Return the inner products of the rows, float64 ``[rows, rows]``."""
        found = np.zeros((len(self), len(self)))
        size = max(8, _BLOCK_BYTES // (8 * max(1, len(self))))
        vectors = self._vectors if self._places is None else self._vectors[self._places]
        for start in range(0, vectors.shape[1], size):
            part = slice(start, start + size)
            ready = vectors[:, part] - self._means[part, way]
            ready *= self._inverses[part, way]
            found += ready @ ready.T
        return found

    def _blocks(self, least: int = 0) -> Iterator[tuple[slice, np.ndarray]]:
        size = max(8, least, _BLOCK_BYTES // (8 * max(1, self._vectors.shape[1])))
        for start in range(0, len(self), size):
            part = slice(start, min(start + size, len(self)))
            block = self._vectors[part if self._places is None else self._places[part]]
            yield part, block.astype(np.float64, copy=False)
