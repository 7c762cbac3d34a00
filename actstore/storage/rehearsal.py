"""What writing rows into a store would come to: as a session of writing, and nothing written."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from actstore import schema
from actstore.storage import floats, quantised, staging
from actstore.storage import manifest as manifests
from actstore.storage.manifest import Run
from actstore.storage.metadata_table import Fragment
from actstore.storage.narrowing import Saving
from actstore.storage.rows import Added, Narrow, RowBatch
from actstore.storage.shard import ShardWriter
from actstore.storage.transaction import Transaction
from actstore.storage.writer import CHECKPOINT_ROWS, StoreWriter

_DIGEST = 16
"""Bytes by which two vectors are told apart."""


class Rehearsal(StoreWriter):
    """Takes rows as a :class:`StoreWriter` does, skips and refuses the same ones, keeps no vector.

    Of each row the hash of its key and a digest of its vector stay in memory. The store need
    not exist, and is not made.

    Args:
        root: folder of the store.
        run: as there.
        replace: as there.
        narrow: as there.

    Raises:
        StoreError: rows could not be written there.
    """

    def __init__(
        self, root: Path | str, *, run: Run, replace: bool = False, narrow: Narrow | None = None
    ) -> None:
        super().__init__(root, run=run, checkpoint_bytes=None, replace=replace, narrow=narrow)
        self._saving = Saving()

    def _add(self, batch: RowBatch) -> Added:
        """Add rows, and measure what they would take in a smaller type."""
        added = super()._add(batch)
        if added.written and self._narrow is None and batch.scales is None:
            self._saving.add(batch.vectors)
        return added

    @property
    def narrowing_note(self) -> str | None:
        """What the rows would lose in the smaller type, or would take in one."""
        return super().narrowing_note or self._saving.note()

    def _begun(self) -> Transaction:
        return _Untouched(self.root)

    def _new_shard(self, width: int, dtype: schema.StoredType) -> ShardWriter:
        return _Outline(Path(), width=width, dtype=dtype)

    def checkpoint(self) -> int | None:
        """Let go of the metadata of many rows, which a long run need not hold; call between files.

        Always returns None: there is no commit.
        """
        if self.pending_rows >= CHECKPOINT_ROWS:
            for key, shard in self._pending():
                self._partition(key[0]).commit(shard, shard)
                shard.settle()
            self._open.clear()
            self._full.clear()
        return None


class _Untouched(Transaction):
    """The latest commit of a store that stays as it is, with no place for files."""

    def __init__(self, root: Path) -> None:
        staging.check_place(root)
        self.root = root
        self.base = manifests.latest(root)

    def close(self) -> None:
        """There is nothing to give back."""


class _Outline(ShardWriter):
    """A shard that is not written: it knows which vectors its rows would have."""

    def __init__(self, path: Path, *, width: int, dtype: schema.StoredType) -> None:
        super().__init__(path, width=width, dtype=dtype)
        self._digests = bytearray()

    def append(
        self, vectors: np.ndarray, fragment: Fragment, scales: np.ndarray | None = None
    ) -> None:
        """Add rows: their metadata, and what tells their vectors from others."""
        self.rows += len(vectors)
        self._fragments.append(fragment)
        wide = vectors if scales is None else quantised.restore(vectors, scales)
        self._digests += b"".join(_digests(wide))

    @property
    def waiting(self) -> int:
        """No vector is in memory."""
        return 0

    def truncate(self, rows: int) -> None:
        """Forget every row from ``rows`` on."""
        super().truncate(rows)
        del self._digests[rows * _DIGEST :]

    @property
    def can_settle(self) -> bool:
        """No row group is ever written."""
        return False

    def settle(self) -> None:
        """Let go of the metadata of all rows so far."""
        self._fragments.clear()
        self._flushed = self.rows

    def abort(self) -> None:
        """There is nothing to remove."""

    def same(self, rows: Sequence[int], vectors: np.ndarray) -> np.ndarray:
        """Compare vectors with rows that were appended, by their digests: bool ``[n]``."""
        known = (bytes(self._digests[row * _DIGEST : (row + 1) * _DIGEST]) for row in rows)
        return np.array([a == b for a, b in zip(known, _digests(vectors), strict=True)], bool)


def _digests(vectors: np.ndarray) -> list[bytes]:
    """Return what tells each vector from others, of equal float16 and float32 the same."""
    wide = floats.widen(vectors)
    return [hashlib.blake2b(row.data, digest_size=_DIGEST).digest() for row in wide]
