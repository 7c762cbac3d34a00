"""A pinned commit: its rows in order, their metadata as one file, their vectors as matrices."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from actstore import paths, schema
from actstore.errors import MixedVectorsError, UsageError
from actstore.storage import derived, fencing, metadata_cache, own_columns
from actstore.storage import manifest as manifests
from actstore.storage.buffer_pool import Memory
from actstore.storage.checksums import Check
from actstore.storage.derived import Derived
from actstore.storage.disk_errors import reading
from actstore.storage.fencing import Skipped
from actstore.storage.files import LocalFiles, StoreFiles
from actstore.storage.lease import Lease, pin
from actstore.storage.manifest import Manifest, ShardEntry
from actstore.storage.mapping import Gatherer, MappedShard, ShardReader, copy, open_shard
from actstore.storage.quantised_shard import QuantisedShard
from actstore.storage.staging import prepare
from actstore.storage.threads import Task, give_up

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_OPEN_SHARDS = 256
"""Shards kept open at a time, well below the usual limit of 1,024 files per process."""
_MANY_ROWS = 1 << 26
_MANY_BYTES = 1 << 33
_AT_ONCE = 128
"""Shards that one copy reads from: they stay open until it ends."""


def open_snapshot(
    root: Path | str, at: int | None = None, check: Check = "lazy", *, skip_damaged: bool = False
) -> Snapshot:
    """Pin commit ``at`` of the store at ``root``, or its latest commit.

    Args:
        root: folder of the store.
        at: number of the commit.
        check: when vectors are held against their checksums; metadata and labels always are.
        skip_damaged: read all files now, and leave out the shards that are damaged.

    Raises:
        PathError: ``root`` is an address, or no possible name.
        StoreNotFoundError: there is no store at ``root``.
        SnapshotNotFoundError: the store has no commit ``at``.
        CorruptStoreError: the manifest is damaged, or speaks of what cannot be.
        DamageError: with ``skip_damaged``: no shard is sound, or a label file is not.
    """
    path = paths.local_store(root)
    manifest, lease = pin(path, at)
    skipped = fencing.damaged(path, manifest) if skip_damaged else ()
    if skipped:
        manifest = fencing.without(manifest, skipped)
    found = Snapshot(LocalFiles(path, check), manifest, lease, skipped)
    if not manifest.segments:
        _ = found.shards  # what is wrong with them is told now; in segments there are many
    return found


def latest_snapshot(root: Path | str, check: Check = "lazy") -> Snapshot:
    """Pin the latest commit of the store at ``root``; a new, empty store where there is none.

    Args:
        root: folder of the store.
        check: as in :func:`open_snapshot`.

    Raises:
        PathError: the path is an address, a file, or none at all.
        StoreError: it is a folder that holds other things.
        CommitError: it cannot be written.
        CorruptStoreError: the latest manifest is damaged.
    """
    path = Path(root)
    prepare(path)
    if manifests.newest(path):
        return open_snapshot(path, check=check)
    return Snapshot(LocalFiles(path, check), manifests.EMPTY)


class Snapshot:
    """One commit of a store, unchanging whatever is written, compacted or pruned afterwards.

    Rows are numbered 0 to ``rows - 1``: shards by model, site and layer (unknown last),
    within one of these by commit, within a shard as they came.
    """

    def __init__(
        self,
        files: StoreFiles,
        manifest: Manifest,
        lease: Lease | None = None,
        skipped: tuple[Skipped, ...] = (),
    ) -> None:
        self.files = files
        self._lease = lease
        self.manifest = manifest
        self.skipped = skipped
        """Damaged shards of the commit that ``manifest`` and ``shards`` leave out."""
        self._readers: OrderedDict[int, ShardReader] = OrderedDict()
        self._last_gatherer: tuple[int, int, Gatherer | None] | None = None
        self._metadata: Derived | None = None
        self._own: Derived | None = None
        self._memory = Memory()
        self._lock = Lock()

    @cached_property
    def shards(self) -> tuple[ShardEntry, ...]:
        """The commit's shards in row order.

        Raises:
            CorruptStoreError: a segment of the manifest is missing or damaged.
        """
        shards = self.manifest.shards
        for entry in shards if self.files.portion is None else ():
            # So large a shard is written by nobody: what follows from its numbers takes memory.
            if entry.rows > _MANY_ROWS or entry.bytes > _MANY_BYTES:
                open_shard(self.root, entry, "never").close()
        return shards

    @cached_property
    def offsets(self) -> np.ndarray:
        """First row number of each shard, and the number of rows: int64 ``[shards + 1]``."""
        found = np.zeros(len(self.shards) + 1, np.int64)
        np.cumsum([shard.rows for shard in self.shards], out=found[1:])
        return found

    @property
    def name(self) -> str:
        """What messages call the store: its path or its address."""
        return self.files.name

    @property
    def root(self) -> Path:
        """The store's folder.

        Raises:
            UsageError: the store is not on this machine.
        """
        return self.files.root

    @property
    def rows(self) -> int:
        """Rows in the store."""
        return self.manifest.rows

    def close(self) -> None:
        """Give all files back; matrices handed out stay valid."""
        with self._lock:
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()
            self._last_gatherer = None
            self._memory.close()
        self.release()
        self._metadata = self._own = None

    def without(self, skipped: tuple[Skipped, ...]) -> Snapshot:
        """Return the commit without these shards too; this one is not to be used any more."""
        manifest = fencing.without(self.manifest, skipped)
        return Snapshot(self.files, manifest, self._lease, (*self.skipped, *skipped))

    def release(self) -> None:
        """Let the commit be pruned; what is not open by then may be gone when it is needed."""
        files = (each.lease for each in (self._metadata, self._own) if each is not None)
        for lease in (self._lease, *files):
            if lease is not None:
                lease.release()

    def metadata_file(self) -> Path:
        """Return a Parquet file with one row per row of the store, in row order.

        It holds every column but the vector, with labels as they stand now, and ``row_id``
        (int64) and ``shard`` (int32, index into :attr:`shards`). It is made on first use
        and kept in the store's cache folder.
        """
        found = self._metadata
        if found is None or not derived.is_sound(found.path):
            found = self._metadata = metadata_cache.cached_file(self.files, self.manifest)
        return found.path

    @contextlib.contextmanager
    def opened_metadata(self, dictionaries: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
        """Open the file of :meth:`metadata_file`.

        Args:
            dictionaries: columns to read as dictionaries.

        Raises:
            ReadError: the system cannot read it, now or while the block reads.
        """
        # Not pq.read_table, which loads pyarrow.dataset and with it pandas: 0.3 s.
        import pyarrow.parquet as pq

        path = self.metadata_file()
        with (
            reading(path, derived=True),
            pq.ParquetFile(path, read_dictionary=list(dictionaries)) as file,
        ):
            yield file

    def own_columns_file(self) -> Path:
        """Return the metadata file with the fields of ``extra`` as further columns.

        See :mod:`actstore.storage.own_columns`. It is made on first use and kept beside it.
        """
        found = self._own
        if found is None or not derived.is_sound(found.path):
            metadata = self.metadata_file()
            found = self._own = own_columns.own_file(metadata)
            return metadata if found is None else found.path
        return found.path

    @cached_property
    def own_columns(self) -> dict[str, pa.DataType]:
        """The fields of ``extra`` by their columns' names, with their types."""
        return own_columns.types(self.own_columns_file())

    def shape(self, row_ids: np.ndarray | None = None) -> tuple[int, schema.VectorType]:
        """Return width and stored type of the given rows' vectors (of all rows: None).

        Vectors are handed out as float16 where all are stored so, else as float32: where both
        meet, and where they are stored as int8.

        Raises:
            MixedVectorsError: the vectors differ in width.
        """
        if row_ids is None:
            return _shape(self.shards)
        return _shape([self.shards[number] for number in self.involved(row_ids).tolist()])

    def involved(self, row_ids: np.ndarray) -> np.ndarray:
        """Return the numbers of the shards that some rows (int64, any order) lie in, ascending."""
        if not len(row_ids):
            return np.empty(0, np.int64)
        ends = np.searchsorted(self.offsets, (row_ids.min(), row_ids.max()), "right") - 1
        first, last = ends.tolist()
        if first == last:
            return ends[:1]
        if bool((row_ids[1:] >= row_ids[:-1]).all()):  # as selections are: far fewer searches
            counts = np.diff(np.searchsorted(row_ids, self.offsets[first : last + 2]))
        else:
            counts = np.bincount(np.searchsorted(self.offsets, row_ids, "right") - 1 - first)
        found: np.ndarray = first + np.flatnonzero(counts)
        return found

    def view(self, start: int, stop: int) -> np.ndarray | None:
        """Return rows ``start`` to ``stop`` as a read-only ``[rows, width]`` over the map.

        None when they do not lie in one run of one file.
        """
        if not 0 <= start < stop <= self.rows:
            return None
        number = int(np.searchsorted(self.offsets, start, "right")) - 1
        if stop > self.offsets[number + 1]:
            return None
        first = int(self.offsets[number])
        return self._reader(number).view(start - first, stop - first)

    def gather(self, row_ids: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the vectors of the given rows as a matrix ``[len(row_ids), width]``.

        Args:
            row_ids: int64 row numbers in any order, repeats allowed.
            out: matrix to fill instead of a new one; float16 or float32.

        Raises:
            MixedVectorsError: the vectors differ in width.
            UsageError: a row number or the shape of ``out`` is out of range.
            CorruptStoreError: a shard is missing or cut short.
        """
        ids = np.ascontiguousarray(row_ids, np.int64)
        count = len(ids)
        low, high = (int(ids.min()), int(ids.max())) if count else (0, -1)
        if low < 0 or high >= self.rows:
            wrong = low if low < 0 else high
            raise UsageError(f"row numbers go from 0 to {self.rows - 1}, got {wrong}")
        run = high - low == count - 1 and bool((np.diff(ids) == 1).all())
        mapped = None if run else self._gatherer(low, high)
        if mapped and out is None:
            out = self._memory.matrix(count, mapped.width, mapped.dtype)
        if mapped and out is not None and len(out) == count and mapped.can_fill(out):
            mapped.take(ids, out)
            return out
        numbers = np.searchsorted(self.offsets, (low, high) if run else ids, "right") - 1
        if run and count:
            involved = list(range(numbers[0], numbers[1] + 1))
        else:
            involved = np.flatnonzero(np.bincount(numbers, minlength=1)).tolist() if count else []
        for number in involved:
            if not self.shards[number].pages:
                self._reader(number)  # nothing but the file itself says how much it unfolds to
        width, dtype = _shape([self.shards[number] for number in involved])
        if out is not None and out.shape != (count, width) and (count or len(out)):
            raise UsageError(f"out has shape {out.shape}, the rows need {(count, width)}")
        if count == 0:
            return np.empty((0, width), dtype) if out is None else out
        target = self._memory.matrix(count, width, dtype) if out is None else out
        if run:
            self._gather_run(low, target, own=out is None)
            return target

        def take(number: int) -> None:
            chosen = np.flatnonzero(numbers == number)
            target[chosen] = self._reader(number).take(ids[chosen] - self.offsets[number])

        self._each(take, involved)
        return target

    def stored(self, row_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return rows as they are stored; of int8 the whole numbers, and the rows' scales.

        Args:
            row_ids: int64 row numbers in any order, all of one width and stored type.
        """
        numbers = np.searchsorted(self.offsets, row_ids, "right") - 1
        involved = np.unique(numbers).tolist()
        if not involved or self.shards[involved[0]].dtype != "int8":
            return self.gather(row_ids), None
        vectors = np.empty((len(row_ids), self.shards[involved[0]].width), np.int8)
        scales = np.empty(len(row_ids), np.float32)

        def take(number: int) -> None:
            chosen = np.flatnonzero(numbers == number)
            reader = self._reader(number)
            assert isinstance(reader, QuantisedShard)
            found = reader.stored_rows(row_ids[chosen] - self.offsets[number])
            vectors[chosen], scales[chosen] = found

        self._each(take, involved)
        return vectors, scales

    def stored_run(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return whole numbers and scales of rows ``start`` to ``stop`` where they lie.

        None where these are not of int8, or not in one shard.
        """
        number = int(np.searchsorted(self.offsets, start, "right")) - 1
        if stop > self.offsets[number + 1] or self.shards[number].dtype != "int8":
            return None
        reader = self._reader(number)
        assert isinstance(reader, QuantisedShard)
        first = int(self.offsets[number])
        return reader.stored(start - first, stop - first)

    def matrix(self, rows: int, width: int, dtype: schema.VectorType) -> np.ndarray:
        """Return an uninitialized matrix ``[rows, width]``, for ``gather`` to fill.

        It is made out of memory that earlier ones have left, which is faster than new memory.
        """
        return self._memory.matrix(rows, width, dtype)

    def portions(self, row_ids: np.ndarray) -> Iterator[tuple[int, int]]:
        """Yield ``(start, stop)`` of the parts of a list of rows that should be read in turn.

        Vectors that are not on this machine are fetched part by part, many at once, when
        their part is asked for; of a local store the one part is everything.

        Args:
            row_ids: int64 row numbers, all of one width.
        """
        portion = self.files.portion
        if portion is None or not len(row_ids):
            yield 0, len(row_ids)
            return
        width, dtype = self.shape(row_ids[:1])
        step = max(1, portion // (width * np.dtype(dtype).itemsize))
        for start in range(0, len(row_ids), step):
            part = row_ids[start : start + step]
            self._fetch(part)
            yield start, start + len(part)

    def _fetch(self, row_ids: np.ndarray) -> None:
        numbers = np.searchsorted(self.offsets, row_ids, "right") - 1

        def fetch(number: int) -> None:
            self._reader(number).fetch(row_ids[numbers == number] - self.offsets[number])

        self._each(fetch, np.unique(numbers).tolist())

    def _each(self, work: Callable[[int], None], numbers: list[int]) -> None:
        """Do ``work`` for several shards: those far away side by side."""
        if self.files.portion is None or len(numbers) < 2:
            for number in numbers:
                work(number)  # uses all threads by itself
            return
        tasks: list[Task[None]] = []
        try:
            for number in numbers:
                tasks.append(self.files.submit(work, number))
            for task in tasks:
                task.result()
        finally:
            give_up(tasks)

    def _gatherer(self, low: int, high: int) -> Gatherer | None:
        """Return what gathers any rows from ``low`` to ``high`` at once.

        None where they lie in too many shards, in shards of different kinds or far away.
        """
        known = self._last_gatherer
        if known is not None and known[0] <= low and high < known[1]:
            return known[2]
        first, last = (np.searchsorted(self.offsets, (low, high), "right") - 1).tolist()
        entries = self.shards[first : last + 1]
        if self.files.portion is not None or len(entries) > _AT_ONCE:
            return None
        found = None
        if len({(entry.width, entry.dtype, not entry.pages) for entry in entries}) == 1:
            readers = [self._reader(number) for number in range(first, last + 1)]
            mapped = [reader for reader in readers if isinstance(reader, MappedShard)]
            if len(mapped) == len(entries):
                found = Gatherer(
                    [matrix for reader in mapped for matrix in reader.matrices],
                    int(self.offsets[first]),
                )
        self._last_gatherer = int(self.offsets[first]), int(self.offsets[last + 1]), found
        return found

    def _gather_run(self, start: int, out: np.ndarray, *, own: bool) -> None:
        stop = start + len(out)
        first = int(np.searchsorted(self.offsets, start, "right")) - 1
        end = int(np.searchsorted(self.offsets, stop, "left"))
        pairs: list[tuple[np.ndarray, np.ndarray]] = []
        others: dict[int, tuple[int, np.ndarray]] = {}
        for number in range(first, end):
            offset = int(self.offsets[number])
            low, high = max(start, offset), min(stop, int(self.offsets[number + 1]))
            target = out[low - start : high - start]
            reader = self._reader(number)
            if isinstance(reader, MappedShard):
                pairs += reader.pairs(low - offset, target, own=own)
            else:
                others[number] = low - offset, target
            if (number - first) % _AT_ONCE == _AT_ONCE - 1:
                copy(pairs)
                pairs.clear()
        copy(pairs)
        self._each(lambda number: self._reader(number).run(*others[number]), list(others))

    def _reader(self, number: int) -> ShardReader:
        with self._lock:
            reader = self._readers.get(number)
            if reader is None:
                reader = self.files.open_shard(self.shards[number])
                self._readers[number] = reader
                if len(self._readers) > _OPEN_SHARDS:
                    # Dropped, not closed: another thread may be reading from it.
                    self._readers.popitem(last=False)
            else:
                self._readers.move_to_end(number)
            return reader


def _shape(shards: Sequence[ShardEntry]) -> tuple[int, schema.VectorType]:
    """Return the width and type of the vectors of several shards together."""
    widths = sorted({shard.width for shard in shards})
    if len(widths) > 1:
        sites = {shard.width: shard.site for shard in reversed(shards)}
        examples = ", ".join(f"{width} ({sites[width]})" for width in widths)
        raise MixedVectorsError(
            f"these rows have vectors of different widths: {examples}; select one site or one model"
        )
    types = {shard.dtype for shard in shards}
    return (widths[0] if widths else 0), ("float16" if types == {"float16"} else "float32")
