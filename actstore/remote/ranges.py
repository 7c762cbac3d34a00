"""Byte ranges of one file that lies elsewhere: fetched side by side, in pieces, and counted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Protocol

from actstore.remote.cache import Range
from actstore.storage.files import Traffic
from actstore.storage.threads import Pool, in_parallel, renewed_in_forks

REQUESTS = 16
"""Requests under way at once, in all of this process."""
PIECE = 8 << 20
"""Bytes of one request: longer ranges are fetched as several pieces side by side."""


class RangedFile(Protocol):
    """One file, wherever it lies, of which parts can be read."""

    size: int
    sha256: str

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return the bytes of each range, fetched side by side."""


class Meter:
    """Counts what is transferred. Threads may share one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._traffic = Traffic(0, 0, 0)

    def add(self, *, requests: int = 0, received: int = 0, cached: int = 0) -> None:
        """Count some more."""
        with self._lock:
            had = self._traffic
            self._traffic = Traffic(
                had.requests + requests, had.received + received, had.cached + cached
            )

    @property
    def traffic(self) -> Traffic:
        """What there was so far."""
        return self._traffic


def read_side_by_side(fetch: Callable[[int, int], bytes], ranges: Sequence[Range]) -> list[bytes]:
    """Return the bytes of each range; the first error stops the others and is raised.

    Args:
        fetch: returns the bytes from a start to a stop, by one request.
        ranges: start and stop of each.
    """
    pieces = [
        (number, (at, min(at + PIECE, stop)))
        for number, (start, stop) in enumerate(ranges)
        for at in range(start, stop, PIECE)
    ]
    if len(pieces) == 1:
        return [fetch(*pieces[0][1])]
    read = in_parallel(lambda piece: fetch(*piece[1]), pieces, _pool)
    found: list[list[bytes]] = [[] for _ in ranges]
    for (number, _), part in zip(pieces, read, strict=True):
        found[number].append(part)
    return [parts[0] if len(parts) == 1 else b"".join(parts) for parts in found]


@cache
def _pool() -> Pool:
    return Pool(REQUESTS)


renewed_in_forks(_pool)
