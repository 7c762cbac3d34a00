"""Opens the zip files of torch.save: tensors are arrays over the file's own bytes, none is copied.

The pickle inside says where in which storage each tensor lies. It goes through the allow-list,
never through torch, and so does not need torch at all; only element types that NumPy lacks do.
"""

from __future__ import annotations

import struct
import sys
import zipfile
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np

from actstore.errors import UnreadableFileError, UnsafeFileError
from actstore.ingestion.containers import opcodes
from actstore.ingestion.containers.allowlist import (
    STORAGES,
    Held,
    Rebuilder,
    Storage,
    TensorSpec,
)
from actstore.ingestion.containers.described import described, storage_identity
from actstore.ingestion.containers.mapping import Mapped, as_file
from actstore.ingestion.containers.tree import plain
from actstore.ingestion.tensor import Tensor

_MAX_PICKLE: Final = 256 << 20
_KNOWN_BYTES: Final = 256 << 10
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")
_ENCRYPTED: Final = 1
# What zipfile raises; it lets some errors of its parsing through as they are.
_DAMAGED: Final = (
    *(zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, struct.error, OSError),
    *(RuntimeError, OverflowError),
)
# What NumPy has too: the rest is torch's alone, or no type that a row can be made of.
_NUMPY: Final = frozenset(
    [
        *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "float32", "float64"),
    ]
)


class Entry(NamedTuple):
    """One file inside the zip."""

    nbytes: int
    header: int
    """Where its local header begins."""


class Archive(NamedTuple):
    """A checked zip file: nothing in it reaches outside, unfolds, or would run."""

    content: bytes
    """The pickle that describes the tensors."""
    entries: dict[str, Entry]
    """By name, below the archive's own folder."""


class _View(NamedTuple):
    """A tensor that is to be: where it lies in which storage."""

    storage: str
    spec: TensorSpec


class _Described(NamedTuple):
    """What a pickle describes; its tensors are views without their memory."""

    root: Any
    arrays: bool
    """Whether NumPy can hold all of them."""


def check(data: bytes | Mapped) -> Archive | None:
    """Check a torch zip before anything is made of it; None where it is none.

    Raises UnreadableFileError for damage, UnsafeFileError for bombs, classes outside the
    allow-list and tensors that reach outside their storage.
    """
    try:
        archive = zipfile.ZipFile(as_file(data))
    except _DAMAGED:
        return None
    with archive:
        found = archive.infolist()
        ends = {info.filename.rsplit("/", 1)[-1] for info in found}
        if "data.pkl" not in ends or "constants.pkl" in ends:
            return None
        entries = _entries(found, len(data))
        name = next(name for name in entries if name.rsplit("/", 1)[-1] == "data.pkl")
        if entries[name].nbytes > _MAX_PICKLE:
            raise UnsafeFileError(
                f"its description of the tensors takes {entries[name].nbytes:,} bytes"
            )
        try:
            content = archive.read(name)
        except _DAMAGED as error:
            raise UnreadableFileError(f"its zip archive is damaged: {error}") from error
    prefix = name.removesuffix("data.pkl")
    own = {
        name.removeprefix(prefix): entry
        for name, entry in entries.items()
        if name.startswith(prefix)
    }
    checked = Archive(content, own)
    _described(checked)
    return checked


def tree(archive: Archive, data: bytes | Mapped) -> Any | None:
    """Return the content as a plain tree over ``data``; None where only torch can make it.

    Raises UnreadableFileError where an entry does not lie where the zip says.
    """
    found = _described(archive)
    if not found.arrays or not _of_this_order(archive, data):
        return None
    starts: dict[str, int] = {}

    def build(view: _View) -> Tensor:
        start = starts.get(view.storage)
        if start is None:
            start = starts[view.storage] = _start(data, archive.entries, f"data/{view.storage}")
        spec = view.spec
        dtype = np.dtype(spec.dtype)
        steps = [
            step * dtype.itemsize if length > 1 else 0
            for length, step in zip(spec.shape, spec.stride, strict=True)
        ]
        # Nothing is read of an empty one, wherever it claims to begin.
        at = start if 0 in spec.shape else start + spec.offset * dtype.itemsize
        try:
            return Tensor(np.ndarray(spec.shape, dtype, data, at, steps))
        except ValueError as error:
            raise UnsafeFileError(
                f"a tensor of shape {list(spec.shape)} {spec.dtype} cannot be held: {error}"
            ) from error

    return plain(found.root, _View, build)


