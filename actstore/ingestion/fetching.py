"""Source files that come when they are opened, and go when they are done with.

Somebody else brings them: a folder is registered with a :class:`Fetcher`, and everything that
opens a source file asks for it here first. Files of ordinary folders are there anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from actstore.errors import ActstoreError, BucketError, BucketFileError, HubError, TransferError

FAILED = (HubError, BucketError)
"""Errors of files that could not be brought."""


class Fetcher(Protocol):
    """Brings the files of one folder; several threads ask at once.

    Before a file is fetched an empty one of its size stands in its place.
    """

    root: Path
    """The folder, absolute."""

    def fetch(self, path: Path, *, hold: bool) -> None:
        """Bring a file, or all files of a folder, and if ``hold`` keep it until released.

        Raises:
            HubError, BucketError: it cannot be had; the leaf says why.
        """

    def fetch_end(self, path: Path) -> bool:
        """Bring the end of a file, where formats keep their table of contents.

        Returns whether the file is now held, to be released.

        Raises:
            HubError, BucketError: it cannot be had.
        """

    def called(self, path: Path) -> str:
        """Return what a file or folder is called wherever it lies for the moment."""

    def version(self, path: Path) -> list[tuple[str, str]]:
        """Return what tells the content of a file, or of those in a folder, from any other."""

    def release(self, path: Path) -> None:
        """Say that a held file or folder is done with: it may go."""

    def is_here(self, path: Path) -> bool:
        """Say whether a file has been brought."""


_fetchers: list[Fetcher] = []


@contextmanager
def registered(fetcher: Fetcher) -> Iterator[None]:
    """Let a fetcher bring the files below its folder while the block runs."""
    _fetchers.append(fetcher)
    try:
        yield
    finally:
        _fetchers.remove(fetcher)


def of(path: Path) -> Fetcher | None:
    """Return who brings a file; None for one that is there anyway."""
    if not _fetchers:
        return None
    return next((each for each in _fetchers if path.is_relative_to(each.root)), None)


def ensure(path: Path, *, hold: bool = False) -> None:
    """See to it that a file, or all of a folder, is there to be opened.

    Raises:
        HubError, BucketError: it cannot be had.
    """
    fetcher = of(path)
    if fetcher is not None:
        fetcher.fetch(path, hold=hold)


@contextmanager
def end_of(path: Path) -> Iterator[None]:
    """See to it that the end of a file is there while the block reads it.

    Raises:
        HubError, BucketError: it cannot be had.
    """
    fetcher = of(path)
    held = fetcher is not None and fetcher.fetch_end(path)
    try:
        yield
    finally:
        if fetcher is not None and held:
            fetcher.release(path)


def release(path: Path) -> None:
    """Say that a file that was held is done with."""
    fetcher = of(path)
    if fetcher is not None:
        fetcher.release(path)


def is_here(path: Path) -> bool:
    """Say whether a file can be opened without being brought first."""
    fetcher = of(path)
    return fetcher is None or fetcher.is_here(path)


def called(path: Path) -> str:
    """Return what a file or folder is called, in this process and in others."""
    fetcher = of(path)
    return str(path) if fetcher is None else fetcher.called(path)


def version(path: Path) -> list[tuple[str, str]] | None:
    """Return what tells the content of files that lie elsewhere; None where size and time do."""
    fetcher = of(path)
    return None if fetcher is None else fetcher.version(path)


def ends_the_run(error: ActstoreError) -> bool:
    """Say whether the files to come would fail like this one: nobody answers there."""
    if isinstance(error, TransferError):
        return error.status is not None  # else it is this file that arrives damaged
    return isinstance(error, FAILED) and not isinstance(error, BucketFileError)
