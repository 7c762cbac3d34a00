"""Rows of a batch on their way into shards: their keys as hashes, and what is there already."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from actstore.errors import ConflictError
from actstore.storage import key_hashes, quantised
from actstore.storage.entries import Rounding, ShardEntry
from actstore.storage.partition import Partition, RowAddress
from actstore.storage.rows import Added, RowBatch, check

PartitionKey = tuple[str, str, int | None]
"""Model, site and layer."""


class Incoming(NamedTuple):
    """A batch with its key hashes."""

    vectors: np.ndarray
    constants: Mapping[str, Any]
    columns: Mapping[str, Sequence[Any]]
    hashes: np.ndarray
    values: list[int]
    """The hashes as Python numbers."""
    scales: np.ndarray | None
    rounding: Rounding | None

    def handed_out(self, rows: list[int]) -> np.ndarray:
        """Return vectors as the store will hand them out."""
        vectors = self.vectors[rows]
        return vectors if self.scales is None else quantised.restore(vectors, self.scales[rows])

    def by_partition(self) -> dict[PartitionKey, Sequence[int]]:
        """Return which rows belong to which model, site and layer."""
        names = ("model", "site", "layer")
        rows = len(self.values)
        if not any(name in self.columns for name in names):
            key = self.constants["model"], self.constants["site"], self.constants.get("layer")
            return {_plain(*key): range(rows)}
        cells = [self.columns.get(name, [self.constants.get(name)] * rows) for name in names]
        found: dict[PartitionKey, list[int]] = {}
        for row, key in enumerate(zip(*cells, strict=True)):
            found.setdefault(key, []).append(row)
        # Files with one row per layer are the rule, and each row of each is kept until the commit.
        return {
            _plain(*key): _one_row(chosen[0]) if len(chosen) == 1 else chosen
            for key, chosen in found.items()
        }


def incoming(batch: RowBatch, run_id: str) -> Incoming:
    """Return a batch as rows of a run, with the hashes of their keys.

    Raises:
        UsageError: a required column is missing, or a value is of the wrong type.
    """
    constants = {**batch.constants, "run_id": run_id}
    check(batch.vectors, constants, batch.columns, batch.scales)
    hashes = key_hashes.hash_rows(len(batch), constants, batch.columns)
    return Incoming(
        batch.vectors,
        constants,
        batch.columns,
        hashes,
        hashes.tolist(),
        batch.scales,
        batch.rounding,
    )


def present(
    partition: Partition,
    found: dict[int, RowAddress],
    rows: Sequence[int],
    source: Incoming,
    own: Collection[str],
    replace: Callable[[ShardEntry, int], bool] | None,
) -> Added:
    """Return what is there already; drop from ``found`` what only shares a hash.

    Args:
        partition: where the rows belong.
        found: by position in ``rows``, a row there of the same hash.
        rows: of the batch.
        source: the batch.
        own: shards that the session has committed.
        replace: takes a committed row whose key comes with another vector, and says whether it
            may be replaced; None: that is refused.

    Raises:
        ConflictError: a key is there with a different vector.
    """
    slots = list(found)
    vectors = source.handed_out([rows[at] for at in slots])
    coarse = source.scales is not None
    equal = partition.same(vectors, [found[at] for at in slots], coarse=coarse)
    for at, same in zip(slots, equal.tolist(), strict=True):
        if same:
            continue
        value = int(source.hashes[rows[at]])
        vector = source.handed_out([rows[at]])
        first = found.pop(at)
        for place in (first, *partition.others(value, first)):
            if partition.same(vector, [place], coarse=coarse)[0]:
                found[at] = place
                break
            key = key_hashes.key_of(source.constants, source.columns, rows[at])
            stored = partition.key(place)
            entry = partition.entry(place)
            if stored == key and replace and entry and replace(entry, place.row):
                break
            if stored is None or stored == key:
                raise _conflict(partition, place, source, rows[at], key, own)
    labels = source.columns.get("label")
    differing = repeated = 0
    for at, place in found.items():
        label = source.constants.get("label") if labels is None else labels[rows[at]]
        if _is_own(partition, place, own):
            repeated += 1
        else:
            differing += partition.label_differs(place, label)
    return Added(0, len(found), differing, repeated)


def _is_own(partition: Partition, place: RowAddress, own: Collection[str]) -> bool:
    """Say whether the session itself brought a row: ``own`` are the shards it has committed."""
    entry = partition.entry(place)
    return entry is None or entry.path in own


def _conflict(
    partition: Partition,
    place: RowAddress,
    source: Incoming,
    row: int,
    key: tuple[Any, ...],
    own: Collection[str],
) -> ConflictError:
    """Return the error that names a row and the one of its key that came before."""
    text = key_hashes.describe_whole(key)
    if not _is_own(partition, place, own):
        return ConflictError(
            f"this row is already stored with a different vector: {text}; give the new "
            "version another --dataset, or write it to another store",
            text,
        )
    column = source.columns.get("source")
    mine = source.constants.get("source") if column is None else column[row]
    before = partition.cells(place, ("source",))
    other = "an earlier row" if before is None else before[0]
    come = f"; they come from {other} and {mine}" if mine and other else ""
    return ConflictError(
        f"two rows have this key and different vectors: {text}{come}: give them different ids, "
        "or say with another column what tells them apart",
        text,
        (mine or "", other or ""),
    )


def total(*parts: Added) -> Added:
    """Return what became of several batches."""
    return Added(*map(sum, zip(*parts, strict=True)))


@lru_cache(maxsize=4096)
def _one_row(row: int) -> range:
    return range(row, row + 1)


def _plain(model: str, site: str, layer: Any) -> PartitionKey:
    """Return a partition's key without NumPy's types, which JSON does not know."""
    return str(model), str(site), None if layer is None else int(layer)


def repeats(values: Sequence[int]) -> tuple[list[int], list[int]]:
    """Split positions into first occurrences and repeats."""
    first: dict[int, int] = {}
    for at, value in enumerate(values):
        first.setdefault(value, at)
    kept = set(first.values())
    return sorted(kept), [at for at in range(len(values)) if at not in kept]


def chosen(vectors: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    """Return the given rows, as a view where they lie side by side."""
    first, last = rows[0], rows[-1]
    if last - first == len(rows) - 1:  # they ascend
        return vectors[first : last + 1]
    return vectors[rows]
