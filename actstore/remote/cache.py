"""Byte ranges of remote files kept on disk: bounded, shared by processes, whole or not at all.

A range is kept under the SHA-256 of the file it is part of, so it serves every repository,
revision and path that holds that file, and never grows stale. Ranges fetched together make
one small file, a pack, which appears whole; a damaged one counts as not there.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import re
import secrets
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from isal import isal_zlib

from actstore import resources
from actstore.errors import UsageError

LIMIT = "ACTSTORE_CACHE_LIMIT"
"""Environment variable: most bytes that the cache may take, such as ``20GB``; ``0`` for none."""
_DEFAULT_LIMIT = 10 << 30
_UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+)\s*([KMGT]?)(?:I?B)?", re.IGNORECASE)
_HEAD = struct.Struct("<8sIIQ")
_MAGIC = b"ACTRANG1"
_LEFT = 0.8
"""Part of the limit that remains after making room."""
_IN_USE = 3600.0
"""Seconds for which a file that was used is not removed, unless nothing else is left."""

Range = tuple[int, int]


class Pack:
    """Some ranges of one file, in memory or mapped.

    Args:
        ranges: start and stop of each, int64 ``[n, 2]``.
        data: their bytes one after the other, uint8.
        checksum: CRC-32 of ``data`` to be checked before use; None: it is known to be right.
    """

    def __init__(self, ranges: np.ndarray, data: np.ndarray, checksum: int | None = None) -> None:
        self.ranges = ranges
        lengths = ranges[:, 1] - ranges[:, 0]
        self.offsets = np.cumsum(lengths) - lengths
        """Where each range begins in the data."""
        self._data = data
        self._checksum = checksum

    def data(self) -> np.ndarray | None:
        """Return the bytes; None when they turn out damaged."""
        if self._checksum is not None:
            if isal_zlib.crc32(self._data.data) != self._checksum:
                return None
            self._checksum = None
        return self._data


class RangeCache:
    """Packs on disk below ``folder``; at most ``limit`` bytes, the least recently used go first.

    Several processes may share it. Where it cannot be written to, ranges are kept in memory
    by whoever holds the packs.
    """

    def __init__(self, folder: Path, limit: int = _DEFAULT_LIMIT) -> None:
        self.folder = folder
        self.limit = limit
        self._unswept = limit  # so that the first pack kept is a reason to look
        self._lock = threading.Lock()

    def load(self, key: str) -> list[Pack]:
        """Return what is there of the file with the SHA-256 ``key``."""
        found = []
        with contextlib.suppress(OSError):
            for path in sorted(self._home(key).glob("*.pack")):
                pack = _read(path)
                if pack is None:
                    path.unlink(missing_ok=True)
                else:
                    found.append(pack)
        return found

    def keep(self, key: str, ranges: Sequence[Range], blocks: Sequence[bytes]) -> Pack:
        """Keep the bytes of some ranges and return them as a pack.

        Args:
            key: SHA-256 of the file.
            ranges: start and stop of each.
            blocks: their bytes, in any number of pieces.
        """
        numbers = np.array(ranges, np.int64).reshape(-1, 2)
        data = b"".join(blocks)
        checksum = isal_zlib.crc32(data)
        size = _HEAD.size + numbers.nbytes + len(data)
        if size <= self.limit:
            path = self._home(key) / f"{secrets.token_hex(8)}.pack"
            try:
                head = _HEAD.pack(_MAGIC, checksum, len(numbers), len(data))
                _write(path, (head, numbers.tobytes(), data))
                pack = _read(path)
                self._sweep_sometimes(size)
                if pack is not None:
                    return Pack(pack.ranges, pack._data)
            except OSError:
                pass  # full or read-only: memory serves for now
        return Pack(numbers, np.frombuffer(data, np.uint8))

    def forget(self, key: str) -> None:
        """Remove what is kept of a file: it was not what it should be."""
        with contextlib.suppress(OSError):
            for path in self._home(key).glob("*.pack"):
                path.unlink(missing_ok=True)

    def document(self, name: str) -> bytes | None:
        """Return a small file that :meth:`keep_document` wrote."""
        path = self.folder / "documents" / name
        try:
            found = path.read_bytes()
            os.utime(path)
            return found
        except OSError:
            return None

    def keep_document(self, name: str, data: bytes) -> None:
        """Keep a small file."""
        if len(data) <= self.limit:
            with contextlib.suppress(OSError):
                _write(self.folder / "documents" / name, (data,))
                self._sweep_sometimes(len(data))

    def metadata_folder(self, name: str) -> Path:
        """Return a folder for the derived files of one repository.

        Raises:
            OSError: it cannot be made.
        """
        folder = self.folder / "metadata" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def sweep(self) -> int:
        """Remove what was used longest ago until the limit is kept; return the bytes removed."""
        with self._alone() as alone:
            if not alone:
                return 0
            files = sorted(self._files())
            excess = sum(size for _, size, _ in files) - self.limit
            if excess <= 0:
                return 0
            excess += int(self.limit * (1 - _LEFT))
            removed = 0
            now = time.time()
            old = [file for file in files if now - file[0] > _IN_USE]
            for _, size, path in (*old, *(file for file in files if file not in old)):
                if removed >= excess:
                    break
                with contextlib.suppress(OSError):
                    path.unlink()
                    removed += size
            return removed

    def _home(self, key: str) -> Path:
        return self.folder / "ranges" / key[:2] / key

    def _sweep_sometimes(self, written: int) -> None:
        with self._lock:
            self._unswept += written
            due = self._unswept > self.limit // 16
            if due:
                self._unswept = 0
        if due:
            self.sweep()

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """Yield time of last use, size and path of all files, but for the lock."""
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(OSError):
                    facts = path.stat()
                    if name != "lock":
                        yield facts.st_mtime, facts.st_size, path

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Say whether no other process is making room just now."""
        try:
            lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            yield False
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
        except BlockingIOError:
            yield False
        finally:
            os.close(lock)


def default() -> RangeCache:
    """Return the user's cache, where and as large as the environment says.

    Raises:
        UsageError: ACTSTORE_CACHE_LIMIT is no size.
    """
    text = os.environ.get(LIMIT, "").strip()
    return RangeCache(resources.cache_folder(), _bytes(text) if text else _DEFAULT_LIMIT)


def _bytes(text: str) -> int:
    found = _SIZE.fullmatch(text)
    if found is None:
        raise UsageError(f"{LIMIT}={text!r} is no size: write bytes, or such as 500MB or 20GB")
    return int(found[1]) * _UNITS[found[2].upper()]


def _write(path: Path, parts: Sequence[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        # For this user only: a private repository's data may be in it.
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.writelines(parts)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _read(path: Path) -> Pack | None:
    """Map a pack; None when it is none."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < _HEAD.size:
            return None
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    magic, checksum, count, length = _HEAD.unpack_from(mapped)
    start = _HEAD.size + 16 * count
    if magic != _MAGIC or len(mapped) != start + length:
        return None
    ranges = np.frombuffer(mapped, np.int64, 2 * count, _HEAD.size).reshape(-1, 2)
    if not count or (ranges[:, 0] > ranges[:, 1]).any():
        return None
    if int((ranges[:, 1] - ranges[:, 0]).sum()) != length:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return Pack(ranges, np.frombuffer(mapped, np.uint8, length, start), checksum)
