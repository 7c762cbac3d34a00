"""Rows in every format hold what was asked for, whole."""

import csv
import io
import json
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actstore.commands import formats, output
from actstore.errors import UsageError


@pytest.fixture
def table() -> pa.Table:
    vectors = np.array([[0.1, -2.5, 3e-8], [1e30, 0.0, -0.0]], np.float32)
    return pa.table(
        {
            "example_id": ["a\nb", 'say "x", y'],
            "layer": pa.array([3, None], pa.int32()),
            "activation": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 3),
        }
    )


def vectors(table: pa.Table) -> np.ndarray:
    found: np.ndarray = table["activation"].combine_chunks().flatten().to_numpy().reshape(-1, 3)
    return found


@pytest.mark.parametrize("format", ["json", "jsonl", "csv"])
def test_text_formats_give_every_value_back_bit_for_bit(
    format: str, table: pa.Table, tmp_path: Path
) -> None:
    target = tmp_path / f"out.{format}"
    assert formats.write_rows(table.to_reader(max_chunksize=1), None, target) == 2
    text = target.read_text(encoding="utf-8")
    if format == "csv":
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        read = [json.loads(row["activation"]) for row in rows]
    else:
        lines = [json.loads(line) for line in text.splitlines()] if format == "jsonl" else []
        rows = lines or json.loads(text)
        read = [row["activation"] for row in rows]
    assert [row["example_id"] for row in rows] == table["example_id"].to_pylist()
    assert np.array(read, np.float32).tobytes() == vectors(table).tobytes()


def test_32_bit_floats_are_written_with_their_shortest_digits(
    table: pa.Table, tmp_path: Path
) -> None:
    formats.write_rows(table.to_reader(), "jsonl", tmp_path / "x")
    assert "[0.1, -2.5, 3e-08]" in (tmp_path / "x").read_text()


def test_parquet_keeps_the_types(table: pa.Table, tmp_path: Path) -> None:
    formats.write_rows(table.to_reader(), None, tmp_path / "x.parquet")
    assert pq.read_table(tmp_path / "x.parquet").equals(table)


def test_parquet_asks_for_a_file(table: pa.Table) -> None:
    with pytest.raises(UsageError, match="-o FILE"):
        formats.write_rows(table.to_reader(), "parquet")


def test_a_table_in_a_pipe_holds_all_rows_and_whole_texts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "ALIGNED", 10)
    texts = ["x" * 300, *(str(n) for n in range(999))]
    reader = pa.table({"n": list(range(1000)), "text": texts}).to_reader(max_chunksize=7)
    assert formats.write_rows(reader) == 1000
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "(1,000 rows)"
    assert len(lines) == 1002
    assert lines[1].endswith(" " + "x" * 300)
    assert lines[1000] == "999  998"


def test_no_rows_are_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    formats.write_rows(pa.table({"n": pa.array([], pa.int64())}).to_reader())
    assert capsys.readouterr().out == "no rows\n"


def test_markdown_is_a_table_with_every_cell_whole(capsys: pytest.CaptureFixture[str]) -> None:
    table = pa.table({"a|b": ["x|y", None], "n": [1, 2]})
    assert formats.write_rows(table.to_reader(), "markdown") == 2
    assert capsys.readouterr().out == "| a\\|b | n |\n|---|---|\n| x\\|y | 1 |\n|  | 2 |\n"


@pytest.mark.parametrize(("format", "text"), [("json", "[]\n"), ("jsonl", ""), ("csv", "n\n")])
def test_no_rows_are_a_whole_document_too(
    format: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    formats.write_rows(pa.table({"n": pa.array([], pa.int64())}).to_reader(), format)
    assert capsys.readouterr().out == text


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "x.csv"
    target.write_text("old")
    schema = pa.schema({"n": pa.int64()})

    def batches() -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({"n": [1]}, schema)
        raise RuntimeError("the query failed half way")

    with pytest.raises(RuntimeError, match="half way"):
        formats.write_rows(pa.RecordBatchReader.from_batches(schema, batches()), None, target)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_result_is_as_readable_as_other_new_files(table: pa.Table, tmp_path: Path) -> None:
    formats.write_rows(table.to_reader(), None, tmp_path / "x.csv")
    (tmp_path / "other").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("x.csv", "other")]
    assert modes[0] == modes[1]


def test_a_missing_folder_is_named(table: pa.Table, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        formats.write_rows(table.to_reader(), "csv", tmp_path / "none" / "x.csv")


def test_a_name_that_says_no_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"says no format: end it in \.csv"):
        formats.write_rows(pa.table({"a": [1]}).to_reader(), None, tmp_path / "o.xyz")
    assert not list(tmp_path.iterdir())


def test_columns_of_one_name_are_numbered(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    formats.write_rows(table.to_reader(), None, tmp_path / "o.json")
    assert json.loads((tmp_path / "o.json").read_text()) == [{"a": 1, "a_1": 2}]
