"""Labels that arrive after capture: small overlay files, no vector is rewritten."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from actstore.errors import CommitError, UsageError
from actstore.storage import layout, shard_columns
from actstore.storage.disk_errors import writing
from actstore.storage.file_hashes import sha256_of
from actstore.storage.manifest import LabelEntry, Manifest
from actstore.storage.snapshot import Snapshot
from actstore.storage.transaction import Transaction


def set_labels(
    snapshot: Snapshot,
    row_ids: np.ndarray,
    labels: Sequence[str | None],
    *,
    message: str,
    seen: np.ndarray | None = None,
) -> int | None:
    """Give rows of ``snapshot`` new labels, as one commit; return its number.

    Args:
        row_ids: int64 row numbers of the snapshot, each at most once.
        labels: the new label of each; None takes the label away.
        message: what the log says.
        seen: int64 row numbers whose labels decided which rows are given here, and which ones.
            Where others have labelled one of them meanwhile, nothing is done.

    Returns:
        The commit's number; None when no row was given.

    Raises:
        UsageError: the arguments differ in length, or a row number is out of range.
        CommitError: the store was compacted since the snapshot, others have labelled rows that
            were looked at, or the disk failed.
    """
    if len(row_ids) != len(labels):
        raise UsageError(f"{len(row_ids)} rows and {len(labels)} labels do not match")
    if not len(row_ids):
        return None
    if np.min(row_ids) < 0 or np.max(row_ids) >= snapshot.rows:
        raise UsageError(
            f"row numbers go from 0 to {snapshot.rows - 1}, got {np.min(row_ids)} to "
            f"{np.max(row_ids)}"
        )
    name = f"{layout.LABELS}/{layout.new_transaction()}.parquet"
    with Transaction(snapshot.root, snapshot.manifest) as change:
        draft = change.folder / "labels.parquet"
        with writing(snapshot.root):
            touched = _write(draft, snapshot, row_ids, labels)
            if seen is not None:
                touched |= {snapshot.shards[at].path for at in snapshot.involved(seen).tolist()}
            digest, size = sha256_of(draft)
        entry = LabelEntry(path=name, rows=len(row_ids), bytes=size, sha256=digest)

        def build(latest: Manifest) -> Manifest:
            if not touched <= {shard.path for shard in latest.shards}:
                raise CommitError(
                    f"{snapshot.root} was compacted while the labels were prepared; "
                    "nothing changed, run the command again"
                )
            if seen is not None and _differ(snapshot, latest, seen):
                raise CommitError(
                    f"others have labelled the same rows of {snapshot.root} while the labels were "
                    "prepared; nothing changed, run the command again"
                )
            return latest.next(
                operation="label",
                message=message,
                labels=(*latest.labels, entry),
            )

        commit = change.commit({name: draft}, build)
    return commit.number if commit else None


def _differ(snapshot: Snapshot, latest: Manifest, row_ids: np.ndarray) -> bool:
    """Say whether rows of a snapshot have other labels in a later commit."""
    if latest.labels == snapshot.manifest.labels:
        return False
    now, then = (
        shard_columns.overlays(snapshot.root, manifest.labels)
        for manifest in (latest, snapshot.manifest)
    )
    changed = [
        int(snapshot.offsets[number]) + row
        for number, entry in enumerate(snapshot.shards)
        for row, label in now.get(entry.path, {}).items()
        if (row, label) not in then.get(entry.path, {}).items()
    ]
    return bool(np.isin(np.array(changed, np.int64), row_ids).any())


def _write(
    path: Path, snapshot: Snapshot, row_ids: np.ndarray, labels: Sequence[str | None]
) -> set[str]:
    """Write the overlay and return the paths of the shards it touches."""
    ids = np.asarray(row_ids, np.int64)
    numbers = np.searchsorted(snapshot.offsets, ids, "right") - 1
    involved, codes = np.unique(numbers, return_inverse=True)
    names = [snapshot.shards[number].path for number in involved]
    write_overlay(path, names, codes, ids - snapshot.offsets[numbers], labels)
    return set(names)


def write_overlay(
    path: Path,
    names: Sequence[str],
    codes: np.ndarray,
    rows: np.ndarray,
    labels: Sequence[str | None],
) -> None:
    """Write a label overlay and flush it to disk.

    Args:
        path: the file to write.
        names: paths of shards.
        codes: for each label the shard, as an index into ``names``.
        rows: for each label the row within the shard.
        labels: None takes a row's label away.

    Raises:
        OSError: the disk is full or failed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    shards = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(list(names)))
    table = pa.table(
        {
            "shard": shards.cast(pa.string()),
            "row": pa.array(rows, pa.int32()),
            "label": pa.array(list(labels), pa.string()),
        }
    )
    with path.open("wb") as file:
        pq.write_table(table, file, compression="zstd")
    layout.sync_file(path)
