"""Writes labels into the shards that are pushed; the store takes these over after the push."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from actstore.errors import ActstoreError
from actstore.hub.origin import Origin
from actstore.storage import compaction
from actstore.storage.compaction import Rewritten
from actstore.storage.lease import pin
from actstore.storage.manifest import Manifest, ShardEntry
from actstore.storage.transaction import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """A store as it is to be pushed: no labels beside its shards."""

    root: Path
    """The store, which is as it was."""
    manifest: Manifest
    """What it would hold if the labels were in their shards."""
    labels: int = 0
    """Rows whose label is in its shard now and was not before."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Shards of the store that were written anew: their path here by the one in the store."""
    _links: Path | None = None
    _rewritten: Rewritten | None = None
    _change: Transaction | None = None

    def folder(self, entry: ShardEntry) -> Path:
        """Return the folder below which the file of a shard lies."""
        here = self._rewritten is not None and entry.path in self._rewritten.files
        return self._links if here and self._links is not None else self.root

    def met(self, origin: Origin, there: Iterable[ShardEntry]) -> Origin:
        """Return what a store remembers, with rewritten shards that are up there already.

        They are where an earlier push came through and the store has not taken them over: their
        names are others then, and their bytes the same.
        """
        names = {(entry.partition, entry.sha256): entry.path for entry in there}
        made = {} if self._rewritten is None else self._rewritten.made
        shards, replaced = set(origin.shards), dict(origin.replaced)
        for path in shards & made.keys():
            entry = made[path]
            at = names.get((entry.partition, entry.sha256))
            if at is not None:
                shards.remove(path)
                shards.add(entry.path)
                replaced[entry.path] = at
        return dataclasses.replace(origin, shards=tuple(sorted(shards)), replaced=replaced)

    def without(self, origin: Origin) -> Origin:
        """Return what a store must remember that has not taken the rewritten shards over."""
        back = {new: path for path, new in self.renamed.items()}
        replaced = {back.get(path, path): at for path, at in origin.replaced.items()}
        for path in origin.shards:
            if path in back:
                replaced.setdefault(back[path], path)
        shards = tuple(sorted({back.get(path, path) for path in origin.shards}))
        return dataclasses.replace(origin, shards=shards, replaced=replaced)

    def take_over(self) -> bool:
        """Make the rewritten shards the store's own; say whether it holds them now.

        It does not where others have relabelled or compacted the same rows meanwhile, or where
        it cannot be written to: then it stays as it is, and the next push writes them anew.
        """
        if self._change is None or self._rewritten is None:
            return True
        rewritten, base = self._rewritten, self._rewritten.base.number

        def build(latest: Manifest) -> Manifest | None:
            # As pushed, where possible: then both sides have the very same manifest.
            return self.manifest if latest.number == base else rewritten.following(latest)

        with contextlib.suppress(ActstoreError):  # it may be made and only its card not
            self._change.commit(rewritten.files, build)
        return set(self.renamed.values()) <= {entry.path for entry in self._change.base.shards}


@contextlib.contextmanager
def folded(root: Path, links: Path) -> Iterator[Folded]:
    """Give the store's latest commit with labels in their shards, which the store has not got.

    Shards with labels beside them are written anew in the store's staging folder; when the
    block ends, they are the store's or gone.

    Args:
        root: folder of the store.
        links: folder where they lie under their paths, as links.

    Raises:
        StoreNotFoundError: there is no store.
        CorruptStoreError: a shard or label file is missing or damaged.
        CommitError: the disk is full or failed.
    """
    base, lease = pin(root)
    with lease:  # a pruning must not take what is being sent
        if not base.labels:
            yield Folded(root=root, manifest=base.whole())
            return
        with _folded(root, base, links) as folded:
            yield folded


@contextlib.contextmanager
def _folded(root: Path, base: Manifest, links: Path) -> Iterator[Folded]:
    with Transaction(root, base) as change:
        new = compaction.rewrite(root, base, change.folder)
        manifest = new.following(base)
        assert manifest is not None  # nothing has come in between
        for path, file in new.files.items():
            (links / path).parent.mkdir(parents=True, exist_ok=True)
            (links / path).symlink_to(file.resolve())
        yield Folded(
            root=root,
            manifest=manifest,
            labels=new.labels,
            renamed={path: entry.path for path, entry in new.made.items()},
            _links=links,
            _rewritten=new,
            _change=change,
        )
