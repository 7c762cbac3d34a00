"""Metadata of rows on their way into a shard, from batches to an Arrow table of all columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actstore import schema
from actstore.storage.column_chunks import is_constant
from actstore.storage.entries import PoolingRegion

if TYPE_CHECKING:
    import pyarrow as pa

_FEW_BYTES = 256 << 10
"""Of a column of one value that is kept for the next shard, at most."""
_NUMBER_BYTES = 8


class Fragment(NamedTuple):
    """Metadata of some rows: the chosen ``rows`` of a batch's constants and columns."""

    constants: Mapping[str, Any]
    columns: Mapping[str, Sequence[Any]]
    rows: Sequence[int]


def pools_of(table: pa.Table) -> set[PoolingRegion]:
    """Return each pair of pooling and region that a table's rows have."""
    columns = table["pooling"], table["region"]
    if table.num_rows and all(map(is_constant, columns)):
        return {(columns[0][0].as_py(), columns[1][0].as_py())}
    pooling, region = (
        column.combine_chunks().dictionary_encode(null_encoding="encode") for column in columns
    )
    regions = region.dictionary.to_pylist()
    pairs = pooling.indices.to_numpy().astype(np.int64) * len(regions) + region.indices.to_numpy()
    words = pooling.dictionary.to_pylist()
    return {
        (words[pair // len(regions)], regions[pair % len(regions)])
        for pair in np.unique(pairs).tolist()
    }


def in_order(pools: Iterable[PoolingRegion]) -> tuple[PoolingRegion, ...]:
    """Return pairs of pooling and region as a manifest lists them: ascending, null first."""
    return tuple(sorted(pools, key=lambda pool: (pool[0], pool[1] or "")))


def metadata_table(fragments: Sequence[Fragment], norms: np.ndarray) -> pa.Table:
    """Return the fragments' rows as an Arrow table of every metadata column."""
    import pyarrow as pa

    arrow_schema = schema.metadata_schema()
    total = len(norms)
    varying = _names(fragment.columns for fragment in fragments)
    constant = _names(fragment.constants for fragment in fragments)
    arrays = []
    for field in arrow_schema:
        name = field.name
        if name == "norm":
            arrays.append(pa.array(norms, field.type))
            continue
        if name not in varying:
            known = fragments if name in constant else fragments[:1]
            values = [fragment.constants.get(name) for fragment in known]
            if values.count(values[0]) == len(values):
                arrays.append(_repeated(name, values[0], total))
                continue
            if len(values) == total:  # each fragment is one row
                arrays.append(pa.array(values, field.type))
                continue
        arrays.append(pa.array(_cells(name, fragments), field.type))
    return pa.Table.from_arrays(arrays, schema=arrow_schema)


def _repeated(name: str, value: Any, rows: int) -> pa.Array:
    """Return a column of one value: of all shards of a commit's the same, most of them."""
    # Numbers of other types can be equal without being of the same bits.
    kept = value is None or type(value) in (str, int)
    if kept and rows * (len(value) if type(value) is str else _NUMBER_BYTES) <= _FEW_BYTES:
        return _repeated_once(name, value, rows)
    return _repeated_once.__wrapped__(name, value, rows)


@lru_cache(maxsize=128)
def _repeated_once(name: str, value: Any, rows: int) -> pa.Array:
    import pyarrow as pa

    return pa.repeat(pa.scalar(value, schema.metadata_schema().field(name).type), rows)


def with_scales(table: pa.Table, scales: np.ndarray) -> pa.Table:
    """Return metadata with the column of the scales of vectors of int8."""
    import pyarrow as pa

    field = schema.metadata_schema("int8").field(schema.SCALE)
    return table.add_column(schema.vector_index(), field, pa.array(scales, field.type))


def _names(mappings: Iterable[Mapping[str, Any]]) -> set[str]:
    # Fragments of one batch share their mappings, and those of one source their keys.
    return set().union(*{tuple(mapping) for mapping in mappings})


def _cells(name: str, fragments: Sequence[Fragment]) -> list[Any]:
    cells: list[Any] = []
    for constants, columns, rows in fragments:
        column = columns.get(name)
        if column is None:
            cells += [constants.get(name)] * len(rows)
        else:
            plain = isinstance(rows, range) and rows.step == 1 and len(rows) > 0
            chosen = column[rows[0] : rows[-1] + 1] if plain else [column[row] for row in rows]
            cells += chosen
    return cells
