"""Turns captured batches into rows of the store, in the order of the source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from actstore.capturing.forward import grading
from actstore.capturing.forward.engine import Captured
from actstore.capturing.forward.pooling import Pool, SiteLayer
from actstore.capturing.prompts.encode import PAD, ROLES
from actstore.capturing.prompts.example import Example, ExampleKey
from actstore.storage import floats, strict_json
from actstore.storage.rows import RowBatch

StorageType = Literal["float16", "float32", "compact16", "int8"]
_GENERATED = "generated"
_FIELDS = ("choices", "answer", "system")
"""Fields of an example that stand in ``extra``."""
NOT_ASKED = "not_asked"
"""What lists in ``extra`` which of these are columns of the source's own, and no such field."""


class AlreadyStored(Protocol):
    """What the store has already of this model and data set."""

    def has(self, place: SiteLayer, pool: Pool) -> frozenset[ExampleKey]:
        """Return the examples that have such rows."""


class NothingStored:
    """Of a new data set."""

    def has(self, place: SiteLayer, pool: Pool) -> frozenset[ExampleKey]:
        """Return no example."""
        return frozenset()


class _BatchRows(NamedTuple):
    """Rows of one pool in one batch."""

    batch: int
    pool: Pool
    rows: np.ndarray
    """Int64: numbers of the chosen rows among the pool's rows of the batch."""


def tabulate(
    batches: Sequence[Captured],
    pools: Sequence[Pool],
    constants: Mapping[str, Any],
    *,
    stored: AlreadyStored | None = None,
    refused: frozenset[int] = frozenset(),
) -> Iterator[RowBatch]:
    """Yield the rows of some batches, one :class:`RowBatch` per site, layer and stored type.

    Rows come in the order of the source, an example's rows in the order of ``pools`` and
    then of its tokens. Batches of several places share their metadata columns.

    Args:
        batches: what was captured.
        pools: as they were captured.
        constants: columns that are the same for all rows.
        stored: rows that it has are left out.
        refused: places in the source of examples that get no rows.
    """
    have = stored if stored is not None else NothingStored()
    columns: dict[Any, tuple[list[_BatchRows], np.ndarray, dict[str, list[Any]]]] = {}
    for place in batches[0].pooled.vectors if batches else ():
        for group in _by_type(batches[0].pooled.vectors[place]):
            held = tuple((pool, have.has(place, pool)) for pool in group)
            if held not in columns:
                columns[held] = _metadata(batches, held, refused)
            chosen, order, cells = columns[held]
            if len(order) == 0:
                continue
            site, layer = place
            parts = [
                _taken(batches[each.batch].pooled.vectors[place][each.pool], each.rows)
                for each in chosen
            ]
            yield RowBatch(
                vectors=np.concatenate(parts)[order],
                constants={**constants, "site": site, "layer": layer},
                columns=cells,
            )


def convert(vectors: np.ndarray, storage: StorageType | None) -> np.ndarray:
    """Return vectors as they are handed to the writer; float16 may round, and overflow to inf."""
    if storage == "float16" and vectors.dtype != np.float16:
        with np.errstate(over="ignore"):
            return vectors.astype(np.float16)
    if storage == "float32" and vectors.dtype == np.float16:
        return floats.widen(vectors)
    return vectors


def _by_type(vectors: Mapping[Pool, np.ndarray]) -> list[list[Pool]]:
    """Group pools by stored type: a model in float16 has means in float32."""
    groups: dict[np.dtype[Any], list[Pool]] = {}
    for pool, found in vectors.items():
        groups.setdefault(found.dtype, []).append(pool)
    return list(groups.values())


