"""Which rows a selection means: conditions on columns, checked against what is there."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actstore import schema
from actstore.errors import NotInStoreError, SqlError, UsageError
from actstore.querying import quoting
from actstore.querying.metadata import Metadata, missing_column
from actstore.storage import own_columns
from actstore.wording import shorten

if TYPE_CHECKING:
    from actstore.querying.sql import Database
    from actstore.storage.manifest import ShardEntry
    from actstore.storage.snapshot import Snapshot

_OF_SHARD = ("model", "site", "layer")
"""Columns with one value per shard: answered by the manifest alone."""
_LISTED = 20
_CHARACTERS = 300
_LONGEST = 60
"""Characters of all values that a message lists, and of one."""

Values = list[Any]


class Matching(NamedTuple):
    """What conditions leave of a store."""

    rows: np.ndarray
    """Row numbers, int64, ascending."""
    shards: np.ndarray
    """Numbers of the shards that the rows can lie in, int64."""
    listed: dict[str, tuple[Any, ...]]
    """Columns whose wanted values came as a list, with these values."""


def rows_where(
    snapshot: Snapshot,
    database: Database,
    metadata: Metadata,
    where: str | None,
    equals: Mapping[str, Any],
) -> Matching:
    """Return the rows that fit, the shards they can lie in, and what was listed.

    Args:
        snapshot: what to select from.
        database: the same snapshot's SQL.
        metadata: the same snapshot's metadata.
        where: an SQL condition, or None.
        equals: per column the wanted value, or several of them; None means null.

    Raises:
        NotInStoreError: there is no such column, or a wanted value occurs nowhere.
        UsageError: a value of the wrong type.
        SqlError: ``where`` is not one condition.
    """
    wanted = {column: _values(column, value, metadata) for column, value in equals.items()}
    several = {column for column, value in equals.items() if _is_list(value)}
    shards = _shards(snapshot, wanted)
    listed = _listed(snapshot, {name: wanted[name] for name in wanted if name in several})
    others = {column: values for column, values in wanted.items() if column not in _OF_SHARD}
    if where is None and not others:
        pieces = [np.arange(start, stop) for start, stop in _spans(snapshot, shards)]
        return Matching(np.concatenate([np.empty(0, np.int64), *pieces]), shards, listed)
    found = None if where is not None else _rows_by_codes(snapshot, metadata, shards, others)
    if found is not None:
        return Matching(found, shards, listed)
    rows = _rows_by_sql(snapshot, database, shards, where, others)
    for column, values in others.items():
        if len(values) > 1 or not len(rows):
            _check_present(database, column, values)
    return Matching(rows, shards, listed)


def describe(where: str | None, equals: Mapping[str, Any]) -> str:
    """Return conditions in short, for a selection's ``repr``."""
    parts = [] if where is None else [" ".join(where.split())]
    parts += [f"{name}={value!r}" for name, value in equals.items()]
    text = ", ".join(parts)
    return text if len(text) <= 80 else text[:79] + "…"


def _spans(snapshot: Snapshot, shards: np.ndarray) -> list[tuple[int, int]]:
    """Return the rows of some shards, ascending, as first rows and ends."""
    spans: list[tuple[int, int]] = []
    starts, stops = snapshot.offsets[shards], snapshot.offsets[shards + 1]
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        if spans and spans[-1][1] == start:
            spans[-1] = spans[-1][0], stop
        else:
            spans.append((start, stop))
    return spans


def _rows_by_codes(
    snapshot: Snapshot, metadata: Metadata, shards: np.ndarray, equals: Mapping[str, Values]
) -> np.ndarray | None:
    """Return the rows with these values; None where that is for SQL to find out.

    A value that occurs nowhere is left to SQL too, which names those that do.
    """
    wanted: list[tuple[np.ndarray, list[int]]] = []
    for column, values in equals.items():
        known = metadata.codes(column)
        if known is None:
            return None
        numbers = []
        for value in values:
            if value is None:
                if not bool((known.codes == -1).any()):
                    return None
                numbers.append(-1)
            elif value in known.values:
                numbers.append(known.values.index(value))
            else:
                return None
        wanted.append((known.codes, numbers))
    pieces = []
    for start, stop in _spans(snapshot, shards):
        fits = np.ones(stop - start, bool)
        for codes, numbers in wanted:
            part = codes[start:stop]
            fits &= part == numbers[0] if len(numbers) == 1 else np.isin(part, numbers)
        pieces.append(np.flatnonzero(fits) + start)
    return np.concatenate(pieces) if pieces else np.empty(0, np.int64)


