"""The Xet store that hf_xet keeps in a folder when the Hub's token names `local:///folder`.

hf_xet does the chunking, the deduplication and the writing itself, in the client's process. The
server only needs to know which sha256 became which Xet hash, and to read the bytes back for those
who come without Xet. Both are read from the files: *shards* (`.mdb`) say which chunks make up a
file, *xorbs* hold the chunks. The layout is undocumented outside xet-core and may change; the
classes here check the magic and fail loudly.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

SHARD_MAGIC = b"HFRepoMetaData\0"
RECORD = 48
WITH_VERIFICATION = 1 << 31
WITH_METADATA = 1 << 30
CHUNK_HEADER = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class XetFile:
    """How one file is made up."""

    xet_hash: str
    sha256: str
    terms: tuple[tuple[str, int, int], ...]
    """(xorb hash, first chunk, one past the last chunk), in order."""

    size: int


class XetStore:
    """One `local://` folder, read while clients write to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._read_shards: set[Path] = set()
        self._files: dict[str, XetFile] = {}

    @property
    def cas_url(self) -> str:
        return f"local://{self.root.resolve()}"

    @property
    def stored_bytes(self) -> int:
        """Bytes of all distinct chunks kept so far: what pushes really had to send."""
        return sum(file.stat().st_size for file in self._xorbs())

    def find(self, sha256: str) -> XetFile | None:
        with self._lock:
            if sha256 not in self._files:
                for shard in sorted(set(self.root.rglob("shards/*.mdb")) - self._read_shards):
                    self._read_shards.add(shard)
                    self._files.update((f.sha256, f) for f in read_shard(shard.read_bytes()))
            return self._files.get(sha256)

    def read(self, sha256: str) -> Iterator[bytes]:
        """The bytes of a file, chunk by chunk."""
        file = self.find(sha256)
        if file is None:
            raise FileNotFoundError(sha256)
        where = {path.name.rpartition(".")[2]: path for path in self._xorbs()}
        for xorb, first, stop in file.terms:
            with where[xorb].open("rb") as source:
                yield from read_chunks(source, first, stop)

    def _xorbs(self) -> list[Path]:
        return [p for p in self.root.rglob("xorbs/default.*") if p.suffix != ".tagset"]


def read_shard(data: bytes) -> Iterator[XetFile]:
    """The files that a shard describes (those with a recorded sha256)."""
    if not data.startswith(SHARD_MAGIC):
        raise ValueError("not a Xet shard: its layout has changed, see xet-core")
    at = RECORD
    while data[at : at + 32] != b"\xff" * 32:
        xet_hash = _hash(data[at : at + 32])
        flags, count = struct.unpack_from("<II", data, at + 32)
        at += RECORD
        terms, size = [], 0
        for _ in range(count):
            _, length, first, stop = struct.unpack_from("<IIII", data, at + 32)
            terms.append((_hash(data[at : at + 32]), first, stop))
            size += length
            at += RECORD
        if flags & WITH_VERIFICATION:
            at += RECORD * count
        if flags & WITH_METADATA:
            sha256 = _hash(data[at : at + 32])
            at += RECORD
            yield XetFile(xet_hash=xet_hash, sha256=sha256, terms=tuple(terms), size=size)


def read_chunks(xorb: BinaryIO, first: int, stop: int) -> Iterator[bytes]:
    """Chunks `first` up to `stop` (excluded) of a xorb, decompressed."""
    for number in range(stop):
        header = xorb.read(CHUNK_HEADER)
        if len(header) < CHUNK_HEADER or header[0] != 0:
            raise ValueError("not a Xet xorb: its layout has changed, see xet-core")
        packed = int.from_bytes(header[1:4], "little")
        unpacked = int.from_bytes(header[5:8], "little")
        data = xorb.read(packed)
        if number >= first:
            yield _decompress(header[4], data, unpacked)


def _decompress(scheme: int, data: bytes, length: int) -> bytes:
    if scheme == 0:
        return data
    import pyarrow as pa

    plain = bytes(pa.decompress(data, decompressed_size=length, codec="lz4", asbytes=True))
    if scheme == 1:
        return plain
    if scheme != 2:
        raise ValueError(f"unknown Xet compression {scheme}: its layout has changed, see xet-core")
    # Scheme 2 keeps every first byte of four together, then every second, …
    grouped = bytearray(length)
    start = 0
    for lane in range(4):
        size = len(range(lane, length, 4))
        grouped[lane::4] = plain[start : start + size]
        start += size
    return bytes(grouped)


def _hash(raw: bytes) -> str:
    """Xet writes hashes as four little-endian numbers."""
    return b"".join(raw[at : at + 8][::-1] for at in range(0, 32, 8)).hex()
