"""One of several writers of a run: rows that another one has brought are repeats of the source."""

from __future__ import annotations

from typing import NamedTuple

from actstore.errors import ConflictError
from actstore.storage.incoming import PartitionKey
from actstore.storage.manifest import ShardEntry
from actstore.storage.shard import ShardWriter
from actstore.storage.writer import StoreWriter

_SCALE_BYTES = 4


class LeftOut(NamedTuple):
    """Rows that were left out at commits because they had come meanwhile."""

    rows: int = 0
    repeated: int = 0
    """Those among them that the same run has brought."""
    repeated_bytes: int = 0
    """Of their vectors, as they would be stored."""

    def since(self, before: LeftOut) -> LeftOut:
        """Return what was left out after an earlier look."""
        return LeftOut(*(now - then for now, then in zip(self, before, strict=True)))


class PieceWriter(StoreWriter):
    """Writes a part of what a run stores, while others write the rest.

    ``own`` must name the shards of the run by the time of a commit.
    """

    _repeated = 0
    _repeated_bytes = 0

    @property
    def left_out(self) -> LeftOut:
        """What commits have left out so far."""
        return LeftOut(self.overtaken, self._repeated, self._repeated_bytes)

    def _rebase(
        self,
        entry: ShardEntry,
        others: list[ShardEntry],
        key: PartitionKey,
        shard: ShardWriter,
    ) -> ShardEntry:
        mine = [other for other in others if other.path in self.own]
        kept = super()._rebase(entry, mine, key, shard)
        gone = entry.rows - kept.rows
        if gone and self._narrow is not None:
            # What the rest has lost nobody can tell: the rows must be rounded without these.
            raise ConflictError("rows of another piece, which has been stored meanwhile")
        self._repeated += gone
        scales = _SCALE_BYTES if entry.dtype == "int8" else 0
        self._repeated_bytes += gone * (entry.row_bytes + scales)
        return super()._rebase(kept, [each for each in others if each not in mine], key, shard)
