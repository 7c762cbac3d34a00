"""Opens files ahead of the reader in a background thread, a bounded number of bytes at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from actstore import paths
from actstore.errors import UnreadableFileError
from actstore.ingestion import containers, fetching
from actstore.ingestion.recipe import Recipe
from actstore.ingestion.source_file import SourceFile

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
        self._ready: deque[tuple[Loaded, int]] = deque()
        self._weight = 0
        self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="actstore-loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Loaded]:
        for _ in self._files:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._ready))
                loaded, weight = self._ready.popleft()
            yield loaded
            # Only now: the document that was handed out counts until the next is asked for.
            fetching.release(loaded.file.content)
            with self._changed:
                self._weight -= weight
                self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        for file in self._files:
            mapped = file.size >= _MAPPED_BYTES and fetching.is_here(file.content)
            weight = 0 if mapped else file.size
            with self._changed:
                while not self._stopped and not self._room(weight):
                    self._changed.wait()
                if self._stopped:
                    return
                self._weight += weight
            loaded = self._load(file)
            with self._changed:
                if self._stopped:
                    return
                self._ready.append((loaded, weight))
                self._changed.notify_all()

    def _room(self, weight: int) -> bool:
        if len(self._ready) >= _AHEAD_FILES:
            return False
        return not self._weight or self._weight + weight <= AHEAD_BYTES

    def _load(self, file: SourceFile) -> Loaded:
        try:
            fetching.ensure(file.content, hold=True)
            seen = paths.states(file.content)
            return Loaded(file, open_file(self._recipe, file), seen=seen)
        except Exception as error:  # the main thread tells a bad file from a bug
            return Loaded(file, error=error)
