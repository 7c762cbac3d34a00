"""Opens torch.save files, zip and legacy format: torch itself only with weights_only."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from actstore.errors import IngestError, UnreadableFileError, UnsafeFileError
from actstore.ingestion.containers import opcodes, torch_zip
from actstore.ingestion.containers.allowlist import (
    STORAGES,
    Call,
    Held,
    Rebuilder,
    Storage,
    names,
)
from actstore.ingestion.containers.arrays import ArrayRebuilder
from actstore.ingestion.containers.described import described, storage_identity
from actstore.ingestion.containers.mapping import Mapped, open_bytes
from actstore.ingestion.containers.sniffing import describe, sniff
from actstore.ingestion.containers.tree import plain

_LEGACY_PICKLES: Final = 4  # magic number, protocol, system information, the content


def read(path: Path, *, memory_limit: int) -> Any:
    """The content of a torch file: a tree, or a Tensor where one was saved bare.

    Tensors of zip files are views of the file's bytes, from 64 MiB on of the mapped file, and torch
    is needed only for types that NumPy lacks (bfloat16, float8) and other byte orders. Raises as
    :func:`actstore.ingestion.containers.read` says.
    """
    try:
        data = open_bytes(path)
        if data[:2] == b"PK":
            return _read_zip(path, data)
        if sniff(path) != "torch":
            raise UnreadableFileError(_not_torch(path))
        size = len(data)
        if isinstance(data, Mapped) and size > memory_limit:
            raise UnsafeFileError(
                f"the legacy torch format cannot be mapped, and {size:,} bytes exceed the "
                f"memory limit of {memory_limit:,}; save it again with today's torch.save"
            )
        content = data[:]
        check_legacy(content)
        return plain(_load(io.BytesIO(content), size, further=_needs_further(content)))
    except IngestError as error:
        raise type(error)(error.reason, path) from error
    except OSError as error:
        raise UnreadableFileError(f"cannot be read: {error}", path) from error


def _read_zip(path: Path, data: bytes | Mapped) -> Any:
    archive = torch_zip.check(data)
    if archive is None:
        raise UnreadableFileError(_not_torch(path))
    found = torch_zip.tree(archive, data)
    if found is not None:
        return found
    mapped = isinstance(data, Mapped)
    source = path if mapped else io.BytesIO(data)
    further = _needs_further(archive.content)
    return plain(_load(source, len(data), mapped=mapped, further=further))


def load_storage(data: bytes) -> Storage:
    """The storage in ``data``, a legacy torch file inside a pickle; its memory is a copy."""
    held = check_legacy(data)
    if not isinstance(held, Held) or not isinstance(held.value, Storage):
        raise UnsafeFileError("the bytes of a storage hold something else")
    loaded = _load(io.BytesIO(data), len(data))
    storage = held.value
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
        words = str(error).replace(str(source), "it").strip().split("\n", 1)[0][:200]
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


def check_legacy(data: bytes) -> Any:
    """Check a legacy torch file, pickles followed by raw storages; return what it describes.

    Raises UnreadableFileError for damage, UnsafeFileError for classes outside the allow-list and
    tensors that reach outside their storage.
    """
    position = 0
    content = b""
    for number in range(_LEGACY_PICKLES):
        end = opcodes.check(data, position)
        content = data[position:end]
        position = end
        # Only the content, the last one, may refer to storages.
        if number < _LEGACY_PICKLES - 1:
            described(content, None)
    storages: dict[Any, int] = {}

    def storage(identity: Any) -> Held:
        kind, key, count = storage_identity(identity, 6)
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

    found = described(content, storage)
    end = opcodes.check(data, position)
    keys = described(data[position:end], None)
    if not isinstance(keys, list) or set(map(str, keys)) != set(map(str, storages)):
        # A storage without bytes would be left as whatever the memory held.
        raise UnreadableFileError("its list of storages does not fit its tensors")
    needed = sum(storages.values()) + 8 * len(storages)
    if len(data) - end < needed:
        raise UnreadableFileError(
            f"it is cut off: its tensors need {needed:,} more bytes, {len(data) - end:,} are there"
        )
    return found


def _not_torch(path: Path) -> str:
    found = sniff(path)
    hint = f"; name {found!r} as the container" if found else "; write or fetch it again"
    return f"is not a torch file but {describe(path)} ({path.stat().st_size:,} bytes){hint}"
