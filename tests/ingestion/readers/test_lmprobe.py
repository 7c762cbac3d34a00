"""lmprobe data sets: prompts joined to their vectors by shard and row, other tokens left out."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from actstore.errors import UsageError
from actstore.ingestion.run import ingest
from tests.ingestion.storing import round_trip, stored_rows
from tests.layouts import lmprobe as layout


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_round_trip(tmp_path: Path, dtype: torch.dtype) -> None:
    expected = layout.write(tmp_path / "source", dtype=dtype)
    summary = round_trip(tmp_path / "source", tmp_path / "store", expected)
    assert (summary.recipe, summary.layers, summary.files_read) == ("lmprobe", (0, 3), 4)


def test_tokens_before_the_last_are_left_out_and_named(tmp_path: Path) -> None:
    expected = layout.write(tmp_path / "source", sequences=True)
    summary = round_trip(tmp_path / "source", tmp_path / "store", expected)
    assert any("the others (4 files) are not" in note for note in summary.notes)
    assert summary.unmatched_count >= 4


def test_columns_of_the_index_are_mapped(tmp_path: Path) -> None:
    layout.write(tmp_path / "source")
    given = {"task": "category", "label": "perplexity_mean", "example_id": "text"}
    ingest(tmp_path / "source", tmp_path / "store", map=given, first_k=2)
    rows = stored_rows(tmp_path / "store")
    assert len(rows) == 2 * 2 * 2
    for row in rows:
        number = row["example_index"]
        assert (row["task"], row["label"]) == (f"c{number % 3}", str(1.5 + number))
        assert row["example_id"] == f"Prompt {number}"
    summary = ingest(tmp_path / "source", tmp_path / "other", map={"task": "none"})
    assert "no column 'none' for task" in summary.refused[0].reason


def test_an_index_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    layout.write(tmp_path / "source")
    path = next((tmp_path / "source" / "index").iterdir())
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    summary = ingest(tmp_path / "source", tmp_path / "one")
    assert {"index places 3 prompts in shard" in r.reason for r in summary.refused} == {True}
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), path)
    with pytest.raises(Exception, match=r"two prompts lie at row \d of shard \d"):
        ingest(tmp_path / "source", tmp_path / "two", strict=True)


def test_a_model_that_is_not_recorded_must_be_named(tmp_path: Path) -> None:
    expected = layout.write(tmp_path / "source")
    path = next((tmp_path / "source" / "index").iterdir())
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    with pytest.raises(UsageError, match="--model"):
        ingest(tmp_path / "source", tmp_path / "store")
    round_trip(tmp_path / "source", tmp_path / "store", expected, model=layout.MODEL)
