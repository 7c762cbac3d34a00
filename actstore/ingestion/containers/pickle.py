"""Opens plain pickles (also gzipped) of tensors, arrays and plain values through an allow-list."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any

from actstore.errors import IngestError, UnreadableFileError, UnsafeFileError
from actstore.ingestion.containers import opcodes
from actstore.ingestion.containers.allowlist import (
    AllowListUnpickler,
    Rebuilder,
    Storage,
    TensorSpec,
)
from actstore.ingestion.containers.arrays import ArrayRebuilder
from actstore.ingestion.containers.described import loaded
from actstore.ingestion.containers.sniffing import describe, sniff
from actstore.ingestion.containers.tree import plain


def read(path: Path, *, memory_limit: int) -> Any:
    """The tree in a plain pickle, ``.pkl`` or ``.pkl.gz``. Its tensors are held in memory.

    Raises as :func:`actstore.ingestion.containers.read` says.
    """
    found = sniff(path)
    if found not in ("pickle", None):
        raise UnreadableFileError(
            f"is not a plain pickle but {describe(path)}; name {found!r} as the container", path
        )
    try:
        data = _content(path, memory_limit)
        opcodes.check(data)
        return plain(_unpickle(data))
    except UnreadableFileError as error:
        raise UnreadableFileError(f"{error} (it is {describe(path)})", path) from error
    except IngestError as error:
        raise type(error)(error.reason, path) from error


def _content(path: Path, memory_limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as source:
            data = source.read(memory_limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableFileError(f"cannot be read: {error}") from error
    if len(data) > memory_limit:
        raise UnsafeFileError(
            f"takes more than the memory limit of {memory_limit:,} bytes "
            f"({path.stat().st_size:,} on disk); raise the limit or split the file"
        )
    return data


def _unpickle(data: bytes) -> Any:
    rebuilder = _TorchRebuilder(len(data))
    arrays = ArrayRebuilder(rebuilder)
    unpickler = AllowListUnpickler(io.BytesIO(data), rebuilder, extra=arrays.names())
    return loaded(unpickler, "the pickle")


class _TorchRebuilder(Rebuilder):
    """Builds real tensors over storages that were loaded with ``weights_only=True``."""

    def load_storage(self, data: bytes) -> Storage:
        from actstore.ingestion.containers.torch import load_storage

        return load_storage(data)

    def build(self, storage: Storage, spec: TensorSpec, negative: bool) -> Any:
        import torch

        tensor = torch.empty(0, dtype=getattr(torch, spec.dtype))
        tensor.set_(storage.loaded, spec.offset, spec.shape, spec.stride)
        return -tensor if negative else tensor
