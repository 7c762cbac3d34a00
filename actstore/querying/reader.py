"""A store open for reading at one commit: what it is, and which of its rows are meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import numpy as np

from actstore.errors import UsageError
from actstore.querying import filters
from actstore.querying.metadata import Metadata
from actstore.querying.selected import SelectedRows
from actstore.querying.sql import Database
from actstore.querying.value_codes import ranked
from actstore.remote.address import is_address
from actstore.remote.bucket_address import is_bucket
from actstore.storage.checksums import Check
from actstore.storage.fencing import Skipped
from actstore.storage.snapshot import Snapshot, open_snapshot

if TYPE_CHECKING:
    from actstore.querying.column_filters import ColumnFilters
    from actstore.storage.files import Traffic


Selected = TypeVar("Selected", bound=SelectedRows)


class StoreReader:
    """A store at one commit, which never changes while it is open, whatever others write.

    Rows have an order: by model, site, layer (unknown last), then as they came in; their
    number in it is ``row_id``. Usable as a context manager.

    Args:
        snapshot: the commit.
        reopen: opens the latest snapshot of the same store.
    """

    def __init__(self, snapshot: Snapshot, reopen: Callable[[], Snapshot] | None = None) -> None:
        self._reopen = reopen or (lambda: open_snapshot(snapshot.root))
        self._use(snapshot)

    def _use(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._metadata = Metadata(snapshot)
        self._sealed = Database(snapshot)
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self.rows

    @property
    def name(self) -> str:
        """The store's path, or its address on the Hub or in a bucket."""
        return self._snapshot.name

    @property
    def path(self) -> Path:
        """The store's folder.

        Raises:
            UsageError: it is on the Hub or in a bucket.
        """
        return self._snapshot.root

    @property
    def traffic(self) -> Traffic | None:
        """What was transferred from afar since the store was opened; None for a folder."""
        return self._snapshot.files.traffic

    @property
    def commit(self) -> int:
        """Number of the commit that is open."""
        return self._snapshot.manifest.number

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Damaged shards that were left out, as ``skip_damaged`` asked for."""
        return self._snapshot.skipped

    @property
    def fingerprint(self) -> str:
        """Hash of what the store holds at this commit, its vectors and labels.

        Without the damaged shards that were left out it is another one.
        """
        return self._snapshot.manifest.fingerprint

    @property
    def rows(self) -> int:
        """Rows at this commit."""
        return self._snapshot.rows

    @property
    def models(self) -> list[str]:
        """Models, by name."""
        return sorted({shard.model for shard in self._snapshot.shards})

    @property
    def sites(self) -> list[str]:
        """Sites, by name."""
        return sorted({shard.site for shard in self._snapshot.shards})

    @property
    def layers(self) -> list[int | None]:
        """Layers, ascending; None (not recorded) last."""
        layers = {shard.layer for shard in self._snapshot.shards}
        return sorted(layers, key=ranked)

    @property
    def widths(self) -> list[int]:
        """Widths of the vectors, ascending."""
        return sorted({shard.width for shard in self._snapshot.shards})

    def select(
        self, where: str | Mapping[str, Any] | None = None, /, **equals: Unpack[ColumnFilters]
    ) -> SelectedRows:
        """Return the rows that meet all conditions, in row order.

        Args:
            where: an SQL condition, or a mapping of columns that are no keywords.
            equals: ``column=value``, or several values as a list; None means null.

        Raises:
            NotInStoreError, UsageError, SqlError: as
                :func:`~actstore.querying.filters.rows_where`.
        """
        return self._select(where, equals, SelectedRows)

    def rows_at(self, row_ids: Sequence[int] | np.ndarray) -> SelectedRows:
        """Return rows by their ``row_id``, in the given order.

        Raises:
            UsageError: a number is out of range.
        """
        return self._rows_at(row_ids, SelectedRows)

    def _select(
        self,
        where: str | Mapping[str, Any] | None,
        equals: Mapping[str, Any],
        kind: type[Selected],
    ) -> Selected:
        if isinstance(where, Mapping):
            equals = {**where, **equals}
            where = None
        snapshot = self._open()
        found = filters.rows_where(snapshot, self._sealed, self._metadata, where, equals)
        return kind(
            snapshot,
            self._metadata,
            found.rows,
            shards=found.shards,
            description=filters.describe(where, equals),
            listed=found.listed,
        )

    def _rows_at(self, row_ids: Sequence[int] | np.ndarray, kind: type[Selected]) -> Selected:
        rows = np.asarray(row_ids, np.int64).reshape(-1)
        if len(rows) and (rows.min() < 0 or rows.max() >= self.rows):
            wrong = rows[(rows < 0) | (rows >= self.rows)][0]
            raise UsageError(f"row_id goes from 0 to {self.rows - 1}, got {wrong}")
        shards = np.arange(len(self._snapshot.shards))
        return kind(self._open(), self._metadata, rows, shards=shards, description="by row_id")

    def refresh(self) -> Self:
        """Go on to the latest commit; selections made before keep theirs. Returns itself."""
        latest = self._reopen()
        if latest.manifest.sha256 == self._snapshot.manifest.sha256 and not self._closed:
            latest.close()
            return self
        self._sealed.close()
        self._use(latest)
        return self

    def close(self) -> None:
        """Give files and connections back; matrices handed out stay valid."""
        self._closed = True
        self._sealed.close()
        self._metadata.close()
        self._snapshot.close()

    def _open(self) -> Snapshot:
        if self._closed:
            raise UsageError(f"the store {self.name} was closed: open it again")
        return self._snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStore:
    """A store as it is open here, for another process to open it likewise.

    Its row numbers are the same ones there: of the same commit, without the same damaged shards,
    which are not looked for again. One more or less, and numbers would be those of other rows.
    """

    name: str
    """An absolute path, or an address."""
    commit: int
    check: Check
    skipped: tuple[Skipped, ...]

    @classmethod
    def of(cls, snapshot: Snapshot) -> Self:
        """Say how a snapshot is open."""
        files = snapshot.files
        return cls(
            name=str(files.root.resolve()) if files.portion is None else files.name,
            commit=snapshot.manifest.number,
            check=files.check,
            skipped=snapshot.skipped,
        )

    def open(self) -> StoreReader:
        """Open it, over files of its own."""
        snapshot, reopen = opened(self.name, self.commit, self.check)
        if self.skipped:
            snapshot = snapshot.without(self.skipped)
        return StoreReader(snapshot, reopen)


def open_reader(path: str | Path, at: int | None = None, *, check: Check = "lazy") -> StoreReader:
    """Open a store for reading, in a folder or by its address; see :func:`actstore.open`."""
    return StoreReader(*opened(path, at, check))


def opened(
    path: str | Path, at: int | None, check: Check = "lazy", *, skip_damaged: bool = False
) -> tuple[Snapshot, Callable[[], Snapshot]]:
    """Return a snapshot of the store at a path or address, and what opens its latest one.

    Raises:
        StoreNotFoundError, SnapshotNotFoundError, CorruptStoreError, HubError: as
            :func:`actstore.open`.
        DamageError: with ``skip_damaged``: no shard is sound, or a label file is not.
        BucketError: the bucket cannot be read; the leaf says why.
        UsageError: ``skip_damaged`` was asked for on the Hub or in a bucket.
    """
    name = str(path)
    if isinstance(path, Path) and name.startswith("hf:/"):
        name = name.replace("hf:/", "hf://", 1)  # a Path keeps one slash of two
    if is_bucket(name):
        if skip_damaged:
            raise UsageError(
                f"{name} is in a bucket, and damaged shards are left out of stores on this machine "
                f"only: copy it with: actstore sync {name} FOLDER"
            )
        from actstore.remote.bucket_source import open_bucket

        return open_bucket(name, at), partial(open_bucket, name)
    if not is_address(name):
        again = partial(open_snapshot, path, check=check, skip_damaged=skip_damaged)
        return again(at=at), again
    if skip_damaged:
        raise UsageError(
            f"{name} is on the Hub: its files are held against the Hub's own hashes as they are "
            "read. Damaged shards are left out of stores on this machine only"
        )
    from actstore.remote.files import open_remote

    return open_remote(name, at), partial(open_remote, name)
