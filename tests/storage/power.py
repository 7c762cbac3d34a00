"""A disk that loses power: what it may hold afterwards, from what was flushed and what was not.

POSIX promises that a file's bytes survive once the file was flushed, and a name once its folder
was. All else may be there or not, in any combination: this makes such combinations.
"""

from __future__ import annotations

import os
import random
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.storage.crashing import trapped

Names = dict[str, int]
"""Inode by name, of one folder."""


class Moment(NamedTuple):
    """What lay where, and what of it was flushed, just before one call of the system."""

    call: str
    acknowledged: int
    """Commits that were reported as made by then."""
    flushed_names: dict[int, Names]
    flushed_bytes: dict[int, bytes]
    names: dict[int, Names]
    bytes: dict[int, bytes]
    folders: frozenset[int]


class Disk:
    """Watches a folder; :meth:`watch` gives the moments at which the power may fail."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.moments: list[Moment] = []
        self.acknowledged = 0
        self._names: dict[int, Names] = {}
        self._bytes: dict[int, bytes] = {}
        self._folders: set[int] = set()
        self._held: dict[int, int] = {}
        """Open descriptors: an inode that is free is given to the next new file, whose bytes would
        seem to be those of the one that was removed."""
        self._lock = threading.Lock()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Take what is there as flushed, and note every call of the system in the block."""
        names, contents = self._look()
        self._names, self._bytes = dict(names), dict(contents)
        try:
            with trapped(1, self._note, lasting=True):
                yield
            self._take_moment("end")
        finally:
            for descriptor in self._held.values():
                os.close(descriptor)
            self._held.clear()

    def _note(self, call: str, arguments: tuple[Any, ...]) -> None:
        with self._lock:
            self._take_moment(call)
            if call == "fsync":
                self._flush(arguments[0])

    def _take_moment(self, call: str) -> None:
        names, contents = self._look()
        flushed = {inode: dict(found) for inode, found in self._names.items()}
        self.moments.append(
            Moment(
                call,
                self.acknowledged,
                flushed,
                dict(self._bytes),
                names,
                contents,
                frozenset(self._folders),
            )
        )

    def _flush(self, descriptor: int) -> None:
        about = os.fstat(descriptor)
        if stat.S_ISDIR(about.st_mode):
            self._names[about.st_ino] = self._children(descriptor)
        else:
            self._hold(about.st_ino, os.dup(descriptor))
            size = about.st_size
            # The descriptor may be for writing only.
            with open(f"/proc/self/fd/{descriptor}", "rb") as file:
                self._bytes[about.st_ino] = file.read(size)

    def _children(self, folder: int) -> Names:
        found = {}
        for name in os.listdir(folder):
            with suppress(FileNotFoundError):
                inode = os.stat(name, dir_fd=folder).st_ino
                self._hold(inode, os.open(name, os.O_RDONLY, dir_fd=folder))
                found[name] = inode
        return found

    def _hold(self, inode: int, descriptor: int) -> None:
        if inode in self._held:
            os.close(descriptor)
        else:
            self._held[inode] = descriptor

    def _inode(self, path: Path) -> int:
        found = path.stat().st_ino
        if found not in self._held:
            descriptor = os.open(path, os.O_RDONLY)
            found = os.fstat(descriptor).st_ino
            self._hold(found, descriptor)
        return found

    def _look(self) -> tuple[dict[int, Names], dict[int, bytes]]:
        names: dict[int, Names] = {}
        contents: dict[int, bytes] = {}
        waiting = [self.home]
        while waiting:
            folder = waiting.pop()
            with suppress(FileNotFoundError):
                inode = self._inode(folder)
                self._folders.add(inode)
                names[inode] = {}
                for path in folder.iterdir():
                    with suppress(FileNotFoundError):
                        child = names[inode][path.name] = self._inode(path)
                        if path.is_dir():
                            waiting.append(path)
                        else:
                            contents[child] = path.read_bytes()
        return names, contents

    def after(self, moment: Moment, to: Path, chance: random.Random | None) -> None:
        """Make what the disk may hold after the power failed at a moment.

        Args:
            moment: when.
            to: a folder to make, in place of the watched one.
            chance: draws what of the unflushed is there; without it nothing of it is.
        """
        pick: Callable[[list[Any]], Any] = (
            (lambda some: some[0]) if chance is None else (chance.choice)
        )
        waiting = [(self.home.stat().st_ino, to)]
        while waiting:
            inode, path = waiting.pop()
            if inode in moment.folders:
                path.mkdir()
                old = moment.flushed_names.get(inode, {})
                new = moment.names.get(inode, old)
                for name in sorted({*old, *new}):
                    # None: no such name.
                    child = pick([old.get(name), new.get(name)])
                    if child is not None:
                        waiting.append((child, path / name))
            else:
                flushed = moment.flushed_bytes.get(inode, b"")
                written = moment.bytes.get(inode, flushed)
                torn = written[: len(written) // 2].ljust(len(written), b"\0")
                zeroed = bytes(len(written))
                choices = [flushed, written]
                if written != flushed:
                    choices += [torn, zeroed]
                path.write_bytes(pick(choices))
