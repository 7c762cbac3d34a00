"""Rows of a shard that is being written, by the hashes of their keys: 16 bytes each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count

import numpy as np

_FEW = 1 << 12
"""Rows that are found in a dictionary, which takes a hundred bytes for each."""


class PendingRows:
    """The number of the row that has each hash; one has it.

    The latest rows are in a dictionary, older ones in a few sorted arrays.
    """

    def __init__(self) -> None:
        self._latest: dict[int, int] = {}
        self._sorted: list[tuple[np.ndarray, np.ndarray]] = []
        """Ascending hashes, uint64, and their rows, int64: each list of at most half the next."""

    def __len__(self) -> int:
        return len(self._latest) + sum(len(hashes) for hashes, _ in self._sorted)

    def get(self, value: int) -> int | None:
        """Return the row of a hash; None where there is none."""
        found = self._latest.get(value)
        if found is not None:
            return found
        for hashes, rows in self._sorted:
            at = int(np.searchsorted(hashes, np.uint64(value)))
            if at < len(hashes) and int(hashes[at]) == value:
                return int(rows[at])
        return None

    def find(self, wanted: np.ndarray, values: Sequence[int]) -> dict[int, int]:
        """Return, by position, the rows of those hashes that have one.

        Args:
            wanted: hashes, uint64.
            values: the same as Python's numbers.
        """
        found: dict[int, int] = {}
        if not self._latest.keys().isdisjoint(values):
            for position, value in enumerate(values):
                row = self._latest.get(value)
                if row is not None:
                    found[position] = row
        for hashes, rows in self._sorted:
            at = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
            for position in np.flatnonzero(hashes[at] == wanted).tolist():
                found[position] = int(rows[at[position]])
        return found

    def put(self, values: Iterable[int], first: int) -> None:
        """Add rows from number ``first`` on, of hashes that no row has."""
        self._latest.update(zip(values, count(first), strict=False))
        if len(self._latest) >= _FEW:
            self._sort()

    def discard(self, values: Sequence[int]) -> None:
        """Let these hashes have no row any more."""
        for value in values:
            self._latest.pop(value, None)
        if self._sorted:
            gone = np.array(values, np.uint64)
            left = [(hashes, rows, ~np.isin(hashes, gone)) for hashes, rows in self._sorted]
            self._sorted = [(hashes[kept], rows[kept]) for hashes, rows, kept in left if kept.any()]

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all hashes, uint64, in no order, and the rows that have them, int64."""
        return _joined([*self._sorted, self._latest_arrays()])

    def _latest_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        size = len(self._latest)
        hashes = np.fromiter(self._latest.keys(), np.uint64, size)
        return hashes, np.fromiter(self._latest.values(), np.int64, size)

    def _sort(self) -> None:
        """Move what the dictionary holds to the arrays; those of about a size become one."""
        parts = [self._latest_arrays()]
        size = len(self._latest)
        while self._sorted and len(self._sorted[0][0]) < 2 * size:
            parts.append(self._sorted.pop(0))
            size += len(parts[-1][0])
        hashes, rows = _joined(parts)
        order = np.argsort(hashes, kind="stable")
        self._sorted.insert(0, (hashes[order], rows[order]))
        self._latest = {}


def _joined(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    hashes, rows = zip(*parts, strict=True)
    return np.concatenate(hashes), np.concatenate(rows)
