"""Row groups that are kept of an older file: read as they were, by whoever reads Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actstore.storage import derived
from actstore.storage.row_groups import RowGroup, RowGroups, RowGroupWriter

_COLUMNS = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("norm", pa.float32()),
    ]
)


def _rows(first: int, count: int, label: str = "a") -> pa.Table:
    numbers = range(first, first + count)
    labels = [None if number % 5 == 0 else f"{label}{number % 3}" for number in numbers]
    return pa.table([list(numbers), labels, [number / 7 for number in numbers]], schema=_COLUMNS)


def _writer(path: Path, kept: RowGroups | None = None) -> RowGroupWriter:
    path.touch()
    return RowGroupWriter(path, _COLUMNS, kept, compression="snappy", use_dictionary=["label"])


@pytest.fixture
def older(tmp_path: Path) -> Iterator[RowGroups]:
    path = tmp_path / "older.parquet"
    with _writer(path) as writer:
        groups = [writer.add(writer.encoded(_rows(first, 100))) for first in (0, 100, 200)]
        writer.finish(groups, {b"said": b"by us"})
    derived.seal(path)
    found = RowGroups(path)
    yield found
    found.close()


def _assert_all_read(path: Path, expected: pa.Table, groups: list[int]) -> None:
    with pq.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)]
        assert file.metadata.num_rows == expected.num_rows
        assert file.read().equals(expected)
    assert sizes == groups
    with duckdb.connect() as database:
        relation = database.sql(f"SELECT * FROM read_parquet('{path}')")
        assert relation is not None
        assert relation.to_arrow_table().cast(_COLUMNS).equals(expected)
        del relation
        for number in (0, 150, 299, 1_000):  # the statistics are those of the rows
            asked = f"SELECT count(*) FROM read_parquet('{path}') WHERE id = {number}"
            count = expected["id"].to_pylist().count(number)
            assert database.execute(asked).fetchall() == [(count,)]
    assert pl.read_parquet(path).to_arrow().cast(_COLUMNS).equals(expected)


def test_what_is_written(older: RowGroups, tmp_path: Path) -> None:
    assert older.rows == [100, 100, 100]
    assert older.notes[b"said"] == b"by us"
    assert older.read(1, ["id"])["id"].to_pylist() == list(range(100, 200))
    assert not older.read(1, ["id"]).schema.metadata
    _assert_all_read(tmp_path / "older.parquet", _rows(0, 300), [100, 100, 100])


def test_kept_groups_in_another_order_with_new_ones_between(
    older: RowGroups, tmp_path: Path
) -> None:
    path = tmp_path / "newer.parquet"
    with _writer(path, older) as writer:
        seven, one = (writer.encoded(_rows(first, n)) for first, n in ((1_000, 7), (2_000, 1)))
        groups = [older[2], writer.add(seven), older[0], writer.add(one)]
        writer.finish(groups, {})
    expected = pa.concat_tables([_rows(200, 100), _rows(1_000, 7), _rows(0, 100), _rows(2_000, 1)])
    _assert_all_read(path, expected, [100, 7, 100, 1])


def test_a_column_written_anew(older: RowGroups, tmp_path: Path) -> None:
    """And that over files of files, as the labels of a store come."""
    path, expected = tmp_path / "older.parquet", _rows(0, 300)
    for step in range(3):
        labels = pa.table({"label": pa.array([f"{step} {at}" for at in range(100)], pa.string())})
        newer = tmp_path / f"{step}.parquet"
        file = RowGroups(path)
        with _writer(newer, file) as writer:
            groups = [file[0], writer.with_column(file[1], labels), file[2]]
            writer.finish(groups, {b"step": b"%d" % step})
        file.close()
        derived.seal(newer)
        assert derived.is_sound(newer)
        known = expected["label"]
        parts = known.slice(0, 100), labels["label"], known.slice(200)
        column = pa.chunked_array([part.combine_chunks() for part in parts])
        expected = expected.set_column(1, _COLUMNS.field("label"), column)
        _assert_all_read(newer, expected, [100, 100, 100])
        path = newer
        with pq.ParquetFile(newer) as read:
            group = read.metadata.row_group(1)
            chunks = [group.column(at) for at in range(3)]
            assert group.total_byte_size == sum(each.total_uncompressed_size for each in chunks)
            sizes = sum(each.total_compressed_size for each in chunks)
        again = RowGroups(newer)
        assert again[1].size == sizes
        assert again.notes[b"step"] == b"%d" % step
        again.close()


def test_nothing_of_it_kept_and_no_rows(older: RowGroups, tmp_path: Path) -> None:
    path = tmp_path / "none.parquet"
    with _writer(path) as writer:
        writer.finish([], {})
    _assert_all_read(path, _COLUMNS.empty_table(), [])
    found = RowGroups(path)
    assert found.rows == []
    found.close()


def test_an_older_file_that_was_cut_short(older: RowGroups, tmp_path: Path) -> None:
    with (tmp_path / "older.parquet").open("r+b") as file:
        file.truncate(older.end - 1)
    with pytest.raises(EOFError, match="ends at byte"), _writer(tmp_path / "n", older):
        pass


@pytest.mark.parametrize("what", ["plain", "text"])
def test_a_file_of_somebody_else(tmp_path: Path, what: str) -> None:
    path = tmp_path / "theirs.parquet"
    pq.write_table(_rows(0, 3), path) if what == "plain" else path.write_text("no Parquet")
    with pytest.raises((KeyError, TypeError, ValueError, pa.ArrowException)):
        RowGroups(path)


def test_a_row_group_says_what_it_holds(older: RowGroups) -> None:
    group = older[0]
    assert isinstance(group, RowGroup)
    assert (group.rows, older.end) == (100, 4 + sum(older[at].size for at in range(3)))
