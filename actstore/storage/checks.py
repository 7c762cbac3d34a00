"""Holds what is read of a file against its checksums, and remembers what was found sound."""

from __future__ import annotations

import hashlib
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from isal import isal_zlib

from actstore.errors import DamageError
from actstore.storage import checksums
from actstore.storage.checksums import Check
from actstore.storage.manifest import LabelEntry, ShardEntry
from actstore.storage.remembered import Remembered
from actstore.storage.threads import share

_OTHER_TAIL = "its metadata and footer are not what the manifest says (SHA-256)"
_OTHER_CONTENT = "its SHA-256 is not what the manifest says: the content was changed"
_CHUNK = 1 << 20
_AT_ONCE = 64
"""Blocks that one thread checks at a time."""

_KNOWN_BYTES = 32 << 20
"""Checksums of so many bytes are kept of shards that are closed: of some 100 GB of vectors."""
_PAGE_BYTES = 1_100
"""What Python needs for a page beside its checksums, with what names its shard."""
_KNOWN_FILES = 1 << 16
"""Files of which it is kept that they were found sound, some 400 bytes each."""

_Identity = tuple[object, ...]


@dataclass(slots=True)
class _Page:
    """The checksums of one row group's vectors."""

    offset: int
    """First byte of the values."""
    rows: int
    block_rows: int
    lead: int
    """Bytes before the values that the checksum covers too, where the page is one block."""
    sums: np.ndarray
    """CRC-32 of each block: uint32."""
    sound: np.ndarray
    """Blocks that were found sound: bool."""


def _weight(pages: list[_Page]) -> int:
    return sum(_PAGE_BYTES + page.sums.nbytes + page.sound.nbytes for page in pages)


_pages: Remembered[_Identity, list[_Page]] = Remembered(_KNOWN_BYTES, _weight)
_sound: Remembered[_Identity, bool] = Remembered(_KNOWN_FILES)


def damage(root: Path, path: str, reason: str) -> DamageError:
    """Return the error of a file that is not what was written."""
    return DamageError(
        f"{path} of {root} is damaged: {reason}. Nothing of it was returned. See which others "
        f"are with: actstore verify {root}; bring them back from a copy with: actstore repair "
        f"{root} --from COPY; read what is sound with --skip-damaged, in Python skip_damaged=True",
        [(path, reason)],
    )


def check_tail(root: Path, entry: ShardEntry, descriptor: int) -> None:
    """Check the metadata and footer of a shard, once in a process.

    Raises:
        DamageError: they are not what the manifest says.
    """
    assert entry.tail is not None
    start = entry.vectors_end
    _once(root, entry, descriptor, start, entry.tail, _OTHER_TAIL)


def read_tail(root: Path, entry: ShardEntry, descriptor: int) -> bytes:
    """Read the metadata and footer of a shard, checked once in a process.

    Raises:
        DamageError: they are not what the manifest says.
        OSError: they cannot be read.
    """
    assert entry.tail is not None
    start = entry.vectors_end
    size = entry.bytes - start
    identity = (*_identity(descriptor), start, entry.tail)
    content = os.pread(descriptor, size + 1, start)  # a file that is longer is another one
    known = _sound.get(identity)
    same = known or hashlib.sha256(content).hexdigest() == entry.tail
    if len(content) != size or not same:
        raise damage(root, entry.path, _OTHER_TAIL)
    if not known:
        _sound.put(identity, True)
    return content


def check_whole(root: Path, entry: ShardEntry | LabelEntry, descriptor: int) -> None:
    """Check a whole file, once in a process.

    Raises:
        DamageError: it is not what the manifest says.
    """
    _once(root, entry, descriptor, 0, entry.sha256, _OTHER_CONTENT)


def _once(
    root: Path,
    entry: ShardEntry | LabelEntry,
    descriptor: int,
    start: int,
    sha256: str,
    reason: str,
) -> None:
    identity = (*_identity(descriptor), start, sha256)
    if _sound.get(identity):
        return
    if _sha256(descriptor, start, entry.bytes) != sha256:
        raise damage(root, entry.path, reason)
    _sound.put(identity, True)


def _identity(descriptor: int) -> _Identity:
    facts = os.fstat(descriptor)
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _sha256(descriptor: int, start: int, expected: int) -> str:
    """Return the SHA-256 of a file from ``start`` on; ``expected`` is how long it should be."""
    digest = hashlib.sha256()
    # Of small files there are thousands, and new memory is zeroed first.
    buffer = bytearray(max(1, min(_CHUNK, expected - start)))
    while count := os.preadv(descriptor, [buffer], start):
        digest.update(memoryview(buffer)[:count])
        start += count
    return digest.hexdigest()


