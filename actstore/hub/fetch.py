"""Brings the pieces of a pull onto this machine: whole shards, or shards made of chosen rows."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actstore import schema
from actstore.errors import CommitError, RemoteStoreError
from actstore.hub.wanted import WantedShard
from actstore.querying.metadata import Metadata
from actstore.remote.client import Client
from actstore.remote.download import download
from actstore.storage import layout, pages, shard_columns
from actstore.storage.file_hashes import sha256_of
from actstore.storage.manifest import ShardEntry
from actstore.storage.metadata_table import Fragment, pools_of
from actstore.storage.shard import ShardWriter
from actstore.storage.snapshot import Snapshot
from actstore.storage.threads import Pool

if TYPE_CHECKING:
    import pyarrow as pa

FILES = 4
"""Files downloaded side by side."""
_BLOCK_BYTES = 32 << 20
_SPARE = 32 << 20
"""Bytes of disk that must remain."""

Fetched = tuple[WantedShard, ShardEntry, Path]
"""A piece, what it is as a shard of the store, and its file."""


class Fetch:
    """What one pull fetches, into a folder where an interrupted one goes on.

    Args:
        client: the Hub.
        repository: ``org/name``.
        commit: of the repository.
        snapshot: the store that the repository holds at that commit.
        root: the store on this machine.
        folder: in that store, for files that no commit names yet.
        progress: called with the bytes done and the bytes in all.
    """

    def __init__(
        self,
        client: Client,
        repository: str,
        commit: str,
        snapshot: Snapshot,
        root: Path,
        folder: Path,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._client = client
        self._repository = repository
        self._commit = commit
        self._snapshot = snapshot
        self._root = root
        self._folder = folder
        self._progress = progress
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._done = 0
        self._total = 0
        self.received = 0
        """Bytes that were downloaded, those of chosen rows not counted."""

    def fetch(self, wanted: Sequence[WantedShard]) -> list[Fetched]:
        """Fetch pieces; each is checked before it is returned.

        Raises:
            CommitError: there is not enough room on the disk.
            RemoteStoreError: a shard is not what the manifest says.
            HubError: as :meth:`Client.call`.
            OSError: the disk is full or failed.
        """
        self._total = sum(_size(piece) for piece in wanted)
        self._check_room(wanted)
        whole = [piece for piece in wanted if piece.rows is None]
        found: dict[str, Fetched] = {}
        with Pool(FILES) as pool:
            try:
                for piece, fetched in zip(whole, pool.map(self._download, whole), strict=True):
                    found[piece.key] = fetched
            except BaseException:
                self._stopped.set()
                raise
        transaction = layout.new_transaction()
        for number, piece in enumerate(wanted):
            if piece.rows is not None:
                found[piece.key] = self._make(piece, piece.rows, transaction, number)
        return [found[piece.key] for piece in wanted]

    def _check_room(self, wanted: Sequence[WantedShard]) -> None:
        here = 0
        for piece in wanted:
            for path in self._places(piece):
                with contextlib.suppress(OSError):
                    here += path.stat().st_size
        free = shutil.disk_usage(self._folder).free
        if self._total - here + _SPARE > free:
            raise CommitError(
                f"the disk of {self._root} has {free:,} bytes free, and the pull "
                f"needs {self._total - here + _SPARE:,}; nothing was fetched: make room, or pull "
                "less with --layers, --models, --sites or --where"
            )

    def _places(self, piece: WantedShard) -> tuple[Path, Path]:
        """Return where a whole shard arrives, and where it grows."""
        target = self._folder / f"{piece.entry.sha256}.parquet"
        return target, target.with_name(target.name + ".part")

    def _download(self, piece: WantedShard) -> Fetched:
        entry = piece.entry
        target, part = self._places(piece)
        earlier = self._root / entry.path
        if _is(earlier, entry):  # left by an earlier commit
            self._count(entry.bytes)
            return piece, entry, earlier
        if not target.exists():  # it has its name only when it is whole and right
            before = part.stat().st_size if part.exists() else 0
            download(
                self._client,
                self._repository,
                self._commit,
                entry.path,
                target,
                size=entry.bytes,
                sha256=entry.sha256,
                progress=self._report,
            )
            with self._lock:
                self.received += entry.bytes - before
        else:
            self._count(entry.bytes)
        problem = unsound(target, entry)
        if problem is not None:
            raise RemoteStoreError(
                f"{entry.path} of {self._repository} {problem}: nothing was pulled; whoever "
                "pushed it must push it anew"
            )
        layout.sync_file(target)
        return piece, entry, target

    def _report(self, count: int) -> None:
        if self._stopped.is_set():
            raise _StoppedError
        self._count(count)

    def _count(self, count: int) -> None:
        with self._lock:
            self._done += count
            done = self._done
        if self._progress is not None:
            self._progress(min(done, self._total), self._total)

    def _make(self, piece: WantedShard, rows: np.ndarray, transaction: str, number: int) -> Fetched:
        """Write chosen rows as a shard of their own."""
        first = piece.entry
        path = self._folder / f"{piece.key}.parquet"
        shard = ShardWriter(path, width=first.width, dtype=first.dtype)
        names = list(schema.metadata_names())
        reader = Metadata(self._snapshot)
        step = max(1, _BLOCK_BYTES // shard.row_bytes)
        try:
            for start, stop in self._snapshot.portions(rows):
                for at in range(start, stop, step):
                    part = rows[at : min(at + step, stop)]
                    table = reader.read(part, names)
                    columns = {name: table[name].to_pylist() for name in names}
                    vectors, scales = self._snapshot.stored(part)
                    shard.append(vectors, Fragment({}, columns, range(len(part))), scales)
                    shard.settle()
                    self._count(vectors.nbytes)
            shard.rounding = first.rounding
            written = shard.finish()
        except BaseException:
            shard.abort()
            raise
        finally:
            reader.close()
        entry = dataclasses.replace(
            first, path=first.named(transaction, number), since=0, **written._asdict()
        )
        return piece, entry, path


class _StoppedError(Exception):
    """Another file of the pull has failed."""


def _is(path: Path, entry: ShardEntry) -> bool:
    try:
        return path.stat().st_size == entry.bytes and sha256_of(path)[0] == entry.sha256
    except OSError:
        return False


def _size(piece: WantedShard) -> int:
    if piece.rows is None:
        return piece.entry.bytes
    return len(piece.rows) * piece.entry.row_bytes


def unsound(path: Path, entry: ShardEntry) -> str | None:
    """Say what about a shard's file is not what the manifest says, if anything is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return next(_differences(file, path, entry), None)
    except (OSError, ValueError, pa.ArrowException) as error:
        return f"is no sound shard ({str(error).splitlines()[0]})"


def _differences(file: pa.parquet.ParquetFile, path: Path, entry: ShardEntry) -> Iterator[str]:
    expected = schema.arrow_schema(entry.width, entry.dtype)
    if not file.schema_arrow.equals(expected, check_metadata=False):
        yield f"has other columns than version {schema.version_of([entry.dtype])} of the schema"
        return
    if file.metadata.num_rows != entry.rows:
        yield f"holds {file.metadata.num_rows:,} rows, its manifest says {entry.rows:,}"
        return
    if entry.pages:
        with path.open("rb") as raw:
            mapped = pages.mapped_pages(file.metadata, raw)
        if mapped is None or tuple(mapped) != entry.pages:
            yield "has its vectors elsewhere than its manifest says"
            return
    table = shard_columns.checked_columns(file, entry, list(schema.metadata_names()))
    for name, value in zip(("model", "site", "layer"), entry.partition, strict=True):
        others = [found for found in table[name].unique().to_pylist() if found != value]
        if others:
            yield f"holds rows of {name} {others[0]!r}, its manifest says {value!r}"
    if entry.pools is not None and pools_of(table) != set(entry.pools):
        yield "holds rows of another pooling or region than its manifest says"
