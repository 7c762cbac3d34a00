"""Derived Parquet files: sealed with a checksum, made anew when damaged, kept while in use."""

from __future__ import annotations

import contextlib
import os
import secrets
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from isal import isal_zlib

from actstore.storage import layout, pages
from actstore.storage.disk_errors import named
from actstore.storage.lease import Lease, alone
from actstore.storage.remembered import Remembered

if TYPE_CHECKING:
    import pyarrow as pa

_SEAL = struct.Struct("<8sI")
_MAGIC = b"ACTSEAL1"
_END = struct.Struct("<I4s")
_CHUNK = 1 << 20

_KNOWN = 4_096

_sound: Remembered[tuple[object, ...], bool] = Remembered(_KNOWN)
"""Derived files that this process has read whole."""


class Derived(NamedTuple):
    """A derived file, which nobody removes while the lease is held."""

    path: Path
    lease: Lease


def made(path: Path, make: Callable[[Path], None]) -> Derived:
    """Return a derived file, made where it is missing or damaged.

    Args:
        path: the file.
        make: writes it, to the path that it is given, where there is an empty file.

    Raises:
        OSError: there is no room for it.
    """
    while True:
        with contextlib.suppress(FileNotFoundError):
            lease = Lease(path)
            if is_sound(path):
                return Derived(path, lease)
            lease.release()
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        draft.touch()
        try:
            try:
                lease = Lease(draft)
            except FileNotFoundError:
                continue  # a pruning came in between
            make(draft)
            seal(draft)
            layout.sync_file(draft)
            if _put(draft, path):
                return Derived(path, lease)
        finally:
            draft.unlink(missing_ok=True)


def _put(draft: Path, path: Path) -> bool:
    """Give a draft its name, unless others have a sound file there, which may be in use."""
    try:
        os.link(draft, path)
    except FileExistsError:
        if is_sound(path):
            return False
        draft.replace(path)
    except OSError:  # this file system knows no links
        draft.replace(path)
    return True


def with_statistics(columns: pa.Schema) -> list[str]:
    """Return the columns whose least and largest value a derived file states.

    Of floats it does not: Parquet leaves NaN out, and DuckDB takes its word that there is none.
    """
    import pyarrow.types as types

    return [field.name for field in columns if not types.is_floating(field.type)]


def discard(path: Path) -> bool:
    """Remove a derived file or a draft of one; say whether it is gone, since nobody uses it."""
    with alone(path) as nobody:
        if nobody:
            path.unlink(missing_ok=True)
        return nobody


def seal(path: Path) -> None:
    """Put the CRC-32 of a Parquet file into it, where no reader looks: before its footer."""
    with named(path), path.open("r+b") as file:
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
            if _sound.get(identity):
                return True
            sound = _is_sealed(file.fileno(), facts.st_size)
            if sound:
                _sound.put(identity, True)
            return sound
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
