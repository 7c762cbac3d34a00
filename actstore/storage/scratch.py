"""Folders outside of stores for what is needed for a while; what killed processes left goes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "actstore-scratch-"
_YOUNG = 60.0
"""Seconds in which a folder may not be locked yet by the process that has just made it."""


@contextlib.contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """Give an empty folder while the block runs.

    A process holds a lock on its folder, so the next one sees which are left of killed ones, and
    removes them.

    Args:
        purpose: a word of it that stands in its name.
    """
    home = Path(tempfile.gettempdir())
    _clear(home)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{purpose}-", dir=home))
    lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # without locks nobody can tell, and it stays
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _clear(home: Path) -> None:
    """Remove the folders that nobody holds any more."""
    with contextlib.suppress(OSError):
        for each in os.scandir(home):
            if each.name.startswith(_PREFIX):
                with contextlib.suppress(OSError):
                    _remove_left(home / each.name)


def _remove_left(folder: Path) -> None:
    """Remove a folder, if it is ours and nobody holds it.

    Raises:
        OSError: somebody holds it, or it is gone.
    """
    lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        found = os.fstat(lock)
        old = time.time() - found.st_mtime > _YOUNG
        if old and found.st_uid == os.getuid():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
