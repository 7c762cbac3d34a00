"""Files that lie elsewhere as a local folder: each is fetched when opened and then removed."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from actstore.errors import ActstoreError
from actstore.storage.scratch import scratch
from actstore.storage.threads import Pool

KEPT = 256 << 20
"""Bytes of files that stay although nobody holds them: samples are looked at more than once."""
_TABLES = frozenset(
    {".csv", ".json", ".jsonl", ".ndjson", ".tsv", ".txt", ".toml", ".yaml", ".yml"}
)
_LARGEST_TABLE = 64 << 20
_TABLES_AT_ONCE = 8
_END = 1 << 20
"""Bytes of a file's end that are fetched for its table of contents, at most."""
_LONGEST = 255
"""Bytes of a name that file systems take."""


class Place(Protocol):
    """Where source files lie: a repository on the Hub, or a bucket.

    Threads may share one; pickled, it is the same files for whoever asks with credentials of
    their own.
    """

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def pinned(self) -> str:
        """What was read, for the record."""

    @property
    def revision(self) -> str:
        """Which of its versions was read, in a word; empty where a place has none."""

    @property
    def within(self) -> str:
        """The folder or file that is meant, of all that there are; empty for everything."""

    @property
    def files(self) -> Mapping[str, int]:
        """The size of every file, by its path."""

    def version(self, path: str) -> str:
        """Return what tells the content of a file from what was or will be at its path."""

    def bring(self, path: str, target: Path) -> None:
        """Write a whole file to ``target``, checked against what was listed.

        Raises:
            HubError, BucketError: it cannot be had; the leaf says why.
        """

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Return some bytes of a file.

        Raises:
            HubError, BucketError: as :meth:`bring`.
        """

    def refuse(self, reason: str) -> Exception:
        """Return the error for files that cannot be laid out as a folder."""


@contextlib.contextmanager
def mirrored(place: Place) -> Iterator[Mirror]:
    """Give the files of a place as a folder while the block runs.

    The small tables among them (CSV, JSON, ...) are there from the beginning, because recipes look
    for them by name; of every other file an empty one of its size, until it is fetched.

    Args:
        place: where they lie.

    Raises:
        RemoteStoreError, BucketFileError: their names lead elsewhere.
        HubError, BucketError: a table cannot be had.
    """
    with scratch("sources") as home:
        mirror = Mirror(place=place, root=Path(os.path.realpath(home)) / _below(place))
        mirror.lay_out()
        yield mirror


@contextlib.contextmanager
def named(mirrors: Sequence[Mirror]) -> Iterator[None]:
    """Name sources in errors as the user knows them, not by the folders that stand for them."""
    try:
        yield
    except ActstoreError as error:
        if error.args:
            text = str(error.args[0])
            for mirror in mirrors:
                text = text.replace(str(mirror.root), mirror.place.name)
            error.args = (text, *error.args[1:])
        raise


@dataclass(kw_only=True)
class Mirror:
    """The files of a place below ``root``."""

    place: Place
    root: Path
    received: int = 0
    """Bytes that were transferred."""
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _here: OrderedDict[str, int] = field(default_factory=OrderedDict)
    """Fetched files, the least recently used first, and how many hold each."""

    @property
    def source(self) -> Path:
        """The folder or file that is meant."""
        return self.root / self.place.within if self.place.within else self.root

    @property
    def canonical(self) -> Path:
        """A path that stands for ``root`` where mirrors of several processes speak of a file."""
        return Path("/elsewhere") / _below(self.place)

    def lay_out(self) -> None:
        """Make the folder: tables that recipes join, and a place for every other file.

        Raises:
            as :func:`mirrored`.
        """
        visible = {path: size for path, size in self.place.files.items() if not hidden(path)}
        for path in visible:
            parts = path.split("/")
            if "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in parts):
                raise self.place.refuse(
                    f"has a file called {path!r}, which points outside the folder"
                )
            if any(len(part.encode()) > _LONGEST for part in parts):
                raise self.place.refuse(f"has a name that no file can have: {path[:200]!r}")
            above = next((up for up in _above(path) if up in visible), None)
            if above is not None:
                raise self.place.refuse(
                    f"has {above!r} and {path!r}, which cannot be a file and a folder at once"
                )
        self.root.mkdir(parents=True)
        for path, size in visible.items():
            _make_place(self.root / path, size)
        tables = [
            path
            for path, size in visible.items()
            if Path(path).suffix.lower() in _TABLES and size <= _LARGEST_TABLE
        ]
        with Pool(_TABLES_AT_ONCE) as pool:
            list(pool.map(lambda path: self._get(path, hold=True), tables))

    def called(self, path: Path) -> str:
        relative = path.relative_to(self.root).as_posix()
        return self.place.name if relative == "." else f"{self.place.name}/{relative}"

    def version(self, path: Path) -> list[tuple[str, str]]:
        return [(name, self.place.version(name)) for name in self._below(path)]

    def fetch(self, path: Path, *, hold: bool) -> None:
        for name in self._below(path):
            self._get(name, hold=hold)

    def fetch_end(self, path: Path) -> bool:
        name = path.relative_to(self.root).as_posix()
        size = self.place.files[name]
        with self._lock:
            if name in self._here:
                # Held, or it could be given up before it is read.
                self._here[name] += 1
                return True
            start = max(0, size - _END)
            data = self.place.read_range(name, start, size)
            self.received += len(data)
            with path.open("r+b") as file:
                file.seek(start)
                file.write(data)
        return False

    def release(self, path: Path) -> None:
        with self._lock:
            for name in self._below(path):
                if self._here.get(name, 0) > 0:
                    self._here[name] -= 1
            self._make_room()

    def is_here(self, path: Path) -> bool:
        with self._lock:
            return path.relative_to(self.root).as_posix() in self._here

    def _below(self, path: Path) -> list[str]:
        name = path.relative_to(self.root).as_posix()
        if name in self.place.files:
            return [name]
        inside = "" if name == "." else f"{name}/"
        return [each for each in self.place.files if each.startswith(inside) and not hidden(each)]

    def _get(self, name: str, *, hold: bool) -> None:
        # One at a time, but for the tables: files are opened in order anyway.
        with self._lock:
            if name in self._here:
                self._here.move_to_end(name)
                self._here[name] += hold
                return
        target = self.root / name
        draft = target.with_name(f".{threading.get_ident()}")
        self.place.bring(name, draft)
        draft.replace(target)
        with self._lock:
            self.received += self.place.files[name]
            self._here[name] = self._here.get(name, 0) + hold
            self._make_room()

    def _make_room(self) -> None:
        """Give up what nobody holds, the least recently used first, until it is little."""
        # Not the last one: whoever asked for it is about to open it.
        free = [name for name, holders in list(self._here.items())[:-1] if not holders]
        excess = sum(self.place.files[name] for name in free) - KEPT
        for name in free:
            if excess <= 0:
                break
            excess -= self.place.files[name]
            del self._here[name]
            # A new file under the name: who has the old one mapped keeps it.
            target = self.root / name
            target.unlink()
            _make_place(target, self.place.files[name])


def _below(place: Place) -> str:
    """Return the path that a mirror has in its folder: data sets may be named after parts of it."""
    return f"{place.revision}/{place.name}".replace("://", "/").lstrip("/")


def _above(path: str) -> Iterator[str]:
    """Yield the folders that a path lies in."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def hidden(path: str) -> bool:
    """Say whether a file or a folder above it has a name that begins with a dot."""
    return any(part.startswith(".") and part not in (".", "..") for part in path.split("/"))


def _make_place(path: Path, size: int) -> None:
    """Make a file of that size that takes no room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
