"""Labels from a table that the user names, joined while rows come in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actstore import schema
from actstore.errors import SidecarError, UsageError
from actstore.ingestion.sidecar_table import SidecarTable, read_records
from actstore.ingestion.values import label
from actstore.storage.rows import RowBatch


class Labels:
    """A table with a column ``label`` (or ``class``) and the columns to join by."""

    def __init__(self, path: Path, on: Sequence[str]) -> None:
        """Read the table.

        Raises:
            UsageError: no join column, or one that the schema does not have.
            SidecarError: the table cannot be read, lacks a column or repeats a key.
        """
        if not on:
            raise UsageError("--labels needs --on COLUMN, such as --on example_id")
        unknown = [name for name in on if name not in schema.metadata_names()]
        if unknown:
            raise UsageError(
                f"--on {unknown[0]}: no such column; the schema has "
                f"{', '.join(schema.metadata_names())}"
            )
        self._on = tuple(on)
        self._table = SidecarTable(path, read_records(path))
        first = self._table.records[0]
        if "label" not in first:
            raise SidecarError(
                f"{path}: no column 'label'; the table has {', '.join(map(str, first))}"
            )
        self._table.find(dict.fromkeys(on, ""))  # builds the index, names what is wrong
        self.path = path
        self.asked = 0
        """Rows that were looked up."""
        self.found = 0
        """Rows that have a label in the table."""

    def apply(self, batch: RowBatch) -> RowBatch:
        """Return the batch with the table's labels; rows that are not in it keep theirs."""
        varying = [name for name in self._on if name in batch.columns]
        self.asked += len(batch)
        if not varying:
            label = self._label({name: batch.constants.get(name) for name in self._on})
            if label is None:
                return batch
            self.found += len(batch)
            columns = {name: column for name, column in batch.columns.items() if name != "label"}
            return RowBatch(
                vectors=batch.vectors,
                constants={**batch.constants, "label": label},
                columns=columns,
            )
        given = batch.columns.get("label") or [batch.constants.get("label")] * len(batch)
        labels: list[Any] = []
        for row, before in enumerate(given):
            values = {name: batch.constants.get(name) for name in self._on}
            values.update({name: batch.columns[name][row] for name in varying})
            label = self._label(values)
            self.found += label is not None
            labels.append(before if label is None else label)
        return RowBatch(
            vectors=batch.vectors,
            constants={name: value for name, value in batch.constants.items() if name != "label"},
            columns={**batch.columns, "label": labels},
        )

    def _label(self, values: dict[str, Any]) -> str | None:
        if None in values.values():
            return None
        record = self._table.find(values)
        return label(record.get("label")) if record is not None else None
