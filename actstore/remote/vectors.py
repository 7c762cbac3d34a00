"""Vectors of a shard in a repository: exactly the rows that are asked for travel, once."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np

from actstore.errors import CorruptStoreError
from actstore.remote.cache import Pack, Range, RangeCache
from actstore.remote.ranges import Meter, RangedFile
from actstore.remote.vector_checks import RemoteChecks
from actstore.storage.manifest import ShardEntry

GAP = 64 << 10
"""Widest gap between two wanted rows that may be fetched along, to save a request."""
_SPARE = 64 << 10
"""Bytes that a shard may be asked for in vain; less of small shards."""
_BATCH = 64 << 20
"""Bytes fetched before they are put away: what is in memory at a time."""
_BLOCK = 32 << 20


class Pieces:
    """The byte ranges of one file that are here, and how more of them get here.

    Args:
        remote: the file.
        cache: where ranges are kept.
        meter: counts what was here already.
    """

    def __init__(self, remote: RangedFile, cache: RangeCache, meter: Meter) -> None:
        self._remote = remote
        self._cache = cache
        self._meter = meter
        self._lock = threading.Lock()
        self._earlier: list[Pack] | None = None
        self._later: list[Pack] = []

    def bytes(self, start: int, stop: int) -> bytes:
        """Return one part of the file.

        Raises:
            HubError: as :meth:`RangedFile.read`.
        """
        out = np.empty((1, stop - start), np.uint8)
        self.read(np.array([start]), stop - start, out)
        return out.tobytes()

    def read(self, places: np.ndarray, length: int, out: np.ndarray | None = None) -> None:
        """Bring rows of ``length`` bytes here and, if there is an ``out``, copy them there.

        Args:
            places: where each begins in the file, ascending and each once: int64 ``[n]``.
            length: bytes of a row.
            out: uint8 ``[n, length]``.

        Raises:
            HubError: as :meth:`RangedFile.read`.
        """
        missing = np.ones(len(places), bool)
        earlier, later = self._known()
        for pack in earlier:
            self._take(pack, places, length, missing, out)
        if out is not None:
            self._meter.add(cached=int((~missing).sum()) * length)
        for pack in later:
            self._take(pack, places, length, missing, out)
        spare = min(_SPARE, self._remote.size // 200)
        while missing.any():  # twice where a long range was cut in the middle of a row
            for batch in _batches(merge(places[missing], length, spare), length):
                pack = self._cache.keep(self._remote.sha256, batch, self._remote.read(batch))
                with self._lock:
                    self._later.append(pack)
                self._take(pack, places, length, missing, out)

    def _known(self) -> tuple[list[Pack], list[Pack]]:
        with self._lock:
            if self._earlier is None:
                self._earlier = self._cache.load(self._remote.sha256)
            return list(self._earlier), list(self._later)

    def _take(
        self,
        pack: Pack,
        places: np.ndarray,
        length: int,
        missing: np.ndarray,
        out: np.ndarray | None,
    ) -> None:
        """Take what a pack holds of the missing rows."""
        low = np.searchsorted(places, pack.ranges[:, 0], "left")
        high = np.searchsorted(places, pack.ranges[:, 1] - length, "right")
        for number in np.flatnonzero(low < high).tolist():
            here = np.flatnonzero(missing[low[number] : high[number]]) + low[number]
            if not len(here):
                continue
            data = pack.data()
            if data is None:  # damaged on disk: as if it were not there
                with self._lock:
                    if self._earlier is not None and pack in self._earlier:
                        self._earlier.remove(pack)
                return
            if out is not None:
                start, stop = pack.ranges[number].tolist()
                first = int(pack.offsets[number])
                window = data[first : first + stop - start]
                rows = np.lib.stride_tricks.sliding_window_view(window, length)
                out[here] = rows[places[here] - start]
            missing[here] = False


def merge(places: np.ndarray, length: int, spare: int = 0) -> list[Range]:
    """Return the ranges to fetch for some rows: adjacent ones joined, small gaps bridged.

    Bridges add at most half of what was wanted or ``spare``, the narrowest gaps first.

    Args:
        places: where the rows begin, ascending: int64 ``[n]``.
        length: bytes of a row.
        spare: bytes that may be fetched in vain however little was wanted.
    """
    if not len(places):
        return []
    gaps = places[1:] - places[:-1] - length
    joined = gaps <= 0
    bridges = np.flatnonzero((gaps > 0) & (gaps <= GAP))
    order = bridges[np.argsort(gaps[bridges], kind="stable")]
    affordable = np.cumsum(gaps[order]) <= max(spare, len(places) * length // 2)
    joined[order[affordable]] = True
    breaks = np.flatnonzero(~joined)
    starts = places[np.concatenate([[0], breaks + 1])]
    stops = places[np.concatenate([breaks, [len(places) - 1]])] + length
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def _batches(ranges: list[Range], length: int) -> Iterator[list[Range]]:
    """Cut ranges into lists of about :data:`_BATCH` bytes, between rows where one is longer."""
    step = max(1, _BATCH // length) * length
    batch: list[Range] = []
    size = 0
    for start, stop in ranges:
        for at in range(start, stop, step):
            part = (at, min(at + step, stop))
            if batch and size + part[1] - part[0] > _BATCH:
                yield batch
                batch, size = [], 0
            batch.append(part)
            size += part[1] - part[0]
    if batch:
        yield batch


class RemoteShard:
    """A shard's vectors, read from where the manifest says that they lie.

    Raises:
        CorruptStoreError: the manifest places them outside the file.
    """

    def __init__(
        self, entry: ShardEntry, pieces: Pieces, checks: RemoteChecks | None = None
    ) -> None:
        self._entry = entry
        self._checks = checks
        self._pieces = pieces
        self._row_bytes = entry.width * np.dtype(entry.dtype).itemsize
        self._offsets = np.array([offset for offset, _ in entry.pages], np.int64)
        self._starts = np.zeros(len(entry.pages) + 1, np.int64)
        np.cumsum([rows for _, rows in entry.pages], out=self._starts[1:])
        if self._starts[-1] != entry.rows or not lie_inside(entry):
            raise CorruptStoreError(f"the manifest places vectors of {entry.path} outside the file")

    def close(self) -> None:
        pass

    def view(self, start: int, stop: int) -> np.ndarray | None:
        return None

    def run(self, start: int, out: np.ndarray) -> None:
        rows = np.arange(start, start + len(out))
        self.fetch(rows)
        step = max(1, _BLOCK // self._row_bytes)
        for first in range(0, len(out), step):
            np.copyto(out[first : first + step], self.take(rows[first : first + step]))

    def take(self, rows: np.ndarray) -> np.ndarray:
        once, where = np.unique(rows, return_inverse=True)
        found = np.empty((len(once), self._entry.width), self._entry.dtype)
        self._pieces.read(self._places(once), self._row_bytes, found.view(np.uint8))
        if self._checks is not None:
            self._checks.check(once, found)
        return found if len(once) == len(rows) and (once == rows).all() else found[where]

    def fetch(self, rows: np.ndarray) -> None:
        self._pieces.read(self._places(np.unique(rows)), self._row_bytes)

    def _places(self, rows: np.ndarray) -> np.ndarray:
        page = np.searchsorted(self._starts, rows, "right") - 1
        places: np.ndarray = self._offsets[page] + (rows - self._starts[page]) * self._row_bytes
        return places


def lie_inside(entry: ShardEntry) -> bool:
    """Say whether the pages lie inside the file, one behind the other."""
    row_bytes = entry.width * np.dtype(entry.dtype).itemsize
    end = 4
    for offset, rows in entry.pages:
        if offset < end:
            return False
        end = offset + rows * row_bytes
    return end <= entry.bytes
