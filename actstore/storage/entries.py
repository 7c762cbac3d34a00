"""What manifests name: shards, label overlays and runs; and what none of them can be."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from actstore import schema
from actstore.storage import layout

_HASH = re.compile(r"[0-9a-f]{64}")
_MOST = 1 << 48
"""No count or size comes near this; sums of such numbers fit into 64 bits."""
_UNFOLDING = 1 << 17
"""Vectors unfold to at most so many times the size of their file, however it is compressed."""
_UPWARDS = frozenset({"", ".", ".."})
_OURS = re.compile(r"(f16|f32|i8)x[0-9]+-[0-9a-f]{20}-[0-9]{5,}\.parquet")
"""Files that this program has named: they lie in the folder of what they hold."""
_NUMBER = re.compile(r"-([0-9]{5,})\.parquet$")
_NEXT = 100_000
"""What is added to a shard's number where another one has it."""

ITEM_BYTES = {"float16": 2, "float32": 4, "int8": 1}
"""Bytes of one value of each stored type."""

PoolingRegion = tuple[str, "str | None"]
"""A pooling and the region that it covered."""


class Rounding(NamedTuple):
    """What values lost on the way into the type that they are stored in."""

    values: int
    """How many are not what they were."""
    greatest: float
    """The greatest difference."""


