"""Where a snapshot's files are read from: a local folder, or whatever else serves them."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from actstore.storage import backing, layout, shard_columns, small_shards
from actstore.storage import manifest as manifests
from actstore.storage.checksums import Check
from actstore.storage.manifest import LabelEntry, ShardEntry
from actstore.storage.mapping import ShardReader, open_shard
from actstore.storage.threads import Result, Task, pool, submit

if TYPE_CHECKING:
    import pyarrow as pa


class Traffic(NamedTuple):
    """What reading has moved over a network so far."""

    requests: int
    received: int
    """Bytes of files that were transferred."""
    cached: int
    """Bytes of files that were wanted and here already, from earlier."""


class StoreFiles(Protocol):
    """The files of one commit. Several threads read at once."""

    check: Check
    """When vectors are held against their checksums."""

    @property
    def name(self) -> str:
        """What messages call the store: a path or an address."""

    @property
    def root(self) -> Path:
        """The store's folder.

        Raises:
            UsageError: it is not on this machine.
        """

    @property
    def commits(self) -> int:
        """Commits that can be opened."""

    @property
    def traffic(self) -> Traffic | None:
        """What was transferred; None for files that are on this machine."""

    @property
    def portion(self) -> int | None:
        """Vector bytes to fetch at a time, ahead of reading them; None: they are here."""

    def submit(self, work: Callable[..., Result], *given: object) -> Task[Result]:
        """Have something done by the threads in which several files are read at once."""

    def open_shard(self, entry: ShardEntry) -> ShardReader:
        """Open a shard for reading vectors.

        Raises:
            CorruptStoreError: it is missing, or not what the manifest says.
        """

    def columns(self, entry: ShardEntry, names: list[str]) -> pa.Table:
        """Return metadata columns of a shard.

        Raises:
            CorruptStoreError: it is missing, damaged or not what the manifest says.
        """

    def table(self, entries: Sequence[ShardEntry], names: list[str]) -> pa.Table:
        """Return metadata columns of several shards, one behind the other.

        Raises:
            CorruptStoreError: one is missing, damaged or not what the manifest says.
        """

    def labels(self, entry: LabelEntry) -> pa.Table:
        """Return a label overlay.

        Raises:
            CorruptStoreError: it is missing or damaged.
        """

    def cache_folders(self) -> Sequence[Callable[[], Path]]:
        """Return what makes folders for derived files, the best first; each may raise OSError."""


class LocalFiles:
    """The files of a store on this machine."""

    portion: int | None = None
    traffic: Traffic | None = None

    def __init__(self, root: Path, check: Check = "lazy") -> None:
        self.root = root
        self.check: Check = check

    @property
    def name(self) -> str:
        return str(self.root)

    @property
    def commits(self) -> int:
        return len(manifests.numbers(self.root))

    def submit(self, work: Callable[..., Result], *given: object) -> Task[Result]:
        return submit(pool, work, *given)

    def open_shard(self, entry: ShardEntry) -> ShardReader:
        return open_shard(self.root, entry, self.check)

    def columns(self, entry: ShardEntry, names: list[str]) -> pa.Table:
        return shard_columns.read_columns(self.root, entry, names)

    def table(self, entries: Sequence[ShardEntry], names: list[str]) -> pa.Table:
        return small_shards.read_columns(self.root, entries, names)

    def labels(self, entry: LabelEntry) -> pa.Table:
        return shard_columns.read_labels(self.root, entry)

    def cache_folders(self) -> Sequence[Callable[[], Path]]:
        return local_folders(self.root)


def local_folders(root: Path) -> Sequence[Callable[[], Path]]:
    """Return what makes folders for the derived files of a store on this machine."""
    behind = backing.of(root)
    if behind is not None:
        return behind.cache_folders()
    return partial(_folder_in_store, root), partial(temporary_folder, str(root.resolve()))


def _folder_in_store(root: Path) -> Path:
    folder = root / layout.CACHE
    folder.mkdir(exist_ok=True)
    return folder


def temporary_folder(name: str) -> Path:
    """Return a folder for the derived files of a store that has no place for them itself.

    Raises:
        OSError: it cannot be made.
    """
    mark = hashlib.sha256(name.encode()).hexdigest()[:16]
    home = Path(tempfile.gettempdir()) / f"actstore-{os.getuid()}"
    home.mkdir(exist_ok=True, mode=0o700)
    found = home.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        home = Path(tempfile.mkdtemp(prefix="actstore-"))  # somebody else could write there
    folder = home / mark
    folder.mkdir(exist_ok=True)
    return folder
