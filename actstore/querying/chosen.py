"""Chosen rows of a snapshot: their numbers, in a fixed order, and their metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from actstore.errors import UsageError
from actstore.querying.metadata import Codes, Metadata

if TYPE_CHECKING:
    import pyarrow as pa

    from actstore.storage.manifest import ShardEntry
    from actstore.storage.snapshot import Snapshot


class ChosenRows:
    """Row numbers of a snapshot, and what its metadata says of them; no vector is read.

    Args:
        snapshot: the commit that the rows are of.
        metadata: reads the snapshot's metadata.
        rows: row numbers, int64 ``[rows]``.
        shards: numbers of the shards that rows could lie in: what an empty choice is about.
        description: the conditions in short, for ``repr``.
        listed: see :attr:`listed`.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        metadata: Metadata,
        rows: np.ndarray,
        *,
        shards: np.ndarray,
        description: str = "",
        listed: Mapping[str, tuple[Any, ...]] | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._metadata = metadata
        self._shards = shards
        self._description = description
        self.listed: Mapping[str, tuple[Any, ...]] = listed or {}
        """Columns whose values the caller listed, as in ``layer=[12, 18]``, with these values:
        a matrix may hold all of them. Every part of the selection keeps that."""
        self.rows = rows
        """Row numbers in the snapshot, int64 ``[len(self)]``: ``row_id`` in SQL."""

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        widths = sorted({self._snapshot.shards[n].width for n in self._touched().tolist()})
        vectors = f" x {' or '.join(map(str, widths))}" if widths else ""
        chosen = f", {self._description}" if self._description else ""
        return f"{type(self).__name__}({len(self)} rows{vectors}{chosen})"

    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> Self:
        """Return part of the selection: a slice, positions, or a mask of booleans."""
        return self.take(index)

    @property
    def snapshot(self) -> Snapshot:
        """The commit that the rows are of."""
        return self._snapshot

    def take(self, index: slice | Sequence[int] | np.ndarray) -> Self:
        """Return the rows at the given positions, in the given order.

        Raises:
            UsageError: a position is out of range, or a mask of another length.
        """
        if not isinstance(index, slice):
            if not isinstance(index, np.ndarray) and not isinstance(index, Sequence):
                raise UsageError(
                    f"a selection is cut by a slice, positions or a mask, got {index!r}; "
                    "rows one after the other come from .batches(size)"
                )
            index = np.asarray(index) if len(index) else np.empty(0, np.int64)
        try:
            rows = self.rows[index]
        except (IndexError, TypeError) as error:
            raise UsageError(f"{error}: the selection has {len(self)} rows") from error
        return self.at(rows)

    def part(self, places: np.ndarray, listed: Mapping[str, tuple[Any, ...]]) -> Self:
        """Return the rows at some positions (int64), of which these values were listed."""
        found = self.at(self.rows[places])
        found.listed = listed
        return found

    def at(self, rows: np.ndarray) -> Self:
        """Return rows of the same commit by their numbers in it: int64, any order."""
        return type(self)(
            self._snapshot,
            self._metadata,
            rows,
            # Nothing of some rows is of their width and type, not of all that there could be.
            shards=self._shards if len(rows) else self._touched(),
            description=f"part of {self._description or 'all'}",
            listed=self.listed,
        )

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows' metadata.

        Args:
            columns: which columns; all schema columns but the vector and ``row_id`` when
                missing. Labels are as they stand in the snapshot.

        Raises:
            NotInStoreError: there is no such column.
        """
        return self._metadata.read(self.rows, columns)

    def norms(self) -> np.ndarray:
        """Return the stored norms of the rows' vectors, float32 ``[rows]``."""
        return self._metadata.norms(self.rows)

    @property
    def shards(self) -> list[ShardEntry]:
        """The shards that the rows lie in; of no rows, those they could have lain in."""
        return [self._snapshot.shards[number] for number in self._touched().tolist()]

    @property
    def own_columns(self) -> list[str]:
        """The fields of ``extra``, each as the name of its column: ``extra.NAME``."""
        return list(self._snapshot.own_columns)

    def values_of(self, column: str) -> set[str | None]:
        """Return the values that the rows have in a column of few, such as ``pooling``."""
        return self._metadata.distinct(self.rows, column)

    def codes_of(self, column: str) -> Codes | None:
        """Return a column of few values for all rows of the store; None for other columns."""
        return self._metadata.codes(column)

    def fills_shards(self) -> bool:
        """Say whether these are all rows of their shards, in their order."""
        rows = sum(shard.rows for shard in self.shards)
        return rows == len(self) and self._ascending()

    def _ascending(self) -> bool:
        return bool((self.rows[1:] > self.rows[:-1]).all())

    def _touched(self) -> np.ndarray:
        """Return the shards the rows lie in; of none, those they could have lain in."""
        if not len(self):
            return self._shards
        return self._snapshot.involved(self.rows)
