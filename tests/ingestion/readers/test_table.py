"""Tables with a vector column: Parquet, Hugging Face data sets, SAELens caches, other stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import actstore
from actstore import cli
from actstore.errors import UsageError
from actstore.ingestion.run import ingest
from tests.ingestion.storing import stored_rows
from tests.layouts import amber

MODEL = "org/model"
HOOK = "blocks.3.hook_resid_post"


def matrix(rows: int, width: int = 6, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(dtype)


def vector_column(values: np.ndarray, fixed: bool = False) -> pa.Array:
    flat = pa.array(values.reshape(-1))
    if fixed:
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, flat)


def found(store: Path, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in stored_rows(store)]


def vectors(store: Path) -> np.ndarray:
    return np.stack([row["activation"] for row in stored_rows(store)])


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_parquet_file(tmp_path: Path, fixed: bool, dtype: Any) -> None:
    values = matrix(50, dtype=dtype)
    table = pa.table(
        {
            HOOK: vector_column(values, fixed),
            "label": [f"class {row % 3}" for row in range(50)],
            "uuid": [f"u{row}" for row in range(50)],
            "length": pa.array(range(50), pa.int16()),
        }
    )
    pq.write_table(table, tmp_path / "acts.parquet", row_group_size=17)
    summary = ingest(tmp_path / "acts.parquet", tmp_path / "store", model=MODEL)
    assert (summary.recipe, summary.detected) == ("parquet", True)
    assert vectors(tmp_path / "store").tobytes() == values.tobytes()
    names = ("example_id", "example_index", "label", "site", "layer", "source", "extra")
    assert found(tmp_path / "store", *names)[20] == (
        "acts:20",
        20,
        "class 2",
        "resid_post",
        3,
        f"acts.parquet#{HOOK}",
        '{"uuid": "u20", "length": 20}',
    )
    again = ingest(tmp_path / "acts.parquet", tmp_path / "store", model=MODEL)
    assert (again.rows_written, again.rows_present) == (0, 50)


def test_columns_can_be_mapped(tmp_path: Path) -> None:
    table = pa.table(
        {
            "vec": vector_column(matrix(3)),
            "other": vector_column(matrix(3)),
            "uuid": ["a", "b", "c"],
            "gold": ["x", "y", "z"],
            "n": [1, 2, 3],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    mapping = {
        "activation": "vec",
        "example_id": "uuid",
        "label": "gold",
        "task": "sum-{file.n}",
    }
    ingest(tmp_path / "t.parquet", tmp_path / "store", model=MODEL, site="s", map=mapping)
    assert found(tmp_path / "store", "example_id", "label", "task", "extra") == [
        ("a", "x", "sum-1", None),
        ("b", "y", "sum-2", None),
        ("c", "z", "sum-3", None),
    ]
    summary = ingest(
        tmp_path / "t.parquet", tmp_path / "other", model=MODEL, map={"label": "golden"}
    )
    assert "golden" in summary.refused[0].reason
    assert "uuid" in summary.refused[0].reason


def test_shards_of_one_table_are_numbered_through(tmp_path: Path) -> None:
    values = matrix(7)
    for shard, part in enumerate((values[:3], values[3:])):
        name = f"train-{shard:05d}-of-00002.parquet"
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(pa.table({"resid_post": vector_column(part)}), tmp_path / "data" / name)
    ingest(tmp_path, tmp_path / "store", model=MODEL)
    assert found(tmp_path / "store", "example_id", "split") == [
        (str(row), "train") for row in range(7)
    ]
    (tmp_path / "data/train-00000-of-00002.parquet").unlink()
    summary = ingest(tmp_path / "data", tmp_path / "other", model=MODEL)
    assert "shard 0 of 2 is missing" in summary.refused[0].reason


def test_first_k_takes_the_first_rows(tmp_path: Path) -> None:
    values = matrix(10)
    path = tmp_path / "acts.parquet"
    pq.write_table(pa.table({HOOK: vector_column(values)}), path, row_group_size=4)
    summary = ingest(path, tmp_path / "store", model=MODEL, first_k=6)
    assert summary.rows_written == 6
    assert vectors(tmp_path / "store").tobytes() == values[:6].tobytes()
    assert found(tmp_path / "store", "example_index") == [(row,) for row in range(6)]


def test_another_store_comes_in_unchanged(tmp_path: Path) -> None:
    amber.write_samples(tmp_path / "samples", samples=3, layers=2)
    ingest(tmp_path / "samples", tmp_path / "first", model=MODEL)
    summary = ingest(tmp_path / "first", tmp_path / "second")
    assert summary.recipe == "parquet"
    assert not summary.refused
    left, right = stored_rows(tmp_path / "first"), stored_rows(tmp_path / "second")
    for row, copy in zip(left, right, strict=True):
        for name in set(row) - {"run_id", "activation", "shard"}:
            assert row[name] == copy[name], name
        assert row["activation"].tobytes() == copy["activation"].tobytes()


@pytest.mark.parametrize("change", ["drop", "label"])
def test_a_store_that_has_changed_does_not_come_in_as_it_was(tmp_path: Path, change: str) -> None:
    amber.write_samples(tmp_path / "samples", samples=3, layers=2)
    ingest(tmp_path / "samples", tmp_path / "first", model=MODEL)
    words = ["drop", "layer = 0", "--yes"] if change == "drop" else ["label", "--set", "'good'"]
    assert cli.run([words[0], str(tmp_path / "first"), *words[1:]]) == 0
    for source in (tmp_path / "first", tmp_path / "first" / "activations", tmp_path):
        with pytest.raises(UsageError, match=r"first is a store.*--to parquet"):
            ingest(source, tmp_path / "second", recipe="parquet")
    with actstore.open(tmp_path / "first") as store:
        store.export("parquet", tmp_path / "rows")
    ingest(tmp_path / "rows", tmp_path / "second")
    with actstore.open(tmp_path / "first") as one, actstore.open(tmp_path / "second") as other:
        told = "SELECT layer, label, count(*) FROM activations GROUP BY ALL ORDER BY ALL"
        assert one.sql(told).fetchall() == other.sql(told).fetchall()


@pytest.mark.parametrize("splits", [False, True])
def test_a_saelens_cache(tmp_path: Path, splits: bool) -> None:
    contexts = np.stack([matrix(5, seed=row) for row in range(4)])
    tokens = np.arange(20, dtype=np.int32).reshape(4, 5)
    features = datasets.Features(
        {
            HOOK: datasets.Array2D(shape=(5, 6), dtype="float32"),
            "token_ids": datasets.Sequence(datasets.Value("int32"), length=5),
        }
    )
    data = datasets.Dataset.from_dict({HOOK: contexts, "token_ids": tokens}, features=features)
    folder = tmp_path / "cache"
    if splits:
        datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(folder)
    else:
        data.save_to_disk(folder, num_shards=2)
    summary = ingest(folder, tmp_path / "store", model=MODEL)
    assert (summary.recipe, summary.detected) == ("huggingface", True)
    assert not summary.refused
    assert summary.unmatched == ()
    names = ("example_id", "position", "token_id", "site", "layer", "pooling", "split", "dataset")
    rows = found(tmp_path / "store", *names)
    if splits:
        assert rows[:5] == [
            ("0", token, token, "resid_post", 3, "none", "test", None) for token in range(5)
        ]
        rows = rows[5:]
    split = "train" if splits else None
    assert rows == [
        (str(row), token, 5 * row + token, "resid_post", 3, "none", split, None)
        for row in range(4)
        for token in range(5)
    ]
    assert vectors(tmp_path / "store")[-20:].tobytes() == contexts.tobytes()


def test_contexts_can_be_pooled(tmp_path: Path) -> None:
    contexts = [matrix(length, seed=length).tolist() for length in (2, 3, 1)]
    ids = [[1, 2], [3] * 3, [4]]
    table = pa.table({"mlp": contexts, "label": ["a", "b", "c"], "token_ids": ids})
    pq.write_table(table, tmp_path / "t.parquet")
    options: dict[str, Any] = {"model": MODEL, "storage_dtype": "float32", "allow_rounding": True}
    ingest(tmp_path / "t.parquet", tmp_path / "store", pool="last", **options)
    expected = np.array([rows[-1] for rows in contexts], np.float32)
    assert vectors(tmp_path / "store").tobytes() == expected.tobytes()
    assert found(tmp_path / "store", "pooling", "token_count", "position", "label") == [
        ("last", 2, None, "a"),
        ("last", 3, None, "b"),
        ("last", 1, None, "c"),
    ]
    ingest(tmp_path / "t.parquet", tmp_path / "tokens", **options)
    assert found(tmp_path / "tokens", "position", "token_id", "label") == [
        (0, 1, "a"), (1, 2, "a"), (0, 3, "b"), (1, 3, "b"), (2, 3, "b"), (0, 4, "c"),
    ]  # fmt: skip


def test_class_labels_get_their_names(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "resid_post": datasets.Sequence(datasets.Value("float32"), length=4),
            "label": datasets.ClassLabel(names=["honest", "deceptive"]),
        }
    )
    data = datasets.Dataset.from_dict(
        {"resid_post": matrix(3, width=4), "label": [1, 0, 1]}, features=features
    )
    data.save_to_disk(tmp_path / "d")
    ingest(tmp_path / "d", tmp_path / "store", model=MODEL)
    assert found(tmp_path / "store", "label") == [("deceptive",), ("honest",), ("deceptive",)]


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ([[1.0, 2.0], [3.0]], "row 1 holds 1 values"),
        ([[1.0, 2.0], None], "row 1 is null"),
        ([None, [1.0, 2.0]], "row 0 is null"),
        ([[1.0, None], [1.0, 2.0]], "1 values are null"),
    ],
)
def test_holes_are_refused(tmp_path: Path, column: list[Any], reason: str) -> None:
    pq.write_table(pa.table({"v": column}), tmp_path / "t.parquet")
    summary = ingest(tmp_path / "t.parquet", tmp_path / "store", model=MODEL, recipe="parquet")
    assert reason in summary.refused[0].reason


def test_tables_without_vectors_are_unmatched(tmp_path: Path) -> None:
    pq.write_table(pa.table({"resid_post": vector_column(matrix(2))}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"example_id": ["x"], "label": ["y"]}), tmp_path / "labels.parquet")
    summary = ingest(tmp_path, tmp_path / "store", model=MODEL)
    assert summary.unmatched == ("labels.parquet",)
    assert summary.rows_written == 2


def test_the_model_must_be_known(tmp_path: Path) -> None:
    pq.write_table(pa.table({"v": vector_column(matrix(2))}), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match="--model"):
        ingest(tmp_path / "a.parquet", tmp_path / "store")


def test_a_recipe_may_say_more_about_a_table(tmp_path: Path) -> None:
    table = pa.table({"v": vector_column(matrix(2)), "uid": ["a", "b"], "ok": [True, False]})
    pq.write_table(table, tmp_path / "run7.parquet")
    scores = [{"uid": "b", "score": 3}]
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        """
name = "mine"
container = "parquet"
reader = "table"
[[files]]
path = "run{run:int}.parquet"
[columns]
model = "org/model-{path.run}"
example_id = "{file.uid}"
label = { from = "{file.ok}", map = { true = "right", false = "wrong" } }
prediction = "{sidecar.scores.score}"
site = "resid_post"
pooling = "last"
[[sidecars]]
name = "scores"
paths = ["scores.json"]
on = { uid = "{column.example_id}" }
"""
    )
    ingest(tmp_path, tmp_path / "store", recipe=recipe)
    assert found(tmp_path / "store", "example_id", "model", "label", "prediction", "pooling") == [
        ("a", "org/model-7", "right", None, "last"),
        ("b", "org/model-7", "wrong", "3", "last"),
    ]


def test_a_column_called_like_a_layer_is_no_site(tmp_path: Path) -> None:
    values = {name: matrix(3, seed=seed) for seed, name in enumerate(("layer_4", "L12"))}
    table = pa.table({name: vector_column(each) for name, each in values.items()})
    pq.write_table(table, tmp_path / "acts.parquet")
    ingest(tmp_path / "acts.parquet", tmp_path / "store", model=MODEL)
    assert (
        found(tmp_path / "store", "site", "layer") == [("unknown", 4)] * 3 + [("unknown", 12)] * 3
    )
    assert vectors(tmp_path / "store").tobytes() == b"".join(v.tobytes() for v in values.values())


def test_as_many_vectors_in_every_row_are_said_to_be_taken_for_tokens(tmp_path: Path) -> None:
    states = [[[float(row), layer, 0.5] for layer in range(4)] for row in range(3)]
    datasets.Dataset.from_dict({"hidden_states": states}).save_to_disk(tmp_path / "a")
    (note,) = ingest(tmp_path / "a", tmp_path / "s", model=MODEL).notes
    assert "4 vectors in every row, taken for tokens; where they are layers" in note
    columns = {f"layer_{at}": [row[at] for row in states] for at in range(4)}
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "b")
    ingest(tmp_path / "b", tmp_path / "t", model=MODEL)
    for row in stored_rows(tmp_path / "t"):
        assert row["layer"] == row["activation"][1]
    datasets.Dataset.from_dict(
        {"hidden_states": states, "input_ids": [[1, 2, 3, 4]] * 3}
    ).save_to_disk(tmp_path / "c")
    notes = ingest(tmp_path / "c", tmp_path / "u", model=MODEL).notes
    assert not any("taken for tokens" in note for note in notes)
