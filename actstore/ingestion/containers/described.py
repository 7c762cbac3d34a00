"""What a pickle inside a torch file describes, read through the allow-list."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from actstore.errors import IngestError, UnreadableFileError, UnsafeFileError
from actstore.ingestion.containers.allowlist import (
    STORAGES,
    AllowListUnpickler,
    Held,
    Name,
    Rebuilder,
)
from actstore.ingestion.containers.arrays import ArrayRebuilder


def described(
    content: bytes,
    persistent: Callable[[Any], Held] | None,
    rebuilder: Rebuilder | None = None,
    encoding: str = "latin-1",
) -> Any:
    """Return what a pickle describes; without a ``rebuilder`` tensors are descriptions alone.

    Raises UnsafeFileError for what is not allowed, UnreadableFileError for damage.
    """
    rebuilder = rebuilder or Rebuilder(len(content))
    unpickler = AllowListUnpickler(
        io.BytesIO(content),
        rebuilder,
        persistent=persistent,
        extra=ArrayRebuilder(rebuilder).names(),
        encoding=encoding,
    )
    return loaded(unpickler, "its pickle")


def loaded(unpickler: AllowListUnpickler, what: str) -> Any:
    """Return what a pickle holds; ``what`` is how messages call it.

    Raises UnsafeFileError for what is not allowed, UnreadableFileError for damage.
    """
    try:
        return unpickler.load()
    except IngestError:
        raise
    except MemoryError as error:
        raise UnsafeFileError("reading it exhausts the memory") from error
    except Exception as error:
        # Damaged bytes surface as almost any exception.
        raise UnreadableFileError(
            f"{what} is damaged ({type(error).__name__}: {str(error)[:200]})"
        ) from error


def storage_identity(identity: Any, length: int) -> tuple[str, str, int]:
    """Return class, key and number of elements of a storage that a pickle refers to."""
    if not isinstance(identity, tuple) or len(identity) != length or identity[0] != "storage":
        raise UnreadableFileError("it describes a storage wrongly")
    kind, key, count = identity[1], identity[2], identity[4]
    if not isinstance(kind, Name) or kind.value not in STORAGES or not isinstance(key, str):
        raise UnreadableFileError("it describes a storage wrongly")
    if type(count) is not int or not 0 <= count < 2**60:
        raise UnsafeFileError(f"a storage has {count!r:.40} elements")
    return str(kind.value), key, count
