"""Metadata columns in shards: what other shards have too is copied, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actstore import schema
from actstore.storage import column_chunks, shard
from actstore.storage.column_chunks import ColumnChunk, encoded
from actstore.storage.metadata_table import Fragment, metadata_table
from actstore.storage.remembered import Remembered
from actstore.storage.shard import ShardWriter, Written
from tests.storage.stores import vectors
from tests.torture.effort import examples

_TEXT = st.sampled_from(["", "a", "b", "ä", "yes", "nay", "a" * 300, None])
_CELLS = st.fixed_dictionaries(
    {
        "label": _TEXT,
        "question": _TEXT,
        "split": st.none(),
        "position": st.sampled_from([None, 0, -1, 1, (1 << 31) - 1, -(1 << 31)]),
        "example_index": st.sampled_from([None, 0, (1 << 63) - 1, -(1 << 63)]),
    }
)


def remembering(most: int) -> Remembered[tuple[str, int, int], tuple[pa.Array, ColumnChunk]]:
    """Return a memory of columns in which there is nothing yet."""
    return Remembered(most, column_chunks._weight)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with nothing kept."""
    monkeypatch.setattr(column_chunks, "_kept", remembering(column_chunks._KEPT_BYTES))


def fragment(cells: list[dict[str, object]], layer: int = 0) -> Fragment:
    constants = {"model": "m", "site": "s", "pooling": "last", "layer": layer, "run_id": "r"}
    columns = {name: [row[name] for row in cells] for name in cells[0]}
    columns["example_id"] = [f"e{number}" for number in range(len(cells))]
    return Fragment(constants, columns, range(len(cells)))


def written(path: Path, one: Fragment, matrix: np.ndarray) -> Written:
    writer = ShardWriter(path, width=matrix.shape[1], dtype="float16")
    writer.append(matrix, one)
    return writer.finish()


@settings(deadline=None, max_examples=examples(8))
@given(st.lists(st.lists(_CELLS, min_size=1, max_size=5), min_size=2, max_size=4), st.data())
def test_every_shard_has_its_own_metadata(
    shards: list[list[dict[str, object]]], data: st.DataObject
) -> None:
    """However much of it others have, or nearly have."""
    group = data.draw(st.sampled_from([1, 3, 100]), "rows per group")
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard, "GROUP_BYTES", 8 * group)
        for number, cells in enumerate(shards):
            path = Path(folder) / f"{number}.parquet"
            one = fragment(cells, number % 2)
            matrix = vectors(len(cells), 4, "float16", number)
            written(path, one, matrix)
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                table = file.read()
                assert file.metadata.num_row_groups == -(-len(cells) // group)
            table.validate(full=True)
            for name, column in one.columns.items():
                assert table[name].to_pylist() == column, name
            for name, value in one.constants.items():
                assert table[name].to_pylist() == [value] * len(cells), name
            assert table["split"].null_count == len(cells)
            found = table["activation"].combine_chunks().flatten().to_numpy()
            assert found.tobytes() == matrix.tobytes()


def test_the_same_rows_make_the_same_file_whatever_came_before(tmp_path: Path) -> None:
    cells: list[dict[str, object]] = [{"label": "yes", "question": "q"}] * 3
    matrix = vectors(3, 4)
    alone = written(tmp_path / "a", fragment(cells), matrix)
    written(tmp_path / "b", fragment([{**each, "label": "no"} for each in cells]), matrix)
    assert written(tmp_path / "c", fragment(cells), matrix).sha256 == alone.sha256


def test_footers_say_what_pyarrow_says(tmp_path: Path) -> None:
    """Beside the vectors' column, that of a file of pyarrow's own is the same."""
    cells: list[dict[str, object]] = [{"label": text, "question": None} for text in ("x", "y")]
    written(tmp_path / "s", fragment(cells), vectors(2, 4))
    table = pq.read_table(tmp_path / "s")
    plain = table.drop_columns(["activation"])
    ours = pq.read_metadata(tmp_path / "s").row_group(0).to_dict()
    (theirs,) = pq.ParquetFile(pa.BufferReader(column_chunks.written(plain, 2))).metadata.to_dict()[
        "row_groups"
    ]
    columns = {each["path_in_schema"]: each for each in ours["columns"]}
    vector = columns.pop("activation.list.element")
    for name in ("total_byte_size", "num_rows"):
        more = vector["total_uncompressed_size"] if name == "total_byte_size" else 0
        assert ours[name] == theirs[name] + more
    for each in theirs["columns"]:
        mine = columns.pop(each["path_in_schema"])
        for name in ("data_page_offset", "dictionary_page_offset", "file_offset"):
            del mine[name], each[name]
        assert mine == each
    assert not columns


def metadata(norms: list[float], label: str = "x") -> pa.Table:
    cells: list[dict[str, object]] = [{"label": label}] * len(norms)
    return metadata_table([fragment(cells)], np.array(norms, np.float32))


def test_equal_columns_are_encoded_once() -> None:
    first, second = encoded(metadata([1, 2])), encoded(metadata([3, 4]))
    for name, one, two in zip(schema.metadata_names(), first.chunks, second.chunks, strict=True):
        assert (one is two) == (name != "norm"), name


def test_numbers_that_are_equal_need_not_be_of_the_same_bits() -> None:
    at = schema.metadata_names().index("norm")
    zero, minus = (encoded(metadata([value])).chunks[at].data for value in (0.0, -0.0))
    assert zero != minus


def test_little_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = remembering(8_000)
    monkeypatch.setattr(column_chunks, "_kept", kept)
    first = encoded(metadata([1.0]))
    for number in range(2, 20):
        encoded(metadata([1.0] * number))
    assert 0 < sum(len(chunk.data) for _, chunk in kept._found.values()) < 8_000
    label = schema.metadata_names().index("label")
    again = encoded(metadata([1.0])).chunks[label]
    assert again is not first.chunks[label]
    assert again == first.chunks[label]
    monkeypatch.setattr(column_chunks, "_LONGEST_KEPT", 100)
    long = [encoded(metadata([1.0], "x" * 200)).chunks[label] for _ in range(2)]
    assert long[0] is not long[1]


def test_columns_of_other_types_are_no_metadata() -> None:
    """Their pages would be others than the footer says: with null or not, of other widths."""
    table = metadata([1.0])
    nullable = pa.schema([field.with_nullable(True) for field in table.schema])
    wide = table.schema.set(
        table.schema.get_field_index("layer"), pa.field("layer", pa.int64(), nullable=True)
    )
    for shape in (nullable, wide):
        with pytest.raises(ValueError, match="must have the columns"):
            encoded(table.cast(shape))
