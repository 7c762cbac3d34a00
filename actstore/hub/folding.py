"""Labels go into their shards before a push, and come out again if the push is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from actstore.errors import ActstoreError, CommitError
from actstore.storage import card, compaction, layout, metadata
from actstore.storage import manifest as manifests
from actstore.storage.labels import write_overlay
from actstore.storage.manifest import LabelEntry, Manifest, ShardEntry
from actstore.storage.shard import sha256_of
from actstore.storage.staging import Staging, prepare, writing

_ATTEMPTS = 8
_Labels = dict[str, dict[int, str | None]]


def fold(root: Path) -> tuple[Manifest, int]:
    """Write labels into the shards they belong to; return the commit and how many rows it were.

    Raises:
        CommitError: others label faster than they can be written, or the disk failed.
    """
    rows = 0
    for _ in range(_ATTEMPTS):
        manifest = manifests.load(root)
        if not manifest.labels:
            return manifest, rows
        rows += compaction.compact(root, join=False).labels_folded
    raise CommitError(f"{root} is being labelled all the time: push again when that is done")


def unfold(root: Path, common: Collection[str]) -> int | None:
    """Put shards that a repository once had back in place, the labels beside them again.

    A pull tells labels set here from those that came along by where they lie: set here are
    those beside the shards that both had. So a push that is refused, because others have
    changed the same shards, must not leave the labels inside.

    Args:
        root: folder of the store.
        common: paths of the shards that both had.

    Returns:
        The commit's number; None when there was nothing to do, or the shards were pruned.

    Raises:
        CommitError: others keep changing the store, or the disk failed.
    """
    prepare(root)
    for _ in range(_ATTEMPTS):
        base = manifests.load(root)
        back = _once(root, base, common)
        if not back:
            return None
        with writing(root):
            labels = _labels(root, base, back)
        shards = tuple(back.get(entry.path, entry) for entry in base.shards)
        done = _commit(root, base, shards, labels)
        if done is not None:
            return done.number
    raise CommitError(f"{root} is being changed all the time: push again when that is done")


def _once(root: Path, base: Manifest, common: Collection[str]) -> dict[str, ShardEntry]:
    """Return, by path of a live shard, the shard whose labels were folded into it."""
    origins: dict[str, ShardEntry] = {}
    for number in manifests.numbers(root):
        with contextlib.suppress(ActstoreError):  # an old one may be damaged or just pruned
            after = manifests.load(root, number)
            if after.operation != "fold" or after.parent is None:
                continue
            before = manifests.load(root, after.parent)
            old = [entry for entry in before.shards if entry not in after.shards]
            new = [entry for entry in after.shards if entry not in before.shards]
            if list(map(_kind, old)) == list(map(_kind, new)):
                origins |= {made.path: source for made, source in zip(new, old, strict=True)}
    found = {}
    for entry in base.shards:
        source = origins.get(entry.path)
        while source is not None and source.path not in common:
            source = origins.get(source.path)
        if entry.path not in common and source is not None and (root / source.path).is_file():
            found[entry.path] = source
    return found


def _kind(entry: ShardEntry) -> tuple[object, ...]:
    return (*entry.partition, entry.width, entry.dtype, entry.rows)


def _labels(root: Path, base: Manifest, back: dict[str, ShardEntry]) -> _Labels:
    """Return the labels that must lie beside the shards for every row to keep its own."""
    found: _Labels = metadata.overlays(root, base.labels)
    for entry in base.shards:
        source = back.get(entry.path)
        if source is None:
            continue
        now = metadata.read_columns(root, entry, ["label"])["label"].to_pylist()
        for row, label in found.pop(entry.path, {}).items():
            now[row] = label
        before = metadata.read_columns(root, source, ["label"])["label"].to_pylist()
        differing = {row: now[row] for row in range(entry.rows) if now[row] != before[row]}
        if differing:
            found[source.path] = differing
    return found


def _commit(
    root: Path, base: Manifest, shards: tuple[ShardEntry, ...], labels: _Labels
) -> Manifest | None:
    """Commit on top of ``base``; None when somebody else came first."""
    staging = Staging(root)
    try:
        overlays: tuple[LabelEntry, ...] = ()
        if labels:
            draft = staging.folder / "labels.parquet"
            names = list(labels)
            cells = [(code, row) for code, name in enumerate(names) for row in labels[name]]
            codes, rows = np.array(cells, np.int64).T
            texts = [label for name in names for label in labels[name].values()]
            with writing(root):
                write_overlay(draft, names, codes, rows, texts)
            digest, size = sha256_of(draft)
            path = f"{layout.LABELS}/{layout.new_transaction()}.parquet"
            overlays = (LabelEntry(path=path, rows=len(texts), bytes=size, sha256=digest),)
            staging.place({path: draft})
        following = base.next(
            operation="unfold",
            message="a push was refused: labels lie beside the shards again",
            shards=shards,
            labels=overlays,
        )
        try:
            done = manifests.commit(
                root,
                staging.folder,
                lambda latest: following if latest.number == base.number else None,
            )
        except BaseException:
            staging.withdraw()
            raise
        if done is None:
            staging.withdraw()
            return None
        staging.done()
        card.refresh(root)
        return done
    finally:
        staging.close()
