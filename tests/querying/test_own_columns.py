"""Fields of ``extra`` as columns: in SQL, selections, tables, frames and counts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import actstore
from actstore.errors import NotInStoreError, SqlError, UsageError
from actstore.ingestion.labeling import label_by_expression
from actstore.querying import quoting
from actstore.storage import own_columns
from tests.querying import stores
from tests.torture.effort import examples

FIELDS: dict[str, list[Any]] = {
    "group": ["a", "b", None, "a"],
    "difficulty": [3, 1, 2, None],
    "score": [1, 0.5, None, 2],
    "sure": [True, False, True, None],
    "tags": [["x"], [], "plain", 7],
    "deep": [{"id er": 1, "b": {"c": "ü"}}, {"id er": 2}, None, {}],
}


@pytest.fixture
def store(tmp_path: Path) -> actstore.Store:
    opened = actstore.open(tmp_path / "s.store", create=True)
    vectors = np.arange(12, dtype=np.float16).reshape(4, 3)
    metadata = {"example_id": list("wxyz"), "label": ["t", "f", "t", "f"], **FIELDS}
    opened.write({("resid_post", 3): vectors}, metadata, model="m", pool="last")
    return opened


def test_sql_has_them_as_columns_of_their_types(store: actstore.Store) -> None:
    found = store.sql(
        "SELECT extra.group, extra.difficulty AS d, a.extra.score, extra.sure, extra.tags, "
        'extra.deep."id er", extra.deep.b.c FROM activations a ORDER BY row_id'
    ).to_arrow_table()
    assert [str(field.type) for field in found.schema] == [
        "string",
        "int64",
        "double",
        "bool",
        "string",
        "int64",
        "string",
    ]
    assert found.column_names[:2] == ["extra.group", "d"]
    columns = [column.to_pylist() for column in found.columns]
    assert columns[:4] == [FIELDS["group"], FIELDS["difficulty"], [1, 0.5, None, 2], FIELDS["sure"]]
    assert columns[4] == ['["x"]', "[]", "plain", "7"]
    assert columns[5:] == [[1, 2, None, None], ["ü", None, None, None]]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT count(*) FROM activations WHERE extra.group = 'a' AND extra.difficulty > 2", [1]),
        ("SELECT 'extra.none' FROM activations LIMIT 1 -- extra.none", ["extra.none"]),
        ("SELECT count(*) FROM (SELECT extra.group AS g FROM activations) WHERE g = 'a'", [2]),
        ("SELECT extra.x FROM (VALUES (5)) AS extra(x)", [5]),
        ("WITH extra AS (SELECT 6 AS x) SELECT extra.x FROM extra", [6]),
        ("SELECT 'äöü日本', extra.\"Group\" FROM activations WHERE row_id = 0", ["äöü日本"]),
        ("SELECT json_extract_string(extra, '$.group') FROM activations WHERE row_id = 1", ["b"]),
        ("SELECT sum(norm(activation)) > 0 FROM activations WHERE extra.group = 'a'", [True]),
    ],
)
def test_where_the_name_stands_in_a_query(
    store: actstore.Store, query: str, expected: list[Any]
) -> None:
    assert store.sql(query).to_arrow_table().column(0).to_pylist() == expected


def test_selections_tables_and_frames_have_them(store: actstore.Store) -> None:
    rows = store.select({"extra.group": "a"})
    assert rows.rows.tolist() == [0, 3]
    assert store.select({"extra.sure": [True, False]}).rows.tolist() == [0, 1, 2]
    assert store.select({"extra.group": None}).rows.tolist() == [2]
    assert rows.table(["extra.difficulty", "row_id"]).to_pydict() == {
        "extra.difficulty": [3, None],
        "row_id": [0, 3],
    }
    assert {key: part.rows.tolist() for key, part in store.select().by("extra.group").items()} == {
        "a": [0, 3],
        "b": [1],
        None: [2],
    }
    frame = (
        store.frame().filter(pl.col("extra.difficulty") >= 2).select("extra.group", "activation")
    )
    assert frame.collect()["extra.group"].to_list() == ["a", None]
    assert store.frame().collect_schema()["extra.sure"] == pl.Boolean
    assert [(one.name, one.type, one.rows) for one in store.info().extra][:3] == [
        ("extra.tags", "string", 4),
        ("extra.group", "string", 3),
        ("extra.difficulty", "int64", 3),
    ]


def test_numbers_that_are_none_are_found(tmp_path: Path) -> None:
    texts = ['{"x": 1.5}', '{"x": NaN}', '{"x": -1}', None]
    stores.add(tmp_path / "s", np.eye(4, 3, dtype=np.float32), extra=texts)
    store = actstore.open(tmp_path / "s")
    assert [(own.name, own.rows) for own in store.info().extra] == [("extra.x", 3)]
    assert store.select("isnan(extra.x)").rows.tolist() == [1]
    assert store.select("NOT extra.x <= 2").rows.tolist() == [1]
    assert store.select({"extra.x": [1.5, math.nan]}).rows.tolist() == [0, 1]
    with pytest.raises(NotInStoreError, match=r"2\.5 is not in the store"):
        store.select({"extra.x": [2.5, math.nan]})


@pytest.mark.parametrize("rows", [2, 1500])  # read by Python, and by Arrow if that can
def test_half_a_character_is_its_escape(tmp_path: Path, rows: int) -> None:
    texts = [f'{{"n": {row}, "x": "ü"}}' for row in range(rows)]
    texts[-1] = '{"x": "cut \\ud83d", "\\ud83d": ["\\ud83d"], "y": "\\ud83d\\ude00"}'
    stores.add(tmp_path / "s", np.ones((rows, 2), np.float32), extra=texts)
    store = actstore.open(tmp_path / "s")
    last = store.sql(
        'SELECT extra.x, extra.y, "extra.\\ud83d" FROM activations ORDER BY row_id DESC'
    )
    assert last.limit(1).fetchall() == [("cut \\ud83d", "😀", '["\\ud83d"]')]
    assert store.frame().collect()["extra.x"][0] == "ü"


def test_labels_are_set_by_them(store: actstore.Store) -> None:
    label_by_expression(store.path, "'group ' || extra.group", where="extra.difficulty IS NOT NULL")
    store.refresh()
    assert store.select().table(["label"])["label"].to_pylist() == ["group a", "group b", None, "f"]
    assert store.sql("SELECT count(*) FROM activations WHERE extra.group = 'a'").fetchall() == [
        (2,)
    ]


def test_what_is_not_there_is_said_with_what_is(store: actstore.Store) -> None:
    with pytest.raises(
        SqlError, match=r"no column extra\.grup: did you mean extra\.group\? extra has"
    ):
        store.sql("SELECT extra.grup FROM activations")
    with pytest.raises(NotInStoreError, match=r"no column extra\.grup: did you mean extra\.group"):
        store.select({"extra.grup": "a"})
    with pytest.raises(NotInStoreError, match=r"no column extra\.grup"):
        store.select().table(["extra.grup"])
    with pytest.raises(NotInStoreError, match=r"extra\.group 'q' is not in the store"):
        store.select({"extra.group": "q"})
    with pytest.raises(UsageError, match=r"extra\.difficulty takes an integer, got 'q'"):
        store.select({"extra.difficulty": "q"})


def test_a_store_without_any_says_so(tmp_path: Path) -> None:
    store = actstore.open(tmp_path / "s", create=True)
    store.write(
        {("resid_post", 0): np.ones((2, 3), np.float32)}, {"example_id": ["a", "b"]}, model="m"
    )
    with pytest.raises(SqlError, match=r"no column extra\.x: no row here has anything in extra"):
        store.sql("SELECT extra.x FROM activations")
    assert store.info().extra == ()


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
OBJECTS = st.dictionaries(
    st.sampled_from(["a", "b", "A", "c.d", "ü", 'q"']),
    SCALARS | st.lists(st.integers()) | st.dictionaries(st.sampled_from("xy"), SCALARS),
)


@settings(deadline=None, max_examples=examples(150))
@given(st.lists(st.none() | OBJECTS.map(json.dumps) | st.just("no json"), min_size=1))
def test_arrow_reads_json_as_python_does(texts: list[str | None]) -> None:
    """Or leaves it to Python: small numbers of rows are all read by Python anyway."""
    import pyarrow as pa

    column = pa.array(texts, pa.string()).dictionary_encode()
    by_hand = own_columns._fields(column)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_columns, "_SAMPLE", 1)
        fast = own_columns._fields(column)
    assert fast.keys() == by_hand.keys()
    for name, values in by_hand.items():
        assert fast[name].type == values.type, name
        assert fast[name].to_pylist() == values.to_pylist(), name


def test_many_texts_of_one_shape_are_read_by_arrow(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa

    objects = [{"n": i, "x": i / 4, "t": f"é{i}", "o": {"b": i % 2 == 0}} for i in range(3000)]
    column = pa.array([json.dumps(each) for each in objects]).dictionary_encode()
    expected = own_columns._fields_of(column.dictionary)
    monkeypatch.setattr(own_columns, "_fields_of", lambda texts: pytest.fail("by hand"))
    found = own_columns._fields(column)
    assert {name: values.to_pylist() for name, values in found.items()} == {
        name: values.to_pylist() for name, values in expected.items()
    }
    assert found["o.b"].to_pylist()[:2] == [True, False]


def test_names_and_texts_are_quoted_whatever_they_hold() -> None:
    assert quoting.text("it's") == "'it''s'"
    assert quoting.name('extra.a "b"') == '"extra.a ""b"""'


def test_a_row_that_is_dropped_for_good_is_in_no_cache(store: actstore.Store) -> None:
    """The columns of their own are kept in files, which a pruning must not forget."""
    store.sql("SELECT extra.group FROM activations").fetchall()
    caches = store.path / ".cache"
    assert list(caches.glob("own-metadata-*.parquet"))
    store.drop("example_id = 'w'", prune=True)
    assert list(caches.glob("own-metadata-*.parquet")) == []
    assert store.sql("SELECT count(*) FROM activations WHERE extra.group = 'a'").fetchall() == [
        (1,)
    ]
