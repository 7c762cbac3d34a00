"""A Xet store on disk: what hf_xet wrote of each file, read back without hf_xet.

hf_xet cuts files into chunks and sends those that are new, in the client's process: *xorbs* hold
chunks, *shards* (`.mdb`) say which chunks make up a file. It writes here in one of two ways:

- `local`: its own code opens the folder, when the Hub's token names `local:///folder`; only one
  client process may run at a time.
- `http`: over HTTP, see routes_xet. Any number of clients, every byte in the request log.

The layout is documented in xet-core only. Code here checks the magic and fails loudly.
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

XetMode = Literal["local", "http"]
SHARD_MAGIC = b"HFRepoMetaData\0"
RECORD = 48
WITH_VERIFICATION = 1 << 31
WITH_METADATA = 1 << 30
CHUNK_HEADER = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A run of chunks of one xorb: `first` up to `stop` (excluded), `size` bytes unpacked."""

    xorb: str
    first: int
    stop: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class XetFile:
    """How one file is made up."""

    xet_hash: str
    sha256: str
    terms: tuple[Term, ...]

    @property
    def size(self) -> int:
        return sum(term.size for term in self.terms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Where a chunk lies in its xorb, and how long it is unpacked."""

    start: int
    stop: int
    size: int
    scheme: int


class XetStore:
    """One folder of shards and xorbs, read while clients write to it."""

    def __init__(self, root: Path, mode: XetMode) -> None:
        self.mode = mode
        self._root = root
        self._xorbs = root / "xet/xorbs/xorbs"
        self._shards = root / "xet/xorbs/shards"
        for folder in (self._xorbs, self._shards):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._read_shards: set[Path] = set()
        self._by_sha256: dict[str, XetFile] = {}
        self._by_hash: dict[str, XetFile] = {}

    @property
    def local_url(self) -> str:
        return f"local://{self._root.resolve()}"

    @property
    def stored_bytes(self) -> int:
        """Bytes of all distinct chunks kept so far, packed: what pushes really had to send."""
        return sum(p.stat().st_size for p in self._xorbs.glob("default.*") if is_xorb(p))

    def find(self, sha256: str) -> XetFile | None:
        """The file of this content, if a client has stored it."""
        with self._lock:
            if sha256 not in self._by_sha256:
                self._read_new_shards()
            return self._by_sha256.get(sha256)

    def find_hash(self, xet_hash: str) -> XetFile | None:
        with self._lock:
            if xet_hash not in self._by_hash:
                self._read_new_shards()
            return self._by_hash.get(xet_hash)

    def _read_new_shards(self) -> None:
        for path in sorted(set(self._shards.glob("*.mdb")) - self._read_shards):
            self._read_shards.add(path)
            for file in read_shard(path.read_bytes())[0]:
                self._by_sha256[file.sha256] = file
                self._by_hash[file.xet_hash] = file

    def read(self, sha256: str) -> Iterator[bytes]:
        """The bytes of a file, chunk by chunk."""
        file = self.find(sha256)
        if file is None:
            raise FileNotFoundError(sha256)
        for term in file.terms:
            with self.xorb(term.xorb).open("rb") as source:
                for chunk in list(chunks(source))[term.first : term.stop]:
                    source.seek(chunk.start + CHUNK_HEADER)
                    data = source.read(chunk.stop - chunk.start - CHUNK_HEADER)
                    yield unpack(chunk.scheme, data, chunk.size)

    def xorb(self, hash: str) -> Path:
        return self._xorbs / f"default.{hash}"

    def shard_with_chunk(self, hash: str) -> bytes | None:
        """A shard that lists the chunk of this Xet hash, for other clients to refer to."""
        raw = _raw(hash)
        for path in sorted(self._shards.glob("*.mdb")):
            if raw in (data := path.read_bytes()):
                return data
        return None

    def keep_shard(self, data: bytes) -> None:
        """Store an uploaded shard. ValueError when it is none, or names xorbs that are missing."""
        for file in read_shard(data)[0]:
            for term in file.terms:
                if not self.xorb(term.xorb).is_file():
                    raise ValueError(f"the shard names the xorb {term.xorb}, which is not here")
        path = self._shards / f"{hashlib.sha256(data).hexdigest()}.mdb"
        temporary = path.with_suffix(f".{os.urandom(4).hex()}.tmp")
        temporary.write_bytes(data)
        temporary.replace(path)


def is_xorb(path: Path) -> bool:
    return path.suffix != ".tagset"


def read_shard(data: bytes) -> tuple[list[XetFile], int]:
    """The files that a shard describes (those with a recorded sha256), and where its list of
    xorbs begins."""
    if not data.startswith(SHARD_MAGIC):
        raise ValueError("not a Xet shard: its layout has changed, see xet-core")
    files = []
    at = RECORD
    while data[at : at + 32] != b"\xff" * 32:
        xet_hash = _hash(data[at : at + 32])
        flags, count = struct.unpack_from("<II", data, at + 32)
        at += RECORD
        terms = []
        for _ in range(count):
            _, size, first, stop = struct.unpack_from("<IIII", data, at + 32)
            xorb = _hash(data[at : at + 32])
            terms.append(Term(xorb=xorb, first=first, stop=stop, size=size))
            at += RECORD
        if flags & WITH_VERIFICATION:
            at += RECORD * count
        if flags & WITH_METADATA:
            sha256 = _hash(data[at : at + 32])
            at += RECORD
            files.append(XetFile(xet_hash=xet_hash, sha256=sha256, terms=tuple(terms)))
    return files, at + RECORD


def with_footer(shard: bytes) -> bytes:
    """A shard as clients want to download it; what they upload has no footer."""
    _, xorbs_at = read_shard(shard)
    size = len(shard)
    # Version, the two lists, three empty look-up tables, no key, no expiry, no statistics.
    footer = struct.pack("<9Q", 1, RECORD, xorbs_at, size, 0, size, 0, size, 0) + bytes(32)
    footer += struct.pack("<QQ", 0, (1 << 63) - 1) + bytes(72) + struct.pack("<Q", size)
    return shard[:40] + struct.pack("<Q", len(footer)) + shard[RECORD:] + footer


def chunks(xorb: BinaryIO) -> Iterator[Chunk]:
    """The chunks of a xorb, in order; a footer that hf_xet may add ends them."""
    start = 0
    while True:
        xorb.seek(start)
        header = xorb.read(CHUNK_HEADER)
        if len(header) < CHUNK_HEADER or header.startswith(b"XETBLOB"):
            return
        if header[0] != 0:
            raise ValueError("not a Xet xorb: its layout has changed, see xet-core")
        stop = start + CHUNK_HEADER + int.from_bytes(header[1:4], "little")
        size = int.from_bytes(header[5:8], "little")
        yield Chunk(start=start, stop=stop, size=size, scheme=header[4])
        start = stop


def unpack(scheme: int, data: bytes, size: int) -> bytes:
    """A chunk's bytes: stored as they are (0), LZ4 frames (1), or LZ4 of regrouped bytes (2)."""
    if scheme == 0:
        return data
    if scheme not in (1, 2):
        raise ValueError(f"unknown Xet compression {scheme}: its layout has changed, see xet-core")
    import pyarrow as pa

    plain = bytes(pa.decompress(data, decompressed_size=size, codec="lz4", asbytes=True))
    if scheme == 1:
        return plain
    # Every first byte of four together, then every second, …
    regrouped = bytearray(size)
    start = 0
    for lane in range(4):
        count = len(range(lane, size, 4))
        regrouped[lane::4] = plain[start : start + count]
        start += count
    return bytes(regrouped)


def _hash(raw: bytes) -> str:
    """Xet writes hashes as four little-endian numbers."""
    return b"".join(raw[at : at + 8][::-1] for at in range(0, 32, 8)).hex()


def _raw(hash: str) -> bytes:
    number = bytes.fromhex(hash)
    return b"".join(number[at : at + 8][::-1] for at in range(0, 32, 8))