def _taken(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return vectors if len(rows) == len(vectors) else vectors[rows]


def _metadata(
    batches: Sequence[Captured],
    held: Sequence[tuple[Pool, frozenset[ExampleKey]]],
    refused: frozenset[int],
) -> tuple[list[_BatchRows], np.ndarray, dict[str, list[Any]]]:
    """Return which rows are taken, their order, and their columns in that order."""
    chosen: list[_BatchRows] = []
    sources: list[np.ndarray] = []
    ranks: list[np.ndarray] = []
    for number, batch in enumerate(batches):
        positions = np.array(batch.positions, np.int64)
        for rank, (pool, keys) in enumerate(held):
            wanted = np.array(
                [
                    position not in refused and (not keys or example.key not in keys)
                    for position, example in zip(batch.positions, batch.examples, strict=True)
                ],
                np.bool_,
            )
            examples = batch.pooled.rows[pool].example
            rows = np.flatnonzero(wanted[examples])
            chosen.append(_BatchRows(number, pool, rows))
            sources.append(positions[examples[rows]])
            ranks.append(np.full(len(rows), rank))
    order = np.lexsort((np.concatenate(ranks), np.concatenate(sources)))
    flat: dict[str, list[Any]] = {}
    for each in chosen:
        for name, cells in _cells(batches[each.batch], each).items():
            flat.setdefault(name, []).extend(cells)
    numbers = order.tolist()
    return chosen, order, {name: [cells[at] for at in numbers] for name, cells in flat.items()}


def _cells(batch: Captured, chosen: _BatchRows) -> dict[str, Sequence[Any]]:
    pool = chosen.pool
    rows = batch.pooled.rows[pool]
    examples = rows.example[chosen.rows].tolist()
    described = [
        describe(example, prediction, label)
        for example, prediction, label in zip(
            batch.examples, batch.predictions, batch.labels, strict=True
        )
    ]
    cells: dict[str, Sequence[Any]] = {
        name: [described[example][name] for example in examples] for name in described[0]
    }
    count = len(examples)
    cells["pooling"] = [pool.stored] * count
    cells["region"] = [pool.region] * count
    cells["token_count"] = rows.token_count[chosen.rows].tolist()
    cells["position"] = cells["token_id"] = cells["token_role"] = [None] * count
    if rows.column is not None:
        at = rows.column[chosen.rows].tolist()
        cells["token_id"] = batch.ids[examples, at].tolist() if count else []
        cells["token_role"] = [
            _role(batch, row, column) for row, column in zip(examples, at, strict=True)
        ]
        if pool.stored == "none" and rows.position is not None:
            # `last` and `first` are what they are wherever they stand.
            cells["position"] = rows.position[chosen.rows].tolist()
    return cells


def _role(batch: Captured, row: int, column: int) -> str | None:
    if column >= batch.roles.shape[1]:
        return _GENERATED
    role = int(batch.roles[row, column])
    return None if role == PAD else ROLES[role]


def describe(example: Example, prediction: str | None, label: str | None) -> dict[str, Any]:
    """Return the columns of the schema that an example and its answer fill."""
    fields = {
        "choices": list(example.choices) if example.choices is not None else None,
        "answer": example.answer,
        "system": example.system,
    }
    own = [name for name, value in fields.items() if value is None and name in example.extra]
    extra = {
        **example.extra,
        **{name: value for name, value in fields.items() if value is not None},
        **({NOT_ASKED: own} if own else {}),
    }
    return {
        **grading.columns(example, prediction),
        "label": label,
        "source": example.source,
        "extra": strict_json.dumps(extra, default=_plain) if extra else None,
    }


def fields_in(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an example that stand in the ``extra`` of its rows."""
    own = extra.get(NOT_ASKED)
    own = own if isinstance(own, list) else []
    return {name: extra[name] for name in _FIELDS if name in extra and name not in own}


def _plain(value: Any) -> Any:
    """Return what JSON does not know in words it knows; of a picture no more than its kind."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return value.name
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes"
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return type(value).__name__


def settle_values(captured: Captured, storage: StorageType | None) -> dict[int, str]:
    """Convert a batch's vectors to the stored type; return rows of the batch that are not finite.

    Values are replaced in place. The text says where NaN or infinity was found.
    """
    bad: dict[int, str] = {}
    for (site, layer), kept in captured.pooled.vectors.items():
        for pool, vectors in kept.items():
            kept[pool] = found = convert(vectors, storage)
            if floats.finite(found):
                continue
            where = site if layer is None else f"{site} of layer {layer}"
            finite = np.isfinite(found).all(axis=1)
            for row in captured.pooled.rows[pool].example[~finite].tolist():
                bad.setdefault(row, f"{pool.text} at {where} holds NaN or infinity")
    return bad
