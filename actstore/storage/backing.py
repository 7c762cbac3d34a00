"""A folder that stands for a store elsewhere: who has the files that are not in it.

Whoever writes to a bucket works on such a folder: it holds the manifest that is built on and the
files that are new, and nothing else. What is missing is asked of the backing, and a commit is made
where the store really is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from actstore.storage.manifest import LabelEntry, Manifest, ShardEntry
from actstore.storage.shard_reader import ShardReader

if TYPE_CHECKING:
    import pyarrow as pa


class Backing(Protocol):
    """The store that a folder stands for. Several threads read at once."""

    def open_shard(self, entry: ShardEntry) -> ShardReader:
        """Open a shard that is not in the folder.

        Raises:
            ActstoreError: it cannot be read.
        """

    def columns(self, entry: ShardEntry, names: list[str]) -> pa.Table:
        """Return metadata columns of a shard that is not in the folder."""

    def labels(self, entry: LabelEntry) -> pa.Table:
        """Return a label overlay that is not in the folder."""

    def fetched(self, path: str) -> contextlib.AbstractContextManager[None]:
        """Have a whole file in the folder while the block runs; as it is, sound or not."""

    def newest(self) -> contextlib.AbstractContextManager[Path]:
        """Have another folder, to read from, that stands for the store as it is now."""

    def cache_folders(self) -> Sequence[Callable[[], Path]]:
        """Return what makes folders for derived files, the best first."""

    def stored_files(self) -> list[str]:
        """Return the paths of all shards and label overlays that are there, of any commit."""

    def replace(self, path: str) -> None:
        """Put a file of the folder there, over what there may be."""

    def put_aside(self, path: str, name: str, instead: bytes) -> None:
        """Keep a file there under another name, and put something else in its place.

        Its own name stays taken: nobody sees there who writes, and a writer who has read an
        earlier commit would take the number, and rows that no later commit has would be lost.
        """

    def publish(self, manifest: Manifest, files: Collection[str], staging: Path) -> bool:
        """Make a commit where the store is.

        Args:
            manifest: the commit.
            files: paths, in the store, of the new files that lie in the folder.
            staging: where a draft may be written.

        Returns:
            False when another writer has made a commit of that number: nothing happened, and
            the newest manifest is in the folder now.

        Raises:
            ActstoreError: it could not be made.
        """


_known: dict[Path, Backing] = {}


@contextlib.contextmanager
def standing_for(root: Path, backing: Backing) -> Iterator[None]:
    """Let a folder stand for a store while the block runs, whatever it stood for before."""
    before = _known.get(root)
    _known[root] = backing
    try:
        yield
    finally:
        _known.pop(root, None)
        if before is not None:
            _known[root] = before


def of(root: Path) -> Backing | None:
    """Return what a folder stands for; None of a store that is where it is."""
    return _known.get(root) if _known else None


def of_missing(root: Path, path: str) -> Backing | None:
    """Return who has a file that is not in the folder; None where the folder is all there is."""
    behind = of(root)
    return None if behind is None or (root / path).exists() else behind


@contextlib.contextmanager
def newest(root: Path) -> Iterator[Path]:
    """Have a folder that stands for a store as it is now: others have committed meanwhile.

    That of a writer has what its last commit was built on.
    """
    behind = of(root)
    with contextlib.nullcontext(root) if behind is None else behind.newest() as found:
        yield found


@contextlib.contextmanager
def fetched(root: Path, path: str) -> Iterator[None]:
    """Have a whole file of a store in its folder while the block runs; as it is, sound or not."""
    behind = of_missing(root, path)
    with contextlib.nullcontext() if behind is None else behind.fetched(path):
        yield