def together(parts: Iterable[Rounding | None]) -> Rounding | None:
    """Return what several parts lost together; None where none has lost anything."""
    lost = [part for part in parts if part is not None]
    if not lost:
        return None
    return Rounding(sum(part.values for part in lost), max(part.greatest for part in lost))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """One live shard."""

    path: str
    """Relative to the store, ``/`` between segments."""
    model: str
    site: str
    layer: int | None
    width: int
    dtype: schema.StoredType
    rows: int
    bytes: int
    sha256: str
    pages: tuple[tuple[int, int], ...] = ()
    """Offset of the values and rows per row group; empty when the file cannot be mapped."""
    since: int = 0
    """Number of the commit that brought its oldest rows; 0 before it is committed."""
    pools: tuple[PoolingRegion, ...] | None = None
    """Pooling and region of its rows, each pair once, ascending, null first; None in manifests
    written before this was recorded."""
    tail: str | None = field(default=None, compare=False)
    """SHA-256 of all that stands behind the vectors: their checksums, the metadata, the footer.
    None where they cannot be mapped, and in manifests written before this was recorded."""
    rounding: Rounding | None = field(default=None, compare=False)
    """What its values lost on the way into its type; None where that is nothing, or not known."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one vector."""
        return self.width * ITEM_BYTES[self.dtype]

    @property
    def vectors_end(self) -> int:
        """First byte behind the vectors of a shard that can be mapped."""
        return max(offset + rows * self.row_bytes for offset, rows in self.pages)

    @property
    def vector_bytes(self) -> int:
        """Bytes of the vectors alone."""
        return self.rows * self.row_bytes

    @property
    def partition(self) -> tuple[str, str, int | None]:
        """Model, site and layer, which all rows of the shard share."""
        return self.model, self.site, self.layer

    def named(self, transaction: str, number: int) -> str:
        """Return the path of the ``number``-th shard of a transaction that holds such rows."""
        return layout.shard_path(
            model=self.model,
            site=self.site,
            layer=self.layer,
            width=self.width,
            dtype=self.dtype,
            transaction=transaction,
            number=number,
        )

    @property
    def number(self) -> int:
        """Which of the shards of its transaction it is; 0 where this program has not named it."""
        found = _NUMBER.search(self.path)
        return int(found[1]) if found else 0

    def named_anew(self, transaction: str, taken: Container[str] = ()) -> str:
        """Return the path of a shard that takes this one's place, with its number.

        Which config of the card bears a model's name goes by numbers, and must not change because
        rows were written anew.

        Args:
            transaction: that writes it.
            taken: paths that other shards of the transaction have.
        """
        number = self.number
        while (path := self.named(transaction, number)) in taken:
            number += _NEXT
        return path


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelEntry:
    """One label overlay: labels set after capture, later entries over earlier ones."""

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One ingest or capture run: what made rows."""

    run_id: str
    kind: str
    started_at: str
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


_BESIDE = ("tail", "rounding")
_FIELDS = {
    kind: tuple(item.name for item in dataclasses.fields(kind) if item.name not in _BESIDE)
    for kind in (ShardEntry, LabelEntry, Run)
}


def fields(entry: ShardEntry | LabelEntry | Run) -> dict[str, Any]:
    """Return what a manifest says of an entry; what a shard's tail is and what it lost elsewhere.

    Not beside the other facts of a shard: the first versions of actstore refuse to see more there.
    """
    # dataclasses.asdict copies deeply, which takes a third of a second for 10,000 shards.
    return {name: getattr(entry, name) for name in _FIELDS[type(entry)]}


def shard_of(item: dict[str, Any], tail: str | None, lost: list[Any] | None) -> ShardEntry:
    """Return the shard that a manifest speaks of.

    Args:
        item: what it says.
        tail: the hash of its tail.
        lost: what its values lost, if they did.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it cannot be.
    """
    pages = tuple(map(tuple, item["pages"]))
    entry = ShardEntry(
        **{
            **item,
            "pages": pages,
            "pools": _pools(item.get("pools")),
            "tail": tail if pages else None,
            "rounding": None if lost is None else Rounding(*lost),
        }
    )
    check_path(entry.path)
    check_shard(entry)
    return entry


def run_of(item: dict[str, Any]) -> Run:
    """Return the run that a manifest speaks of.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it cannot be.
    """
    run = Run(**item)
    if not isinstance(run.settings, dict) or not isinstance(run.versions, dict):
        raise ValueError(f"run {run.run_id!r} has no settings and versions")
    texts = [("run_id", run.run_id), ("kind", run.kind), ("started_at", run.started_at)]
    check_texts([*texts, *run.versions.items()])
    return run


def _pools(pairs: list[list[Any]] | None) -> tuple[PoolingRegion, ...] | None:
    return None if pairs is None else _checked_pools(tuple(map(tuple, pairs)))


@lru_cache(maxsize=4096)  # thousands of shards have the same: one object for all of them
def _checked_pools(pairs: tuple[PoolingRegion, ...]) -> tuple[PoolingRegion, ...]:
    for pooling, region in pairs:
        if not isinstance(pooling, str) or not isinstance(region, str | None):
            raise ValueError(f"a shard has the pooling {pooling!r} over {region!r}")
    return pairs


def in_row_order(shards: tuple[ShardEntry, ...]) -> tuple[ShardEntry, ...]:
    """Sort by model, site and layer (unknown last); shards of one partition keep their order."""

    def order(shard: ShardEntry) -> tuple[str, str, bool, int]:
        return shard.model, shard.site, shard.layer is None, shard.layer or 0

    return tuple(sorted(shards, key=order))


def check_together(shards: tuple[ShardEntry, ...], labels: tuple[LabelEntry, ...]) -> None:
    """Refuse files that come twice, and shards in another order than rows have.

    Raises:
        ValueError: says what is wrong.
    """
    paths = [*(shard.path for shard in shards), *(overlay.path for overlay in labels)]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"{twice} is named twice")
    if in_row_order(shards) != shards:
        raise ValueError("its shards are not in the order of models, sites and layers")
    if sum(shard.rows for shard in shards) >= _MOST:
        raise ValueError("it speaks of more rows than can be")


def check_shard(shard: ShardEntry) -> None:
    """Refuse what would fail later, and less clearly, as a number or a type."""
    path = shard.path
    check_size(path, "width", shard.width, 1)
    check_size(path, "rows", shard.rows, 1)
    check_size(path, "bytes", shard.bytes, 1)
    if shard.dtype not in ITEM_BYTES:
        raise ValueError(f"{path} has the stored type {shard.dtype!r}")
    if not (isinstance(shard.model, str) and isinstance(shard.site, str)):
        raise ValueError(f"{path} has no model and site")
    if not (shard.model.isascii() and shard.site.isascii()):
        (shard.model + shard.site).encode()  # what is no text is in no shard either
    if shard.layer is not None and type(shard.layer) is not int:
        raise ValueError(f"{path} has the layer {shard.layer!r}")
    check_hash(path, shard.sha256)
    if shard.tail is not None:
        check_hash(path, shard.tail)
    check_size(path, "since", shard.since, 0)
    if shard.rounding is not None:
        check_size(path, "rounded values", shard.rounding.values, 0)
        if not isinstance(shard.rounding.greatest, float | int) or shard.rounding.greatest < 0:
            raise ValueError(f"{path} has a greatest rounding of {shard.rounding.greatest!r}")
    row_bytes = shard.row_bytes
    end = 4
    for offset, rows in shard.pages:
        check_size(path, "a page at", offset, end)
        check_size(path, "page rows", rows, 1)
        end = offset + rows * row_bytes
    if shard.pages and (end > shard.bytes or sum(rows for _, rows in shard.pages) != shard.rows):
        raise ValueError(
            f"{path} has {shard.rows} rows of {shard.width} values in {shard.bytes} bytes, and "
            "its pages say otherwise"
        )
    if shard.rows * row_bytes > shard.bytes * _UNFOLDING:
        raise ValueError(
            f"{path} has {shard.rows} rows of {shard.width} values in {shard.bytes} bytes, which "
            "cannot be"
        )
    place = _place(shard.model, shard.site, shard.layer, shard.width, shard.dtype)
    if _OURS.fullmatch(path.rpartition("/")[2]) and not path.startswith(place):
        raise ValueError(
            f"{path} does not lie where shards of {shard.model}, {shard.site}, layer "
            f"{shard.layer}, {shard.dtype} x {shard.width} do"
        )


def check_labels(overlay: LabelEntry) -> None:
    """Refuse what would fail later, and less clearly, as a number or a type."""
    check_size(overlay.path, "rows", overlay.rows, 1)
    check_size(overlay.path, "bytes", overlay.bytes, 1)
    check_hash(overlay.path, overlay.sha256)


@lru_cache(maxsize=1 << 16)
def _place(model: str, site: str, layer: int | None, width: int, dtype: str) -> str:
    """Return what the paths of shards with such rows begin with."""
    path = layout.shard_path(
        model=model,
        site=site,
        layer=layer,
        width=width,
        dtype=dtype,
        transaction="",
        number=0,
    )
    return path[: path.rindex("--") + 1]


def check_hash(path: str, value: Any) -> None:
    """Refuse what is no SHA-256."""
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise ValueError(f"{path} has the SHA-256 {value!r}")


def check_size(path: str, name: str, value: Any, least: int) -> None:
    """Refuse what is no number of things, or of too many."""
    if type(value) is not int or not least <= value < _MOST:
        raise ValueError(f"{path} has {name} {value!r}")


def check_texts(named: Iterable[tuple[str, Any]]) -> None:
    """Refuse what is no text."""
    for name, text in named:
        if not isinstance(text, str):
            raise ValueError(f"{name} is {text!r}")


def is_inside(path: str) -> bool:
    """Say whether a path, relative to the store with ``/`` between segments, stays inside."""
    return not ("\\" in path or "\0" in path or not _UPWARDS.isdisjoint(path.split("/")))


def check_path(path: str) -> None:
    """Refuse the path of a file that cannot lie in the store."""
    path.encode()  # or it is no name of a file
    if not is_inside(path):
        raise ValueError(f"it names the file {path!r}, which is outside the store")
