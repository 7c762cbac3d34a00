"""Derived Parquet files: sealed with a checksum, so that a damaged one is seen and made anew."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from isal import isal_zlib

from actstore.storage import pages

_SEAL = struct.Struct("<8sI")
_MAGIC = b"ACTSEAL1"
_END = struct.Struct("<I4s")
_CHUNK = 1 << 20

_sound: set[tuple[object, ...]] = set()


def seal(path: Path) -> None:
    """Put the CRC-32 of a Parquet file into it, where no reader looks: before its footer."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        length, _ = _END.unpack(os.pread(file.fileno(), _END.size, size - _END.size))
        start = size - _END.size - length
        crc = _crc(file.fileno(), 0, size, 0)
        footer = os.pread(file.fileno(), size - start, start)
        file.seek(start)
        file.write(_SEAL.pack(_MAGIC, crc) + footer)


def is_sound(path: Path) -> bool:
    """Say whether a file is as it was sealed; a process reads it once to know."""
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            identity = facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
            if identity not in _sound and _is_sealed(file.fileno(), facts.st_size):
                _sound.add(identity)
            return identity in _sound
    except OSError:
        return False


def _is_sealed(descriptor: int, size: int) -> bool:
    end = os.pread(descriptor, _END.size, max(0, size - _END.size))
    if len(end) < _END.size:
        return False
    length, magic = _END.unpack(end)
    start = size - _END.size - length
    if magic != pages.MAGIC or start < _SEAL.size:
        return False
    found, crc = _SEAL.unpack(os.pread(descriptor, _SEAL.size, start - _SEAL.size))
    whole = _crc(descriptor, 0, start - _SEAL.size, 0)
    return bool(found == _MAGIC and _crc(descriptor, start, size, whole) == crc)


def _crc(descriptor: int, start: int, stop: int, crc: int) -> int:
    """Continue a checksum over some bytes of a file."""
    buffer = bytearray(_CHUNK)
    while start < stop:
        view = memoryview(buffer)[: stop - start]
        count = os.preadv(descriptor, [view], start)
        if not count:
            break
        crc = isal_zlib.crc32(view[:count], crc)
        start += count
    return crc
