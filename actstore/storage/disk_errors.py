"""What the system says when a store's file cannot be read, or none be written, as our errors."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from actstore.errors import (
    ActstoreError,
    CommitError,
    CorruptStoreError,
    MissingFileError,
    ReadError,
)

_RIGHTS = "let this user read it, and run this again"
_DESCRIPTORS = "close files, or allow this process more (ulimit -n), and run this again"
_GONE = "run this again; if it is gone for good, bring it back from a copy"
_NEXT = {
    errno.ENOENT: _GONE,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EMFILE: _DESCRIPTORS,
    errno.ENFILE: _DESCRIPTORS,
    errno.ESTALE: "the network drive has lost it: mount that again, and run this again",
}
_DISK = (
    "look at the disk or the network drive, and run this again; if it stays so, bring the file "
    "back from a copy (see: actstore repair --help)"
)
_SYSTEM = re.compile(r"\(os error (\d+)\)|inline_container\.cc|PytorchStreamWriter|iostream error")
_DERIVED = "run this again; it is derived, and made anew once it is removed"


@contextlib.contextmanager
def reading(path: Path, *, derived: bool = False) -> Iterator[None]:
    """Explain a file, or folder, that cannot be read.

    Args:
        path: the file.
        derived: whether it is made anew where it is missing.

    Raises:
        MissingFileError: it is not there.
        ReadError: another operation of the system failed inside the block.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, ActstoreError):
            raise
        kind = MissingFileError if isinstance(error, FileNotFoundError) else ReadError
        text = unread(str(path), error, derived=derived)
        raise kind(text, path, reason_of(error), error.errno) from error


def unread(what: str, error: OSError, *, derived: bool = False) -> str:
    """Return what to tell of a file that cannot be read, and what can be done about it."""
    advice = _NEXT.get(error.errno or 0, _DISK)
    if derived and advice in (_GONE, _DISK):
        advice = _DERIVED
    return f"{what} cannot be read: {reason_of(error)}. Nothing that is stored is lost: {advice}"


def reason_of(error: OSError) -> str:
    """Return what the system said."""
    # Arrow puts its own words, and the path once more, where others have the system's.
    return os.strerror(error.errno) if error.errno else str(error)


def is_of_this_process(error: CorruptStoreError) -> bool:
    """Say whether the system refused this process a file, which may be whole for all it knows."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in _NEXT and cause.errno != errno.ENOENT


def content_of(path: Path) -> bytes:
    """Return the bytes of a file; raises as :func:`reading`."""
    with reading(path):
        return path.read_bytes()


@contextlib.contextmanager
def writing(root: Path) -> Iterator[None]:
    """Explain a full or failing disk.

    Raises:
        CommitError: an operation of the system failed inside the block.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, ActstoreError):
            raise
        raise CommitError(
            f"cannot write to the store at {root}: {error}; what was committed before stands, "
            "nothing else is kept: see to the disk, and run this again"
        ) from error


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Let an error of an open file say which it is, since the system does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def saving(target: Path) -> Iterator[None]:
    """Explain a file outside of stores that cannot be written, whatever writes it.

    Raises:
        OSError: names the file, and says what the system said.
    """
    try:
        yield
    except ActstoreError:
        raise
    except OSError as error:
        text = f"cannot be written: {reason_of(error)}"
        raise OSError(error.errno, text, str(target)) from error
    except Exception as error:
        # Rust and torch have errors of their own for what the system says.
        said = _SYSTEM.search(str(error))
        if said is None:
            raise
        number = int(said[1] or errno.EIO)
        reason = os.strerror(number) if said[1] else "the disk may be full"
        raise OSError(number, f"cannot be written: {reason}", str(target)) from error
