"""Where an ingest's rows go: a store's writer, or nowhere in a dry run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from actstore.storage.partition import StoredRows
from actstore.storage.rows import Added, RowBatch


class Output(Protocol):
    """What takes the rows: a StoreWriter, or nothing in a dry run."""

    commits: list[int]
    overtaken: int

    def file(self) -> AbstractContextManager[None]: ...
    def add(self, batch: RowBatch) -> Added: ...
    def checkpoint(self) -> int | None: ...
    def replaced(self) -> list[StoredRows]: ...
    def commit(self, *, operation: str, message: str) -> int | None: ...


class Nowhere:
    """Counts rows and keeps none."""

    def __init__(self) -> None:
        self.commits: list[int] = []
        self.overtaken = 0

    def file(self) -> AbstractContextManager[None]:
        return nullcontext()

    def add(self, batch: RowBatch) -> Added:
        return Added(len(batch), 0)

    def checkpoint(self) -> int | None:
        return None

    def replaced(self) -> list[StoredRows]:
        return []

    def commit(self, *, operation: str, message: str) -> int | None:
        return None
