"""Reads a small file at once and maps a large one."""

from __future__ import annotations

import io
import mmap
from pathlib import Path
from typing import Any, Final

# Below this a file is read at once, so that what was checked is what is loaded, and nobody who
# rewrites the file meanwhile can hurt; above it is mapped, so that memory stays flat.
MAP_FROM: Final = 64 << 20


class Mapped(mmap.mmap):
    """A map that zipfile takes for a file; before Python 3.13 a map lacks this one method."""

    def seekable(self) -> bool:
        return True


def open_bytes(path: Path) -> bytes | Mapped:
    """The file's bytes, read or, from 64 MiB on, mapped; OSError where it cannot be opened.

    A map needs no closing: it goes with the last array that looks into it.
    """
    with path.open("rb") as file:
        if file.seek(0, 2) >= MAP_FROM:
            return Mapped(file.fileno(), 0, access=mmap.ACCESS_READ)
        file.seek(0)
        return file.read()


def as_file(data: bytes | Mapped) -> Any:
    """The same bytes as zipfile wants them."""
    return io.BytesIO(data) if isinstance(data, bytes) else data
