"""Segments: what many commits share of their manifests, written once and read when asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from actstore import schema
from actstore.errors import CorruptStoreError
from actstore.storage import layout
from actstore.storage.entries import (
    ITEM_BYTES,
    Run,
    ShardEntry,
    check_hash,
    check_path,
    check_size,
    fields,
    run_of,
    shard_of,
)

_HEAD = b'{\n"format": "actstore-segment",\n"version": 1,\n"runs": ['
_SHARDS = b'],\n"shards": ['
_END = b"]\n}\n"
MOST_LISTED = 256
"""Shards, and runs, that a manifest lists itself; more go into a segment with the next commit."""
_ASKED_OFTEN = 16
"""Partitions after which reading all shards is faster than looking for the next one's."""

T = TypeVar("T")
Partition = tuple[str, str, "int | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentEntry:
    """A file that holds shards and runs of a commit, those of earlier commits first."""

    path: str
    """Relative to the store, ``/`` between segments of the path."""
    bytes: int
    sha256: str
    shards: int
    runs: int
    rows: int
    """Of all its shards."""
    dtypes: tuple[schema.StoredType, ...]
    """Stored types that its shards have, ascending."""
    since: int
    """Number of the first commit that names it."""


class Sealed(NamedTuple):
    """Segments that hold all of a commit, and the bytes of the last one, which is new."""

    entries: tuple[SegmentEntry, ...]
    content: bytes


class _Read(NamedTuple):
    """What a segment holds."""

    shards: tuple[ShardEntry, ...]
    runs: tuple[Run, ...]


class Older:
    """What a manifest does not list itself: shards and runs of its segments, read when needed.

    Args:
        root: folder of the store.
        entries: the segments, those with earlier commits' shards first.
    """

    def __init__(self, root: Path, entries: Sequence[SegmentEntry]) -> None:
        self.root = root
        self.entries = tuple(entries)
        self._asked = 0

    @property
    def rows(self) -> int:
        """Rows of all shards."""
        return sum(each.rows for each in self.entries)

    @cached_property
    def shards(self) -> tuple[ShardEntry, ...]:
        """All shards, segment by segment.

        Raises:
            CorruptStoreError: a segment is missing or damaged.
        """
        return tuple(chain.from_iterable(self._read(each).shards for each in self.entries))

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """All runs, segment by segment; one that came again comes twice.

        Raises:
            CorruptStoreError: a segment is missing or damaged.
        """
        return tuple(chain.from_iterable(self._read(each).runs for each in self.entries))

    @property
    def sound(self) -> Older:
        """Those segments that are there and undamaged."""
        return Older(self.root, [each for each in self.entries if self._is_sound(each)])

    def _is_sound(self, entry: SegmentEntry) -> bool:
        try:
            self._read(entry)
        except CorruptStoreError:
            return False
        return True

    def shards_of(self, partition: Partition) -> list[ShardEntry]:
        """Return the shards of one model, site and layer, reading no others where there are many.

        Raises:
            CorruptStoreError: a segment is missing or damaged.
        """
        self._asked += 1
        if self._asked > _ASKED_OFTEN or "shards" in self.__dict__:
            return self._by_partition.get(partition, [])
        find = partial(_find, partition=partition)
        return list(chain.from_iterable(self._decoded(each, find) for each in self.entries))

    @cached_property
    def _by_partition(self) -> dict[Partition, list[ShardEntry]]:
        found: dict[Partition, list[ShardEntry]] = {}
        for entry in self.shards:
            found.setdefault(entry.partition, []).append(entry)
        return found

    def sealed(
        self, path: str, number: int, shards: Sequence[ShardEntry], runs: Sequence[Run]
    ) -> Sealed:
        """Put shards and runs into a new segment, with those older ones that are not much larger.

        So there are few segments, each at least twice as large as the next, and each line is
        written again only when what holds it doubles.

        Args:
            path: of the new segment.
            number: of the commit.
            shards: what the manifest lists beside the segments.
            runs: the same.

        Raises:
            CorruptStoreError: an older segment is missing or damaged.
        """
        kept = list(self.entries)
        content = encode(shards, runs)
        facts = _facts(shards, runs)
        while kept and kept[-1].shards + kept[-1].runs < 2 * (facts.shards + facts.runs):
            older = kept.pop()
            content = _joined(self._decoded(older, bytes), content)
            facts = _Facts(
                older.shards + facts.shards,
                older.runs + facts.runs,
                older.rows + facts.rows,
                tuple(sorted({*older.dtypes, *facts.dtypes})),
            )
        made = SegmentEntry(
            path=path,
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            since=number,
            **facts._asdict(),
        )
        return Sealed((*kept, made), content)

    def _read(self, entry: SegmentEntry) -> _Read:
        return self._decoded(entry, partial(_whole, entry=entry))

    def _decoded(self, entry: SegmentEntry, decode: Callable[[bytes], T]) -> T:
        """Decode a segment, which is what the manifest says byte for byte."""
        try:
            return decode(_content(self.root, entry))
        except FileNotFoundError as error:
            reason, cause = "is missing", error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, CorruptStoreError):
                raise
            reason, cause = f"is damaged: {error}", error  # type: ignore[assignment]
        raise CorruptStoreError(
            f"{entry.path} of {self.root} {reason}. Commits name shards in it: bring it back from "
            f"a copy of the store, or let the shards be named anew with: actstore repair "
            f"{self.root}",
            entry.path,
        ) from cause


