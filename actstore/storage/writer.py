"""Writing rows into a store: duplicates skipped, conflicts refused, commits atomic."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from actstore import schema
from actstore.errors import CommitError, LayoutError, UsageError
from actstore.storage import card, incoming, key_hashes, layout, narrowing
from actstore.storage.disk_errors import writing
from actstore.storage.dropping import without
from actstore.storage.incoming import Incoming, PartitionKey
from actstore.storage.joining import NOTHING, Joined, join
from actstore.storage.manifest import Manifest, Run, ShardEntry, together
from actstore.storage.metadata_cache import Leavings
from actstore.storage.metadata_table import Fragment
from actstore.storage.partition import Partition, StoredRows
from actstore.storage.rebase import without_rows_of
from actstore.storage.rewriting import Replacement
from actstore.storage.rows import Added, Narrow, RowBatch, check
from actstore.storage.shard import ShardWriter, Written, finished
from actstore.storage.threads import in_parallel
from actstore.storage.transaction import Transaction

SHARD_BYTES = 512 << 20
"""Vector bytes after which a shard is closed and the next one begun."""
CHECKPOINT_BYTES = 4 << 30
"""Vector bytes after which what is whole is committed, so that a long run can resume."""
CHECKPOINT_ROWS = 250_000
"""Likewise rows: each one pending takes about a kilobyte of memory, whatever its width."""
_BUFFER_BYTES = 16 << 20
"""Vector bytes that all open shards together hold in memory before they are written out."""
_KEPT_BUFFERS = 128
_ShardKey = tuple[PartitionKey, int, schema.StoredType]
_STORED: dict[np.dtype[Any], schema.StoredType] = {
    np.dtype("float16"): "float16",
    np.dtype("float32"): "float32",
    np.dtype("int8"): "int8",
}


class StoreWriter:
    """One writing session on a store; a context manager.

    Nothing is visible to readers before :meth:`commit`. Leaving the block by an exception
    drops what was not committed; a killed process leaves only files that the next writer
    removes. Several writers may work on one store at once.

    Args:
        root: folder of the store, made when missing.
        run: what makes these rows; goes into the manifest.
        checkpoint_bytes: :meth:`checkpoint` commits after this many vector bytes; None: never.
        replace: a row whose key is stored with another vector takes its place, in the same
            commit, instead of being a conflict.
        narrow: a smaller type to store vectors in, as far as it can hold them.
        small: this is one of many small writes: it leaves the card behind where shards are many,
            and joins those that such writes have left.

    Raises:
        StoreError: the path is a file or holds other things.
        CommitError: it cannot be written.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        run: Run,
        checkpoint_bytes: int | None = CHECKPOINT_BYTES,
        replace: bool = False,
        narrow: Narrow | None = None,
        small: bool = False,
    ) -> None:
        self.root = Path(root)
        self.run = run
        self._change = self._begun()
        self._checkpoint_bytes = checkpoint_bytes
        self._partitions: dict[PartitionKey, Partition] = {}
        self._open: dict[_ShardKey, ShardWriter] = {}
        self._full: list[tuple[_ShardKey, ShardWriter]] = []
        self._names = 0
        self._marks: dict[ShardWriter, int] | None = None
        self._marked: list[tuple[Partition, list[int]]] = []
        self._waiting_bytes = 0
        self._replace = replace
        self._replaced: list[tuple[ShardEntry, int]] = []
        self._narrow = narrow
        self._small = small
        self._losses: list[narrowing.Part] = []
        self._leavings = Leavings()
        self.own: set[str] = set()
        """Shards that this run has committed: this session, or others that say so."""
        self.commits: list[int] = []
        """Numbers of the commits made so far."""
        self.overtaken = 0
        """Rows left out at a commit because another writer had brought them meanwhile."""
        self.recorded: Callable[[Run, int], Run] | None = None
        """Makes the run's record, given :attr:`overtaken`, which only a commit finds out."""

    def _begun(self) -> Transaction:
        return Transaction(self.root)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop what is not committed and give everything back."""
        try:
            self._drop(self._pending())
        finally:
            self._change.close()
        if self.commits and not self._small:
            self._leavings.leave(self.root)
            card.catch_up(self.root, closely=True)

    @property
    def narrowing_note(self) -> str | None:
        """What the rows of this session lost in the smaller type, in a sentence."""
        return narrowing.note(self._narrow, self._losses) if self._narrow else None

    @property
    def losses(self) -> list[narrowing.Part]:
        """What the rows of this session lost in the smaller type, in the order they came."""
        return list(self._losses)

    @property
    def pending_rows(self) -> int:
        """Rows that the next commit would add."""
        return sum(shard.rows for _, shard in self._pending())

    @property
    def pending_bytes(self) -> int:
        """Vector bytes that the next commit would add."""
        return sum(shard.rows * shard.row_bytes for _, shard in self._pending())

    def replaced(self) -> list[StoredRows]:
        """Return the stored rows that the next commit would replace: by shard, ascending."""
        rows: dict[str, list[int]] = {}
        entries = {entry.path: entry for entry, _ in self._replaced}
        for entry, row in self._replaced:
            rows.setdefault(entry.path, []).append(row)
        return [StoredRows(entries[path], np.array(sorted(rows[path]), np.int64)) for path in rows]

    @contextlib.contextmanager
    def file(self) -> Iterator[None]:
        """Group the batches of one source file: all of them are kept, or none.

        An exception inside the block takes the block's rows back and goes on its way.
        """
        self._marks, self._marked = {}, []
        replaced, losses = len(self._replaced), len(self._losses)
        try:
            yield
        except BaseException:
            del self._replaced[replaced:]
            del self._losses[losses:]
            for partition, values in self._marked:
                partition.forget(values)
            with self._or_give_up():  # what stays is read back from the file
                for shard, rows in self._marks.items():
                    shard.truncate(rows)
            raise
        finally:
            marks, self._marks, self._marked = self._marks, None, []
        with self._or_give_up():
            self._settle(marks)

    @contextlib.contextmanager
    def _or_give_up(self) -> Iterator[None]:
        """Drop everything pending when the disk fails: it can no longer be completed."""
        try:
            with writing(self.root):
                yield
        except CommitError:
            self._drop(self._pending())
            raise

    def _drop(self, shards: list[tuple[_ShardKey, ShardWriter]]) -> None:
        for _, shard in shards:
            shard.abort()
        self._open.clear()
        self._full.clear()
        self._replaced.clear()
        self._forget_partitions()

    def _settle(self, touched: Mapping[ShardWriter, int]) -> None:
        # In threads, which Ctrl-C does not reach: a row group is settled or it is not.
        ready = [shard for shard in touched if shard.can_settle]
        if ready:
            in_parallel(ShardWriter.settle, ready)
        full = {shard for shard in touched if shard.rows * shard.row_bytes >= SHARD_BYTES}
        if full:  # all that are open are gone through for these alone: there may be thousands
            for key in [key for key, shard in self._open.items() if shard in full]:
                self._full.append((key, self._open.pop(key)))

    def checkpoint(self) -> int | None:
        """Commit if much is pending, so that a long run can resume; call it between files.

        Returns the commit's number, or None when it was not yet time.

        Raises:
            as :meth:`commit`.
        """
        if self._checkpoint_bytes is None or (
            self.pending_bytes < self._checkpoint_bytes and self.pending_rows < CHECKPOINT_ROWS
        ):
            return None
        return self.commit(operation=self.run.kind, message=f"{self.run.kind} (in progress)")

    def add(self, batch: RowBatch) -> Added:
        """Add rows; those that the store already holds bit for bit are skipped.

        Raises:
            ConflictError: a key is already stored with a different vector, or came with one
                before.
            LayoutError: the width differs from what this model, site and layer has.
            UsageError: a required column is missing, or a value is of the wrong type.
            CommitError: the disk is full or failed; everything not committed is given up.
        """
        if self._marks is None:
            with self.file():
                return self.add(batch)
        if len(batch) == 0:
            return Added(0, 0)
        if self._narrow is None:
            return self._add(batch)
        check(batch.vectors, batch.constants, batch.columns)
        total = Added(0, 0)
        for part in narrowing.narrowed(batch, self._narrow):
            added = self._add(part)
            dtype = str(part.vectors.dtype)
            self._losses.append(narrowing.Part(dtype, added.written, part.rounding))
            total = incoming.total(total, added)
        return total

    def _add(self, batch: RowBatch) -> Added:
        source = incoming.incoming(batch, self.run.run_id)
        total = Added(0, 0)
        with self._or_give_up():
            for key, rows in source.by_partition().items():
                total = incoming.total(total, self._add_to(key, rows, source))
            self._place_when_full(total.bytes)
        return total

    def _place_when_full(self, more: int) -> None:
        self._waiting_bytes += more
        if self._waiting_bytes >= _BUFFER_BYTES:
            self._waiting_bytes = 0
            waiting = [shard for shard in self._open.values() if shard.waiting]
            place = partial(ShardWriter.place, keep=len(self._open) <= _KEPT_BUFFERS)
            in_parallel(place, waiting)

    def _add_to(self, key: PartitionKey, rows: Sequence[int], source: Incoming) -> Added:
        partition = self._partition(key)
        width = source.vectors.shape[1]
        if partition.width not in (None, width):
            raise LayoutError(
                f"vectors of {key_hashes.describe_partition(key)} have width {width}, "
                f"the store holds width {partition.width} there"
            )
        values = (
            source.values
            if len(rows) == len(source.values)
            else [source.values[row] for row in rows]
        )
        found = partition.find(source.hashes, rows, values)
        there = Added(0, 0)
        if found:
            replace = self._replaces if self._replace else None
            there = incoming.present(partition, found, rows, source, self.own, replace)
            new = [at for at in range(len(rows)) if at not in found]
            if not new:
                return there
            rows, values = [rows[at] for at in new], [values[at] for at in new]
        if len(values) > 1 and len(set(values)) < len(values):
            first, again = incoming.repeats(values)
            one = self._add_to(key, [rows[at] for at in first], source)
            two = self._add_to(key, [rows[at] for at in again], source)
            return incoming.total(there, one, two)
        dtype = _STORED[source.vectors.dtype]
        shard = self._shard(key, width, dtype)
        assert self._marks is not None
        self._marks.setdefault(shard, shard.rows)
        self._marked.append((partition, values))
        partition.expect(shard, values)
        fragment = Fragment(source.constants, source.columns, rows)
        scales = None if source.scales is None else incoming.chosen(source.scales, rows)
        vectors = incoming.chosen(source.vectors, rows)
        shard.append(vectors, fragment, scales)
        shard.rounding = together((shard.rounding, source.rounding))
        stored = vectors.nbytes + (0 if scales is None else scales.nbytes)
        return there._replace(written=len(rows), bytes=stored)

    def _replaces(self, entry: ShardEntry, row: int) -> bool:
        """Note a stored row that another one takes the place of; say whether it may."""
        self._replaced.append((entry, row))
        return True

    def commit(self, *, operation: str, message: str) -> int | None:
        """Make everything added so far visible, in one step; return the commit's number.

        None when there is nothing new. Another writer may commit meanwhile: rows that it
        brought too are left out here.

        Raises:
            ConflictError: another writer stored one of the keys with a different vector.
            LayoutError: another writer stored vectors of another width there.
            CommitError: the disk is full or failed; everything not committed is given up.
            UsageError: called inside a :meth:`file` block.
        """
        if self._marks is not None:
            raise UsageError("commit between files, not inside a file() block")
        pending = [(key, shard) for key, shard in self._pending() if shard.rows]
        for _, shard in self._pending():
            if not shard.rows:
                shard.abort()
        self._open.clear()
        self._full.clear()
        if not pending:
            return None
        try:
            with writing(self.root):
                files = finished([shard for _, shard in pending])
            manifest = self._publish(pending, files, operation, message)
        except BaseException:
            self._drop(pending)
            raise
        if manifest is None:
            self._forget_partitions()
            return None
        return manifest.number

    def _publish(
        self,
        pending: list[tuple[_ShardKey, ShardWriter]],
        files: list[Written],
        operation: str,
        message: str,
    ) -> Manifest | None:
        """Commit shards that are complete, less the rows that others have brought meanwhile."""
        transaction = layout.new_transaction()
        entries = [
            self._entry(key, written, transaction, number)
            for number, ((key, _), written) in enumerate(zip(pending, files, strict=True))
        ]
        before, overtaken = self._change.base, self.overtaken
        replacement = self._replacement()
        joined = self._joined({key[0] for key, _ in pending})
        checked = before

        def build(latest: Manifest) -> Manifest | None:
            nonlocal checked, joined
            replacement.check(latest)  # or rows that a compaction moved would seem a conflict
            others = [] if latest is checked else latest.more_than(checked)
            checked = latest
            if latest is not before:  # who knows what became of them
                self._change.take_back(joined.files)
                joined = NOTHING
            if others:
                self._catch_up(latest)
            entries[:] = [
                self._rebase(entry, others, key[0], shard)
                for entry, (key, shard) in zip(entries, pending, strict=True)
            ]
            live = [entry for entry in entries if entry.rows]
            if not live:
                return None
            own = self.run if self.recorded is None else self.recorded(self.run, self.overtaken)
            return replacement.following(
                latest,
                operation=operation,
                message=message,
                run=own,
                more=(*joined.made, *live),
                gone=joined.gone,
            )

        def committed(manifest: Manifest) -> None:
            self.commits.append(manifest.number)
            self.own.update(entry.path for entry in entries)
            for entry, (_, shard) in zip(entries, pending, strict=True):
                self._leavings.add(entry, shard.metadata)
            known = all(key[0] in self._partitions for key, _ in pending)
            if self._replaced or self.overtaken != overtaken or joined.gone or not known:
                self._replaced.clear()
                self._forget_partitions()  # rows lie elsewhere: learn their keys when needed
                return
            for (key, shard), entry in zip(pending, entries, strict=True):
                self._partitions[key[0]].commit(shard, entry)
            if manifest.number != before.number + 1:
                self._catch_up(manifest)

        return self._change.commit(
            {
                **replacement.files,
                **joined.files,
                **{e.path: shard.path for e, (_, shard) in zip(entries, pending, strict=True)},
            },
            build,
            then=committed,
        )

    def _replacement(self) -> Replacement:
        """Write the shards anew that rows are replaced in, without those."""
        base = self._change.base
        if self._replaced:
            return without(self.root, base, self.replaced(), self._change.folder)
        return Replacement(root=self.root, base=base, made={}, labels=base.labels, files={})

    def _joined(self, keys: Iterable[PartitionKey]) -> Joined:
        """Write as one what many small writes have left where this one adds to it."""
        if not self._small or self._replaced:
            return NOTHING
        base = self._change.base
        with writing(self.root):
            return join(self.root, base, self._change.folder, map(base.shards_of, keys))

    def _rebase(
        self,
        entry: ShardEntry,
        others: list[ShardEntry],
        key: PartitionKey,
        shard: ShardWriter,
    ) -> ShardEntry:
        rivals = [other for other in others if other.partition == entry.partition]
        if not rivals or not entry.rows:
            return entry
        partition = self._partitions.get(key)
        if (
            partition is not None
            and all(rival.width == entry.width for rival in rivals)
            and not partition.meets(shard, {rival.path for rival in rivals})
        ):
            return entry
        kept = without_rows_of(self.root, entry, rivals, self._change.folder)
        self.overtaken += entry.rows - kept.rows
        return kept

    def _catch_up(self, manifest: Manifest) -> None:
        """Learn the keys that others have brought: those of this session are known."""
        parts = self._partitions.items()
        if not all(part.catch_up(manifest.shards_of(key)) for key, part in parts):
            self._forget_partitions()

    def _forget_partitions(self) -> None:
        for partition in self._partitions.values():
            partition.close()
        self._partitions.clear()

    def _pending(self) -> list[tuple[_ShardKey, ShardWriter]]:
        return [*self._full, *self._open.items()]

    def _partition(self, key: PartitionKey) -> Partition:
        partition = self._partitions.get(key)
        if partition is None:
            stored = self._change.base.shards_of(key)
            partition = self._partitions[key] = Partition(self.root, stored)
        return partition

    def _shard(self, key: PartitionKey, width: int, dtype: schema.StoredType) -> ShardWriter:
        shard = self._open.get((key, width, dtype))
        if shard is None:
            shard = self._open[key, width, dtype] = self._new_shard(width, dtype)
        return shard

    def _new_shard(self, width: int, dtype: schema.StoredType) -> ShardWriter:
        path = self._change.folder / f"{self._names:06d}.parquet"
        self._names += 1
        return ShardWriter(path, width=width, dtype=dtype)

    def _entry(self, key: _ShardKey, written: Written, transaction: str, number: int) -> ShardEntry:
        (model, site, layer), width, dtype = key
        entry = ShardEntry(
            path="",
            model=model,
            site=site,
            layer=layer,
            width=width,
            dtype=dtype,
            **written._asdict(),
        )
        return dataclasses.replace(entry, path=entry.named(transaction, number))
