"""A store opened from afar, on the Hub or in a bucket: its files are fetched in pieces."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Sequence
from functools import cache as once
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actstore import schema
from actstore.errors import ActstoreError, CorruptStoreError, UsageError
from actstore.remote import cache as caches
from actstore.remote import resolve
from actstore.remote.address import Address, parse
from actstore.remote.cache import RangeCache
from actstore.remote.client import Client
from actstore.remote.hub_source import HubSource
from actstore.remote.remote_file import RemoteReader
from actstore.remote.source import Source
from actstore.remote.vector_checks import RemoteChecks
from actstore.remote.vectors import Pieces, RemoteShard
from actstore.storage import shard_columns
from actstore.storage.checksums import Check
from actstore.storage.decoded_shard import DecodedShard
from actstore.storage.files import Traffic, temporary_folder
from actstore.storage.manifest import LabelEntry, ShardEntry
from actstore.storage.mapping import ShardReader
from actstore.storage.quantised_shard import QuantisedShard
from actstore.storage.snapshot import Snapshot
from actstore.storage.threads import Pool, Result, Task, renewed_in_forks, submit

if TYPE_CHECKING:
    import pyarrow as pa

_SHARDS = 8
"""Shards read side by side."""
_PORTION = 64 << 20
_FOOTER = 256 << 10
"""Bytes fetched at the end of a shard of which only the footer says where things are."""


def open_remote(
    address: Address | str,
    at: int | None = None,
    *,
    client: Client | None = None,
    cache: RangeCache | None = None,
) -> Snapshot:
    """Open the store in a repository; nothing of it is read but its manifest.

    Args:
        address: the repository, and its revision if it is not ``main``.
        at: number of the store's commit; looked for in the revision's history if need be.
        client: the Hub; the usual one, with the user's token, when missing.
        cache: where fetched ranges are kept; in the user's cache folder when missing.

    Raises:
        RemoteStoreError: the repository holds no store, or a damaged or hostile one.
        SnapshotNotFoundError: it has never held commit ``at``.
        UsageError: the address has a path behind the repository.
        HubError: the Hub cannot be asked; the leaf says why.
    """
    address = parse(address) if isinstance(address, str) else address
    if address.path:
        raise UsageError(
            f"{address} names a path inside a repository: a store is a whole repository, "
            f"such as {Address(repository=address.repository, revision=address.revision)}"
        )
    client = client or Client()
    cache = cache or caches.default()
    held = resolve.look_up(client, address, at, memory=cache)
    return Snapshot(RemoteFiles(HubSource(client, address, held), cache), held.manifest)


class RemoteFiles:
    """The files of one commit that lies elsewhere, fetched as they are needed and kept.

    Args:
        source: where they lie.
        cache: where fetched ranges are kept.
    """

    portion: int | None = _PORTION
    check: Check = "lazy"

    def __init__(self, source: Source, cache: RangeCache) -> None:
        self._source = source
        self._cache = cache
        self._meter = source.meter
        self._lock = threading.Lock()
        self._pieces: dict[str, Pieces] = {}

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def root(self) -> Path:
        raise self._source.needs_folder()

    @property
    def commits(self) -> int:
        return self._source.commits

    @property
    def traffic(self) -> Traffic | None:
        return self._meter.traffic

    def submit(self, work: Callable[..., Result], *given: object) -> Task[Result]:
        return submit(_pool, work, *given)

    def pieces(self, entry: ShardEntry) -> Pieces:
        """Return what fetches parts of a shard."""
        with self._lock:
            if entry.path not in self._pieces:
                remote = self._source.ranged(entry)
                self._pieces[entry.path] = Pieces(remote, self._cache, self._meter)
            return self._pieces[entry.path]

    def open_shard(self, entry: ShardEntry) -> ShardReader:
        try:
            found: RemoteShard | DecodedShard
            if entry.pages:
                found = RemoteShard(entry, self.pieces(entry), self._checks(entry))
            else:
                found = DecodedShard(self._reader(entry), entry)
            if entry.dtype != "int8":
                return found
            return QuantisedShard(found, lambda: self._scales(entry), entry.path)
        except CorruptStoreError as error:
            raise self._damaged(entry.path, error) from None

    def _checks(self, entry: ShardEntry) -> RemoteChecks | None:
        if self._source.vouches or entry.tail is None:
            return None

        def tail() -> bytes:
            data = self.pieces(entry).bytes(entry.vectors_end, entry.bytes)
            if hashlib.sha256(data).hexdigest() != entry.tail:
                raise damaged("its metadata and footer are others")
            return data

        def damaged(reason: str) -> ActstoreError:
            self._cache.forget(entry.sha256)  # or it would be damaged here for ever
            return self._damaged(entry.path, reason)

        return RemoteChecks(entry, tail, damaged)

    def columns(self, entry: ShardEntry, names: list[str]) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            reader = self._reader(entry)
            # Before pyarrow looks at it: a damaged footer can end the process.
            if entry.tail is not None and reader.tail_sha256() != entry.tail:
                self._cache.forget(entry.sha256)
                raise self._damaged(entry.path, "its metadata and footer are others")
            with pq.ParquetFile(
                reader,
                page_checksum_verification=True,
                pre_buffer=not entry.pages,
            ) as file:
                return shard_columns.checked_columns(file, entry, names)
        except (OSError, ValueError, pa.ArrowException) as error:
            if isinstance(error, ActstoreError) and not isinstance(error, CorruptStoreError):
                raise
            raise self._damaged(entry.path, error) from None

    def table(self, entries: Sequence[ShardEntry], names: list[str]) -> pa.Table:
        import pyarrow as pa

        return pa.concat_tables([self.columns(entry, names) for entry in entries])

    def _scales(self, entry: ShardEntry) -> np.ndarray:
        return np.asarray(self.columns(entry, [schema.SCALE])[schema.SCALE].to_numpy())

    def labels(self, entry: LabelEntry) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        data = self._source.read(entry)
        try:
            if hashlib.sha256(data).hexdigest() != entry.sha256:
                raise self._damaged(entry.path, "its SHA-256 is not what the manifest says")
            # By this thread alone: storage/shard_columns.py says why.
            with pq.ParquetFile(io.BytesIO(data), pre_buffer=False) as file:
                return file.read(columns=["shard", "row", "label"], use_threads=False)
        except (OSError, pa.ArrowException) as error:
            if isinstance(error, ActstoreError):
                raise
            raise self._damaged(entry.path, error) from None

    def cache_folders(self) -> Sequence[Callable[[], Path]]:
        name = self._source.identity
        key = hashlib.sha256(name.encode()).hexdigest()[:32]
        return partial(self._cache.metadata_folder, key), partial(temporary_folder, name)

    def _reader(self, entry: ShardEntry) -> RemoteReader:
        tail = entry.vectors_end if entry.pages else entry.bytes - _FOOTER
        return RemoteReader(
            self.pieces(entry), size=entry.bytes, tail=tail, blank=bool(entry.pages)
        )

    def _damaged(self, path: str, what: object) -> ActstoreError:
        reason = str(what).splitlines()[0] if str(what) else type(what).__name__
        return self._source.damaged(path, reason)


@once
def _pool() -> Pool:
    return Pool(_SHARDS)


renewed_in_forks(_pool)
