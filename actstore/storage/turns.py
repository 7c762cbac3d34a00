"""Who may commit when: writers take turns, and no number is given out while commits are removed.

Without turns most writers would lose the race again and again, some for long. A commit does not
depend on them: whoever has no turn commits all the same, and comes second if another one was
faster. It does depend on the gate: a number that a pruning has freed looks as if it were the next.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from actstore.errors import CommitError
from actstore.storage import layout

PATIENCE = 60.0
"""Seconds after which a writer goes on without its turn: the process that has it may be stopped."""
_PAUSE = 0.1
"""Seconds between two looks, at most; they get shorter as a writer waits: the oldest come first."""


_has_turn = threading.local()


@contextlib.contextmanager
def turn(root: Path) -> Iterator[None]:
    """Let one writer of a store at a time into the block, as far as its file system knows locks.

    A thread that has its turn and commits to the same store within does not wait for itself.
    """
    mine: set[Path] = _has_turn.__dict__.setdefault("roots", set())
    if root in mine:
        yield
        return
    descriptor = -1
    with contextlib.suppress(OSError):  # there is no such folder any more: the commit makes it
        descriptor = os.open(root / layout.MANIFESTS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if descriptor >= 0:
            _wait(descriptor)
        mine.add(root)
        yield
    finally:
        mine.discard(root)
        if descriptor >= 0:
            os.close(descriptor)


@contextlib.contextmanager
def naming(root: Path) -> Iterator[None]:
    """Keep commits and files from being removed in the block, in which a commit gets its number.

    Others may be in such a block at the same time. On file systems without locks nothing is kept.

    Raises:
        CommitError: somebody who removes commits does not come to an end.
    """
    with _gate(root, fcntl.LOCK_SH):
        yield


@contextlib.contextmanager
def removing(root: Path) -> Iterator[None]:
    """Let nobody make a commit in the block, in which old ones, and their files, are removed.

    Raises:
        CommitError: somebody who commits, or removes commits, does not come to an end.
    """
    with _gate(root, fcntl.LOCK_EX):
        yield


@contextlib.contextmanager
def _gate(root: Path, kind: int) -> Iterator[None]:
    descriptor = os.open(root, os.O_RDONLY | os.O_CLOEXEC)
    try:
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pass
            except OSError:
                break  # this file system knows no locks, or none of folders, as NFS
            if time.monotonic() - began > PATIENCE:
                raise CommitError(
                    f"another process is changing the commits of {root} and has not come to an end "
                    f"for {PATIENCE:.0f} seconds: nothing was changed; is it stopped? Then end it, "
                    "and run this again"
                )
            time.sleep(random.uniform(0.001, 0.02))
        yield
    finally:
        os.close(descriptor)


def _wait(descriptor: int) -> None:
    began = time.monotonic()
    while (waited := time.monotonic() - began) < PATIENCE:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(random.uniform(0.001, _PAUSE / (1 + waited)))
        except OSError:
            return  # this file system knows no locks, or none of folders, as NFS
