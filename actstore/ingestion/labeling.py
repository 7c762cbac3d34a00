"""Labels after capture: from a table joined by columns, or from an SQL expression."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from actstore import schema
from actstore.errors import NotInStoreError, SidecarError, UsageError
from actstore.ingestion.sidecar_table import SidecarTable, read_records
from actstore.ingestion.values import label as label_text
from actstore.querying import filters
from actstore.querying.info import EXAMPLE
from actstore.querying.metadata import Metadata
from actstore.querying.sql import Database
from actstore.storage import key_hashes
from actstore.storage.files import LocalFiles
from actstore.storage.labels import set_labels
from actstore.storage.manifest import EMPTY
from actstore.storage.scratch import scratch
from actstore.storage.snapshot import Snapshot, open_snapshot

_EXAMPLES = 3
_AT_ONCE = 4_096
_HASHED = 1 << 18
"""Rows whose examples are told apart at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """What a labelling did."""

    rows: int
    """Rows that the expression or table spoke of."""
    changed: int
    """Rows among them whose label is another now."""
    labels: Mapping[str, int] = field(default_factory=dict)
    """Rows per label given, changed or not."""
    examples: Mapping[str, int] = field(default_factory=dict)
    """Examples that these rows are of, likewise."""
    unmatched: int = 0
    """Entries of the table that no row matches."""
    unmatched_examples: Sequence[str] = ()
    commit: int | None = None
    """Number of the new commit; None when no label changed."""


def label_by_expression(
    store: Path | str, expression: str, *, where: str | None = None, message: str | None = None
) -> Labelled:
    """Set the label of rows to the value of an SQL expression over their columns.

    Args:
        store: folder of the store.
        expression: DuckDB SQL over the columns of ``activations``, such as
            ``CASE WHEN contains(lower(prediction), lower(oracle)) THEN 'correct' END``;
            its value is stored as text; NULL, NaN and an empty text take the label away.
        where: SQL condition; rows that do not meet it keep their label.
        message: what the log says.

    Raises:
        SqlError: the expression or condition is refused or fails.
        StoreNotFoundError: there is no store at that path.
    """
    snapshot = open_snapshot(store)
    rows, old, new = _evaluate(snapshot, _label_query(expression, where))
    new = [label_text(label) for label in new]
    return _apply(snapshot, rows, old, new, message or f"label set to {expression}")


def label_by_function(
    store: Path | str,
    function: Callable[[dict[str, Any]], str | None],
    *,
    where: str | None = None,
    message: str | None = None,
) -> Labelled:
    """Set the label of rows to what a function makes of their metadata.

    Args:
        store: folder of the store.
        function: given all metadata columns of a row as a dict; returns its label, None or an
            empty text to take it away.
        where: SQL condition; rows that do not meet it keep their label.
        message: what the log says.

    Raises:
        UsageError: it returned something else than text or None.
        SqlError: the condition is refused or fails.
        StoreNotFoundError: there is no store at that path.
    """
    snapshot = open_snapshot(store)
    names = ", ".join(["row_id", *schema.metadata_names()])
    database = Database(snapshot)
    try:
        table = database.table(f"SELECT {names} FROM activations{_condition(where)}")
    finally:
        database.close()
    new: list[str | None] = []
    for batch in table.to_batches(max_chunksize=_AT_ONCE):
        for row in batch.to_pylist():
            label = function(row)
            if label is not None and not isinstance(label, str):
                raise UsageError(
                    f"a label is text or None, and {row['example_id']} (row {row['row_id']}) got "
                    f"{label!r}: return str(…) of it"
                )
            new.append(label_text(label))
    name = getattr(function, "__name__", type(function).__name__)
    rows, old = table["row_id"].to_pylist(), table["label"].to_pylist()
    return _apply(snapshot, rows, old, new, message or f"label set by {name}")


def check_expression(expression: str, where: str | None = None) -> None:
    """Refuse a label expression that could not be run on any store.

    Raises:
        SqlError: says what is wrong with it.
    """
    with scratch("label") as folder:
        _evaluate(Snapshot(LocalFiles(folder), EMPTY), _label_query(expression, where))


def _label_query(expression: str, where: str | None) -> str:
    return (
        f"SELECT row_id, label, CAST(({expression}\n) AS VARCHAR) "
        f"FROM activations{_condition(where)}"
    )


