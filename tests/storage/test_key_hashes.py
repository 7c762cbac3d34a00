"""Hashes of keys: the same from rows and from tables, different for different keys."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from actstore import schema
from actstore.storage import key_hashes

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_cells = {
    "string": st.none() | _texts,
    "int32": st.none() | st.integers(-(1 << 31), (1 << 31) - 1),
    "int64": st.none() | st.integers(-(1 << 63), (1 << 63) - 1),
}
_types = {column.name: column.type for column in schema.columns()}


@settings(deadline=None)
@given(st.data(), st.integers(1, 6))
def test_rows_and_tables_hash_alike(data: st.DataObject, rows: int) -> None:
    constants: dict[str, Any] = {}
    columns: dict[str, list[Any]] = {}
    for name in schema.key_names():
        cell = _cells[_types[name]]
        where = data.draw(st.sampled_from(["constant", "column", "both", "absent"]), name)
        if where in ("constant", "both"):
            constants[name] = data.draw(cell)
        if where in ("column", "both"):
            columns[name] = data.draw(st.lists(cell, min_size=rows, max_size=rows))
    found = key_hashes.hash_rows(rows, constants, columns)
    cells = {name: columns.get(name, [constants.get(name)] * rows) for name in schema.key_names()}
    arrow = schema.metadata_schema()
    table = pa.table(
        {name: pa.array(cells[name], arrow.field(name).type) for name in schema.key_names()}
    )
    assert found.tolist() == key_hashes.hash_table(table).tolist()
    chunked = pa.concat_tables([table.slice(row, 1) for row in range(rows)])
    assert found.tolist() == key_hashes.hash_table(chunked).tolist()
    whole = [key_hashes.key_of(constants, columns, row) for row in range(rows)]
    assert whole == list(zip(*cells.values(), strict=True))
    assert len(set(found.tolist())) == len(set(whole))


def test_neighbouring_keys_do_not_collide() -> None:
    numbers = range(-40, 40)
    names = [f"{number}" for number in range(40)]
    columns = list(itertools.product(names, numbers, numbers))
    hashes = key_hashes.hash_rows(
        len(columns),
        {"model": "m", "site": "s", "pooling": "last"},
        {
            "example_id": [name for name, _, _ in columns],
            "layer": [layer for _, layer, _ in columns],
            "position": [position for _, _, position in columns],
        },
    )
    assert len(np.unique(hashes)) == len(columns)


def test_a_value_counts_in_its_own_column_only() -> None:
    variants = [
        {name: value} for name in ("dataset", "split", "mode", "variant") for value in ("a", "b")
    ]
    hashes = {int(key_hashes.hash_rows(1, constants, {})[0]) for constants in variants}
    assert len(hashes) == len(variants)
    assert key_hashes.hash_rows(1, {"mode": None}, {}) == key_hashes.hash_rows(1, {}, {})
    swapped = [{"mode": "a", "variant": "b"}, {"mode": "b", "variant": "a"}]
    assert len({int(key_hashes.hash_rows(1, constants, {})[0]) for constants in swapped}) == 2


def test_numpy_numbers_hash_as_python_numbers() -> None:
    plain = key_hashes.hash_rows(2, {}, {"layer": [3, -1]})
    assert (
        plain.tolist()
        == key_hashes.hash_rows(2, {}, {"layer": [np.int32(3), np.int8(-1)]}).tolist()
    )


def test_a_description_leaves_nulls_out() -> None:
    key = key_hashes.key_of({"model": "m", "layer": 0, "site": "s"}, {"example_id": ["a", "b"]}, 1)
    assert key_hashes.describe(key) == "model=m, example_id=b, layer=0, site=s"
    assert key_hashes.describe_partition(("m", "s", None)) == "m, s, layer unknown"


def test_what_is_known_of_a_column_is_of_these_very_texts() -> None:
    rows = key_hashes._MANY
    cells: list[Any] = [f"example {number}" for number in range(rows)]

    def found() -> Any:
        return key_hashes.hash_rows(rows, {}, {"example_id": cells}).tolist()

    def expected() -> list[int]:
        return [int(key_hashes.hash_rows(1, {}, {"example_id": [cell]})[0]) for cell in cells]

    assert found() == found() == expected()
    cells[3] = "another"  # the caller's list, changed in place
    assert found() == expected()
    cells[3] = None
    assert found() == found() == expected()
    cells[3] = "another"
    other = key_hashes.hash_rows(rows, {}, {"dataset": cells}).tolist()
    assert other != found() == expected()


def test_what_is_known_of_a_column_is_of_these_very_types() -> None:
    rows = key_hashes._MANY
    numbers: list[Any] = list(range(rows - 1))
    for last in (None, 1, "1", np.int64(1), 1, "1", None):
        cells = [*numbers, last]
        expected = [key_hashes.hash_rows(1, {}, {"example_id": [cell]})[0] for cell in cells]
        for _ in range(2):
            assert key_hashes.hash_rows(rows, {}, {"example_id": cells}).tolist() == expected
