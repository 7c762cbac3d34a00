"""Metadata of chosen rows, across row groups of the metadata file."""

from pathlib import Path

import numpy as np
import pytest

from actstore.querying.metadata import Metadata
from actstore.storage import metadata_cache as stored
from actstore.storage.snapshot import open_snapshot
from tests.querying import stores


@pytest.fixture
def metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Metadata:
    monkeypatch.setattr(stored, "GROUP_ROWS", 7)
    stores.layered(tmp_path / "s")
    return Metadata(open_snapshot(tmp_path / "s"))


@pytest.mark.parametrize(
    "rows",
    [
        np.arange(36),
        np.arange(3, 30),
        np.array([35, 0, 17, 17, 6, 7]),
        np.arange(36)[::-1],
        np.array([20]),
        np.array([17, 30, 2, 16]),
        np.array([9, 9, 30]),
        np.empty(0, np.int64),
    ],
    ids=str,
)
def test_rows_come_in_the_asked_order(metadata: Metadata, rows: np.ndarray) -> None:
    table = metadata.read(rows, ["example_id", "row_id", "layer"])
    assert table.column_names == ["example_id", "row_id", "layer"]
    assert table["row_id"].to_pylist() == rows.tolist()
    assert table["layer"].to_pylist() == (rows // 12).tolist()
    assert table["example_id"].to_pylist() == [f"e{row % 12}" for row in rows.tolist()]
    norms = metadata.read(rows, ["norm"])["norm"].to_pylist()
    assert metadata.norms(rows).tolist() == metadata.norms(rows).tolist() == norms
    metadata.close()


def test_no_columns_still_count_rows(metadata: Metadata) -> None:
    assert metadata.read(np.arange(5), []).column_names == []


@pytest.mark.parametrize("column", ["task", "label", "split"])
def test_codes_say_the_same_as_the_column(metadata: Metadata, column: str) -> None:
    expected = metadata.read(np.arange(36), [column])[column].to_pylist()
    found = metadata.codes(column)
    assert found is not None
    assert len(set(found.values)) == len(found.values)
    assert [None if code < 0 else found.values[code] for code in found.codes] == expected
    metadata.close()


def test_only_columns_of_few_values_have_codes(metadata: Metadata) -> None:
    assert metadata.codes("example_id") is None
    assert metadata.codes("norm") is None