def label_by_table(
    store: Path | str,
    table: Path | str,
    *,
    on: Sequence[str],
    column: str = "label",
    where: str | None = None,
    message: str | None = None,
) -> Labelled:
    """Set labels from a csv, jsonl, json or parquet table.

    Args:
        store: folder of the store.
        table: file with one entry per example (or whatever ``on`` identifies).
        on: schema columns to join by; ``example_id=pair_id`` joins the schema's
            ``example_id`` with the table's ``pair_id``. Values are compared as text.
        column: the table's column that holds the label; an empty value, null or NaN takes the
            label away, any other is stored as text, as an ingest would: true as ``true``.
            Entries may repeat as long as their labels agree.
        where: SQL condition; rows that do not meet it keep their label.
        message: what the log says.

    Raises:
        UsageError: a column to join by is not in the schema.
        SidecarError: the table cannot be read, lacks a column, or contradicts itself.
        NotInStoreError: no row matches any entry.
        SqlError: the condition is refused or fails.
    """
    snapshot = open_snapshot(store)
    pairs = _pairs(on)
    path = Path(table)
    records = read_records(path)
    if not any(column in record for record in records):
        raise SidecarError(
            f"{path}: no column {column!r} with the labels; "
            f"the table has {', '.join(map(str, records[0]))} (choose one with --column)"
        )
    # Other columns may tell entries apart (say, one per layer); that is no contradiction.
    wanted = {column, *(theirs for _, theirs in pairs)}
    records = [{name: r[name] for name in r if name in wanted} for r in records]
    records = list({repr(record): record for record in records}.values())
    index = SidecarTable(path, records)
    names = [ours for ours, _ in pairs]
    cells = ", ".join(f"CAST({name} AS VARCHAR)" for name in names)
    database = Database(snapshot)
    try:
        columns = database.table(
            f"SELECT row_id, label, {cells} FROM activations{_condition(where)}"
        ).columns
    finally:
        database.close()
    rows: list[int] = []
    old: list[str | None] = []
    new: list[str | None] = []
    used: set[int] = set()
    found: dict[tuple[Any, ...], Any] = {}
    lists = [array.to_pylist() for array in columns]
    for row, label, *key in zip(*lists, strict=True):
        cell = tuple(key)
        if cell not in found:
            values = {theirs: value for (_, theirs), value in zip(pairs, cell, strict=True)}
            found[cell] = None if None in cell else index.find(values)
        record = found[cell]
        if record is not None and column in record:
            rows.append(row)
            old.append(label)
            new.append(label_text(record[column]))
            used.add(id(record))
    left = [
        ", ".join(str(record.get(theirs)) for _, theirs in pairs)
        for record in records
        if id(record) not in used
    ]
    if not rows:
        sample = next(iter(found), ())
        raise NotInStoreError(
            f"no row matches any entry of {path} by {', '.join(on)}: the table has "
            f"{'; '.join(left[:_EXAMPLES])} ..., the store has {', '.join(map(str, sample))} ..."
        )
    result = _apply(snapshot, rows, old, new, message or f"labels from {path.name}")
    return dataclasses.replace(
        result, unmatched=len(left), unmatched_examples=tuple(left[:_EXAMPLES])
    )


def _pairs(on: Sequence[str]) -> list[tuple[str, str]]:
    if not on:
        raise UsageError("labels from a table need a column to join by, such as example_id")
    pairs = []
    for pair in on:
        ours, _, theirs = pair.partition("=")
        if ours not in schema.metadata_names():
            raise UsageError(
                f"cannot join by {ours!r}: no such column; the schema has "
                f"{', '.join(schema.metadata_names())}"
            )
        pairs.append((ours, theirs or ours))
    return pairs


def _condition(where: str | None) -> str:
    return f" WHERE {filters.checked(where)}" if where else ""


def _evaluate(
    snapshot: Snapshot, query: str
) -> tuple[list[int], list[str | None], list[str | None]]:
    database = Database(snapshot)
    try:
        rows, old, new = (column.to_pylist() for column in database.table(query).columns)
    finally:
        database.close()
    return rows, old, new


def _apply(
    snapshot: Snapshot,
    rows: Sequence[int],
    old: Sequence[str | None],
    new: Sequence[str | None],
    message: str,
) -> Labelled:
    """Store the labels that differ, as one commit."""
    changed = [at for at in range(len(rows)) if old[at] != new[at]]
    commit = set_labels(
        snapshot,
        np.array([rows[at] for at in changed], np.int64),
        [new[at] for at in changed],
        message=message,
        seen=np.array(rows, np.int64),
    )
    given = ["(none)" if label is None else label for label in new]
    labels = dict(Counter(given).most_common())
    examples = _examples(snapshot, rows, given)
    return Labelled(
        rows=len(rows),
        changed=len(changed),
        labels=labels,
        examples={label: examples[label] for label in labels},
        commit=commit,
    )


def _examples(snapshot: Snapshot, rows: Sequence[int], labels: Sequence[str]) -> dict[str, int]:
    """Return how many examples the rows of each label are of."""
    metadata = Metadata(snapshot)
    found: dict[str, set[int]] = {}
    for start in range(0, len(rows), _HASHED):
        part = slice(start, start + _HASHED)
        table = metadata.read(np.array(rows[part], np.int64), EXAMPLE)
        hashes = key_hashes.hash_table(table, EXAMPLE).tolist()
        for label, each in zip(labels[part], hashes, strict=True):
            found.setdefault(label, set()).add(each)
    metadata.close()
    return {label: len(examples) for label, examples in found.items()}
