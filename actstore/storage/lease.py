"""Who reads a commit: a lock on its manifest, shared by readers, that pruning asks for alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class Lease:
    """Keeps a commit's files from being pruned, for as long as it is held.

    The system gives it back when the process ends, however it ends. Where a file system knows
    no locks nothing is kept, as docs/guarantees.md says.

    Args:
        manifest: file of the commit's manifest.

    Raises:
        FileNotFoundError: the commit was pruned.
        OSError: the file cannot be opened.
    """

    def __init__(self, manifest: Path) -> None:
        self._descriptor = -1
        self._descriptor = os.open(manifest, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # this file system knows no locks
                fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            if not os.fstat(self._descriptor).st_nlink:
                raise FileNotFoundError(f"{manifest} was removed")
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Give it back; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.release()


@contextlib.contextmanager
def alone(manifest: Path) -> Iterator[bool]:
    """Say whether nobody holds a lease of a commit, and let nobody take one in the block.

    A commit that is gone is nobody's.
    """
    try:
        descriptor = os.open(manifest, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True
        return
    try:
        nobody = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            nobody = False
        except OSError:
            pass  # this file system knows no locks
        yield nobody
    finally:
        os.close(descriptor)
