"""Conditions on columns: what is not there is named, and nothing slips through."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actstore.api.store import Store
from actstore.api.store import open as open_store
from actstore.errors import ActstoreError, NotInStoreError, SqlError, UsageError
from tests.querying import stores


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    root = tmp_path / "store"
    for layer in (0, 1, 2, 5):
        stores.add(root, stores.vectors(6, 4, "float32", layer), layer=layer, model="a/one")
    stores.add(root, stores.vectors(6, 4, "float32", 8), layer=9, model="b/two", site="mlp_out")
    stores.add(root, stores.vectors(6, 4, "float32", 9), layer=None, model="b/two", site="my.hook")
    stores.add(root, stores.vectors(2, 4, "float32", 7), layer=-1, model="b/two", site="embeddings")
    with open_store(root) as found:
        yield found


@pytest.mark.parametrize(
    ("equals", "says"),
    [
        ({"layer": 40}, "layer 40 is not in the store, which has -1 to 2, 5, 9, null"),
        ({"layer": [0, 3]}, "layer 3 is not"),
        ({"layer": range(3, 5)}, "layer 3 is not"),
        ({"model": "c"}, "model 'c' is not in the store, which has 'a/one', 'b/two'"),
        ({"model": "b/two", "layer": 5}, "layer 5 is not in the store .of model 'b/two'., which"),
        ({"site": "attn_out"}, "site 'attn_out' is not.*'embeddings', 'mlp_out', 'my.hook'"),
        ({"site": "blocks.3.hook_resid_post"}, "blocks.3.*'resid_post'"),
        ({"label": "maybe"}, "label 'maybe' is not in the store, which has 'no', 'yes', null"),
        ({"label": ["yes", "maybe"]}, "label 'maybe'"),
        ({"task": "Maze"}, "task 'Maze' is not.*'grid', 'maze'"),
        ({"split": "train"}, "split 'train' is not in the store, which has null"),
        ({"task": None}, "a row without task is not in the store"),
        ({"example_id": "e99"}, "'e99'"),
        ({"lyer": 1}, "there is no column 'lyer': did you mean layer"),
        ({"activation": 1}, "is the vector itself"),
    ],
)
def test_what_is_not_there_is_an_error_that_names_what_is(
    store: Store, equals: dict[str, Any], says: str
) -> None:
    with pytest.raises(NotInStoreError, match=says):
        store.select(**equals)


@pytest.mark.parametrize(
    ("equals", "says"),
    [
        ({"layer": "1"}, "layer takes an integer, got '1'"),
        ({"layer": 1.5}, "an integer, got 1.5"),
        ({"layer": True}, "an integer, got True"),
        ({"label": 3}, "label takes text, got 3"),
        ({"norm": "x"}, "norm takes a number, got 'x'"),
        ({"norm": True}, "norm takes a number, got True"),
        ({"layer": []}, "is an empty list"),
        ({"site": None}, "every row has a site"),
    ],
)
def test_wrong_types_are_refused(store: Store, equals: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        store.select(**equals)


@pytest.mark.parametrize(
    ("equals", "count"),
    [
        ({}, 38),
        ({"layer": np.int64(1)}, 6),
        ({"layer": np.array([0, 1])}, 12),
        ({"layer": (0, None)}, 12),
        ({"layer": None}, 6),
        ({"label": None}, 12),
        ({"label": [None, "yes"]}, 25),
        ({"label": "yes", "layer": [0, 5]}, 4),
        ({"site": "blocks.1.hook_resid_post"}, 6),
        ({"site": "model.layers.9.mlp"}, 6),
        ({"site": "hook_embed"}, 2),
        ({"site": ["embed_tokens", "mlp_out"]}, 8),
        ({"site": "my.hook"}, 6),
        ({"example_id": ["e0", "e5"]}, 13),
        ({"model": "b/two", "task": "grid"}, 7),
    ],
)
def test_counts(store: Store, equals: dict[str, Any], count: int) -> None:
    selection = store.select(**equals)
    assert len(selection) == count
    assert np.all(np.diff(selection.rows) > 0)


def test_values_that_exist_but_never_together_are_an_empty_selection(store: Store) -> None:
    assert len(store.select(task="maze", example_id="e5", layer=0)) == 0


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("norm > 0", 38),
        ("layer = 1 OR layer = 5", 12),
        ("label = 'yes' -- and a comment", 13),
        ("layer IS NULL", 6),
        ("norm < 0", 0),
        ("norm = (SELECT max(norm) FROM activations)", 1),
        ("dot(activation, activation) > 0", 38),
        ("example_id LIKE 'e%' AND task IN ('maze')", 19),
    ],
)
def test_where(store: Store, where: str, count: int) -> None:
    assert len(store.select(where)) == count


def test_numbers_are_found_however_they_are_written(tmp_path: Path) -> None:
    stores.add(tmp_path / "s", np.array([[3, 4], [0, 5], [2, 0]], np.float32))
    with open_store(tmp_path / "s") as store:
        for five in (5, 5.0, np.float32(5)):
            assert store.select(norm=five).rows.tolist() == [0, 1]
        assert store.select(norm=[2, 5.0]).rows.tolist() == [0, 1, 2]


def test_where_and_equals_both_hold(store: Store) -> None:
    # Without its parentheses the OR would let other layers in.
    found = store.select("label = 'yes' OR label = 'no'", layer=5)
    assert set(found.table(["layer"])["layer"].to_pylist()) == {5}
    assert len(found) == 4


@pytest.mark.parametrize(
    "where",
    [
        "",
        "   ",
        "true) OR (true",
        "true; SELECT 1",
        "true ORDER BY norm",
        "true, false",
        "true UNION SELECT 1",
        "lable = 'x'",
        "label = ",
        "layer IN (SELECT * FROM read_csv('/etc/passwd'))",
        "example_id = (SELECT content FROM read_text('/etc/hostname'))",
        "label = $value_0",
    ],
)
def test_where_is_one_condition_on_the_store_and_nothing_more(store: Store, where: str) -> None:
    with pytest.raises(SqlError):
        store.select(where)


def test_odd_text_is_a_value_not_sql(tmp_path: Path) -> None:
    names = ["it's", 'a"b', "x; DROP VIEW activations", "é\n", "$1", ""]
    stores.add(tmp_path / "s", np.ones((6, 2), np.float32), task=names)
    with open_store(tmp_path / "s") as store:
        for row, name in enumerate(names):
            assert store.select(task=name).rows.tolist() == [row]
        assert len(store.select(task=names)) == 6
        with pytest.raises(ActstoreError):
            store.select(task="' OR '1'='1")


@pytest.mark.parametrize(
    ("equals", "condition"),
    [
        ({"label": "yes"}, "label = 'yes'"),
        ({"label": None}, "label IS NULL"),
        ({"label": ["no", None]}, "(label = 'no' OR label IS NULL)"),
        ({"label": "no", "task": "maze"}, "label = 'no' AND task = 'maze'"),
        ({"label": "yes", "layer": [0, 5]}, "label = 'yes' AND layer IN (0, 5)"),
        ({"task": ["grid", "maze"], "site": "mlp_out"}, "site = 'mlp_out'"),
        ({"label": "yes", "example_id": "e1"}, "label = 'yes' AND example_id = 'e1'"),
    ],
    ids=str,
)
def test_columns_and_sql_find_the_same_rows(
    store: Store, equals: dict[str, Any], condition: str
) -> None:
    rows = store.sql(f"SELECT row_id FROM activations WHERE {condition}").fetchnumpy()["row_id"]
    assert store.select(**equals).rows.tolist() == sorted(rows.tolist())


def test_of_long_values_a_message_lists_a_few(tmp_path: Path) -> None:
    questions = [f"Question number {number}, {'which goes on and on' * 9}" for number in range(40)]
    stores.add(tmp_path / "s", stores.vectors(40, 4, "float32", 0), question=questions)
    with open_store(tmp_path / "s") as store, pytest.raises(NotInStoreError) as caught:
        store.select(question="x")
    text = str(caught.value)
    assert "'Question number 0, which" in text
    assert text.endswith("…")
    assert len(text) < 500
