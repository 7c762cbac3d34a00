"""Named queries: every one that is shipped answers, and headers are read strictly."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actstore import resources
from actstore.analysis.examples import example_groups
from actstore.api.store import open as open_store
from actstore.errors import UsageError
from actstore.querying import named
from tests.querying import stores

VALUES: dict[str, dict[str, Any]] = {
    "cosine-to-example": {"example": "e1", "layer": "1"},
    "mean-by-label": {"layer": 1},
}
FIRST: dict[str, dict[str, Any]] = {
    "accuracy-by-task": {"task": "grid", "examples": 4, "hits": 2, "accuracy": 0.5},
    "cosine-to-example": {"row_id": 13, "cosine": 1.0},
    "duplicates": {"question": "why?", "examples": 2, "first_examples": ["e0", "e1"]},
    "label-counts": {"layer": 0, "label": "no", "rows": 4, "examples": 4},
    "layers": {"layer": 0, "rows": 12, "examples": 12, "labelled": 8},
    "mean-by-label": {"label": "no", "rows": 4},
    "norms-by-layer": {"layer": 0, "rows": 12, "zeros": 0, "not_finite": 0},
    "outliers": {"model": stores.MODEL},
}


@pytest.mark.parametrize("name", sorted(path.stem for path in resources.folder("query").iterdir()))
def test_shipped_queries_answer(tmp_path: Path, name: str) -> None:
    questions = ["why?", "why?", *[f"what is {n}?" for n in range(10)]]
    for layer in range(2):
        matrix = stores.vectors(12, 6, "float32", layer)
        stores.add(tmp_path / "s", matrix, layer=layer, question=questions)
    with open_store(tmp_path / "s") as store:
        values = VALUES.get(name, {})
        if name == "accuracy-by-task":
            values = {"label": "yes"}
        table = store.named(name, values).to_arrow_table()
        first = table.to_pylist()[0]
        for column, expected in FIRST[name].items():
            assert first[column] == (
                pytest.approx(expected, rel=1e-5) if isinstance(expected, float) else expected
            )
        if name == "label-counts":
            assert store.named(name, {"layer": "1"}).to_arrow_table().num_rows == 3
            assert store.named(name, {"site": "nowhere"}).to_arrow_table().num_rows == 0
        if name == "outliers":
            assert store.named(name, {"k": 3}).to_arrow_table().num_rows == 3


def test_examples_of_one_id_in_several_splits_are_several(tmp_path: Path) -> None:
    questions = [f"what is {n}?" for n in range(12)]
    for seed, (split, mode) in enumerate((("train", "tqa"), ("test", "tqa"), ("test", "vqa"))):
        places: dict[str, Any] = {"split": [split] * 12, "mode": [mode] * 12, "question": questions}
        stores.add(tmp_path / "s", stores.vectors(12, 6, "float32", seed), **places)
    with open_store(tmp_path / "s") as store:
        (layer,) = store.named("layers").to_arrow_table().to_pylist()
        assert layer["examples"] == store.info().examples == 36
        counts = store.named("label-counts").to_arrow_table().to_pylist()
        assert {row["label"]: row["examples"] for row in counts} == store.info().label_examples
        asked = store.named("duplicates").to_arrow_table().to_pylist()
        assert {row["question"]: row["examples"] for row in asked} == dict.fromkeys(questions, 2)


def test_a_question_is_one_in_whatever_split_or_data_set_it_is_asked(tmp_path: Path) -> None:
    def add(seed: int, questions: list[str], **place: str) -> None:
        columns: dict[str, Any] = {name: [value] * len(questions) for name, value in place.items()}
        matrix = stores.vectors(len(questions), 6, "float32", seed)
        stores.add(tmp_path / "s", matrix, question=questions, **columns)

    add(0, ["why?", "how?", " \n"], dataset="maze", split="train", mode="tqa")
    add(1, ["why?", "how?", " \n"], dataset="maze", split="train", mode="vqa")
    add(2, ["why?"], dataset="grid", split="test")
    add(3, ["why?", "who?", "who?"], dataset="maze", split="test")
    with open_store(tmp_path / "s") as store:
        found = store.named("duplicates").to_arrow_table().to_pylist()
        groups = example_groups.groups_of(store.select())
    assert found == [
        {
            "question": "why?",
            "examples": 3,
            "datasets": ["grid", "maze"],
            "splits": ["test", "train"],
            "first_examples": ["grid/test/e0", "maze/test/e0", "maze/train/e0"],
        },
        {
            "question": "who?",
            "examples": 2,
            "datasets": ["maze"],
            "splits": ["test"],
            "first_examples": ["maze/test/e1", "maze/test/e2"],
        },
    ]
    # As many groups as probes keep together: one for each question, and one of no question.
    assert groups.count == 4


def test_no_figure_mixes_poolings_or_models(tmp_path: Path) -> None:
    """Two poolings and two models at one layer: each has rows of its own, none a mean of both."""
    questions = [f"what is {n}?" for n in range(12)]
    for scale, pooling, model in ((1, "last", "a"), (10, "mean", "a"), (100, "last", "b")):
        matrix = stores.vectors(12, 6, "float32", 0) * np.float32(scale)
        stores.add(
            tmp_path / "s", matrix, layer=0, question=questions, pooling=pooling, model=model
        )
    with open_store(tmp_path / "s") as store:
        for name, column in (("layers", "mean_norm"), ("norms-by-layer", "median")):
            rows = store.named(name).to_arrow_table().to_pylist()
            assert [row["rows"] for row in rows] == [12, 12, 12], name
            by_place = {(row["model"], row["pooling"]): row[column] for row in rows}
            assert by_place["a", "mean"] == pytest.approx(10 * by_place["a", "last"], rel=1e-3)
            assert by_place["b", "last"] == pytest.approx(100 * by_place["a", "last"], rel=1e-3)
        worst = store.named("outliers", {"k": 36}).to_arrow_table()
        assert max(worst["times_median"].to_pylist()) < 10
        close = store.named("cosine-to-example", {"example": "e1", "layer": 0}).to_arrow_table()
        assert len(set(close["example_id"].to_pylist())) == len(close) == 12
        mean = {"example": "e1", "layer": 0, "pooling": "mean"}
        close = store.named("cosine-to-example", mean).to_arrow_table()
        assert set(close["pooling"].to_pylist()) == {"mean"}
        right = store.named("accuracy-by-task", {"label": "yes"}).to_arrow_table()
        assert sorted(set(right["model"].to_pylist())) == ["a", "b"]


def test_rows_without_a_score_do_not_come_first(tmp_path: Path) -> None:
    matrix = np.array([[0, 0], [3, 4], [np.nan, 0], [4, 3], [0, 0], [0, 1.0004]], np.float32)
    stores.add(tmp_path / "s", matrix)
    stores.add(tmp_path / "s", matrix[1:4], layer=1)
    with open_store(tmp_path / "s") as store:
        close = store.named("cosine-to-example", {"example": "e1", "layer": 0, "k": 3})
        assert close.to_arrow_table()["row_id"].to_pylist() == [1, 3, 5]
        # The median of layer 0, of five norms that are numbers, is 1.0004.
        worst = store.named("outliers", {"k": 4}).to_arrow_table()
        assert worst["row_id"].to_pylist() == [1, 3, 5, 6]
        assert worst["times_median"].to_pylist() == pytest.approx([4.998, 4.998, 1, 1])


def test_outliers_that_round_alike_come_in_their_order(tmp_path: Path) -> None:
    stores.add(tmp_path / "s", np.array([[1, 0], [1.0001, 0], [1.0004, 0]], np.float32))
    with open_store(tmp_path / "s") as store:
        worst = store.named("outliers", {"k": 2}).to_arrow_table()
    assert worst["row_id"].to_pylist() == [2, 1]


def test_an_example_of_two_labels_is_one_example(tmp_path: Path) -> None:
    for layer, labels in enumerate((["yes", "yes", "no", "no"], ["yes", "no", "no", None])):
        matrix = stores.vectors(4, 2, "float32", layer)
        stores.add(tmp_path / "s", matrix, layer=layer, label=labels, task=["maze"] * 4)
    with open_store(tmp_path / "s") as store:
        for label in ("yes", "no"):
            (row,) = store.named("accuracy-by-task", {"label": label}).to_arrow_table().to_pylist()
            hits = store.info().label_examples[label]
            assert (row["examples"], row["hits"], row["accuracy"]) == (4, hits, hits / 4)


def test_every_shipped_query_tells_what_it_is_for() -> None:
    for query in named.available():
        assert query.title.endswith(".")
        assert all(parameter.description for parameter in query.parameters)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    stores.layered(tmp_path / "s")
    path = tmp_path / "mine.sql"
    path.write_text(
        "-- Rows above a norm,\n-- at one layer.\n"
        "-- param least float = 0.5: the norm\n-- param layer int\n"
        "-- param q vector optional\n"
        "SELECT count(*) AS n FROM activations\n"
        "-- only those\nWHERE norm > $least AND layer = $layer AND dot($q, $q) > 1;\n"
    )
    query = named.find(path)
    assert query.title == "Rows above a norm, at one layer."
    assert [(p.name, p.type, p.required, p.default) for p in query.parameters] == [
        ("least", "float", False, 0.5),
        ("layer", "int", True, None),
        ("q", "vector", False, None),
    ]
    with open_store(tmp_path / "s") as store:
        for least, expected in (("0", 12), ("1e9", 0)):
            found = store.named(path, {"layer": "2", "least": least, "q": "[1, 2]"}).fetchall()
            assert found == [(expected,)]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "needs a value for layer .* --param layer="),
        ({"layer": "x"}, "layer takes int, got 'x'"),
        ({"layer": 1, "lyer": 2}, "no parameter 'lyer': it takes layer, site"),
    ],
)
def test_bad_values(values: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        named.find("mean-by-label").bind(values)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("SELECT 1", "title"),
        ("-- A title.\n", "SQL"),
        ("-- param x int\nSELECT 1", "title"),
        ("-- T.\n-- param x date\nSELECT 1", "int, float, text, vector"),
        ("-- T.\n-- param x\nSELECT 1", "should read"),
        ("-- T.\n-- param x int sometimes\nSELECT 1", "should read"),
        ("-- T.\n-- param x int = y\nSELECT 1", "x takes int, got 'y'"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "q.sql").write_text(text)
    with pytest.raises(UsageError, match=says):
        named.find(tmp_path / "q.sql")


def test_unknown_names_list_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no query named lables: there are .*label-counts.*\.sql"):
        named.find("lables")
    with pytest.raises(UsageError, match=r"none\.sql: no such file"):
        named.find(tmp_path / "none.sql")
