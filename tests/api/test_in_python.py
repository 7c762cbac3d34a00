"""Stores and selections as people expect them who know pandas, Polars and scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import actstore
from actstore.errors import NotInStoreError, TooFewRowsError, UsageError

COUNT = 24


@pytest.fixture
def store(tmp_path: Path) -> actstore.Store:
    """Twelve questions, each asked twice, with a label that the first value tells."""
    opened = actstore.open(tmp_path / "s.store", create=True)
    vectors = np.random.default_rng(0).standard_normal((COUNT, 5)).astype(np.float16)
    opened.write(
        {("resid_post", 2): vectors},
        {
            "example_id": [f"e{n}" for n in range(COUNT)],
            "question": [f"q{n // 2}" for n in range(COUNT)],
            "label": [
                None if n == 5 else "yes" if v[0] > 0 else "no" for n, v in enumerate(vectors)
            ],
            "prediction": [str(n) for n in range(COUNT)],
            "task": ["t" if n % 2 else None for n in range(COUNT)],
            "pair": [n // 4 for n in range(COUNT)],
        },
        model="m",
        dataset="d",
        pool="last",
    )
    return opened


def test_what_a_store_has(store: actstore.Store) -> None:
    assert store.poolings == ["last"]
    assert store.datasets == ["d"]
    assert store.tasks == ["t", None]
    assert {"example_id", "row_id", "extra.pair"} <= set(store.columns)
    assert store.schema.field("activation").type == pa.list_(
        pa.field("element", pa.float16(), False), 5
    )
    assert store.head(3).rows.tolist() == [0, 1, 2]
    drawn = store.sample(7, seed=1).rows
    assert len(set(drawn.tolist())) == 7
    assert drawn.tolist() == sorted(drawn.tolist()) == store.sample(7, seed=1).rows.tolist()
    assert store.sample(7, seed=2).rows.tolist() != drawn.tolist()
    counted = store.query("SELECT count(*) FROM activations WHERE task = $t", {"t": "t"})
    assert counted.fetchall() == [(12,)]


def test_tables_of_every_library_agree(store: actstore.Store) -> None:
    rows = store.select("row_id % 3 = 0")
    matrix = rows.numpy()
    arrow = rows.to_arrow()
    assert arrow.schema == rows.schema
    assert np.array_equal(np.array(arrow["activation"].to_pylist(), np.float16), matrix)
    frame = rows.to_polars()
    assert frame["activation"].dtype == pl.Array(pl.Float16, 5)
    assert np.array_equal(frame["activation"].to_numpy(), matrix)
    assert frame["example_id"].to_list() == arrow["example_id"].to_pylist()
    assert rows.to_polars(["extra.pair"], vectors=False).columns == ["extra.pair"]
    pandas = rows.to_pandas()
    assert np.array_equal(np.stack(pandas["activation"].to_list()), matrix)
    assert pandas["label"].tolist() == [row["label"] for row in rows]
    assert pa.table(rows).equals(arrow)
    stream = pa.RecordBatchReader.from_stream(rows).read_all()
    assert stream["row_id"].to_pylist() == rows.rows.tolist()
    each = list(rows)
    assert [row["row_id"] for row in each] == rows.rows.tolist()
    assert np.array_equal(np.stack([row["activation"] for row in each]), matrix)
    assert store.head(0).to_arrow().num_rows == 0


def test_pandas_and_polars_read_every_frame(store: actstore.Store) -> None:
    """Metadata, SQL, neighbours and the lazy frame: the same rows and types in either."""
    rows = store.select("label IS NOT NULL")
    names = ["example_id", "label", "layer", "extra.pair"]
    wanted = rows.table(names).to_pylist()
    columns = ", ".join(names)
    query = f"SELECT {columns} FROM activations WHERE label IS NOT NULL ORDER BY row_id"
    lazy = store.frame().filter(pl.col("label").is_not_null()).select(names).collect()
    nearest = store.nearest(rows.numpy()[0], k=3, columns=names)
    for table in (rows.table(names), store.sql(query).to_arrow_table(), lazy.to_arrow()):
        for frame in (pl.DataFrame(table).to_dicts(), table.to_pandas().to_dict("records")):
            assert frame == wanted
    assert store.sql(query).df().to_dict("records") == wanted
    assert store.sql(query).pl().to_dicts() == wanted
    assert (
        nearest.to_pandas()["example_id"].tolist() == pl.DataFrame(nearest)["example_id"].to_list()
    )
    assert pl.DataFrame(nearest).schema["score"] == pl.Float32


def test_the_nearest_go_by_the_metric_that_is_asked_for(store: actstore.Store) -> None:
    vectors = store.select().numpy().astype(np.float64)
    products = vectors @ vectors[0]
    found = store.nearest(vectors[0], k=COUNT, metric="dot", columns=["example_id"])
    assert found["example_id"].to_pylist() == [f"e{n}" for n in np.argsort(-products)]
    by_angle = store.nearest(vectors[0], k=COUNT, columns=["example_id"])
    assert by_angle["example_id"].to_pylist() != found["example_id"].to_pylist()


def test_xy_goes_through_a_pipeline_and_a_search(store: actstore.Store) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.utils import check_X_y

    X, y, groups = store.select().xy(positive="yes")
    checked, _ = check_X_y(X, y)
    assert np.shares_memory(checked, X)  # nothing had to be converted
    model = make_pipeline(StandardScaler(), LogisticRegression())
    search = GridSearchCV(model, {"logisticregression__C": [0.1, 1.0]}, cv=GroupKFold(3))
    assert search.fit(X, y, groups=groups).predict(X).shape == y.shape


def test_xy_is_ready_for_scikit_learn(store: actstore.Store) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_score

    rows = store.select()
    X, y, groups = rows.xy(positive="yes")
    labelled = store.select("label IS NOT NULL")
    assert np.array_equal(X, labelled.numpy().astype(np.float32))
    assert y.tolist() == [int(row["label"] == "yes") for row in labelled]
    questions = [row["question"] for row in labelled]
    same = groups[:, None] == groups
    assert np.array_equal(same, np.array(questions)[:, None] == np.array(questions))
    scores = cross_val_score(LogisticRegression(), X, y, groups=groups, cv=GroupKFold(3))
    assert scores.mean() > 0.6
    assert rows.xy().y.tolist() == [row["label"] for row in labelled]
    assert len(set(rows.xy(groups="extra.pair").groups.tolist())) == 6
    assert rows.xy("extra.pair").y.dtype.kind == "i"
    assert rows.xy(dtype=None).X.dtype == np.float16


def test_xy_knows_classes_by_their_text() -> None:
    store = actstore.open("memory://classes-by-text", create=True)
    examples = {
        "example_id": list("abcd"),
        "label": [True, False, True, False],
        "flag": [False, False, True, True],
        "number": [1, 2, 1, 0],
    }
    store.write({("resid_post", 7): np.eye(4, dtype=np.float32)}, examples, model="m")
    rows = store.select()
    truths: list[bool | str | list[bool]] = [True, "true", [True]]
    for positive in truths:
        assert rows.xy(positive=positive).y.tolist() == [1, 0, 1, 0]
        assert rows.xy("extra.flag", positive=positive).y.tolist() == [0, 0, 1, 1]
    numbers: list[float | str | list[int]] = [1, 1.0, "1", [1]]
    for number in numbers:
        assert rows.xy("extra.number", positive=number).y.tolist() == [1, 0, 1, 0]
    with pytest.raises(NotInStoreError, match="no row here has label '1'; there are 'false'"):
        rows.xy(positive=1)
    with pytest.raises(UsageError, match="positive names no class"):
        rows.xy(positive=[])
    with pytest.raises(UsageError, match="a class is named by its text"):
        rows.xy(positive=[None])  # type: ignore[list-item]


def test_a_split_keeps_groups_together(store: actstore.Store) -> None:
    rows = store.select()
    for by, column in ((None, "question"), ("extra.pair", "extra.pair"), ("task", "task")):
        for seed in range(5):
            train, test = rows.split(by, test=0.3, seed=seed)
            assert sorted([*train.rows, *test.rows]) == rows.rows.tolist()
            sides = [set(part.table([column])[column].to_pylist()) for part in (train, test)]
            assert not (sides[0] & sides[1]) - {None}
            if by is None:
                assert len(test) in (6, 8)
    assert {tuple(rows.split(seed=seed)[1].rows.tolist()) for seed in range(8)} != {()}


def test_what_cannot_be_is_said(store: actstore.Store) -> None:
    rows = store.select()
    with pytest.raises(NotInStoreError, match="has label 'maybe'; there are 'no', 'yes'"):
        rows.xy(positive="maybe")
    with pytest.raises(TooFewRowsError, match="so there is no y"):
        rows.take([5]).xy()
    with pytest.raises(UsageError, match="between 0 and 1"):
        rows.split(test=20)
    with pytest.raises(UsageError, match=r"got 0\.25: give a share as test=0\.25"):
        rows.split(0.25)  # type: ignore[arg-type]
    with pytest.raises(TooFewRowsError, match=r"is one group by extra\.pair"):
        rows.take([0, 1]).split("extra.pair")


def test_labels_by_a_function_and_by_sql(store: actstore.Store) -> None:
    before = store.commit
    done = store.label(lambda row: "even" if int(row["prediction"]) % 2 == 0 else None)
    assert (done.rows, store.commit) == (COUNT, before + 1)
    assert store.labels == {"even": 12, None: 12}
    assert store.label("'odd'", "label IS NULL").changed == 12
    assert store.labels == {"even": 12, "odd": 12}
    with pytest.raises(UsageError, match=r"a label is text or None, and e0 \(row 0\) got True"):
        store.label(lambda row: True)  # type: ignore[arg-type, return-value]
    assert store.labels == {"even": 12, "odd": 12}
