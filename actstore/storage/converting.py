"""A store's vectors in a smaller type: its shards written anew, in place or as another store."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from actstore.errors import PrecisionError, UsageError
from actstore.storage import (
    floats,
    layout,
    narrowing,
    quantised,
    rewriting,
    shard_columns,
    soundness,
)
from actstore.storage import manifest as manifests
from actstore.storage.entries import ITEM_BYTES
from actstore.storage.manifest import Manifest, Run, ShardEntry
from actstore.storage.mapping import ShardReader, open_shard
from actstore.storage.rewriting import Destination, Replacement, Wanted
from actstore.storage.rows import Narrow
from actstore.storage.snapshot import Snapshot
from actstore.storage.soundness import Named
from actstore.storage.transaction import Transaction

Target = Literal["int8", "compact16", "float16"]
"""What vectors can be converted to; ``float16`` is ``compact16`` where no row overflows."""

_BLOCK_BYTES = 32 << 20


def changing(shards: Sequence[ShardEntry], to: Target) -> list[ShardEntry]:
    """Return the shards that get smaller; those of the type already, or a smaller one, stay."""
    size = ITEM_BYTES[narrowing.HELD[narrow_of(to)]]
    return [entry for entry in shards if ITEM_BYTES[entry.dtype] > size]


def bytes_after(entry: ShardEntry, to: Target, *, staying: int = 0) -> int:
    """Return the bytes of a shard's vectors after a conversion.

    Args:
        entry: the shard.
        to: the type.
        staying: how many rows stay in theirs, since the type cannot hold them.
    """
    if not changing([entry], to):
        return entry.vector_bytes
    scale = 4 if to == "int8" else 0
    smaller = entry.width * ITEM_BYTES[narrowing.HELD[narrow_of(to)]] + scale
    return (entry.rows - staying) * smaller + staying * entry.row_bytes


def narrow_of(to: Target) -> Narrow:
    """Return the type as the rules of rounding call it."""
    return "int8" if to == "int8" else "compact16"


def rounded(vectors: np.ndarray, to: Target) -> np.ndarray:
    """Return what vectors would be read back as, float32; rows that do not fit stay."""
    if to == "int8":
        return quantised.rounded(vectors)
    wide = vectors.astype(np.float32)
    fitting = narrowing.fits(wide, "compact16")
    wide[fitting] = floats.widen(narrowing.as_half(wide[fitting]))
    return wide


def convert(
    snapshot: Snapshot,
    to: Target,
    *,
    out: Path | None = None,
    settings: dict[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Manifest, Run]:
    """Commit a store with its vectors in a smaller type.

    Rows that the type cannot hold stay in theirs, in a shard behind the others'. Numbers of
    rows change then; labels are written into the shards.

    Args:
        snapshot: the latest commit of a store, in its folder or one that stands for it.
        to: the type.
        out: a folder for another store; without it this is the next commit of the same one.
        settings: what the run's record says besides the type.
        progress: called with the vector bytes written so far.

    Returns:
        The commit, and the run that stands in it for the conversion.

    Raises:
        UsageError: ``out`` holds a store already.
        PrecisionError: ``float16`` cannot hold a value.
        DamageError: a file is not what the manifest says; nothing changed.
        CommitError: another writer changed the same shards meanwhile, or the disk failed.
    """
    root, base = snapshot.root, snapshot.manifest
    if out is not None and manifests.numbers(out):
        raise UsageError(f"{out} holds a store already: name a folder that does not exist yet")
    chosen = changing(base.shards, to)
    read = base.shards if out is not None else chosen
    soundness.check(root, [*read, *base.labels], fetching=True)
    run = Run(
        run_id=f"convert-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}",
        kind="convert",
        started_at=manifests.now(),
        settings={"to": to, "from_commit": base.number, **(settings or {})},
    )
    target = root if out is None else out
    with Transaction(target, base if out is None else None) as change:
        new = _rewritten(root, base, chosen, to, change.folder, progress)
        message = f"{len(chosen)} shards converted to {to}"
        files = dict(new.files)
        if out is not None:
            files |= _copies(root, base, new, change.folder)

        def build(latest: Manifest) -> Manifest:
            if out is None:
                return new.following(latest, operation="convert", message=message, run=run)
            kept = [each for shard in base.shards for each in new.made.get(shard.path, (shard,))]
            return latest.next(
                operation="convert",
                message=message,
                shards=tuple(kept),
                labels=new.labels,
                runs=(*base.runs, run),
            )

        made = change.commit(files, build)
    assert made is not None
    return made, run


def _rewritten(
    root: Path,
    base: Manifest,
    chosen: Sequence[ShardEntry],
    to: Target,
    folder: Path,
    progress: Callable[[int], None] | None,
) -> Replacement:
    overlays = shard_columns.overlays(root, base.labels)

    def wanted() -> Iterator[Wanted]:
        for entry in chosen:
            with soundness.fetched(root, entry):  # until it is written anew
                table = rewriting.with_labels(root, entry, overlays.get(entry.path))
                yield Wanted(entry, table, _destinations(root, entry, to))

    return rewriting.replace(root, base, folder, wanted(), progress=progress)


def _destinations(root: Path, entry: ShardEntry, to: Target) -> list[Destination]:
    """Return what becomes of a shard: its rows in the smaller type, and those that do not fit."""
    reader = open_shard(root, entry)
    try:
        fitting = _fitting(reader, entry, to)
    finally:
        reader.close()
    if to == "float16" and not fitting.all():
        row = int(np.argmin(fitting))
        raise PrecisionError(
            f"{entry.path}, row {row}: a value overflows float16 (largest 65504); convert "
            "to compact16, which keeps such rows in float32"
        )
    dtype = narrowing.HELD[narrow_of(to)]
    parts = (np.flatnonzero(fitting), dtype), (np.flatnonzero(~fitting), entry.dtype)
    return [Destination(entry.partition, rows, kind) for rows, kind in parts if len(rows)]


def _fitting(reader: ShardReader, entry: ShardEntry, to: Target) -> np.ndarray:
    found = np.empty(entry.rows, bool)
    step = max(1, _BLOCK_BYTES // entry.row_bytes)
    for start in range(0, entry.rows, step):
        rows = np.arange(start, min(start + step, entry.rows))
        found[rows] = narrowing.fits(reader.take(rows), narrow_of(to))
    return found


def _copies(root: Path, base: Manifest, new: Replacement, folder: Path) -> dict[str, Path]:
    """Copy the files of a commit that stay as they are; return them by their paths."""
    stay: list[Named] = [entry for entry in base.shards if entry.path not in new.made]
    stay += [entry for entry in new.labels if entry.path not in new.files]
    found = {}
    for number, entry in enumerate(stay):
        draft = folder / f"copy-{number:06d}.parquet"
        with soundness.fetched(root, entry):
            shutil.copyfile(root / entry.path, draft)
        layout.sync_file(draft)
        found[entry.path] = draft
    return found
