"""Going back: a new commit that holds what an earlier one held; the history stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from actstore.errors import CommitError
from actstore.storage import manifest as manifests
from actstore.storage import soundness
from actstore.storage.lease import pin
from actstore.storage.manifest import Manifest
from actstore.storage.staging import prepare
from actstore.storage.transaction import Transaction


def go_back(
    root: Path, at: int, *, progress: Callable[[int], None] | None = None
) -> Manifest | None:
    """Commit again what commit ``at`` held; nothing is written or removed beside a manifest.

    Args:
        root: folder of the store.
        at: number of the commit.
        progress: called with the bytes checked so far.

    Returns:
        The new commit; None when the latest one holds the same already.

    Raises:
        StoreNotFoundError: there is no store at ``root``.
        SnapshotNotFoundError: the store has no such commit.
        DamageError: a file of that commit is not what its manifest says; nothing changed.
        CommitError: another writer has committed meanwhile, or the disk failed.
    """
    base = manifests.load(root)
    wanted, lease = pin(root, at)
    with lease:
        if holds_the_same(base, wanted):
            prepare(root)  # an earlier try may have been killed right after its commit
            return None
        soundness.check(root, [*wanted.shards, *wanted.labels], progress=progress)
        return _commit(root, base, wanted)


def _commit(root: Path, base: Manifest, wanted: Manifest) -> Manifest | None:
    with Transaction(root, base) as change:

        def build(latest: Manifest) -> Manifest:
            if latest.number != base.number:  # its rows would be gone, and nobody was asked
                raise CommitError(
                    f"{root} got commit {latest.number} meanwhile; nothing changed, run the "
                    "command again"
                )
            return latest.next(
                operation="checkout",
                message=f"back to commit {wanted.number}",
                shards=wanted.shards,
                labels=wanted.labels,
                runs=wanted.runs,
            )

        return change.commit({}, build)


def holds_the_same(one: Manifest, other: Manifest) -> bool:
    """Say whether two commits hold the same shards, labels and runs."""
    return (one.shards, one.labels, one.runs) == (other.shards, other.labels, other.runs)
