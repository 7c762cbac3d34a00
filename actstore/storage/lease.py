"""Who reads what: a lock on a manifest or derived file, shared by readers, asked for by pruning."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from actstore.storage import layout
from actstore.storage import manifest as manifests
from actstore.storage.disk_errors import reading
from actstore.storage.manifest import Manifest


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

    _descriptor = -1  # also of one whose making was interrupted

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # this file system knows no locks
                fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            if not os.fstat(self._descriptor).st_nlink:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Give it back; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def __del__(self, ends: Callable[[], bool] = sys.is_finalizing) -> None:
        # While Python ends, modules lose their names before what they have made goes; the system
        # gives it back then.
        if not ends():
            self.release()


def pin(root: Path, at: int | None = None) -> tuple[Manifest, Lease]:
    """Load commit ``at``, or the latest, and take a lease of it; its segments are left for later.

    Raises:
        StoreNotFoundError, SnapshotNotFoundError, CorruptStoreError: as
            :func:`actstore.storage.manifest.load`.
        ReadError: its file cannot be opened.
    """
    while True:
        manifest = manifests.load(root, at, lazily=True)
        try:
            return manifest, of_commit(root, manifest.number)
        except FileNotFoundError:
            continue  # pruned since: there is a later one, or loading says that there is none


def of_commit(root: Path, number: int) -> Lease:
    """Take a lease of a commit.

    Raises:
        MissingFileError: it was pruned.
        ReadError: its file cannot be opened.
    """
    path = layout.manifest_path(root, number)
    with reading(path):
        return Lease(path)


@contextlib.contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Say whether nobody holds a lease of a path, and let nobody take one in the block.

    What is gone is nobody's.
    """
    try:
        descriptor, nobody = _asked(path)
    except FileNotFoundError:
        yield True
        return
    try:
        yield nobody
    finally:
        os.close(descriptor)


def _asked(path: Path) -> tuple[int, bool]:
    """Lock what lies at a path; return the lock's descriptor, and whether nobody had a lease.

    Raises:
        FileNotFoundError: it is gone.
    """
    while True:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            nobody = True
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                nobody = False
            except OSError:
                pass  # this file system knows no locks
            # A derived file may have been removed and made again since it was opened: its lock says
            # nothing of the new one then, which others may be reading.
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor, nobody
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
