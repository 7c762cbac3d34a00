"""Drafts for tests: a folder among a store's derived files, and what its parts replace."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from actstore.storage import layout
from actstore.storage import manifest as manifests
from actstore.storage.drafting import (
    DraftWriter,
    Part,
    Takeover,
    going_on_from,
    parts_of,
    take_over,
)
from actstore.storage.manifest import Manifest
from actstore.storage.partition import StoredRows
from actstore.storage.rows import Added, RowBatch
from actstore.storage.transaction import Transaction
from tests.storage.stores import RUN


class Drafted:
    """A store, and a draft that goes on from its latest commit."""

    def __init__(self, root: Path, draft: Path, change: Transaction) -> None:
        self.root, self.draft, self.change = root, draft, change
        self.base = change.base.number

    def writer(self, *, replace: bool = False) -> DraftWriter:
        return DraftWriter(self.draft, base=self.base, run=RUN, replace=replace)

    def commit(self, writer: DraftWriter, name: str, number: int = 0) -> Part:
        replaced = {each.entry.path: each.rows.tolist() for each in writer.replaced()}
        number = number or manifests.newest(self.draft) + 1
        return writer.commit_part(
            name, lambda: replaced, number=number, operation="ingest", message=name
        )

    def add(self, name: str, *batches: RowBatch, replace: bool = False) -> list[Added]:
        """Add a part by a writer of its own."""
        with self.writer(replace=replace) as writer:
            added = [writer.add(each) for each in batches]
            self.commit(writer, name)
        return added

    def going(self) -> list[StoredRows]:
        """Rows that its parts replace."""
        notes = [part.note for part in parts_of(manifests.latest(self.draft)).values()]
        rows = {
            entry: np.unique(
                np.concatenate([note[entry.path] for note in notes if entry.path in note])
            )
            for entry in self.change.base.shards
            if any(entry.path in note for note in notes)
        }
        return [StoredRows(entry, each) for entry, each in rows.items()]

    def take_over(self) -> tuple[Manifest | None, int]:
        entries = [each for each in manifests.latest(self.draft).shards if each.since > self.base]
        found = Takeover(
            entries=entries,
            replaced=self.going(),
            run=RUN,
            fetch=lambda path, target: os.link(self.draft / path, target),
        )
        return take_over(self.change, found, operation="ingest", message="all")


@contextmanager
def drafting(root: Path) -> Iterator[Drafted]:
    """Give the draft that a store has, or a new one."""
    with Transaction(root) as change:
        draft = root / layout.CACHE / "draft"
        if not draft.exists():
            (draft / layout.MANIFESTS).mkdir(parents=True)
            names = [Path(segment.path) for segment in change.base.segments]
            if change.base.number:
                names.append(layout.manifest_path(Path(), change.base.number))
            for name in names:
                (draft / name).parent.mkdir(exist_ok=True)
                os.link(root / name, draft / name)
        with going_on_from(draft, root, change.base.number):
            yield Drafted(root, draft, change)