class _Facts(NamedTuple):
    """What a manifest says of a segment's content."""

    shards: int
    runs: int
    rows: int
    dtypes: tuple[schema.StoredType, ...]


def _facts(shards: Sequence[ShardEntry], runs: Sequence[Run]) -> _Facts:
    dtypes = tuple(sorted({entry.dtype for entry in shards}))
    return _Facts(len(shards), len(runs), sum(entry.rows for entry in shards), dtypes)


def encode(shards: Sequence[ShardEntry], runs: Sequence[Run]) -> bytes:
    """Return a segment as JSON, one line per run and shard."""
    return _framed(_lines(map(fields, runs)), _lines(map(_whole_fields, shards)))


def entry_of(item: dict[str, Any]) -> SegmentEntry:
    """Return the segment that a manifest speaks of.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it cannot be.
    """
    entry = SegmentEntry(**{**item, "dtypes": tuple(item["dtypes"])})
    check_path(entry.path)
    if not layout.is_segment(entry.path):
        raise ValueError(f"{entry.path!r} is no name of a segment")
    check_hash(entry.path, entry.sha256)
    for name, least in (("bytes", 1), ("shards", 0), ("runs", 0), ("rows", 0), ("since", 1)):
        check_size(entry.path, name, getattr(entry, name), least)
    if not set(entry.dtypes) <= ITEM_BYTES.keys():
        raise ValueError(f"{entry.path} has the stored types {entry.dtypes!r}")
    return entry


def forget() -> None:
    """Read segments again from the disk when they are asked for next, as a check of it must."""
    _bytes.cache_clear()


def _content(root: Path, entry: SegmentEntry) -> bytes:
    return _bytes(root, entry.path, entry.bytes, entry.sha256)


@lru_cache(maxsize=8)
def _bytes(root: Path, path: str, size: int, sha256: str) -> bytes:
    place = root / path
    if (found := place.stat().st_size) != size:  # before it takes memory
        raise OSError(f"it has {found} bytes, the manifest says {size}")
    content = place.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise OSError("its SHA-256 is not what the manifest says: the content was changed")
    return content


@lru_cache(maxsize=8)  # many commits share a segment
def _parsed(content: bytes) -> _Read:
    runs, shards = (json.loads(b"[" + part + b"]") for part in _split(content))
    return _Read(tuple(map(_shard, shards)), tuple(map(run_of, runs)))


def _whole(content: bytes, entry: SegmentEntry) -> _Read:
    found = _parsed(content)
    if _facts(*found) != (entry.shards, entry.runs, entry.rows, entry.dtypes):
        raise ValueError("it holds other shards, runs or rows than the manifest says")
    return found


@lru_cache(maxsize=16)
def _find(content: bytes, partition: Partition) -> tuple[ShardEntry, ...]:
    """Return the shards of one partition, without reading those of others."""
    named = zip(("model", "site", "layer"), partition, strict=True)
    # As a shard's line has it: a quotation mark inside of a name would be escaped.
    wanted = ", ".join(f'"{name}": {json.dumps(value)}' for name, value in named).encode() + b", "
    found = []
    at = content.find(wanted)
    while at >= 0:
        start, end = content.rfind(b"\n", 0, at) + 1, content.find(b"\n", at)
        entry = _shard(json.loads(content[start:end].rstrip(b",")))
        if entry.partition == partition:
            found.append(entry)
        at = content.find(wanted, end)
    return tuple(found)


def _shard(item: dict[str, Any]) -> ShardEntry:
    return shard_of(item, item.pop("tail", None), item.pop("rounding", None))


def _whole_fields(entry: ShardEntry) -> dict[str, Any]:
    tail = {} if entry.tail is None else {"tail": entry.tail}
    rounding = {} if entry.rounding is None else {"rounding": list(entry.rounding)}
    return fields(entry) | tail | rounding


def _lines(items: Iterable[dict[str, Any]]) -> bytes:
    return ",\n".join(map(json.dumps, items)).encode()


def _framed(runs: bytes, shards: bytes) -> bytes:
    around = (part and b"\n" + part + b"\n" for part in (runs, shards))
    return _HEAD + next(around) + _SHARDS + next(around) + _END


def _joined(*contents: bytes) -> bytes:
    """Return the segment that holds what several do, in their order."""
    parts = zip(*map(_split, contents), strict=True)
    runs, shards = (b",\n".join(filter(None, part)) for part in parts)
    return _framed(runs, shards)


def _split(content: bytes) -> tuple[bytes, bytes]:
    """Return the lines of runs and of shards.

    Raises:
        ValueError: it is no segment, or one of a later version.
    """
    # No text in JSON has a line break, so nothing but what parts them looks like it.
    runs, parted, shards = content.removeprefix(_HEAD).partition(_SHARDS)
    if not (content.startswith(_HEAD) and parted and content.endswith(_END)):
        raise ValueError("it is no segment that this actstore reads: upgrade actstore")
    return runs.strip(b"\n"), shards.removesuffix(_END).strip(b"\n")
