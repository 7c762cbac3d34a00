"""Asks the disk to begin with what was written to a file, so that a sync waits for less."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

_BEGIN = 2  # SYNC_FILE_RANGE_WRITE


def begin(descriptor: int) -> None:
    """Start to write a file's bytes to disk; says nothing of whether they get there.

    Unlike ``fdatasync`` it waits for no disk and flushes no journal, and leaves errors for
    ``fsync`` to report. Where the system has no such call nothing happens.
    """
    call = _sync_file_range()
    if call is not None:
        call(descriptor, 0, 0, _BEGIN)


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    try:
        call = ctypes.CDLL(None).sync_file_range
    except (AttributeError, OSError, TypeError):
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    found: Callable[[int, int, int, int], int] = call
    return found
