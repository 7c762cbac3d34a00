"""Stores held against each other: what differs is found, how they lie on disk is not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actstore
from actstore.analysis.statistics.difference import StoreDifference, diff
from actstore.storage.compaction import compact
from tests.querying import stores


def held(a: Path, b: Path) -> StoreDifference:
    with actstore.open(a) as left, actstore.open(b) as right:
        return diff(left.select(), right.select())


def test_layout_does_not_matter(tmp_path: Path) -> None:
    matrix = stores.vectors(12, 8, "float16", 0)
    ids = [f"e{number}" for number in range(12)]
    plain: dict[str, Any] = {"label": ["a"] * 12, "task": [None] * 12}
    stores.add(tmp_path / "a", matrix, example_id=ids, **plain)
    for part in (slice(6, 12), slice(0, 3), slice(3, 6)):
        some = {name: cells[part] for name, cells in plain.items()}
        stores.add(tmp_path / "b", matrix[part], example_id=ids[part], **some)
    found = held(tmp_path / "a", tmp_path / "b")
    assert found.equal
    assert found.partitions[0].rows_b == 12
    compact(tmp_path / "b")
    assert held(tmp_path / "a", tmp_path / "b").equal


def test_equal_values_of_another_type_are_equal(tmp_path: Path) -> None:
    matrix = stores.vectors(6, 8, "float16", 0)
    stores.add(tmp_path / "a", matrix)
    stores.add(tmp_path / "b", matrix.astype(np.float32))
    found = held(tmp_path / "a", tmp_path / "b")
    assert found.equal
    assert found.partitions[0].types == ("float16", "float32")


def test_types_are_those_of_the_same_row(tmp_path: Path) -> None:
    halves, singles = (stores.vectors(3, 8, dtype, 0) for dtype in ("float16", "float32"))
    parts = [(halves, [f"h{n}" for n in range(3)]), (singles, [f"s{n}" for n in range(3)])]
    for name, order in (("a", parts), ("b", parts[::-1])):
        for matrix, ids in order:
            stores.add(tmp_path / name, matrix, example_id=ids)
    found = held(tmp_path / "a", tmp_path / "b")
    assert found.equal
    assert found.partitions[0].types is None
    with actstore.open(tmp_path / "a") as store, actstore.open(tmp_path / "b") as other:
        other.drop("example_id LIKE 's%'")
        other.write(
            {("resid_post", 0): singles.astype(np.float16)},
            {"example_id": parts[1][1]},
            model=stores.MODEL,
            pool="last",
        )
        (one,) = diff(store.select(), other.select()).partitions
    assert one.types == ("float32", "float16")


def test_what_only_one_has(tmp_path: Path) -> None:
    stores.layered(tmp_path / "a", layers=3)
    stores.layered(tmp_path / "b", layers=2)
    stores.add(tmp_path / "b", stores.vectors(12, 8, "float16", 0), layer=None)
    found = held(tmp_path / "a", tmp_path / "b")
    assert not found.equal
    assert [(one.layer, one.only_a, one.only_b) for one in found.partitions] == [
        (0, 0, 0),
        (1, 0, 0),
        (2, 12, 0),
        (None, 0, 12),
    ]
    assert len(found.only_a) == 10
    assert "example_id=e0, layer=2" in found.only_a[0]


def test_vectors_that_differ_and_by_how_much(tmp_path: Path) -> None:
    a = stores.vectors(6, 8, "float32", 0)
    b = a.copy()
    b[1, 3] += 2
    b[4] *= -1
    stores.add(tmp_path / "a", a)
    stores.add(tmp_path / "b", b)
    found = held(tmp_path / "a", tmp_path / "b")
    (part,) = found.partitions
    assert part.vectors == 2
    largest = float(np.abs(2 * a[4].astype(np.float64)).max())
    assert part.max_abs == pytest.approx(max(largest, 2), rel=1e-6)
    assert part.max_relative == pytest.approx(2)
    assert part.min_cosine == pytest.approx(-1)
    by_row = {one.row: one for one in found.vectors}
    assert len(by_row) == 2
    (flipped,) = [one for row, one in by_row.items() if "example_id=e4" in row]
    assert flipped.cosine == pytest.approx(-1)


def test_labels_and_other_metadata(tmp_path: Path) -> None:
    matrix = stores.vectors(4, 8, "float16", 0)
    plain: dict[str, Any] = {"task": [None] * 4}
    stores.add(tmp_path / "a", matrix, label=["x", "x", None, None], prediction=["1"] * 4, **plain)
    stores.add(
        tmp_path / "b", matrix, label=["x", "y", "x", None], prediction=["2", *"111"], **plain
    )
    found = held(tmp_path / "a", tmp_path / "b")
    assert found.partitions[0].columns == {"prediction": 1, "label": 2}
    assert found.partitions[0].vectors == 0
    assert [(one.column, one.a, one.b) for one in found.values] == [
        ("label", "x", "y"),
        ("label", None, "x"),
        ("prediction", "1", "2"),
    ]


def test_where_rows_came_from_is_no_difference(tmp_path: Path) -> None:
    matrix = stores.vectors(4, 8, "float16", 0)
    stores.add(tmp_path / "a", matrix, source=["old"] * 4)
    stores.add(tmp_path / "b", matrix, source=["new"] * 4)
    assert held(tmp_path / "a", tmp_path / "b").equal


def test_another_width(tmp_path: Path) -> None:
    stores.add(tmp_path / "a", stores.vectors(4, 8, "float16", 0))
    stores.add(tmp_path / "b", stores.vectors(4, 6, "float16", 0))
    (part,) = held(tmp_path / "a", tmp_path / "b").partitions
    assert part.widths == (8, 6)
    assert part.vectors == 4


def test_nan_is_equal_to_itself_and_nothing_else(tmp_path: Path) -> None:
    a = np.ones((3, 2), np.float32)
    a[:, 1] = np.nan
    b = a.copy()
    b[1, 1] = 5
    stores.add(tmp_path / "a", a)
    stores.add(tmp_path / "b", a)
    stores.add(tmp_path / "c", b)
    assert held(tmp_path / "a", tmp_path / "b").equal
    found = held(tmp_path / "a", tmp_path / "c")
    assert found.partitions[0].vectors == 1
    assert found.partitions[0].max_abs is not None
    assert math.isnan(found.partitions[0].max_abs)


def test_empty_selections(tmp_path: Path) -> None:
    stores.layered(tmp_path, layers=1)
    with actstore.open(tmp_path) as store:
        assert diff(store.select("false"), store.select("false")).partitions == ()
        assert not diff(store.select(), store.select("false")).equal
