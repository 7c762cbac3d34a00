"""Opens torch.save files, zip and legacy format, with weights_only and nothing else."""

from __future__ import annotations

import io
import struct
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from actstore.errors import IngestError, UnreadableFileError, UnsafeFileError
from actstore.ingestion.containers import opcodes
from actstore.ingestion.containers.allowlist import (
    STORAGES,
    AllowListUnpickler,
    Call,
    Held,
    Name,
    Rebuilder,
    Storage,
    names,
)
from actstore.ingestion.containers.arrays import ArrayRebuilder
from actstore.ingestion.containers.mapping import Mapped, as_file, open_bytes
from actstore.ingestion.containers.sniffing import describe, sniff
from actstore.ingestion.containers.tree import plain

_MAX_PICKLE: Final = 256 << 20
_KNOWN_BYTES: Final = 256 << 10
_LEGACY_PICKLES: Final = 4  # magic number, protocol, system information, the content


def read(path: Path, *, memory_limit: int) -> Any:
    """The content of a torch file: a tree, or a Tensor where one was saved bare.

    Tensors of zip files of 64 MiB and more are views of the mapped file. Raises as
    :func:`actstore.ingestion.containers.read` says.
    """
    if sniff(path) != "torch":
        raise UnreadableFileError(_not_torch(path), path)
    try:
        data = open_bytes(path)
        size = len(data)
        mapped = isinstance(data, Mapped)
        if data[:2] == b"PK":
            further = check_zip(data)
        elif mapped and size > memory_limit:
            raise UnsafeFileError(
                f"the legacy torch format cannot be mapped, and {size:,} bytes exceed the "
                f"memory limit of {memory_limit:,}; save it again with today's torch.save"
            )
        else:
            data = data[:]
            check_legacy(data)
            further = _needs_further(data)
            mapped = False
        source = path if mapped else io.BytesIO(data)
        return plain(_load(source, size, mapped=mapped, further=further))
    except IngestError as error:
        raise type(error)(error.reason, path) from error
    except OSError as error:
        raise UnreadableFileError(f"cannot be read: {error}", path) from error


def load_storage(data: bytes) -> Storage:
    """The storage in ``data``, a legacy torch file inside a pickle; its memory is a copy."""
    described = check_legacy(data)
    if not isinstance(described, Held) or not isinstance(described.value, Storage):
        raise UnsafeFileError("the bytes of a storage hold something else")
    loaded = _load(io.BytesIO(data), len(data))
    storage = described.value
    untyped = getattr(loaded, "_untyped_storage", loaded)
    return Storage(min(storage.nbytes, untyped.nbytes()), storage.dtype, untyped)


def _load(
    source: Path | io.BytesIO, size: int, *, mapped: bool = False, further: bool = False
) -> Any:
    import torch

    try:
        with _further_names(size, further):
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except MemoryError as error:
        raise UnsafeFileError("loading it exhausts the memory") from error
    except Exception as error:
        # Damaged bytes surface as almost any exception, from KeyError to struct.error.
        words = str(error).strip().split("\n", 1)[0][:200]
        raise UnreadableFileError(
            f"torch cannot load it ({type(error).__name__}: {words}); it is probably damaged"
        ) from error


# torch keeps its list of further safe names for the whole process.
_names_lock: Final = threading.RLock()

# torch's unpickler does not know these harmless names; they are common in plain values beside
# tensors. Finding the bytes in a text only costs a detour.
_FURTHER: Final = (b"numpy", b"defaultdict", b"frozenset", b"datetime", b"bytes\n")


@contextmanager
def _further_names(size: int, wanted: bool) -> Iterator[None]:
    """Lets torch's unpickler call our own functions where the file names NumPy's and a few others.

    Nothing of NumPy's own is allowed by it.
    """
    if not wanted:
        yield
        return
    import torch

    rebuilder = Rebuilder(size)
    arrays = ArrayRebuilder(rebuilder)
    table = {**names(rebuilder), **arrays.names()}
    # torch fills plain dicts only.
    table["collections", "defaultdict"] = Call(lambda factory=None: {})
    # torch accepts any object with the name that files use for it, and looks at its own first.
    safe: list[Any] = [*arrays.types()]
    for (module, name), target in table.items():
        safe.append((target, f"{module}.{name}"))
        safe.append((target, f"{module.replace('numpy._core', 'numpy.core', 1)}.{name}"))
    with _names_lock, torch.serialization.safe_globals(safe):
        yield


def _needs_further(content: bytes) -> bool:
    return any(word in content for word in _FURTHER)


def check_zip(data: bytes | Mapped) -> bool:
    """Check a torch zip before torch sees it; return whether it may need _further_names.

    Raises UnreadableFileError for damage, UnsafeFileError for bombs, classes outside the
    allow-list and tensors that reach outside their storage.
    """
    try:
        with zipfile.ZipFile(as_file(data)) as archive:
            records = _records(archive, len(data))
            prefix = next(name for name in records if name.rsplit("/", 1)[-1] == "data.pkl")[:-8]
            if records[prefix + "data.pkl"] > _MAX_PICKLE:
                raise UnsafeFileError(
                    f"its description of the tensors takes {records[prefix + 'data.pkl']:,} bytes"
                )
            content = archive.read(prefix + "data.pkl")
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, struct.error) as error:
        if isinstance(error, IngestError):
            raise
        raise UnreadableFileError(f"its zip archive is damaged: {error}") from error

    storages = prefix + "data/"
    stored = tuple(
        (name.removeprefix(storages), nbytes)
        for name, nbytes in records.items()
        if name.startswith(storages)
    )
    check = _check_known if len(content) <= _KNOWN_BYTES else _check_content
    check(content, stored)
    return _needs_further(content)