def _values(column: str, value: Any, metadata: Metadata) -> Values:
    """Return the wanted values of a column as a list, each of the column's type."""
    types = {entry.name: entry.type for entry in schema.columns() if entry.name != schema.VECTOR}
    if column.startswith(own_columns.PREFIX):
        types[column] = str(metadata.type_of(column))
    if column not in types:
        raise NotInStoreError(missing_column(column, list(types)))
    if hasattr(value, "tolist"):  # a NumPy array or scalar, a tensor
        value = value.tolist()
    items = list(value) if _is_list(value) else [value]
    if not items:
        raise UsageError(f"{column}=[] is an empty list: leave it out, or name a value")
    return [_typed(column, types[column], item) for item in items]


def _is_list(value: Any) -> bool:
    """Say whether several values were given, be it one; of an iterator nothing is taken."""
    if hasattr(value, "ndim"):
        return bool(value.ndim)
    return isinstance(value, Iterable) and not isinstance(value, str | bytes)


def _listed(snapshot: Snapshot, wanted: Mapping[str, Values]) -> dict[str, tuple[Any, ...]]:
    """Return listed values as the store has them.

    Sites of other libraries name a layer too (``blocks.3.hook_resid_post``): where each of
    a list does, the layers were listed with them.
    """
    found = {column: tuple(dict.fromkeys(values)) for column, values in wanted.items()}
    if "site" in wanted:
        present = [*snapshot.shards]
        pairs = [_site(present, name) for name in wanted["site"]]
        found["site"] = tuple(dict.fromkeys(site for site, _ in pairs))
        if all(layer is not None for _, layer in pairs):
            found.setdefault("layer", tuple(dict.fromkeys(layer for _, layer in pairs)))
    return found


def _typed(column: str, kind: str, value: Any) -> Any:
    if value is None:
        return None
    if kind == "string" and isinstance(value, str):
        return value
    if kind in ("int32", "int64") and not isinstance(value, bool | str):
        try:
            return operator.index(value)
        except TypeError:
            pass
    if kind == "bool" and isinstance(value, bool):
        return value
    if (
        kind in ("float32", "double")
        and isinstance(value, int | float)
        and not isinstance(value, bool)
    ):
        return float(value)
    numbers = {"float32": "a number", "double": "a number"}
    names = {"string": "text", "bool": "True or False", **numbers}
    raise UsageError(f"{column} takes {names.get(kind, 'an integer')}, got {value!r}")


def _shards(snapshot: Snapshot, wanted: Mapping[str, Values]) -> np.ndarray:
    """Return the numbers of the shards that fit model, site and layer."""
    chosen = list(range(len(snapshot.shards)))
    # Model first: which sites and layers there are is a question about that model.
    for column in _OF_SHARD:
        if column not in wanted:
            continue
        candidates = [snapshot.shards[number] for number in chosen]
        if column == "site":
            pairs = [_site(candidates, value) for value in wanted[column]]
            chosen = [n for n in chosen if any(at_site(snapshot.shards[n], *p) for p in pairs)]
            continue
        present = {getattr(shard, column) for shard in candidates}
        for value in wanted[column]:
            if value not in present:
                raise NotInStoreError(_absent(column, value, present, _about(wanted, column)))
        values = set(wanted[column])
        chosen = [n for n in chosen if getattr(snapshot.shards[n], column) in values]
    return np.array(chosen, np.int64)


def _about(wanted: Mapping[str, Values], column: str) -> str:
    """Return the conditions that narrowed the store before ``column`` was looked at."""
    before = _OF_SHARD[: _OF_SHARD.index(column)]
    told = [f"{name} {value!r}" for name in before for value in wanted.get(name, [])[:1]]
    return f"the store (of {', '.join(told)})" if told else "the store"


def _site(candidates: list[ShardEntry], name: str | None) -> tuple[str, int | None]:
    """Return the stored site that ``name`` means, and the layer if it names one."""
    present = {shard.site for shard in candidates}
    if name is None:
        raise UsageError("every row has a site: site=None finds nothing")
    if name in present:
        return name, None
    site, layer = schema.canonical_site(name)
    if not any(at_site(shard, site, layer) for shard in candidates):
        raise NotInStoreError(_absent("site", name, present, "the store"))
    return site, layer


def at_site(shard: ShardEntry, site: str, layer: int | None) -> bool:
    """Say whether a shard is of a site, and of the layer if the site's name has one."""
    return shard.site == site and (layer is None or shard.layer == layer)


