"""Opens files ahead of the reader in a background thread, a bounded number of bytes at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from actstore import paths
from actstore.errors import UnreadableFileError
from actstore.ingestion import containers, fetching
from actstore.ingestion.recipe import Recipe
from actstore.ingestion.source_file import SourceFile
from actstore.storage.threads import Pool, Task, give_up

AHEAD_BYTES = 64 << 20
"""Files that are opened but not yet read weigh at most this much, or are one."""
_AHEAD_FILES = 32
# Larger files are mapped by their container: opening one early takes no memory.
_MAPPED_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Loaded:
    """An opened file, or the reason why it could not be opened."""

    file: SourceFile
    document: Any = None
    error: Exception | None = None
    seen: Sequence[paths.State] = ()
    """How the file stood when it was opened."""

    def check_unchanged(self) -> None:
        """See that the file is the one that was opened, and as it was.

        Raises:
            UnreadableFileError: it was written to, cut off, replaced or removed since.
        """
        if self.seen:
            difference = paths.change(self.file.content, self.seen)
            if difference is not None:
                raise UnreadableFileError(difference, self.file.path)


def open_file(recipe: Recipe, file: SourceFile) -> Any:
    """Open one file with its container.

    Raises:
        IngestError: it is unsafe, unreadable or of another format.
    """
    return containers.read(
        file.pattern.container or recipe.container, file.content, within=file.root
    )


def ahead(recipe: Recipe, files: Sequence[SourceFile]) -> Generator[Loaded]:
    """Yield the opened files in order; close the iterator to stop early."""
    loader = _Loader(recipe, files)
    try:
        yield from loader
    finally:
        loader.stop()


class _Loader:
    def __init__(self, recipe: Recipe, files: Sequence[SourceFile]) -> None:
        self._recipe = recipe
        self._files = files
        self._left = iter(files)
        self._next = next(self._left, None)
        self._coming: deque[tuple[Task[Loaded], int]] = deque()
        self._weight = 0
        self._pool = Pool(1)

    def __iter__(self) -> Iterator[Loaded]:
        self._begin()
        while self._coming:
            task, weight = self._coming.popleft()
            loaded = task.result()
            del task
            self._begin()
            yield loaded
            # Only now: the document that was handed out counts until the next is asked for.
            fetching.release(loaded.file.content)
            del loaded
            self._weight -= weight
            self._begin()

    def stop(self) -> None:
        self._next = None
        give_up([task for task, _ in self._coming])
        self._coming.clear()
        self._pool.close()

    def _begin(self) -> None:
        """Have as many of the next files read as there is room for."""
        while (file := self._next) is not None:
            mapped = file.size >= _MAPPED_BYTES and fetching.is_here(file.content)
            weight = 0 if mapped else file.size
            if not self._room(weight):
                return
            self._weight += weight
            self._coming.append((self._pool.submit(self._load, file), weight))
            self._next = next(self._left, None)

    def _room(self, weight: int) -> bool:
        if len(self._coming) > _AHEAD_FILES:
            return False
        return not self._weight or self._weight + weight <= AHEAD_BYTES

    def _load(self, file: SourceFile) -> Loaded:
        try:
            fetching.ensure(file.content, hold=True)
            seen = paths.states(file.content)
            return Loaded(file, open_file(self._recipe, file), seen=seen)
        except Exception as error:  # the main thread tells a bad file from a bug
            return Loaded(file, error=error)
