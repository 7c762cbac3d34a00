"""A repository's files as a local folder: each is fetched when opened and removed afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from actstore.errors import RemoteStoreError, TransferError, UsageError
from actstore.remote import resolve
from actstore.remote.address import Address
from actstore.remote.client import Client, RemoteFile
from actstore.remote.download import download

KEPT = 256 << 20
"""Bytes of files that stay although nobody holds them: samples are looked at more than once."""
_TABLES = frozenset(
    {".csv", ".json", ".jsonl", ".ndjson", ".tsv", ".txt", ".toml", ".yaml", ".yml"}
)
_LARGEST_TABLE = 64 << 20
_TABLES_AT_ONCE = 8
_END = 1 << 20
"""Bytes of a file's end that are fetched for its table of contents, at most."""


@contextlib.contextmanager
def mirrored(address: Address, client: Client) -> Iterator[Mirror]:
    """Give a repository as a folder while the block runs.

    The small tables in it (CSV, JSON, ...) are there from the beginning, because recipes look
    for them by name; of every other file an empty one of its size, until it is fetched.

    Args:
        address: the repository, its revision, and a folder or file in it, if need be.
        client: the Hub.

    Raises:
        UsageError: there is nothing at that path.
        RemoteStoreError: it holds a store already, or files whose names lead elsewhere.
        HubError: as :meth:`Client.call`.
    """
    commit = client.head(address.repository, address.revision)
    files = client.files(address.repository, commit)
    if resolve.held_numbers(files) and not address.path:
        raise RemoteStoreError(
            f"{address.repository} holds a store already: fetch it with: "
            f"actstore pull {address.repository} FOLDER"
        )
    with tempfile.TemporaryDirectory(prefix="actstore-hub-") as home:
        root = Path(os.path.realpath(home)) / address.repository
        mirror = Mirror(client=client, address=address, commit=commit, files=files, root=root)
        mirror.lay_out()
        yield mirror


@dataclass(kw_only=True)
class Mirror:
    """One commit of a repository below ``root``."""

    client: Client
    address: Address
    commit: str
    files: dict[str, RemoteFile]
    """Every file of the commit, by path."""
    root: Path
    received: int = 0
    """Bytes that were transferred."""
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _here: OrderedDict[str, int] = field(default_factory=OrderedDict)
    """Fetched files, the least recently used first, and how many hold each."""

    @property
    def source(self) -> Path:
        """The folder or file that the address names."""
        return self.root / self.address.path if self.address.path else self.root

    @property
    def name(self) -> str:
        """What was read, for the record: the address with the commit."""
        pinned = Address(
            repository=self.address.repository, revision=self.commit, path=self.address.path
        )
        return str(pinned)

    def lay_out(self) -> None:
        """Make the folder: tables that recipes join, and a place for every other file.

        Raises:
            as :func:`mirrored`.
        """
        visible = {path: file for path, file in self.files.items() if not _hidden(path)}
        for path in visible:
            if "\\" in path or "\0" in path or any(p in ("", ".", "..") for p in path.split("/")):
                raise RemoteStoreError(
                    f"{self.address.repository} has a file called {path!r}, which points "
                    "outside the folder; nothing was fetched"
                )
        below = self.address.path
        if below and not any(p == below or p.startswith(f"{below}/") for p in visible):
            raise UsageError(
                f"{self.address}: there is no {below!r} in {self.address.repository}; it has "
                f"{', '.join(sorted({p.split('/')[0] for p in visible})[:8]) or 'no file'}"
            )
        self.root.mkdir(parents=True)
        for path, file in visible.items():
            _place(self.root / path, file.size)
        tables = [
            path
            for path, file in visible.items()
            if Path(path).suffix.lower() in _TABLES and file.size <= _LARGEST_TABLE
        ]
        with ThreadPoolExecutor(_TABLES_AT_ONCE, thread_name_prefix="actstore-tables") as pool:
            list(pool.map(lambda path: self._get(path, hold=True), tables))

    def fetch(self, path: Path, *, hold: bool) -> None:
        for name in self._below(path):
            self._get(name, hold=hold)

    def fetch_end(self, path: Path) -> bool:
        name = path.relative_to(self.root).as_posix()
        file = self.files[name]
        with self._lock:
            if name in self._here:
                # Held, or it could be given up before it is read.
                self._here[name] += 1
                return True
            start = max(0, file.size - _END)
            repository = self.address.repository
            data = self.client.read_range(repository, name, self.commit, start, file.size)
            self.received += len(data)
            with path.open("r+b") as place:
                place.seek(start)
                place.write(data)
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
        if name in self.files:
            return [name]
        inside = "" if name == "." else f"{name}/"
        return [each for each in self.files if each.startswith(inside) and not _hidden(each)]

    def _get(self, name: str, *, hold: bool) -> None:
        # One at a time, but for the tables: files are opened in order anyway.
        with self._lock:
            if name in self._here:
                self._here.move_to_end(name)
                self._here[name] += hold
                return
        self._bring(name)
        with self._lock:
            self._here[name] = self._here.get(name, 0) + hold
            self._make_room()

    def _bring(self, name: str) -> None:
        file, target = self.files[name], self.root / name
        repository = self.address.repository
        if file.sha256 is not None:
            draft = target.with_name(f".{target.name}.{threading.get_ident()}")
            download(
                self.client,
                repository,
                self.commit,
                name,
                draft,
                size=file.size,
                sha256=file.sha256,
            )
        else:
            data = self.client.read(repository, name, self.commit, most=max(file.size, 1))
            if hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() != file.blob:
                raise TransferError(
                    f"{name} of {repository} arrives damaged; run the same command again"
                )
            draft = target.with_name(f".{target.name}.{threading.get_ident()}")
            draft.write_bytes(data)
        draft.replace(target)
        with self._lock:
            self.received += file.size

    def _make_room(self) -> None:
        """Give up what nobody holds, the least recently used first, until it is little."""
        # Not the last one: whoever asked for it is about to open it.
        free = [name for name, holders in list(self._here.items())[:-1] if not holders]
        excess = sum(self.files[name].size for name in free) - KEPT
        for name in free:
            if excess <= 0:
                break
            excess -= self.files[name].size
            del self._here[name]
            # A new file under the name: who has the old one mapped keeps it.
            target = self.root / name
            target.unlink()
            _place(target, self.files[name].size)


def _hidden(path: str) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in path.split("/"))


def _place(path: Path, size: int) -> None:
    """Make a file of that size that takes no room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
