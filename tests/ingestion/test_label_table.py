"""Labels from the user's own table, joined while rows come in."""

from __future__ import annotations

from pathlib import Path

import pytest

from actstore.errors import SidecarError, UsageError
from actstore.ingestion.run import ingest
from tests.ingestion.storing import stored_rows
from tests.layouts import amber, spatialeval


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_labels_are_joined_by_one_column(tmp_path: Path) -> None:
    amber.write_samples(tmp_path / "samples", samples=4, layers=2)
    amber.write_classification(tmp_path, good=[1, 2], bad=[])
    table = write(tmp_path / "labels.csv", "example_id,label\n2,fine\n3,poor\n4,\n9,none\n")
    summary = ingest(
        tmp_path / "samples",
        tmp_path / "store",
        model="m",
        labels=table,
        labels_on="example_id",
        allow_parent=tmp_path,
    )
    found = [(row["example_id"], row["label"]) for row in stored_rows(tmp_path / "store")]
    # What the recipe found stays where the table has nothing to say.
    assert found == 2 * [("1", "GOOD"), ("2", "fine"), ("3", "poor"), ("4", None)]
    assert summary.labels == {"GOOD": 2, "fine": 2, "poor": 2}
    assert "labels from labels.csv: 4 of 8 rows have one" in summary.notes


def test_labels_are_joined_by_several_columns(tmp_path: Path) -> None:
    spatialeval.write_cache(tmp_path / "cache", questions=1, kinds=1, ids="document")
    table = write(
        tmp_path / "labels.jsonl",
        '{"example_id": "mazenav.0", "mode": "tqa", "label": 1}\n'
        '{"example_id": "mazenav.0", "mode": "vqa", "label": true}\n',
    )
    ingest(tmp_path / "cache", tmp_path / "store", labels=table, labels_on=["example_id", "mode"])
    found = {
        (row["example_id"], row["mode"], row["label"]) for row in stored_rows(tmp_path / "store")
    }
    assert found == {
        ("mazenav.0", "tqa", "1"),
        ("mazenav.0", "vqa", "true"),
        ("spatialmap.0", "tqa", None),
        ("spatialmap.0", "vqa", None),
    }


def test_labels_can_be_joined_by_layer(tmp_path: Path) -> None:
    amber.write_samples(tmp_path / "samples", samples=2, layers=3)
    table = write(tmp_path / "labels.csv", "layer,label\n0,early\n2,late\n")
    ingest(tmp_path / "samples", tmp_path / "store", model="m", labels=table, labels_on="layer")
    found = [(row["layer"], row["label"]) for row in stored_rows(tmp_path / "store")]
    assert found == [(0, "early")] * 2 + [(1, None)] * 2 + [(2, "late")] * 2


@pytest.mark.parametrize(
    ("text", "on", "error", "reason"),
    [
        ("example_id,label\n1,a\n", None, UsageError, "needs --on"),
        ("example_id,label\n1,a\n", "id", UsageError, "--on id: no such column"),
        ("example_id,class\n1,a\n", "example_id", SidecarError, "no column 'label'"),
        ("id,label\n1,a\n", "example_id", SidecarError, "no column 'example_id' to join by"),
        ("example_id,label\n1,a\n1,b\n", "example_id", SidecarError, "row 2 repeats"),
        ("", "example_id", SidecarError, "holds no rows"),
    ],
)
def test_a_table_that_cannot_be_joined(
    tmp_path: Path, text: str, on: str | None, error: type[Exception], reason: str
) -> None:
    amber.write_samples(tmp_path / "samples", samples=1, layers=1)
    table = write(tmp_path / "labels.csv", text)
    with pytest.raises(error, match=reason):
        ingest(tmp_path / "samples", tmp_path / "store", model="m", labels=table, labels_on=on)
    assert not (tmp_path / "store").exists()
