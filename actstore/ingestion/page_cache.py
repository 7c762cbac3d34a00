"""Takes pages of mapped files out of this process, so that its memory does not grow with them.

A mapped file's pages count as memory of the process that touched them, though the system can
take them away at any time. Whoever watches an ingest of a 100 GB file would see it use 100 GB.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

_MAPS = Path("/proc/self/maps")
_PAGE_OUT = 21
"""MADV_PAGEOUT, which the module ``mmap`` does not name yet."""
_EVERY_BYTES = 64 << 20


class MappedPages:
    """Lets go of mapped files from time to time, as reading goes on."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._bytes = 0

    def read(self, file: Path, count: int) -> None:
        """Note that ``count`` bytes of vectors of a file were read."""
        self._bytes += count
        if self._bytes >= _EVERY_BYTES:
            self._bytes = 0
            let_go([file, self._store])


def let_go(paths: Iterable[Path]) -> None:
    """Take the mapped pages of some files, or of all files in some folders, out of memory.

    The maps stay valid: a page that is read again comes back from the file. Pages are only
    handed back, never dropped, so a map that has meanwhile given way to something else loses
    nothing. Does nothing where there is no ``/proc``, or a kernel before Linux 5.4.
    """
    try:
        lines = _MAPS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return
    wanted = [str(path.resolve()) for path in paths]
    for line in lines:
        fields = line.split(maxsplit=5)
        if len(fields) < 6 or not fields[5].startswith("/"):
            continue
        name = fields[5]
        if any(name == path or name.startswith(path + os.sep) for path in wanted):
            start, _, stop = fields[0].partition("-")
            address = int(start, 16)
            # A map that has gone since the list was read is no error.
            _madvise()(address, int(stop, 16) - address, _PAGE_OUT)


@cache
def _madvise() -> Any:
    function = ctypes.CDLL(None, use_errno=True).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function