def _entries(found: list[zipfile.ZipInfo], size: int) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for info in found:
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise UnsafeFileError(
                f"its entry {info.filename} is compressed, which torch.save never does and bombs do"
            )
        if info.flag_bits & _ENCRYPTED:
            raise UnreadableFileError(f"its entry {info.filename} is encrypted")
        if info.filename in entries:
            raise UnsafeFileError(f"its entry {info.filename} occurs twice")
        entries[info.filename] = Entry(info.file_size, info.header_offset)
    total = sum(entry.nbytes for entry in entries.values())
    if total > size:
        raise UnsafeFileError(f"its entries claim {total:,} bytes, the file holds {size:,}")
    return entries


def _start(data: bytes | Mapped, entries: dict[str, Entry], name: str) -> int:
    """Return where the bytes of an entry begin."""
    entry = entries[name]
    head = data[entry.header : entry.header + _LOCAL_HEADER.size]
    if len(head) == _LOCAL_HEADER.size:
        signature, name_bytes, extra = _LOCAL_HEADER.unpack(head)
        start = entry.header + _LOCAL_HEADER.size + name_bytes + extra
        if signature == b"PK\3\4" and start + entry.nbytes <= len(data):
            return int(start)
    raise UnreadableFileError(
        f"its zip archive is damaged: the entry {name} does not lie where the directory says"
    )


def _of_this_order(archive: Archive, data: bytes | Mapped) -> bool:
    """Whether numbers are written in this machine's byte order; torch turns the others round."""
    order = archive.entries.get("byteorder")
    if order is None:
        return sys.byteorder == "little"
    start = _start(data, archive.entries, "byteorder")
    return bytes(data[start : start + order.nbytes]) == sys.byteorder.encode()


def _described(archive: Archive) -> _Described:
    """Check what ``data.pkl`` asks for against the storages beside it; return what that is."""
    stored = tuple(
        (name.removeprefix("data/"), entry.nbytes)
        for name, entry in archive.entries.items()
        if name.startswith("data/")
    )
    look = _look if len(archive.content) > _KNOWN_BYTES else _look_once
    return look(archive.content, stored)


def _look(content: bytes, stored: tuple[tuple[str, int], ...]) -> _Described:
    sizes = dict(stored)

    def storage(identity: Any) -> Held:
        kind, key, count = storage_identity(identity, 5)
        itemsize, dtype = STORAGES[kind]
        stored = sizes.get(key)
        if stored is None:
            raise UnreadableFileError(f"the bytes of the storage {key} are missing from it")
        if count * itemsize > stored:
            raise UnsafeFileError(
                f"the storage {key} claims {count * itemsize:,} bytes, the file holds {stored:,}"
            )
        return Held(Storage(count * itemsize, dtype, key))

    opcodes.check(content)
    rebuilder = _Views(len(content))
    return _Described(described(content, storage, rebuilder, "utf-8"), rebuilder.arrays)


# A thousand files of one layout often differ in nothing but the storages' own bytes.
_look_once = lru_cache(maxsize=16)(_look)


class _Views(Rebuilder):
    """Notes where each tensor lies."""

    arrays = True

    def build(self, storage: Storage, spec: TensorSpec, negative: bool) -> Any:
        if negative or spec.dtype not in _NUMPY:
            self.arrays = False
        return _View(storage.loaded, spec)
