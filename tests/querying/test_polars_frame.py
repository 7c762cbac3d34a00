"""The Polars frame: the same answers as reading everything, with less read."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from actstore import schema
from actstore.api.store import Store
from actstore.api.store import open as open_store
from actstore.storage.snapshot import Snapshot, open_snapshot
from tests.querying import stores


@pytest.fixture
def matrices(tmp_path: Path) -> list[np.ndarray]:
    return stores.layered(tmp_path / "store")


@pytest.fixture
def store(tmp_path: Path, matrices: list[np.ndarray]) -> Iterator[Store]:
    with open_store(tmp_path / "store") as found:
        yield found


def test_everything(store: Store, matrices: list[np.ndarray]) -> None:
    frame = store.frame()
    assert frame.collect_schema().names() == [*(c.name for c in schema.columns()), "row_id"]
    assert frame.collect_schema()["activation"] == pl.Array(pl.Float16, 8)
    found = frame.collect()
    assert np.array_equal(found["activation"].to_numpy(), np.concatenate(matrices))
    assert found["row_id"].to_list() == list(range(36))
    assert found.schema == frame.collect_schema()


QUERIES = {
    "filter": lambda f: f.filter(pl.col("layer") == 1),
    "filter and head": lambda f: f.filter(pl.col("label") == "no").head(3),
    "head and filter": lambda f: f.head(5).filter(pl.col("label") == "no"),
    "slice": lambda f: f.slice(7, 9),
    "tail": lambda f: f.filter(pl.col("layer") > 0).tail(2),
    "one column": lambda f: f.select("label"),
    "vector alone": lambda f: f.filter(pl.col("label") == "yes").select("activation"),
    "count": lambda f: f.filter(pl.col("layer") == 2).select(pl.len()),
    "group": lambda f: f.group_by("layer", "label").agg(pl.len(), pl.col("norm").max()),
    "by vector": lambda f: f.filter(pl.col("activation").arr.get(0) > 0).select("row_id", "layer"),
    "by both": lambda f: f.filter(
        (pl.col("activation").arr.get(0) > 0) & (pl.col("layer") == 1)
    ).select("row_id"),
    "nothing": lambda f: f.filter(pl.col("layer") == 99),
    "row_id": lambda f: f.filter(pl.col("row_id").is_in([3, 30])).select("activation", "row_id"),
    "join": lambda f: f.select("example_id", "layer", "norm").join(
        f.filter(pl.col("layer") == 0).select("example_id", "label"), on="example_id"
    ),
}


@pytest.mark.parametrize("name", QUERIES)
def test_lazy_and_eager_agree(store: Store, name: str) -> None:
    frame = store.frame()
    everything = frame.collect().lazy()
    got = QUERIES[name](frame).collect()
    expected = QUERIES[name](everything).collect()
    order = [column for column in ("example_id", "layer", "label") if column in got.columns]
    if name in ("group", "join"):
        got, expected = got.sort(order), expected.sort(order)
    assert got.equals(expected)
    assert got.schema == expected.schema


def test_vectors_are_read_only_for_rows_that_are_left(
    tmp_path: Path, matrices: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    gather = Snapshot.gather

    def counting(self: Snapshot, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        read.extend(rows.tolist())
        return gather(self, rows, out)

    monkeypatch.setattr(Snapshot, "gather", counting)
    with open_store(tmp_path / "store") as store:
        frame = store.frame()
        frame.filter(pl.col("layer") == 1).select("label", "norm").collect()
        assert read == []
        frame.filter(pl.col("layer") == 1, pl.col("label") == "no").collect()
        assert read == [13, 16, 19, 22]


def test_mixed_widths_and_types(tmp_path: Path) -> None:
    matrices = stores.mixed(tmp_path / "s")
    with open_store(tmp_path / "s") as store:
        found = store.frame().select("activation").collect()
        assert found.schema["activation"] == pl.List(pl.Float32)
        expected = [*matrices[4].astype(np.float32).tolist(), *matrices[6].tolist()]
        assert found["activation"].to_list() == expected
        one = store.frame().filter(pl.col("layer") == 7).select("activation").collect()
        assert one["activation"].to_list() == expected[5:]
    half, single = stores.vectors(2, 3, "float16", 0), stores.vectors(2, 3, "float32", 1)
    stores.add(tmp_path / "t", half, layer=0)
    stores.add(tmp_path / "t", single, layer=1)
    with open_store(tmp_path / "t") as store:
        for frame in (store.frame(), store.frame().filter(pl.col("layer") == 0)):
            column = frame.collect()["activation"]
            assert column.dtype == pl.Array(pl.Float32, 3)
            rows = np.concatenate([half.astype(np.float32), single])[: len(column)]
            assert np.array_equal(column.to_numpy(), rows)


def test_the_plan_names_the_store(tmp_path: Path, store: Store) -> None:
    assert open_snapshot(tmp_path / "store").rows == 36
    assert "actstore" in store.frame().filter(pl.col("layer") == 1).explain()
