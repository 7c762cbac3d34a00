"""Labels from tables and from SQL: joined as text, one commit, nothing but labels changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actstore import labelling
from actstore.errors import NotInStoreError, SidecarError, SqlError, StoreNotFoundError, UsageError
from actstore.storage.manifest import Run, now
from actstore.storage.rows import RowBatch
from actstore.storage.snapshot import open_snapshot
from actstore.storage.writer import StoreWriter


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two layers of three examples in two modes; ids are numbers written as text."""
    root = tmp_path / "store"
    with StoreWriter(root, run=Run(run_id="r", kind="ingest", started_at=now())) as writer:
        for layer in (0, 1):
            with writer.file():
                writer.add(
                    RowBatch(
                        vectors=np.full((6, 4), layer, np.float32),
                        constants={
                            "model": "m",
                            "site": "resid_post",
                            "pooling": "last",
                            "layer": layer,
                        },
                        columns={
                            "example_id": ["1", "2", "3"] * 2,
                            "mode": ["tqa"] * 3 + ["vqa"] * 3,
                            "oracle": ["North", "East", "West"] * 2,
                            "prediction": ["it is north", "north", "west."] * 2,
                        },
                    )
                )
        writer.commit(operation="ingest", message="")
    return root


def labels(store: Path) -> list[str | None]:
    found: list[str | None] = pq.read_table(open_snapshot(store).metadata_file())[
        "label"
    ].to_pylist()
    return found


def write(path: Path, records: list[dict[str, object]]) -> Path:
    if path.suffix == ".csv":
        names = list(records[0])
        lines = [names, *[[str(record[name]) for name in names] for record in records]]
        path.write_text("\n".join(",".join(line) for line in lines) + "\n")
    elif path.suffix == ".json":
        path.write_text(json.dumps(records))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        pq.write_table(pa.Table.from_pylist(records), path)
    return path


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
def test_a_table_of_any_format_labels_every_layer(suffix: str, store: Path, tmp_path: Path) -> None:
    table = write(tmp_path / f"t.{suffix}", [{"id": 1, "label": "a"}, {"id": 3, "label": "b"}])
    done = labelling.label_from_table(store, table, on={"example_id": "id"})
    assert done == labelling.Labelled(commit=2, changed=8, unchanged=0, unmatched=0)
    assert labels(store) == ["a", None, "b"] * 4


def test_several_columns_join_together(store: Path, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"example_id": "1", "mode": "tqa", "label": "a"},
        {"example_id": "1", "mode": "vqa", "label": "b"},
    ]
    table = write(tmp_path / "t.csv", rows)
    labelling.label_from_table(store, table, on=["example_id", "mode"])
    assert labels(store) == ["a", None, None, "b", None, None] * 2


def test_rows_of_the_table_that_fit_nothing_are_counted(store: Path, tmp_path: Path) -> None:
    table = write(tmp_path / "t.json", [{"id": i, "label": "a"} for i in (3, 4, 5)])
    assert labelling.label_from_table(store, table, on={"example_id": "id"}).unmatched == 2


def test_the_same_labels_again_make_no_commit(store: Path, tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", [{"example_id": 1, "label": "a"}])
    labelling.label_from_table(store, table, on=["example_id"])
    again = labelling.label_from_table(store, table, on=["example_id"])
    assert again == labelling.Labelled(commit=None, changed=0, unchanged=4, unmatched=0)


def test_an_empty_cell_takes_the_label_away(store: Path, tmp_path: Path) -> None:
    labelling.label_from_sql(store, "'x'")
    table = write(tmp_path / "t.csv", [{"example_id": 2, "label": ""}])
    labelling.label_from_table(store, table, on=["example_id"])
    assert labels(store) == ["x", None, "x"] * 4


def test_truth_values_become_lower_case_words(store: Path, tmp_path: Path) -> None:
    table = write(tmp_path / "t.json", [{"example_id": "1", "right": True}])
    labelling.label_from_table(store, table, on=["example_id"], column="right")
    assert labels(store)[0] == "true"


def test_other_columns_may_differ_but_labels_may_not(store: Path, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"example_id": "1", "layer": 0, "label": "a"},
        {"example_id": "1", "layer": 1, "label": "a"},
    ]
    table = write(tmp_path / "t.json", rows)
    assert labelling.label_from_table(store, table, on=["example_id"]).changed == 4
    rows[1]["label"] = "b"
    write(table, rows)
    with pytest.raises(SidecarError, match="example_id='1'"):
        labelling.label_from_table(store, table, on=["example_id"])


def test_a_table_that_fits_nothing_shows_why(store: Path, tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", [{"example_id": "one", "label": "a"}])
    with pytest.raises(SidecarError, match=r"example_id='one'.*example_id='1'"):
        labelling.label_from_table(store, table, on=["example_id"])


def test_wrong_columns_are_named(store: Path, tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", [{"example_id": 1, "class": "a"}])
    with pytest.raises(SidecarError, match="no column 'label'; the table has example_id, class"):
        labelling.label_from_table(store, table, on=["example_id"])
    with pytest.raises(NotInStoreError, match="'id'"):
        labelling.label_from_table(store, table, on=["id"])
    with pytest.raises(UsageError, match="which column"):
        labelling.label_from_table(store, table, on=[])


def test_sql_computes_a_label_from_the_columns(store: Path) -> None:
    grade = (
        "CASE WHEN contains(lower(prediction), lower(oracle)) THEN 'correct' "
        "ELSE 'incorrect' END -- a comment"
    )
    done = labelling.label_from_sql(store, grade)
    assert done == labelling.Labelled(commit=2, changed=12, unchanged=0)
    assert labels(store) == ["correct", "incorrect", "correct"] * 4


def test_a_condition_leaves_the_other_rows_alone(store: Path, tmp_path: Path) -> None:
    labelling.label_from_sql(store, "'old'")
    labelling.label_from_sql(store, "'new'", where="layer = 1 OR mode = 'vqa'")
    table = write(tmp_path / "t.csv", [{"example_id": 1, "label": "table"}])
    labelling.label_from_table(store, table, on=["example_id"], where="layer = 0")
    assert labels(store) == ["table", "old", "old", "table", "new", "new"] + ["new"] * 6


def test_a_label_can_be_a_number_in_sql(store: Path) -> None:
    labelling.label_from_sql(store, "layer")
    assert labels(store) == ["0"] * 6 + ["1"] * 6


@pytest.mark.parametrize(
    "expression", ["prediction ==== oracle", "nothing", "1); DROP VIEW activations; --"]
)
def test_wrong_sql_is_refused_and_changes_nothing(expression: str, store: Path) -> None:
    with pytest.raises(SqlError):
        labelling.label_from_sql(store, expression)
    assert open_snapshot(store).manifest.number == 1


def test_no_store_no_labels(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        labelling.label_from_sql(tmp_path / "none", "'a'")
    assert not (tmp_path / "none").exists()
