"""What a store holds, in numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from actstore.querying.value_codes import ranked
from actstore.storage import compaction, converting, key_hashes
from actstore.storage.disk_errors import reading

if TYPE_CHECKING:
    import pyarrow as pa

    from actstore import schema
    from actstore.storage.fencing import Skipped
    from actstore.storage.manifest import PoolingRegion
    from actstore.storage.rows import Narrow
    from actstore.storage.snapshot import Snapshot


EXAMPLE = ("dataset", "split", "example_id", "example_index", "mode", "variant")
"""Columns that tell examples, and their versions, apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionInfo:
    """One model, site, layer, pooling and region, of one width and type."""

    model: str
    site: str
    pooling: str
    region: str | None
    layer: int | None
    width: int
    dtype: schema.VectorType
    rows: int
    bytes: int
    """Of the shards that hold them; a shard of several poolings is shared out by rows."""
    shards: int
    """Shards that hold some of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnColumn:
    """A field of ``extra``, which SQL, selections and frames have as a column."""

    name: str
    """As it is written: ``extra.NAME``."""
    type: str
    """``bool``, ``int64``, ``double`` or ``string``; of values of several types, their JSON."""
    rows: int
    """Rows that have a value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreInfo:
    """What a store holds at one commit."""

    path: str
    commit: int
    """Number of the commit that is open."""
    commits: int
    """Commits that can be opened."""
    created_at: str
    """When the commit was made, ISO 8601 in UTC."""
    rows: int
    shards: int
    shards_compacted: int
    """Shards that ``actstore compact`` would leave."""
    bytes: int
    """Of all live shard files."""
    vector_bytes: int
    """Of the vectors alone."""
    vector_bytes_as: dict[str, int]
    """The same after ``actstore convert --to`` a smaller type; none that would save nothing.
    Rows that the type cannot hold are not looked for."""
    models: tuple[str, ...]
    sites: tuple[str, ...]
    layers: tuple[int | None, ...]
    """Ascending, unknown (None) last."""
    poolings: tuple[str, ...]
    regions: tuple[str | None, ...]
    """By name, not recorded (None) last."""
    widths: tuple[int, ...]
    dtypes: tuple[str, ...]
    labels: dict[str | None, int]
    """Rows per label as it stands now, most frequent first; None counts rows without one."""
    runs: int
    examples: int = 0
    """Examples that the rows are of; one in several versions (``variant``, ``mode``) counts as
    several."""
    label_examples: dict[str | None, int] = field(default_factory=dict)
    """Examples per label, in the order of ``labels``; one with rows of two labels is in both."""
    partitions: tuple[PartitionInfo, ...] = field(default=())
    """By model, site and layer as rows go, then by pooling and region."""

    extra: tuple[OwnColumn, ...] = field(default=())
    """What the users' data brought beyond the schema."""
    skipped: tuple[Skipped, ...] = field(default=())
    """Damaged shards that were left out; none of the numbers counts them."""

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values; rows without a label under ``unlabelled``."""
        document = dataclasses.asdict(self)
        for name in ("labels", "label_examples"):
            counts = {label: n for label, n in getattr(self, name).items() if label is not None}
            document[name] = counts
        document["unlabelled"] = self.labels.get(None, 0)
        return document


def describe(snapshot: Snapshot) -> StoreInfo:
    """Count what is in ``snapshot``."""
    manifest = snapshot.manifest
    shards = snapshot.shards
    layers = {shard.layer for shard in shards}
    partitions = _partitions(snapshot)
    labels = label_counts(snapshot)
    examples, label_examples = example_counts(snapshot)
    return StoreInfo(
        path=snapshot.name,
        commit=manifest.number,
        commits=snapshot.files.commits,
        created_at=manifest.created_at,
        rows=snapshot.rows,
        shards=len(shards),
        shards_compacted=compaction.shards_after(manifest),
        bytes=sum(shard.bytes for shard in shards),
        vector_bytes=sum(shard.vector_bytes for shard in shards),
        vector_bytes_as=_smaller(snapshot),
        models=tuple(sorted({shard.model for shard in shards})),
        sites=tuple(sorted({shard.site for shard in shards})),
        layers=tuple(sorted(layers, key=ranked)),
        poolings=tuple(sorted({part.pooling for part in partitions})),
        regions=tuple(sorted({part.region for part in partitions}, key=ranked)),
        widths=tuple(sorted({shard.width for shard in shards})),
        dtypes=tuple(sorted({shard.dtype for shard in shards})),
        labels=labels,
        runs=len(manifest.runs),
        examples=examples,
        label_examples={label: label_examples[label] for label in labels},
        partitions=tuple(partitions),
        extra=tuple(_own_columns(snapshot)),
        skipped=snapshot.skipped,
    )


def _smaller(snapshot: Snapshot) -> dict[str, int]:
    """Return what the vectors would take in each type that makes some of them smaller."""
    total = sum(shard.vector_bytes for shard in snapshot.shards)
    kinds: tuple[Narrow, ...] = ("compact16", "int8")
    sizes = {to: sum(converting.bytes_after(one, to) for one in snapshot.shards) for to in kinds}
    return {to: size for to, size in sizes.items() if size < total}


def label_counts(snapshot: Snapshot) -> dict[str | None, int]:
    """Return how many rows bear each label, most frequent first, then by name."""
    with snapshot.opened_metadata() as file:
        counts = file.read(columns=["label"])["label"].value_counts()
    pairs = [(entry["values"], entry["counts"]) for entry in counts.to_pylist()]
    pairs.sort(key=lambda pair: (-pair[1], pair[0] is None, pair[0] or ""))
    return dict(pairs)


def example_counts(snapshot: Snapshot) -> tuple[int, dict[str | None, int]]:
    """Return how many examples there are, and how many have a row of each label."""
    everything: list[np.ndarray] = []
    by_label: dict[str | None, list[np.ndarray]] = {}
    with snapshot.opened_metadata() as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=[*EXAMPLE, "label"])
            examples = key_hashes.hash_table(table, EXAMPLE)
            everything.append(np.unique(examples))
            for label, found in _by_label(examples, table["label"]).items():
                by_label.setdefault(label, []).append(found)
    return _different(everything), {label: _different(parts) for label, parts in by_label.items()}


def _by_label(examples: np.ndarray, labels: pa.ChunkedArray) -> dict[str | None, np.ndarray]:
    """Return the hashes of the examples that have a row of each label, each once."""
    names, codes = key_hashes.coded(labels)
    return {names[code]: np.unique(examples[codes == code]) for code in np.unique(codes).tolist()}


def _different(parts: list[np.ndarray]) -> int:
    return len(np.unique(np.concatenate(parts))) if parts else 0


def _own_columns(snapshot: Snapshot) -> Iterator[OwnColumn]:
    """Count the values of each field of ``extra``: the file's own statistics know most of them."""
    import pyarrow.parquet as pq

    types = snapshot.own_columns
    if not types:
        return
    path = snapshot.own_columns_file()
    with reading(path, derived=True), pq.ParquetFile(path) as file:
        footer = file.metadata
        doubles = file.read([name for name, kind in types.items() if str(kind) == "double"])
    for name, kind in types.items():
        if str(kind) == "double":  # of which the file has no statistics
            nulls = doubles[name].null_count
        else:
            at = footer.schema.names.index(name)
            groups = (footer.row_group(group).column(at) for group in range(footer.num_row_groups))
            nulls = sum(group.statistics.null_count for group in groups)
        yield OwnColumn(name=name, type=str(kind), rows=snapshot.rows - nulls)


