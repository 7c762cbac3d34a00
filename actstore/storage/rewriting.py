"""Shards written anew, with fewer rows or other metadata: the vectors stay the bytes they were."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actstore import schema
from actstore.errors import CommitError
from actstore.storage import checksums, layout, narrowing, pages, shard_columns, soundness
from actstore.storage.disk_errors import named, reading, writing
from actstore.storage.entries import ITEM_BYTES
from actstore.storage.file_hashes import sha256_at, sha256_of
from actstore.storage.labels import write_overlay
from actstore.storage.manifest import LabelEntry, Manifest, Run, ShardEntry, together
from actstore.storage.mapping import ShardReader, open_shard
from actstore.storage.metadata_table import Fragment, in_order, pools_of, with_scales
from actstore.storage.pages import VectorPage
from actstore.storage.quantised_shard import QuantisedShard
from actstore.storage.shard import ShardWriter, Written
from actstore.storage.shard_tail import MetadataColumns, append_metadata, write_at

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_BLOCK_BYTES = 32 << 20
_CHUNK = 1 << 20

Key = tuple[str, str, "int | None"]
"""Model, site and layer."""


class Destination(NamedTuple):
    """Rows of a shard that are to be together in a new one."""

    partition: Key
    rows: np.ndarray
    """Their numbers in the old shard: int64, ascending."""
    dtype: schema.StoredType | None = None
    """Another type to store them in, which can hold them."""


class Wanted(NamedTuple):
    """What is to become of a shard."""

    entry: ShardEntry
    table: pa.Table
    """Metadata of all its rows, as they are to be, labels in it."""
    destinations: Sequence[Destination]
    """The new shards, in order; none where no row is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """New shards, in a folder of a transaction, that are to take the place of others."""

    root: Path
    base: Manifest
    """The commit that they were made from."""
    made: Mapping[str, tuple[ShardEntry, ...]]
    """By path of the shard whose place they take."""
    labels: tuple[LabelEntry, ...]
    """Overlays that are left: labels of the shards that go are in the new ones."""
    files: Mapping[str, Path]
    """Files of shards and overlays, by the path they are to have."""

    def following(
        self,
        latest: Manifest,
        *,
        operation: str,
        message: str,
        runs: tuple[Run, ...] | None = None,
        run: Run | None = None,
        more: Sequence[ShardEntry] = (),
        gone: Sequence[ShardEntry] = (),
    ) -> Manifest:
        """Return the commit on top of ``latest``, with ``more`` shards behind all others.

        Args:
            latest: what it comes on top of.
            operation: what the log calls it.
            message: what the log says.
            runs: all that are remembered; those of ``latest`` when missing.
            run: what made it, if that is to be remembered too.
            more: further shards.
            gone: shards that are named no longer, where none is replaced.

        Raises:
            CommitError: another writer has changed or labelled the same shards meanwhile.
        """
        self.check(latest)
        if not self.made and run is not None:
            return latest.adding(more, run=run, operation=operation, message=message, gone=gone)
        runs = latest.runs if runs is None else runs
        if run is not None:
            runs = (*(known for known in runs if known.run_id != run.run_id), run)
        anew = [new for shard in latest.shards for new in self.made.get(shard.path, (shard,))]
        return latest.next(
            operation=operation,
            message=message,
            shards=(*anew, *more),
            labels=(*self.labels, *latest.labels[len(self.base.labels) :]),
            runs=self._remembered(runs),
        )

    def check(self, latest: Manifest) -> None:
        """Refuse to go on top of a commit that the new shards do not fit.

        Raises:
            CommitError: another writer has changed or labelled the same shards meanwhile.
        """
        if not self.made:
            return
        known = len(self.base.labels)
        if (
            not self.made.keys() <= {shard.path for shard in latest.shards}
            or latest.labels[:known] != self.base.labels
            or any(_labelled(self.root, each) & self.made.keys() for each in latest.labels[known:])
        ):
            raise CommitError(
                f"{self.root} was changed by others while this was prepared, in the same shards; "
                "nothing changed, run the command again"
            )

    def _remembered(self, runs: tuple[Run, ...]) -> tuple[Run, ...]:
        """Let pulls find what they brought: by its path, or it would be fetched again."""
        return tuple(
            dataclasses.replace(run, settings=self._renamed(run.settings))
            if run.kind == "pull" and isinstance(run.settings.get("made"), dict)
            else run
            for run in runs
        )

    def _renamed(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        made: dict[str, str] = {}
        covered = set(settings.get("covered", ()))
        types = {shard.path: shard.dtype for shard in self.base.shards}
        for path, piece in settings["made"].items():
            if path not in self.made:
                made[path] = piece
            elif any(new.dtype != types[path] for new in self.made[path]):
                made |= {new.path: piece for new in self.made[path]}
            else:  # renamed or dropped: the store's own rows, which no later pull takes back
                covered.add(piece)
        return {**settings, "made": dict(sorted(made.items())), "covered": sorted(covered)}


def replace(
    root: Path,
    base: Manifest,
    folder: Path,
    wanted: Iterable[Wanted],
    *,
    progress: Callable[[int], None] | None = None,
) -> Replacement:
    """Write shards anew, and the label overlays without theirs; the store does not change.

    Args:
        root: folder of the store; its shards and overlays were found sound, where they lie in it.
        base: the commit.
        folder: where the files go.
        wanted: each shard that changes.
        progress: called with the vector bytes written so far.

    Raises:
        CorruptStoreError: a shard or label file is missing or damaged.
        CommitError: the disk is full or failed.
    """
    transaction = layout.new_transaction()
    made: dict[str, tuple[ShardEntry, ...]] = {}
    files: dict[str, Path] = {}
    done = 0
    for entry, table, destinations in wanted:
        entries = []
        with contextlib.ExitStack() as here:
            if destinations:
                here.enter_context(writing(root))
                here.enter_context(soundness.fetched(root, entry))
            for partition, rows, dtype in destinations:
                number = len(files)
                draft = folder / f"anew-{number:06d}.parquet"
                written = _write(root, entry, table, rows, draft, dtype or entry.dtype)
                model, site, layer = partition
                new = dataclasses.replace(
                    entry,
                    model=model,
                    site=site,
                    layer=layer,
                    dtype=dtype or entry.dtype,
                    **written._asdict(),
                )
                new = dataclasses.replace(new, path=new.named_anew(transaction, files))
                entries.append(new)
                files[new.path] = draft
                done += new.vector_bytes
                if progress:
                    progress(done)
        made[entry.path] = tuple(entries)
    labels = []
    for overlay in base.labels:
        with writing(root):
            left, file = _without(root, overlay, made.keys(), folder)
        if left is not None:
            labels.append(left)
            if file is not None:
                files[left.path] = file
    return Replacement(root=root, base=base, made=made, labels=tuple(labels), files=files)


def with_labels(root: Path, entry: ShardEntry, labels: dict[int, Any] | None) -> pa.Table:
    """Return all metadata of a shard, with labels that were set since."""
    table = shard_columns.read_columns(root, entry, list(schema.metadata_names()))
    return shard_columns.with_labels(table, labels) if labels else table


def copy_rows(
    reader: ShardReader,
    table: pa.Table,
    rows: np.ndarray,
    shard: ShardWriter,
    block_bytes: int = _BLOCK_BYTES,
    dtype: schema.StoredType | None = None,
) -> None:
    """Append rows of a shard to another one.

    Args:
        reader: of the shard's vectors.
        table: its metadata, all columns and rows.
        rows: which rows, int64, ascending.
        shard: where they go.
        block_bytes: vector bytes to hold at a time.
        dtype: of the shard that they are from, where that is not the other's.
    """
    import pyarrow as pa

    dtype = shard.dtype if dtype is None else dtype
    step = max(1, block_bytes // (shard.width * ITEM_BYTES[dtype]))
    for start in range(0, len(rows), step):
        chosen = rows[start : start + step]
        scales = None
        block_is_run = bool(chosen[-1] - chosen[0] == len(chosen) - 1)
        if block_is_run:
            block = table.slice(int(chosen[0]), len(chosen))
        else:
            block = table.take(pa.array(chosen))
        if isinstance(reader, QuantisedShard):  # the very numbers: nothing is rounded again
            vectors, scales = reader.stored_rows(chosen)
        elif block_is_run:
            vectors = np.empty((len(chosen), shard.width), dtype)
            reader.run(int(chosen[0]), vectors)
        else:
            vectors = reader.take(chosen)
        if scales is None and shard.dtype != dtype:
            vectors, scales, lost = narrowing.stored(vectors, shard.dtype)
            shard.rounding = together((shard.rounding, lost))
        columns = {name: block[name].to_pylist() for name in block.column_names}
        shard.append(vectors, Fragment({}, columns, range(block.num_rows)), scales)
        shard.settle()


def _write(
    root: Path,
    entry: ShardEntry,
    table: pa.Table,
    rows: np.ndarray,
    draft: Path,
    dtype: schema.StoredType,
) -> Written:
    if len(rows) == entry.rows and dtype == entry.dtype:
        written = _with_metadata(root, entry, table, draft)
        if written is not None:
            return written
    shard = ShardWriter(draft, width=entry.width, dtype=dtype)
    try:
        reader = open_shard(root, entry)
        try:
            copy_rows(reader, table, rows, shard, dtype=entry.dtype)
        finally:
            reader.close()
        shard.rounding = together((shard.rounding, entry.rounding))
        return shard.finish()
    except BaseException:
        shard.abort()
        raise


def _with_metadata(root: Path, entry: ShardEntry, table: pa.Table, draft: Path) -> Written | None:
    """Copy a shard's vectors byte for byte and put other metadata behind them.

    None where they do not lie as this program writes them: before everything else.
    """
    import pyarrow.parquet as pq

    source = root / entry.path
    with contextlib.ExitStack() as opened:
        with reading(source):
            file = opened.enter_context(pq.ParquetFile(source))
            raw = opened.enter_context(source.open("rb"))
            groups = _groups(file.metadata, entry, raw.fileno())
        if groups is None:
            return None
        columns = MetadataColumns(None)
        first = 0
        if entry.dtype == "int8":
            scales = shard_columns.read_columns(root, entry, [schema.SCALE])[schema.SCALE]
            table = with_scales(table, scales.to_numpy())
        for group in groups:
            columns.add(table.slice(first, group.rows))
            first += group.rows
        target = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            _copy(source, raw.fileno(), target, groups[-1].end)
            with named(draft):
                sums = checksums.of_file(target, groups, entry.vector_bytes // entry.rows)
                append_metadata(target, columns, groups, sums, entry.width, entry.dtype)
                os.fsync(target)
                digest, size = sha256_at(target)
                tail, _ = sha256_at(target, groups[-1].end)
        finally:
            os.close(target)
    pools = in_order(pools_of(table))
    return Written(entry.rows, size, digest, entry.pages, pools, tail, entry.rounding)


def has_tail(root: Path, entry: ShardEntry) -> bool:
    """Say whether all but the vectors of a sound shard stands behind them, as we write it."""
    import pyarrow.parquet as pq

    if not entry.pages:
        return False
    path = root / entry.path
    with reading(path), pq.ParquetFile(path) as file, path.open("rb") as raw:
        return _groups(file.metadata, entry, raw.fileno()) is not None


def _groups(footer: pq.FileMetaData, entry: ShardEntry, descriptor: int) -> list[VectorPage] | None:
    """Return where a shard's vectors lie; None unless they come before all else."""
    with os.fdopen(os.dup(descriptor), "rb") as file:
        mapped = pages.mapped_pages(footer, file)
    if mapped is None or tuple(mapped) != entry.pages:
        return None
    vector = f"{schema.VECTOR}."
    found: list[VectorPage] = []
    others: list[int] = []
    for number, (values, rows) in enumerate(mapped):
        group = footer.row_group(number)
        for leaf in range(group.num_columns):
            chunk = group.column(leaf)
            if chunk.path_in_schema.startswith(vector):
                first = chunk.dictionary_page_offset or chunk.data_page_offset
                found.append(VectorPage(first, values, rows, values + rows * entry.row_bytes))
            else:
                others.append(min(chunk.data_page_offset, chunk.dictionary_page_offset or 1 << 62))
    return found if min(others) >= max(page.end for page in found) else None


def _copy(path: Path, source: int, target: int, size: int) -> None:
    buffer = bytearray(_CHUNK)
    done = 0
    while done < size:
        view = memoryview(buffer)[: size - done]
        with reading(path):
            count = os.preadv(source, [view], done)
        write_at(target, view[:count], done)
        done += count


def _labelled(root: Path, overlay: LabelEntry) -> set[str]:
    """Return the shards that an overlay speaks of."""
    return set(shard_columns.read_labels(root, overlay)["shard"].unique().to_pylist())


def _without(
    root: Path, overlay: LabelEntry, paths: Iterable[str], folder: Path
) -> tuple[LabelEntry | None, Path | None]:
    """Return an overlay without the labels of some shards, and its file if it is a new one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = shard_columns.read_labels(root, overlay)
    going = pc.is_in(table["shard"], value_set=pa.array(list(paths), pa.string()))
    left = table.filter(pc.invert(going))
    if left.num_rows == table.num_rows:
        return overlay, None
    if not left.num_rows:
        return None, None
    shards = left["shard"].combine_chunks().dictionary_encode()
    name = f"{layout.LABELS}/{layout.new_transaction()}.parquet"
    draft = folder / Path(name).name
    write_overlay(
        draft,
        shards.dictionary.to_pylist(),
        shards.indices.to_numpy(zero_copy_only=False),
        left["row"].to_numpy(),
        left["label"].to_pylist(),
    )
    digest, size = sha256_of(draft)
    entry = LabelEntry(path=name, rows=left.num_rows, bytes=size, sha256=digest)
    return entry, draft
