"""What differs between two stores, row by row, whatever their shards look like."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actstore import schema
from actstore.storage import key_hashes
from actstore.storage.floats import same_bits

if TYPE_CHECKING:
    from actstore.querying.selected import SelectedRows

IGNORED = frozenset({"norm", "captured_at", "source", "run_id"})
"""Columns that say when and from where a row came (and the norm, which the vector settles)."""
_LISTED = 10
_HASHED = 1 << 18
"""Rows whose keys are read at a time."""
_ROWS = 1 << 16
"""Pairs of rows whose metadata are held against each other at a time."""
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorDifference:
    """One row whose vector is another one in B."""

    row: str
    """Its key."""
    max_abs: float
    """Largest difference of a value; NaN where a value is no number on one side only."""
    relative: float
    """Length of the difference over length of A's vector."""
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueDifference:
    """One row whose metadata differ in one column."""

    row: str
    column: str
    a: Any
    b: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelChange:
    """A label that rows have in A, and another one that they have in B."""

    a: str | None
    """None where they have none."""
    b: str | None
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionDifference:
    """What differs in one model, site and layer."""

    model: str
    site: str
    layer: int | None
    rows_a: int
    rows_b: int
    only_a: int
    """Rows whose key B does not have."""
    only_b: int
    vectors: int
    """Rows of both whose vectors differ in some bit of their values."""
    widths: tuple[int, int] | None
    """Widths, where they differ; then all vectors do."""
    types: tuple[str, str] | None
    """Stored types of the first row of both where they differ; equal values are equal all the
    same."""
    max_abs: float | None
    max_relative: float | None
    min_cosine: float | None
    columns: dict[str, int]
    """Rows of both whose metadata differ, by column; ``label`` is one of them."""

    @property
    def equal(self) -> bool:
        """Whether nothing differs but perhaps the stored type."""
        return not (self.only_a or self.only_b or self.vectors or self.columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreDifference:
    """What differs between A and B; lists hold the first ten of each kind."""

    partitions: tuple[PartitionDifference, ...]
    only_a: tuple[str, ...]
    """Keys of rows that only A has."""
    only_b: tuple[str, ...]
    vectors: tuple[VectorDifference, ...]
    """The vectors that differ most, by ``max_abs``."""
    values: tuple[ValueDifference, ...]
    """Metadata that differ, labels first."""
    labels: tuple[LabelChange, ...] = ()
    """All labels that differ, those of most rows first."""

    @property
    def equal(self) -> bool:
        """Whether the two hold the same rows, vectors, labels and other metadata."""
        return all(partition.equal for partition in self.partitions)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {"equal": self.equal, **dataclasses.asdict(self)}


Partition = tuple[str, str, "int | None"]


def diff(
    a: SelectedRows, b: SelectedRows, *, progress: Callable[[int, int], None] | None = None
) -> StoreDifference:
    """Hold all rows of two selections against each other, by their keys.

    Vectors are compared bit for bit (float16 as float32 where the stored types differ),
    metadata column by column but for :data:`IGNORED`. Rows of several poolings or layers may
    come together: each is held against itself alone, and nothing is averaged. Memory holds 8
    bytes per row of one (model, site, layer) and blocks of bounded size. How rows are spread
    over shards does not matter.

    Args:
        a: such as ``store.select()``.
        b: what to hold it against.
        progress: called with the bytes and rows compared since the last call.
    """
    collected = _Collected([], [], [], [], Counter())
    places = [_partitions(side) for side in (a, b)]
    names = sorted(
        places[0].keys() | places[1].keys(),
        key=lambda name: (name[0], name[1], name[2] is None, name[2] or 0),
    )
    nothing = np.empty(0, np.int64)
    partitions = tuple(
        _partition(
            name,
            (a, places[0].get(name, nothing)),
            (b, places[1].get(name, nothing)),
            collected,
            progress,
        )
        for name in names
    )
    collected.values.sort(key=lambda found: found.column != "label")
    return StoreDifference(
        partitions=partitions,
        only_a=tuple(collected.only_a),
        only_b=tuple(collected.only_b),
        vectors=tuple(collected.vectors),
        values=tuple(collected.values[:_LISTED]),
        labels=tuple(
            LabelChange(a=one, b=other, rows=rows)
            for (one, other), rows in collected.labels.most_common()
        ),
    )


class _Collected(NamedTuple):
    only_a: list[str]
    only_b: list[str]
    vectors: list[VectorDifference]
    values: list[ValueDifference]
    labels: Counter[tuple[str | None, str | None]]
    """Rows by their labels in A and in B, where these differ."""


Side = tuple["SelectedRows", np.ndarray]
"""A selection and row numbers in its snapshot, int64."""


def _partitions(side: SelectedRows) -> dict[Partition, np.ndarray]:
    """Return the rows of each model, site and layer."""
    snapshot = side.snapshot
    rows = np.sort(side.rows)
    bounds = np.searchsorted(rows, snapshot.offsets)
    found: dict[Partition, list[np.ndarray]] = {}
    for number, shard in enumerate(snapshot.shards):
        part = rows[bounds[number] : bounds[number + 1]]
        if len(part):
            found.setdefault((shard.model, shard.site, shard.layer), []).append(part)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _partition(
    name: Partition,
    a: Side,
    b: Side,
    collected: _Collected,
    progress: Callable[[int, int], None] | None,
) -> PartitionDifference:
    hashes = _hashes(a), _hashes(b)
    _, at_a, at_b = np.intersect1d(*hashes, assume_unique=True, return_indices=True)
    in_order = np.argsort(at_a)
    at_a, at_b = at_a[in_order], at_b[in_order]
    for side, at, listed in ((a, at_a, collected.only_a), (b, at_b, collected.only_b)):
        if len(at) < len(side[1]):
            alone = np.setdiff1d(np.arange(len(side[1])), at, assume_unique=True)
            listed += _names(side, alone[: _LISTED - len(listed)])
    columns: dict[str, int] = {}
    apart = _Apart()
    both = a[1][at_a], b[1][at_b]
    widths = (_width(a), _width(b))
    for start in range(0, len(at_a), _ROWS):
        part = slice(start, start + _ROWS)
        pair = (a[0], both[0][part]), (b[0], both[1][part])
        _compare_metadata(*pair, columns, collected)
        if widths[0] == widths[1]:
            for block in _compare_vectors(*pair, widths[0], progress):
                apart.add(*block, pair[0], collected.vectors)
    differ = widths[0] != widths[1] and len(at_a) > 0
    return PartitionDifference(
        model=name[0],
        site=name[1],
        layer=name[2],
        rows_a=len(a[1]),
        rows_b=len(b[1]),
        only_a=len(a[1]) - len(at_a),
        only_b=len(b[1]) - len(at_b),
        vectors=len(at_a) if differ else apart.rows,
        widths=widths if differ else None,
        types=_types((a[0], both[0]), (b[0], both[1])),
        max_abs=apart.max_abs,
        max_relative=apart.max_relative,
        min_cosine=apart.min_cosine,
        columns=columns,
    )


def _width(side: Side) -> int:
    return side[0].snapshot.shape(side[1][:1])[0] if len(side[1]) else 0


def _types(a: Side, b: Side) -> tuple[str, str] | None:
    """Return the stored types of the first pair of rows that differs in them."""
    one, other = (_types_of(side) for side in (a, b))
    differ = np.flatnonzero(one != other)
    return (str(one[differ[0]]), str(other[differ[0]])) if len(differ) else None


def _types_of(side: Side) -> np.ndarray:
    """Return the stored type of each row, text ``[rows]``."""
    snapshot = side[0].snapshot
    shards = np.searchsorted(snapshot.offsets, side[1], "right") - 1
    found: np.ndarray = np.array([shard.dtype for shard in snapshot.shards], "U")[shards]
    return found


def _hashes(side: Side) -> np.ndarray:
    selection, rows = side
    found = np.empty(len(rows), np.uint64)
    for start in range(0, len(rows), _HASHED):
        table = selection.at(rows[start : start + _HASHED]).table(list(schema.key_names()))
        found[start : start + _HASHED] = key_hashes.hash_table(table)
    return found


def _names(side: Side, places: np.ndarray) -> list[str]:
    if not len(places):
        return []
    table = side[0].at(side[1][places]).table(list(schema.key_names()))
    return [key_hashes.describe(tuple(row.values())) for row in table.to_pylist()]


def _compare_metadata(a: Side, b: Side, columns: dict[str, int], collected: _Collected) -> None:
    import pyarrow.compute as pc

    listed = collected.values

    names = [
        name
        for name in schema.metadata_names()
        if name not in IGNORED and name not in schema.key_names()
    ]
    left, right = (side[0].at(side[1]).table(names) for side in (a, b))
    for name in names:
        one, other = left[name], right[name]
        known = pc.and_(pc.is_valid(one), pc.is_valid(other))
        same = pc.if_else(known, pc.equal(one, other), pc.equal(pc.is_null(one), pc.is_null(other)))
        places = np.flatnonzero(~same.to_numpy())
        if not len(places):
            continue
        columns[name] = columns.get(name, 0) + len(places)
        if name == "label":
            changed = (column.take(places).to_pylist() for column in (one, other))
            collected.labels.update(zip(*changed, strict=True))
        already = sum(found.column == name for found in listed)
        first = places[: _LISTED - already]
        listed += [
            ValueDifference(row=row, column=name, a=one[place].as_py(), b=other[place].as_py())
            for row, place in zip(_names(a, first), first.tolist(), strict=True)
        ]


def _compare_vectors(
    a: Side, b: Side, width: int, progress: Callable[[int, int], None] | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield positions of pairs that differ, and their vectors, float64 ``[pairs, width]``."""
    step = max(1, _BLOCK // width)
    for start in range(0, len(a[1]), step):
        left = a[0].snapshot.gather(a[1][start : start + step])
        right = b[0].snapshot.gather(b[1][start : start + step])
        places = np.flatnonzero(~same_bits(left, right))
        if progress is not None:
            progress(left.nbytes, len(left))
        if len(places):
            yield (
                places + start,
                left[places].astype(np.float64),
                right[places].astype(np.float64),
            )


@dataclass(slots=True)
class _Apart:
    """How far vectors are apart, over all that differ."""

    rows: int = 0
    max_abs: float | None = None
    max_relative: float | None = None
    min_cosine: float | None = None

    def add(
        self,
        places: np.ndarray,
        left: np.ndarray,
        right: np.ndarray,
        side: Side,
        listed: list[VectorDifference],
    ) -> None:
        with np.errstate(all="ignore"):
            apart = left - right
            # The same infinity, or NaN on both sides, is no difference of that value.
            apart[(left == right) | (np.isnan(left) & np.isnan(right))] = 0
            largest = np.abs(apart).max(axis=1)
            sizes = np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=1)
            relative = np.linalg.norm(apart, axis=1) / sizes[0]
            relative[largest == 0] = 0
            cosines = np.clip(np.vecdot(left, right) / (sizes[0] * sizes[1]), -1, 1)
        self.rows += len(places)
        self.max_abs = _most(self.max_abs, largest)
        self.max_relative = _most(self.max_relative, relative)
        known = cosines[np.isfinite(cosines)]
        if len(known):
            lowest = float(known.min())
            self.min_cosine = lowest if self.min_cosine is None else min(lowest, self.min_cosine)
        worst = np.argsort(-_rank(largest), kind="stable")[:_LISTED]
        names = _names(side, places[worst])
        listed += [
            VectorDifference(
                row=row,
                max_abs=float(largest[place]),
                relative=float(relative[place]),
                cosine=float(cosines[place]),
            )
            for row, place in zip(names, worst.tolist(), strict=True)
        ]
        listed.sort(key=lambda found: -float(_rank(np.array(found.max_abs))))
        del listed[_LISTED:]


def _rank(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.where(np.isnan(values), np.inf, values))


def _most(so_far: float | None, values: np.ndarray) -> float:
    every = values if so_far is None else np.append(values, so_far)
    return float("nan") if bool(np.isnan(every).any()) else float(every.max())