def _partitions(snapshot: Snapshot) -> list[PartitionInfo]:
    groups: dict[tuple[Any, ...], list[tuple[int, int]]] = {}
    kinds: dict[tuple[Any, ...], None] = {}
    for shard, counts in zip(snapshot.shards, _pool_counts(snapshot), strict=True):
        kind = (*shard.partition, shard.width, shard.dtype)
        kinds[kind] = None
        done, given = 0, 0
        for pool, rows in counts.items():
            done += rows
            share = shard.bytes * done // shard.rows - given
            given += share
            groups.setdefault((kind, pool), []).append((rows, share))
    place = {kind: number for number, kind in enumerate(kinds)}
    return [
        PartitionInfo(
            model=kind[0],
            site=kind[1],
            layer=kind[2],
            width=kind[3],
            dtype=kind[4],
            pooling=pool[0],
            region=pool[1],
            rows=sum(rows for rows, _ in members),
            bytes=sum(share for _, share in members),
            shards=len(members),
        )
        for (kind, pool), members in sorted(
            groups.items(),
            key=lambda item: (place[item[0][0]], *map(ranked, item[0][1])),
        )
    ]


def _pool_counts(snapshot: Snapshot) -> list[dict[PoolingRegion, int]]:
    """Return the rows of each shard by pooling and region.

    The metadata are read only if a shard holds several, or does not say which it holds.
    """
    found: list[dict[PoolingRegion, int]] = [
        {shard.pools[0]: shard.rows} if shard.pools and len(shard.pools) == 1 else {}
        for shard in snapshot.shards
    ]
    if not all(found):
        for number, pool, rows in _counted(snapshot):
            found[number][pool] = rows
    return found


def _counted(snapshot: Snapshot) -> Iterator[tuple[int, PoolingRegion, int]]:
    """Yield the number of each shard, each of its pools and the rows that have it."""
    names = ["pooling", "region"]
    with snapshot.opened_metadata(dictionaries=names) as file:
        table = file.read(names)
    pooling, region = (table[name].unify_dictionaries().combine_chunks() for name in names)
    poolings = pooling.dictionary.to_pylist()
    regions = [*region.dictionary.to_pylist(), None]
    regional = region.indices.fill_null(len(regions) - 1).to_numpy().astype(np.int64)
    pools = pooling.indices.to_numpy().astype(np.int64) * len(regions) + regional
    most = len(poolings) * len(regions)
    values, rows = np.unique(snapshot.shard_numbers() * most + pools, return_counts=True)
    for value, count in zip(values.tolist(), rows.tolist(), strict=True):
        number, pool = divmod(value, most)
        pooled, over = divmod(pool, len(regions))
        yield number, (poolings[pooled], regions[over]), count
