"""Opens files of each container format safely, as plain Python trees with Tensor leaves."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Final

from actstore.errors import UnreadableFileError, UnsafeFileError, UsageError
from actstore.ingestion import fetching
from actstore.ingestion.containers.advice import explained
from actstore.ingestion.containers.sniffing import describe, sniff

__all__ = ["DEFAULT_MEMORY_LIMIT", "KINDS", "Tree", "describe", "read", "sniff"]

Tree = Any
"""dict, list, tuple, str, int, float, bool, None, bytes, with Tensor leaves."""

KINDS: Final = ("torch", "pickle", "safetensors", "numpy", "parquet", "huggingface")
"""The containers that a recipe may name."""

DEFAULT_MEMORY_LIMIT: Final = 4 << 30
"""Bytes that one file may take in memory; what is mapped does not count."""


def read(kind: str, path: Path, *, memory_limit: int = DEFAULT_MEMORY_LIMIT) -> Tree:
    """Open ``path``, a container of ``kind`` (one of :data:`KINDS`), and return its content.

    ``torch``, ``pickle``, ``safetensors`` and ``numpy`` give a tree; a bare array gives a
    Tensor. ``parquet`` and ``huggingface`` give a
    :class:`~actstore.ingestion.containers.parquet.TableSource`, which streams.

    Tensors may be views of the mapped file: the file must keep its content while they live.

    Raises UnsafeFileError (would run code or exhaust memory), UnreadableFileError (empty,
    truncated, of another format, not there) and LayoutError (holds what cannot become rows).
    """
    if kind not in KINDS:
        raise UsageError(f"container {kind!r} is unknown; expected one of {', '.join(KINDS)}")
    path = Path(path)
    fetching.ensure(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UnreadableFileError(f"cannot be opened: {error.strerror}", path) from error
    if path.is_file() and size == 0:
        raise UnreadableFileError("is empty (0 bytes); write it again or remove it", path)
    if path.is_dir() and kind != "huggingface":
        raise UnreadableFileError(f"is a folder, not a {kind} file", path)
    module = import_module(f"{__name__}.{kind}")
    try:
        return module.read(path, memory_limit=memory_limit)
    except UnsafeFileError as error:
        raise explained(error) from error