class VectorChecks:
    """Checks the vectors of one mapped shard, block by block.

    Args:
        root: folder of the store.
        entry: what the manifest says of the shard.
        descriptor: its file.
        mapped: the file in memory.
        check: whether what was found sound is checked again.
    """

    def __init__(
        self,
        root: Path,
        entry: ShardEntry,
        descriptor: int,
        mapped: mmap.mmap,
        check: Check,
    ) -> None:
        self._root = root
        self._entry = entry
        self._identity = (*_identity(descriptor), entry, entry.tail)
        self._memory = np.frombuffer(mapped, np.uint8)
        self._row_bytes = entry.vector_bytes // entry.rows
        self.always = check == "always"
        """Whether what was found sound is checked again."""
        self._own: list[_Page] | None = None
        self.start = entry.vectors_end if entry.tail is not None else 0
        """Where in the file that begins which must be read before the first check."""

    @property
    def are_read(self) -> bool:
        """Whether the checksums are known."""
        return self._own is not None or _pages.get(self._identity) is not None

    def page(self, number: int) -> _Page:
        """Return the checksums of one row group's vectors.

        Raises:
            DamageError: what stands behind the vectors is not what the manifest says.
        """
        if self._own is None:
            known = None if self.always else _pages.get(self._identity)
            if known is None:
                known = self._read()
                if not self.always:
                    known = _pages.shared(self._identity, known)
            self._own = known
        return self._own[number]

    def unchecked(self, number: int, blocks: np.ndarray) -> np.ndarray:
        """Return those blocks of one row group's vectors that are to be checked before use."""
        page = self.page(number)
        return blocks if self.always else blocks[~page.sound[blocks]]

    def check(
        self, number: int, blocks: np.ndarray, held: tuple[int, memoryview] | None = None
    ) -> None:
        """Check blocks of one row group's vectors.

        Args:
            number: of the row group.
            blocks: which of its blocks.
            held: a part of the file that was read into memory, and where it begins: blocks that
                lie in it are checked there.

        Raises:
            DamageError: names the rows that are not what was written.
        """
        page = self.page(number)
        if len(blocks) <= _AT_ONCE:
            self._check(number, page, blocks, held)
        else:
            starts = range(0, len(blocks), _AT_ONCE)
            share(lambda at: self._check(number, page, blocks[at : at + _AT_ONCE], held), starts)
        page.sound[blocks] = True

    def _check(
        self,
        number: int,
        page: _Page,
        blocks: np.ndarray,
        held: tuple[int, memoryview] | None,
    ) -> None:
        mapped = self._memory.data
        begin, data = held or (0, mapped)
        for block in blocks.tolist():
            first = block * page.block_rows
            last = min(first + page.block_rows, page.rows)
            start = page.offset + first * self._row_bytes - page.lead
            stop = page.offset + last * self._row_bytes
            if begin <= start and stop <= begin + len(data):
                content = data[start - begin : stop - begin]
            else:
                content = mapped[start:stop]
            if isal_zlib.crc32(content) != int(page.sums[block]):
                before = sum(rows for _, rows in self._entry.pages[:number])
                raise damage(
                    self._root,
                    self._entry.path,
                    f"the vectors of its rows {before + first} to {before + last - 1}, in row "
                    f"group {number}, are not those that were written (CRC-32)",
                )

    def _read(self) -> list[_Page]:
        entry = self._entry
        if entry.tail is None:
            return self._as_a_whole()
        if hashlib.sha256(self._memory[entry.vectors_end :].data).hexdigest() != entry.tail:
            raise damage(self._root, entry.path, _OTHER_TAIL)
        found = checksums.read_table(self._memory, self._row_bytes, entry.pages)
        if found is not None:
            rows = checksums.block_rows(self._row_bytes)
            return [
                _Page(offset, count, rows, 0, sums, np.zeros(len(sums), bool))
                for (offset, count), sums in zip(entry.pages, found, strict=True)
            ]
        pages = []
        item_size = self._row_bytes // entry.width
        for offset, count in entry.pages:
            held = checksums.page_sum(self._memory, offset, count, entry.width, item_size)
            if held is None:
                return self._as_a_whole()
            sums = np.array([held[1]], np.uint32)
            pages.append(_Page(offset, count, count, offset - held[0], sums, np.zeros(1, bool)))
        return pages

    def _as_a_whole(self) -> list[_Page]:
        """Check the file's SHA-256: nothing less says of so old or foreign a shard that it is."""
        if hashlib.sha256(self._memory.data).hexdigest() != self._entry.sha256:
            raise damage(self._root, self._entry.path, _OTHER_CONTENT)
        sums = [
            isal_zlib.crc32(self._memory.data[offset : offset + rows * self._row_bytes])
            for offset, rows in self._entry.pages
        ]
        return [
            _Page(offset, rows, rows, 0, np.array([crc], np.uint32), np.ones(1, bool))
            for (offset, rows), crc in zip(self._entry.pages, sums, strict=True)
        ]
