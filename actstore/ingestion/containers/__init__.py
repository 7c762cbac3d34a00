"""Opens files of each container format safely, as plain Python trees with Tensor leaves."""

from __future__ import annotations

import os
import stat
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from actstore import paths
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


def read(
    kind: str,
    path: Path,
    *,
    memory_limit: int = DEFAULT_MEMORY_LIMIT,
    within: Path | None = None,
) -> Tree:
    """Open ``path``, a container of ``kind`` (one of :data:`KINDS`), and return its content.

    ``torch``, ``pickle``, ``safetensors`` and ``numpy`` give a tree; a bare array gives a
    Tensor. ``parquet`` and ``huggingface`` give a
    :class:`~actstore.ingestion.containers.parquet.TableSource`, which streams.

    ``within`` is the folder in which the file, or everything in the folder, must really lie:
    links that lead out of it are not opened.

    Tensors may be views of the mapped file: the file must keep its content while they live.

    Raises UnsafeFileError (would run code or exhaust memory), UnreadableFileError (empty,
    truncated, of another format, not there) and LayoutError (holds what cannot become rows).
    """
    if kind not in KINDS:
        raise UsageError(f"container {kind!r} is unknown; expected one of {', '.join(KINDS)}")
    path = Path(path)
    fetching.ensure(path)
    try:
        status = path.stat()
    except OSError as error:
        raise UnreadableFileError(f"cannot be opened: {error.strerror}", path) from error
    folder = stat.S_ISDIR(status.st_mode)
    if not folder and not stat.S_ISREG(status.st_mode):
        raise UnreadableFileError("is neither a file nor a folder", path)
    if not folder and status.st_size == 0:
        raise UnreadableFileError("is empty (0 bytes); write it again or remove it", path)
    if folder and kind != "huggingface":
        raise UnreadableFileError(f"is a folder, not a {kind} file", path)
    if within is not None:
        _check_links(path, paths.real(within), folder)
    module = import_module(f"{__name__}.{kind}")
    try:
        return module.read(path, memory_limit=memory_limit)
    except UnsafeFileError as error:
        raise explained(error) from error


def _check_links(path: Path, within: Path, folder: bool) -> None:
    """Refuse what leads out of a real folder, and in a folder what could be waited for.

    Raises:
        UnreadableFileError: names the first.
    """
    found = [path]
    if folder:
        for home, names, files in os.walk(path):
            found += (Path(home) / name for name in (*names, *files))
    for each in found:
        if not paths.lies_in(each, [within]):
            name = each.relative_to(path).as_posix()
            where = "is a link" if each == path else f"holds a link, {name},"
            raise UnreadableFileError(
                f"{where} that leads out of the source; name what it leads to as a SOURCE", path
            )
        if each.is_fifo():
            raise UnreadableFileError(f"holds {each.name}, which is a FIFO and no file", path)
