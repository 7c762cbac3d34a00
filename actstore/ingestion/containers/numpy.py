"""Opens .npy and .npz files, never with pickles inside; large ones stay in the mapped file."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.lib import format as npy

from actstore.errors import IngestError, LayoutError, UnreadableFileError, UnsafeFileError
from actstore.ingestion.containers.mapping import Mapped, as_file, open_bytes
from actstore.ingestion.containers.sniffing import describe, sniff
from actstore.ingestion.tensor import Tensor

# Compressed activations shrink by two, sparse features by fifty; a bomb by a thousand.
_MAX_RATIO: Final = 200
_RATIO_FROM: Final = 64 << 20


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    length: int
    """Bytes before the first element."""

    @property
    def total(self) -> int:
        return self.length + math.prod(self.shape) * self.dtype.itemsize


def read(path: Path, *, memory_limit: int) -> Any:
    """``{name: Tensor}`` of an .npz, or the Tensor of an .npy.

    Arrays of .npy and of uncompressed .npz files of 64 MiB and more are views of the mapped
    file. Raises as :func:`actstore.ingestion.containers.read` says.
    """
    found = sniff(path)
    if found not in ("numpy", None) or (found is None and describe(path) != _DAMAGED):
        raise UnreadableFileError(f"is no NumPy file but {describe(path)}", path)
    try:
        data = open_bytes(path)
        if data[:2] != b"PK":
            return Tensor(_array(data, 0, len(data)))
        return _archive(data, memory_limit)
    except IngestError as error:
        raise type(error)(error.reason, path) from error
    except MemoryError as error:
        raise UnsafeFileError("loading it exhausts the memory", path) from error
    except OSError as error:
        raise UnreadableFileError(f"cannot be read: {error}", path) from error


_DAMAGED: Final = "a zip archive that is cut off or damaged"


def _archive(data: bytes | Mapped, memory_limit: int) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(as_file(data)) as archive:
            entries = archive.infolist()
            _check_sizes(entries, len(data), memory_limit)
            for entry in entries:
                name = entry.filename.removesuffix(".npy")
                if name in tree:
                    raise UnreadableFileError(f"its array {name!r} occurs twice")
                try:
                    tree[name] = Tensor(_entry(archive, entry, data))
                except IngestError as error:
                    raise type(error)(f"its array {name!r}: {error}") from error
    except IngestError:
        raise
    # What zipfile raises for damage, with RuntimeError for encrypted entries.
    except (
        zipfile.BadZipFile,
        zlib.error,
        ValueError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        struct.error,
        IndexError,
        OverflowError,
    ) as error:
        raise UnreadableFileError(f"its zip archive is damaged: {str(error)[:200]}") from error
    return tree


def _check_sizes(entries: list[zipfile.ZipInfo], size: int, memory_limit: int) -> None:
    for entry in entries:
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UnreadableFileError(f"its entry {entry.filename} is compressed in a foreign way")
        if not entry.filename.endswith(".npy"):
            raise LayoutError(
                f"its entry {entry.filename} is no array; np.savez writes only arrays"
            )
    stored = sum(e.file_size for e in entries if e.compress_type == zipfile.ZIP_STORED)
    packed = sum(e.file_size for e in entries) - stored
    if stored > size:
        raise UnsafeFileError(f"its arrays claim {stored:,} bytes, the file holds {size:,}")
    if packed > memory_limit:
        raise UnsafeFileError(
            f"its compressed arrays unfold to {packed:,} bytes, the memory limit is "
            f"{memory_limit:,}; save it with np.savez, whose arrays can be mapped, or split it"
        )
    if packed > _RATIO_FROM and packed > size * _MAX_RATIO:
        raise UnsafeFileError(
            f"its {size:,} bytes unfold to {packed:,}, as bombs do; save it with np.savez"
        )


def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, data: Any) -> np.ndarray:
    if entry.compress_type == zipfile.ZIP_STORED and not isinstance(data, bytes):
        head = data[entry.header_offset : entry.header_offset + 30]
        if head[:4] != b"PK\x03\x04":
            raise UnreadableFileError("its zip header is damaged")
        name, extra = struct.unpack("<HH", head[26:30])
        start = entry.header_offset + 30 + name + extra
        return _array(data, start, entry.file_size)
    with archive.open(entry) as stream:
        # The header is judged before memory is taken for the rest.
        lead = stream.read(1 << 16)
        header = _header(lead)
        if header.total != entry.file_size:
            raise _wrong_length(header, entry.file_size)
        return _array(lead + stream.read(), 0, entry.file_size)


def _array(data: bytes | Mapped, start: int, length: int) -> np.ndarray:
    header = _header(data[start : start + (1 << 16)])
    if header.total > length or start + header.total > len(data):
        raise _wrong_length(header, min(length, len(data) - start))
    return np.ndarray(
        header.shape,
        header.dtype,
        data,
        offset=start + header.length,
        order="F" if header.fortran else "C",
    )


def _header(lead: bytes) -> _Header:
    stream = io.BytesIO(lead)
    try:
        version = npy.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = npy.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, fortran, dtype = npy.read_array_header_2_0(stream)
        else:
            # 3.0 is 2.0 with UTF-8, which only the names of a structure's fields need.
            raise LayoutError(f"NumPy format {version}: structures are not opened")
    except LayoutError:
        raise
    except Exception as error:
        # NumPy evaluates the header as a literal, which can fail in a dozen ways.
        raise UnreadableFileError(f"its NumPy header is damaged: {str(error)[:200]}") from error
    if dtype.hasobject:
        raise UnsafeFileError(
            "refused: it holds Python objects as a pickle, which can run code; save numbers or "
            "text as arrays of their own type"
        )
    if not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 64:
        raise UnreadableFileError(f"its NumPy header names the shape {str(shape)[:80]}")
    if dtype.itemsize == 0 and math.prod(shape) > len(lead):
        raise UnsafeFileError(f"it claims {math.prod(shape):,} values of no bytes")
    return _Header(shape, fortran, dtype, stream.tell())


def _wrong_length(header: _Header, found: int) -> UnreadableFileError:
    return UnreadableFileError(
        f"an array of shape {list(header.shape)} {header.dtype} needs {header.total:,} bytes with "
        f"its header, {found:,} are there: it is cut off or damaged"
    )
