"""A commit without some rows: their shards are written anew, labels beside them too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from actstore.errors import UsageError
from actstore.storage import rewriting, shard_columns, soundness
from actstore.storage.manifest import Manifest, Run
from actstore.storage.partition import StoredRows
from actstore.storage.rewriting import Destination, Replacement, Wanted
from actstore.storage.snapshot import Snapshot
from actstore.storage.staging import prepare
from actstore.storage.transaction import Transaction
from actstore.wording import counted


def drop_rows(
    snapshot: Snapshot,
    row_ids: np.ndarray,
    *,
    check_all: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Manifest | None:
    """Commit the store without some rows; rows that others bring meanwhile stay.

    Runs that none of the rows left come from leave the manifest with their rows.

    Args:
        snapshot: the commit that the row numbers are of.
        row_ids: int64 row numbers, in any order.
        check_all: hold every shard against the manifest first, not only those that change.
        progress: called with the vector bytes written so far.

    Returns:
        The commit; None when no row was given.

    Raises:
        UsageError: a row number is out of range.
        DamageError: a file is not what the manifest says; nothing changed.
        CommitError: another writer changed the same shards meanwhile, or the disk failed.
    """
    rows = np.unique(np.asarray(row_ids, np.int64))
    if not len(rows):
        prepare(snapshot.root)  # an earlier try may have been killed right after its commit
        return None
    by_shard = rows_by_shard(snapshot, rows)
    base, root = snapshot.manifest, snapshot.root
    if check_all:
        soundness.check(root, [*snapshot.shards, *base.labels])
    with Transaction(root, base) as change:
        new = without(root, base, by_shard, change.folder, progress=progress)
        runs = _runs_left(snapshot, rows)

        def build(latest: Manifest) -> Manifest:
            return new.following(
                latest,
                operation="drop",
                # What the rows held must not live on in the log.
                message=f"{counted(len(rows), 'row')} dropped",
                runs=runs if latest.number == base.number else None,
            )

        return change.commit(new.files, build)


def without(
    root: Path,
    base: Manifest,
    by_shard: Sequence[StoredRows],
    folder: Path,
    *,
    progress: Callable[[int], None] | None = None,
) -> Replacement:
    """Write shards anew without some of their rows; the store does not change.

    Args:
        root: folder of the store.
        base: the commit that they are of.
        by_shard: the rows that go.
        folder: where the files go.
        progress: called with the vector bytes written so far.

    Raises:
        DamageError: a file is not what the manifest says.
        CommitError: the disk is full or failed.
    """
    soundness.check(root, [*(entry for entry, _ in by_shard), *base.labels], fetching=True)
    overlays = shard_columns.overlays(root, base.labels)

    def wanted() -> Iterator[Wanted]:
        for entry, going in by_shard:
            kept = np.delete(np.arange(entry.rows), going)
            table = rewriting.with_labels(root, entry, overlays.get(entry.path))
            yield Wanted(entry, table, [Destination(entry.partition, kept)] if len(kept) else [])

    return rewriting.replace(root, base, folder, wanted(), progress=progress)


def rows_by_shard(snapshot: Snapshot, rows: np.ndarray) -> list[StoredRows]:
    """Return the shards that rows lie in, each with the rows' numbers within it.

    Args:
        snapshot: the commit.
        rows: int64 row numbers, ascending.

    Raises:
        UsageError: a row number is out of range.
    """
    if len(rows) and (rows[0] < 0 or rows[-1] >= snapshot.rows):
        raise UsageError(
            f"row numbers go from 0 to {snapshot.rows - 1}, got {rows[0]} to {rows[-1]}"
        )
    numbers = np.searchsorted(snapshot.offsets, rows, "right") - 1
    return [
        StoredRows(snapshot.shards[number], rows[numbers == number] - snapshot.offsets[number])
        for number in np.unique(numbers).tolist()
    ]


def _runs_left(snapshot: Snapshot, rows: np.ndarray) -> tuple[Run, ...]:
    with snapshot.opened_metadata() as file:
        column = file.read(columns=["run_id"])["run_id"]
    left = np.ones(snapshot.rows, bool)
    left[rows] = False
    gone = set(column.take(rows).unique().to_pylist())
    gone -= set(column.filter(left).unique().to_pylist())
    return tuple(run for run in snapshot.manifest.runs if run.run_id not in gone)
