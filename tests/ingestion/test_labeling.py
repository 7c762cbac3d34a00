"""Labels set after capture: by expression, by table, and what the errors say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actstore.errors import CommitError, NotInStoreError, SidecarError, SqlError, UsageError
from actstore.ingestion import labeling
from actstore.querying.sql import Database
from actstore.storage.compaction import compact
from actstore.storage.manifest import Run
from actstore.storage.rows import RowBatch
from actstore.storage.snapshot import open_snapshot
from actstore.storage.writer import StoreWriter


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Six rows: three examples, two modes."""
    root = tmp_path / "store"
    with StoreWriter(root, run=Run(run_id="r", kind="ingest", started_at="")) as writer:
        writer.add(
            RowBatch(
                vectors=np.arange(24, dtype=np.float32).reshape(6, 4),
                constants={"model": "m", "site": "resid_post", "layer": 1, "pooling": "last"},
                columns={
                    "example_id": ["1", "1", "2", "2", "003", "003"],
                    "mode": ["tqa", "vqa"] * 3,
                    "prediction": ["a cat", "dog", "Cat!", "cow", None, "hen"],
                    "oracle": ["cat"] * 6,
                },
            )
        )
        writer.commit(operation="ingest", message="six rows")
    return root


def labels(store: Path) -> list[str | None]:
    database = Database(open_snapshot(store))
    try:
        table = database.table("SELECT label FROM activations ORDER BY row_id")
        found: list[str | None] = table["label"].to_pylist()
        return found
    finally:
        database.close()


CONTAINS = (
    "CASE WHEN contains(lower(prediction), lower(oracle)) THEN 'correct' ELSE 'incorrect' END"
)


def test_an_expression_sets_every_row(store: Path) -> None:
    done = labeling.label_by_expression(store, CONTAINS)
    assert labels(store) == ["correct", "incorrect", "correct", *["incorrect"] * 3]
    assert (done.rows, done.changed, done.labels) == (6, 6, {"incorrect": 4, "correct": 2})
    again = labeling.label_by_expression(store, CONTAINS)
    assert (again.changed, again.commit) == (0, None)


def test_a_condition_limits_it_and_null_takes_a_label_away(store: Path) -> None:
    labeling.label_by_expression(store, "'x'")
    labeling.label_by_expression(store, "NULL", where="mode = 'vqa'")
    assert labels(store) == ["x", None] * 3


def test_labels_survive_compaction_and_are_in_the_shards_then(store: Path) -> None:
    labeling.label_by_expression(store, "mode")
    before = [shard.path for shard in open_snapshot(store).shards]
    compact(store)
    snapshot = open_snapshot(store)
    assert not snapshot.manifest.labels
    assert [shard.path for shard in snapshot.shards] != before
    assert labels(store) == ["tqa", "vqa"] * 3


@pytest.mark.parametrize("value", [True, False, 1, 1.5, [1, 2]])
def test_a_value_becomes_the_label_that_sql_makes_of_it(
    store: Path, tmp_path: Path, value: object
) -> None:
    table = tmp_path / "labels.jsonl"
    table.write_text(json.dumps({"example_id": "1", "label": value}))
    labeling.label_by_table(store, table, on=["example_id"])
    found = labels(store)[0]
    assert labeling.label_by_expression(store, str(value), where="example_id = '1'").changed == 0
    assert found == json.dumps(value)


def test_a_csv_joins_by_two_columns_as_text(store: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("example_id,mode,label\n1,tqa,yes\n003,vqa,no\n9,tqa,lost\n")
    done = labeling.label_by_table(store, table, on=["example_id", "mode"])
    assert labels(store) == ["yes", None, None, None, None, "no"]
    assert (done.rows, done.changed, done.unmatched) == (2, 2, 1)
    assert done.unmatched_examples == ("9, tqa",)


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet"])
def test_other_formats_and_other_column_names(store: Path, tmp_path: Path, suffix: str) -> None:
    records = [{"pair_id": 1, "is_faithful": True}, {"pair_id": 2, "is_faithful": False}]
    table = tmp_path / f"scores.{suffix}"
    if suffix == "json":
        table.write_text(json.dumps(records))
    elif suffix == "jsonl":
        table.write_text("\n".join(map(json.dumps, records)))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(records), table)
    labeling.label_by_table(store, table, on=["example_id=pair_id"], column="is_faithful")
    assert labels(store) == ["true", "true", "false", "false", None, None]


def test_contradicting_lines_are_refused(store: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("example_id,label\n1,yes\n1,no\n")
    with pytest.raises(SidecarError, match="repeats example_id='1'"):
        labeling.label_by_table(store, table, on=["example_id"])
    assert labels(store) == [None] * 6


def test_other_columns_are_no_contradiction(store: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("example_id,layer,label\n1,0,yes\n1,1,yes\n")
    assert labeling.label_by_table(store, table, on=["example_id"]).unmatched == 0
    assert labels(store) == ["yes", "yes", None, None, None, None]


def test_a_condition_limits_a_table_too(store: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("example_id,label\n1,yes\n2,no\n")
    labeling.label_by_table(store, table, on=["example_id"], where="mode = 'vqa' -- only these")
    assert labels(store) == [None, "yes", None, "no", None, None]


def test_an_expression_may_end_in_a_comment(store: Path) -> None:
    labeling.label_by_expression(store, "'x' -- all of them")
    assert labels(store) == ["x"] * 6


def test_nothing_matches_names_both_sides(store: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("example_id,label\nA7,yes\n")
    with pytest.raises(NotInStoreError, match=r"A7.*the store has 1"):
        labeling.label_by_table(store, table, on=["example_id"])


def test_wrong_columns_and_wrong_sql(store: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("example_id,verdict\n1,yes\n")
    with pytest.raises(SidecarError, match="no column 'label'"):
        labeling.label_by_table(store, table, on=["example_id"])
    with pytest.raises(UsageError, match="cannot join by 'id'"):
        labeling.label_by_table(store, table, on=["id"])
    with pytest.raises(SqlError):
        labeling.label_by_expression(store, "no_such_column")
    with pytest.raises(SqlError):
        labeling.label_by_expression(store, "'x'; DROP VIEW activations; SELECT 'y'")


def test_rows_that_others_label_meanwhile_are_not_labelled_by_halves(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that label the same rows one comes second, whole: no row keeps what neither left."""
    labeling.label_by_expression(store, "'a'", where="row_id < 3")
    evaluate = labeling._evaluate

    def late(*given: Any) -> Any:
        found = evaluate(*given)
        monkeypatch.setattr(labeling, "_evaluate", evaluate)
        labeling.label_by_expression(store, other, where=rows)
        return found

    other, rows = "'b'", "row_id < 3"
    monkeypatch.setattr(labeling, "_evaluate", late)
    with pytest.raises(CommitError, match=r"others have labelled the same rows .*run the command"):
        labeling.label_by_expression(store, "'a'")  # the first three have it, as it seems
    assert labels(store) == ["b"] * 3 + [None] * 3

    other, rows = "'c'", "row_id = 5"
    monkeypatch.setattr(labeling, "_evaluate", late)
    assert labeling.label_by_expression(store, "'a'", where="row_id < 5").changed == 5
    assert labels(store) == ["a"] * 5 + ["c"]
