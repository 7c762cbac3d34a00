"""Where the files of one commit lie when they are not here: what every such place must answer."""

from __future__ import annotations

from typing import Protocol

from actstore.errors import ActstoreError, UsageError
from actstore.remote.ranges import Meter, RangedFile
from actstore.storage.manifest import LabelEntry, ShardEntry


class Source(Protocol):
    """A repository on the Hub, or a bucket, at one commit of a store."""

    vouches: bool
    """Whether the place itself says what a file's SHA-256 is, and was asked before it is read."""

    @property
    def name(self) -> str:
        """What messages call the store: its address."""

    @property
    def identity(self) -> str:
        """What tells the place from every other, whatever the revision."""

    @property
    def meter(self) -> Meter:
        """Counts what moves."""

    @property
    def commits(self) -> int:
        """Commits that can be opened."""

    def ranged(self, entry: ShardEntry) -> RangedFile:
        """Return a shard whose parts can be read."""

    def read(self, entry: LabelEntry) -> bytes:
        """Return the bytes of a small file.

        Raises:
            ActstoreError: it cannot be had.
        """

    def needs_folder(self) -> UsageError:
        """Return the error for what works in a folder only: it says how to get one."""

    def damaged(self, path: str, reason: str) -> ActstoreError:
        """Return the error for a file that is not what the manifest says."""