def _check_content(content: bytes, stored: tuple[tuple[str, int], ...]) -> None:
    """Check what ``data.pkl`` asks for against the storages (name, bytes) beside it."""
    sizes = dict(stored)

    def storage(identity: Any) -> Held:
        kind, key, count = _storage_identity(identity, 5)
        itemsize, dtype = STORAGES[kind]
        stored = sizes.get(key)
        if stored is None:
            raise UnreadableFileError(f"the bytes of the storage {key} are missing from it")
        if count * itemsize > stored:
            raise UnsafeFileError(
                f"the storage {key} claims {count * itemsize:,} bytes, the file holds {stored:,}"
            )
        return Held(Storage(count * itemsize, dtype))

    opcodes.check(content)
    _describe(content, storage)


# A thousand files of one layout often differ in nothing but the storages' own bytes.
_check_known = lru_cache(maxsize=16)(_check_content)


def _records(archive: zipfile.ZipFile, size: int) -> dict[str, int]:
    records: dict[str, int] = {}
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise UnsafeFileError(
                f"its entry {info.filename} is compressed, which torch.save never does and bombs do"
            )
        if info.filename in records:
            raise UnsafeFileError(f"its entry {info.filename} occurs twice")
        records[info.filename] = info.file_size
    if sum(records.values()) > size:
        raise UnsafeFileError(
            f"its entries claim {sum(records.values()):,} bytes, the file holds {size:,}"
        )
    return records


def check_legacy(data: bytes) -> Any:
    """Check a legacy torch file, pickles followed by raw storages; return what it describes.

    Raises as check_zip does.
    """
    position = 0
    content = b""
    for number in range(_LEGACY_PICKLES):
        end = opcodes.check(data, position)
        content = data[position:end]
        position = end
        # Only the content, the last one, may refer to storages.
        if number < _LEGACY_PICKLES - 1:
            _describe(content, None)
    storages: dict[Any, int] = {}

    def storage(identity: Any) -> Held:
        kind, key, count = _storage_identity(identity, 6)
        if kind == "UntypedStorage":
            raise UnreadableFileError(
                "torch itself cannot read float8 or uint16 tensors back from this format; "
                "save them again with torch.save and its default settings"
            )
        itemsize, dtype = STORAGES[kind]
        if count * itemsize > len(data):
            raise UnsafeFileError(
                f"a storage claims {count * itemsize:,} bytes, the file holds {len(data):,}"
            )
        if storages.setdefault(key, count * itemsize) != count * itemsize:
            raise UnsafeFileError(f"the storage {key} occurs in two sizes")
        view = identity[5]
        if view is None:
            return Held(Storage(count * itemsize, dtype))
        # Written before torch 0.4: a storage that is a window into another one.
        if not isinstance(view, tuple) or len(view) != 3:
            raise UnreadableFileError("it describes a storage wrongly")
        _, offset, length = view
        if type(offset) is not int or type(length) is not int or min(offset, length) < 0:
            raise UnsafeFileError("a storage is a window without bounds")
        if offset + length > count:
            raise UnsafeFileError("a storage is a window that reaches outside")
        return Held(Storage(length * itemsize, dtype))

    described = _describe(content, storage)
    end = opcodes.check(data, position)
    keys = _describe(data[position:end], None)
    if not isinstance(keys, list) or set(map(str, keys)) != set(map(str, storages)):
        # A storage without bytes would be left as whatever the memory held.
        raise UnreadableFileError("its list of storages does not fit its tensors")
    needed = sum(storages.values()) + 8 * len(storages)
    if len(data) - end < needed:
        raise UnreadableFileError(
            f"it is cut off: its tensors need {needed:,} more bytes, {len(data) - end:,} are there"
        )
    return described


def _describe(content: bytes, persistent: Any) -> Any:
    rebuilder = Rebuilder(len(content))
    unpickler = AllowListUnpickler(
        io.BytesIO(content),
        rebuilder,
        persistent=persistent,
        extra=ArrayRebuilder(rebuilder).names(),
    )
    try:
        return unpickler.load()
    except IngestError:
        raise
    except MemoryError as error:
        raise UnsafeFileError("reading it exhausts the memory") from error
    except Exception as error:
        raise UnreadableFileError(
            f"its pickle is damaged ({type(error).__name__}: {str(error)[:200]})"
        ) from error


def _storage_identity(identity: Any, length: int) -> tuple[str, str, int]:
    if not isinstance(identity, tuple) or len(identity) != length or identity[0] != "storage":
        raise UnreadableFileError("it describes a storage wrongly")
    kind, key, count = identity[1], identity[2], identity[4]
    if not isinstance(kind, Name) or kind.value not in STORAGES or not isinstance(key, str):
        raise UnreadableFileError("it describes a storage wrongly")
    if type(count) is not int or not 0 <= count < 2**60:
        raise UnsafeFileError(f"a storage has {count!r:.40} elements")
    return str(kind.value), key, count


def _not_torch(path: Path) -> str:
    found = sniff(path)
    hint = f"; name {found!r} as the container" if found else "; write or fetch it again"
    return f"is not a torch file but {describe(path)} ({path.stat().st_size:,} bytes){hint}"
