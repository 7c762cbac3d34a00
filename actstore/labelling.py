"""Labels after capture: joined from a table, or computed in SQL from what the rows hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actstore import schema
from actstore.errors import NotInStoreError, SidecarError, UsageError
from actstore.ingestion.sidecars import SidecarTable, read_records
from actstore.querying.sql import Database
from actstore.storage.labels import set_labels
from actstore.storage.snapshot import open_snapshot

if TYPE_CHECKING:
    import pyarrow as pa

    from actstore.storage.snapshot import Snapshot


class Labelled(NamedTuple):
    """What became of a labelling."""

    commit: int | None
    """Number of the new commit; None when every label stood already."""
    changed: int
    """Rows whose label is another one now."""
    unchanged: int
    """Rows that were given the label they had."""
    unmatched: int = 0
    """Rows of the table that fit no row of the store."""


def label_from_table(
    root: Path | str,
    table: Path | str,
    *,
    on: Mapping[str, str] | Sequence[str],
    column: str = "label",
    where: str | None = None,
) -> Labelled:
    """Give each row the label that ``table`` holds for it, as one commit.

    Args:
        root: folder of the store.
        table: a csv, jsonl, json or parquet file.
        on: columns that must be equal, compared as text; a mapping where the table's
            column has another name (``{"example_id": "pair_id"}``).
        column: the table's column that holds the label; empty or null takes a label away.
        where: SQL condition over the metadata; other rows keep their label.

    Raises:
        StoreNotFoundError: there is no store at ``root``.
        UsageError: ``on`` is empty.
        NotInStoreError: ``on`` names a column that the schema does not have.
        SidecarError: the table cannot be read, lacks a column, gives one row two labels,
            or fits no row at all.
        SqlError: ``where`` is refused or fails.
    """
    path = Path(table)
    joined = dict(on) if isinstance(on, Mapping) else {name: name for name in on}
    _check_columns(joined)
    records = _chosen(path, read_records(path), [*joined.values(), column])
    found = SidecarTable(path=path, records=records)
    snapshot = open_snapshot(root)
    try:
        rows = _rows(snapshot, list(joined), where)
        given: list[str | None] = []
        ids: list[int] = []
        old: list[str | None] = []
        used: set[int] = set()
        for row in rows.to_pylist():
            record = found.find({theirs: row[ours] for ours, theirs in joined.items()})
            if record is not None:
                used.add(id(record))
                ids.append(row["row_id"])
                old.append(row["label"])
                given.append(record[column])
        if not ids:
            raise SidecarError(_nothing_fits(path, records[0], rows, joined))
        unmatched = sum(id(record) not in used for record in records)
        message = f"{path.name} on {', '.join(joined)}"
        return _apply(snapshot, ids, old, given, message)._replace(unmatched=unmatched)
    finally:
        snapshot.close()


def label_from_sql(root: Path | str, expression: str, *, where: str | None = None) -> Labelled:
    """Give each row the label that a SQL expression over its columns has, as one commit.

    Args:
        root: folder of the store.
        expression: such as ``CASE WHEN prediction = oracle THEN 'right' ELSE 'wrong' END``;
            null takes a label away.
        where: SQL condition over the metadata; other rows keep their label.

    Raises:
        StoreNotFoundError: there is no store at ``root``.
        SqlError: the expression or the condition is refused or fails.
    """
    snapshot = open_snapshot(root)
    database = Database(snapshot)
    try:
        rows = database.table(
            f"SELECT row_id, label, CAST(({expression}\n) AS VARCHAR) AS given "
            f"FROM activations{_condition(where)}"
        )
        ids, old, given = (rows[name].to_pylist() for name in ("row_id", "label", "given"))
        return _apply(snapshot, ids, old, given, f"SET {' '.join(expression.split())}")
    finally:
        database.close()
        snapshot.close()


def _apply(
    snapshot: Snapshot,
    ids: Sequence[int],
    old: Sequence[str | None],
    given: Sequence[str | None],
    message: str,
) -> Labelled:
    differing = [
        i for i, (before, after) in enumerate(zip(old, given, strict=True)) if before != after
    ]
    commit = set_labels(
        snapshot,
        np.array([ids[i] for i in differing], np.int64),
        [given[i] for i in differing],
        message=message,
    )
    return Labelled(commit, len(differing), len(ids) - len(differing))


def _rows(snapshot: Snapshot, names: list[str], where: str | None) -> pa.Table:
    database = Database(snapshot)
    try:
        wanted = ", ".join(dict.fromkeys([*names, "label", "row_id"]))
        return database.table(f"SELECT {wanted} FROM activations{_condition(where)}")
    finally:
        database.close()


def _condition(where: str | None) -> str:
    # The line break ends a comment, so that the parenthesis is always closed.
    return f" WHERE ({where}\n)" if where else ""


def _check_columns(joined: Mapping[str, str]) -> None:
    if not joined:
        raise UsageError("say which column joins labels to rows, such as example_id")
    for name in joined:
        if name not in schema.metadata_names():
            raise NotInStoreError(
                f"the schema has no column {name!r} to join on; "
                f"it has {', '.join(schema.metadata_names())}"
            )


def _chosen(path: Path, records: Sequence[Any], names: list[str]) -> list[dict[str, Any]]:
    """Return the records' join columns and label; other columns must not tell rows apart."""
    label = names[-1]
    for name in names:
        if name not in records[0]:
            has = ", ".join(map(str, records[0]))
            raise SidecarError(f"{path}: no column {name!r}; the table has {has}")
    return [
        {name: record.get(name) for name in names} | {label: _label(record.get(label))}
        for record in records
    ]


def _label(value: Any) -> str | None:
    if value is None or value == "":
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _nothing_fits(
    path: Path, first: Mapping[str, Any], rows: pa.Table, joined: Mapping[str, str]
) -> str:
    theirs = ", ".join(f"{name}={first[name]!r}" for name in joined.values())
    if not rows.num_rows:
        return f"{path}: the condition leaves no row of the store to label"
    row = rows.slice(0, 1).to_pylist()[0]
    ours = ", ".join(f"{name}={row[name]!r}" for name in joined)
    return (
        f"{path}: none of its rows fits a row of the store; "
        f"its first has {theirs}, the store's first {ours}"
    )
