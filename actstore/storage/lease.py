"""Who reads what: a lock on a manifest or derived file, shared by readers, asked for by pruning."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class Lease:
    """Keeps a commit, or a derived file, from being pruned for as long as it is held.

    The system gives it back when the process ends, however it ends. Where a file system knows
    no locks nothing is kept, as docs/guarantees.md says.

    Args:
        path: the commit's manifest, or the derived file.

    Raises:
        FileNotFoundError: it was pruned.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # this file system knows no locks
                fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            if not os.fstat(self._descriptor).st_nlink:
                raise FileNotFoundError(f"{path} was removed")
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
def alone(path: Path) -> Iterator[bool]:
    """Say whether nobody holds a lease of a path, and let nobody take one in the block.

    What is gone is nobody's.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
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