def _rows_by_sql(
    snapshot: Snapshot,
    database: Database,
    shards: np.ndarray,
    where: str | None,
    equals: Mapping[str, Values],
) -> np.ndarray:
    conditions = []
    parameters: dict[str, Any] = {}
    if len(shards) < len(snapshot.shards):
        first = int(snapshot.offsets[shards[0]]) if len(shards) else 0
        last = int(snapshot.offsets[shards[-1] + 1]) if len(shards) else 0
        conditions.append(f"row_id >= {first} AND row_id < {last}")
    for column, values in equals.items():
        conditions.append(_condition(column, values, parameters))
    if where is not None:
        conditions.append(checked(where))
    text = f"SELECT row_id FROM activations WHERE {' AND '.join(conditions)}"
    found = database.table(text, parameters or None)
    rows: np.ndarray = found.column(0).to_numpy()
    if len(rows) and not bool((np.diff(rows) > 0).all()):
        rows = np.sort(rows)
    if len(shards) < len(snapshot.shards):
        # The range may take in shards that do not fit.
        rows = rows[np.isin(np.searchsorted(snapshot.offsets, rows, "right") - 1, shards)]
    return rows


def _condition(column: str, values: Values, parameters: dict[str, Any]) -> str:
    """Return SQL for ``column`` being one of ``values``; names the parameters it needs."""
    choices = []
    names = []
    for value in values:
        if value is None:
            choices.append(f"{quoting.name(column)} IS NULL")
        else:
            name = f"value_{len(parameters)}"
            parameters[name] = value
            names.append(f"${name}")
    if names:
        cast = "::FLOAT" if column == "norm" else ""
        choices.append(f"{quoting.name(column)} IN ({', '.join(name + cast for name in names)})")
    return f"({' OR '.join(choices)})"


def checked(where: str) -> str:
    """Return a condition in parentheses, sure that it is one expression.

    Raises:
        SqlError: it is not.
    """
    import duckdb

    from actstore.querying.sql import explained

    if not where.strip():
        raise SqlError("the condition is empty: leave it out, or write one such as task = 'maze'")
    with explained():
        duckdb.SQLExpression(where)
    return f"(\n{where}\n)"  # the line break ends a comment


def _check_present(database: Database, column: str, values: Values) -> None:
    parameters: dict[str, Any] = {}
    condition = _condition(column, values, parameters)
    text = f"SELECT DISTINCT {quoting.name(column)} FROM activations WHERE {condition}"
    found = set(map(_one_nan, database.table(text, parameters or None).column(0).to_pylist()))
    if column == "norm":
        return  # float32 against float: equality is for SQL to say
    for value in values:
        if _one_nan(value) not in found:
            listing = database.table(
                f"SELECT {quoting.name(column)} FROM activations GROUP BY 1 "
                f"ORDER BY count(*) DESC, 1 LIMIT {_LISTED + 1}"
            )
            present = set(listing.column(0).to_pylist())
            raise NotInStoreError(_absent(column, value, present, "the store"))


def _one_nan(value: Any) -> Any:
    """Return the value; of NaN, which equals nothing, always the same one, as sets compare it."""
    return value if value == value else math.nan


def _absent(column: str, value: Any, present: set[Any], where: str) -> str:
    missing = f"a row without {column}" if value is None else f"{column} {value!r}"
    if not present:
        return f"{missing} is not there: {where} is empty"
    return f"{missing} is not in {where}, which has {_listing(present)}"


def _listing(present: set[Any]) -> str:
    """Return values for a message: runs of integers as ranges, of many only some."""
    known = sorted(value for value in present if value is not None)
    parts = _ranges(known) if all(isinstance(v, int) for v in known) else list(map(_named, known))
    # Of questions a few tell as much as twenty.
    most = max(3, sum(len(", ".join(parts[:n])) <= _CHARACTERS for n in range(1, _LISTED + 1)))
    if len(parts) > most:
        parts = [*parts[:most], "…"]
    if None in present:
        parts.append("null")
    return ", ".join(parts)


def _named(value: Any) -> str:
    return repr(shorten(value, _LONGEST) if isinstance(value, str) else value)


def _ranges(numbers: list[int]) -> list[str]:
    parts: list[str] = []
    start = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            first, last = numbers[start], numbers[at - 1]
            parts.append(str(first) if first == last else f"{first} to {last}")
            start = at
    return parts
