"""Ingests a folder into a store and reads it back, to compare with what a generator expects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from actstore.ingestion.report import IngestSummary
from actstore.ingestion.run import ingest
from actstore.storage.snapshot import open_snapshot

Row = dict[str, Any]


def stored_rows(store: Path) -> list[Row]:
    """Return every row of a store in its order, ``activation`` as a NumPy vector."""
    snapshot = open_snapshot(store)
    rows: list[Row] = pq.read_table(snapshot.metadata_file()).to_pylist()
    for number, row in enumerate(rows):
        row["row_id"] = number
        row["activation"] = snapshot.gather(np.array([number]))[0]
    snapshot.close()
    return rows


def assert_same_rows(one: Path, other: Path) -> None:
    """Check that two stores hold the same rows in the same order, but for the run of each."""
    rows, expected = stored_rows(one), stored_rows(other)
    assert len(rows) == len(expected) > 0
    for row, wanted in zip(rows, expected, strict=True):
        row.pop("run_id"), wanted.pop("run_id")
        assert row.pop("activation").tobytes() == wanted.pop("activation").tobytes()
        assert row == wanted


def assert_rows(found: Sequence[Row], expected: Sequence[Row]) -> None:
    """Compare rows with what was expected: their order, every expected column, every bit."""
    ordered = sorted(expected, key=_place)
    names = [(row["example_id"], row.get("position"), row["source"]) for row in ordered]
    assert [(row["example_id"], row["position"], row["source"]) for row in found] == names
    for row, wanted in zip(found, ordered, strict=True):
        columns = {name: value for name, value in wanted.items() if name != "activation"}
        assert {name: row[name] for name in columns} == columns
        assert row["activation"].dtype == wanted["activation"].dtype
        assert row["activation"].tobytes() == wanted["activation"].tobytes()


def _place(row: Row) -> tuple[str, bool, int]:
    layer = row["layer"]
    return row["site"], layer is None, layer or 0


def round_trip(source: Path, store: Path, expected: Sequence[Row], **options: Any) -> IngestSummary:
    """Ingest ``source`` twice: all rows are stored bit for bit, and the second time none."""
    summary = ingest(source, store, **options)
    assert not summary.refused
    assert_rows(stored_rows(store), expected)
    assert summary.rows_written == len(expected)
    again = ingest(source, store, **options)
    assert (again.rows_written, again.rows_present) == (0, len(expected))
    assert again.commit is None
    return summary
