"""Nearest neighbours: exact, in a stable order, explained where the question is not clear."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actstore.api.store import Store
from actstore.api.store import open as open_store
from actstore.errors import NotInStoreError, SqlError, UsageError
from tests.querying import stores


@pytest.fixture
def matrices(tmp_path: Path) -> list[np.ndarray]:
    return stores.layered(tmp_path / "store", rows=40)


@pytest.fixture
def store(tmp_path: Path, matrices: list[np.ndarray]) -> Iterator[Store]:
    with open_store(tmp_path / "store") as found:
        yield found


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_agrees_with_doing_it_by_hand(
    store: Store, matrices: list[np.ndarray], metric: Any
) -> None:
    stored = np.concatenate(matrices).astype(np.float64)
    query = np.random.default_rng(5).standard_normal(8)
    by_hand = {
        "cosine": stored @ query / np.linalg.norm(stored, axis=1) / np.linalg.norm(query),
        "dot": stored @ query,
        "l2": np.linalg.norm(stored - query, axis=1),
    }[metric]
    found = store.nearest(query, 7, metric=metric, mixed=True)
    order = np.argsort(by_hand if metric == "l2" else -by_hand, kind="stable")[:7]
    assert found["row_id"].to_pylist() == order.tolist()
    assert found["score"].to_pylist() == pytest.approx(by_hand[order], rel=1e-5)
    assert found.column_names[0] == "score"


def test_an_example_is_not_its_own_neighbour_unless_asked(store: Store) -> None:
    found = store.nearest("e3", 39, layer=1)
    assert len(found) == 39
    assert "e3" not in found["example_id"].to_pylist()
    assert set(found["layer"].to_pylist()) == {1}
    itself = store.nearest("e3", 1, layer=1, include_self=True, columns=["example_id"])
    assert itself["example_id"].to_pylist() == ["e3"]
    assert itself["score"][0].as_py() == pytest.approx(1, abs=1e-6)
    assert itself.column_names == ["score", "example_id"]
    by_row = store.nearest(43, 39, layer=1)
    assert by_row.equals(found)


def test_conditions_limit_the_search(store: Store) -> None:
    found = store.nearest("e3", 100, "norm > 1", layer=2, label=["yes", "no"])
    labels = found["label"].to_pylist()
    assert set(labels) == {"yes", "no"}
    assert min(found["norm"].to_pylist()) > 1
    # e3 is labelled "yes", and still may be the question where only "no" is searched.
    assert set(store.nearest(83, 5, layer=2, label="no")["label"].to_pylist()) == {"no"}


def test_equal_scores_come_in_row_order(tmp_path: Path) -> None:
    stores.add(tmp_path / "s", np.ones((50, 4), np.float32))
    with open_store(tmp_path / "s") as store:
        found = store.nearest([1, 1, 1, 1], 10)
        assert found["row_id"].to_pylist() == list(range(10))


def test_zero_vectors_have_no_cosine_but_a_distance(tmp_path: Path) -> None:
    stores.add(tmp_path / "s", np.array([[0, 0], [1, 0], [0, 2]], np.float32))
    with open_store(tmp_path / "s") as store:
        assert store.nearest([1, 0], 5)["row_id"].to_pylist() == [1, 2]
        assert store.nearest([1, 0], 5, metric="l2")["row_id"].to_pylist() == [1, 0, 2]


def test_other_widths_are_left_out(tmp_path: Path) -> None:
    matrices = stores.mixed(tmp_path / "s")
    with open_store(tmp_path / "s") as store:
        found = store.nearest(matrices[6][1], 10, columns=["model"])
        assert found["model"].to_pylist() == ["b/large"] * 3
        with pytest.raises(NotInStoreError, match="has 5 values, the rows to search have 4, 6"):
            store.nearest(np.ones(5), 10)


@pytest.mark.parametrize(
    ("arguments", "equals", "error", "says"),
    [
        (("e3",), {}, UsageError, r"'e3' has 3 rows here: choose by layer \(0, 1, 2\)"),
        (("e99",), {"layer": 1}, NotInStoreError, "'e99'"),
        (("e3",), {"layer": 1, "label": "no"}, NotInStoreError, "e3.*no row with.*label='no'"),
        ((120,), {}, UsageError, "0 to 119"),
        ((np.ones((2, 8, 1)),), {}, UsageError, r"\[queries, width\], got \[2, 8, 1\]"),
        ((np.ones((0, 8)),), {}, UsageError, r"\[queries, width\], got \[0, 8\]"),
        (([object()],), {}, UsageError, "must be numbers"),
        ((["e3", "e99"],), {"layer": 1}, NotInStoreError, "'e99'"),
        (([],), {}, UsageError, r"shape \[width\]"),
        ((np.ones(8), 0), {}, UsageError, "at least 1"),
        ((np.ones(8), 3, "true; true"), {}, SqlError, "syntax error"),
        ((np.ones(8),), {"metric": "manhattan"}, UsageError, "cosine, dot, l2"),
        ((np.ones(8),), {"layer": 77}, NotInStoreError, "0 to 2"),
    ],
)
def test_what_cannot_be_answered_says_why(
    store: Store, arguments: tuple[Any, ...], equals: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        store.nearest(*arguments, **equals)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("query", "metric", "says"),
    [
        ([1, None, 3], "dot", "NULL among its values"),
        (np.array([1, None, 3], object), "dot", "NULL among its values"),
        (np.ma.array([1.0, 2, 3], mask=[False, True, False]), "dot", "NULL among its values"),
        ([1, NAN, 3], "l2", "^the query vector has NaN among its values, so .*: give it numbers$"),
        ([[1, 2, 3], [4, 5, NAN]], "dot", "^query 1 has NaN"),
        (
            [0, 0, 0],
            "cosine",
            "^the query vector has zeros alone, .* undefined: search by dot or l2",
        ),
        ([[1, 0, 0], [0, 0, 0]], "cosine", "^query 1 has zeros alone"),
        ([1, INF, 0], "cosine", "^the query vector has infinite values, .*search by dot or l2$"),
        ([1, 2e39, 0], "dot", r"has the value 2e\+39, float32 holds at most 3.4e38"),
        (np.array([1 + 2j, 0, 0]), "dot", "must be numbers"),
        (np.array(["1", "2", "3"]), "dot", "must be numbers"),
        (3, "cosine", "^row 3 has zeros alone"),
        ("e3", "cosine", "^row 3 has zeros alone"),
        (["e0", "e4"], "dot", "^row 4 has NaN among its values, .*: search around another row$"),
        (5, "cosine", "^row 5 has infinite values"),
    ],
)
@pytest.mark.parametrize("index", [False, True])
def test_queries_that_no_row_is_near_to(
    tmp_path: Path, query: Any, metric: Any, says: str, index: bool
) -> None:
    matrix = stores.vectors(9, 3, "float32", 0)
    matrix[3], matrix[4, 1], matrix[5, 1] = 0, NAN, INF
    stores.add(tmp_path / "s", matrix)
    with open_store(tmp_path / "s") as store:
        if index:
            store.index(metric=metric)
        with pytest.raises((UsageError, NotInStoreError), match=says):
            store.nearest(query, 5, metric=metric, index=index)


def test_zeros_and_infinity_have_products_and_distances(tmp_path: Path) -> None:
    matrix = np.array([[1, 0], [0, 2], [0, 0]], np.float32)
    stores.add(tmp_path / "s", matrix)
    with open_store(tmp_path / "s") as store:
        assert store.nearest([0, 0], 5, metric="l2")["row_id"].to_pylist() == [2, 0, 1]
        assert store.nearest(2, 5, metric="dot")["score"].to_pylist() == [0, 0]
        assert store.nearest([INF, 0], 1, metric="dot")["row_id"].to_pylist() == [0]


def test_queries_of_any_kind(store: Store, matrices: list[np.ndarray]) -> None:
    import torch

    vector = matrices[0][4]
    expected = store.nearest(vector, 3, layer=0)
    for query in (
        vector.tolist(),
        tuple(vector.tolist()),
        vector.astype(np.float64),
        torch.from_numpy(vector).to(torch.float32).requires_grad_(),
    ):
        assert store.nearest(query, 3, layer=0).equals(expected)


def test_several_queries_are_answered_as_each_alone(
    store: Store, matrices: list[np.ndarray]
) -> None:
    queries = np.random.default_rng(6).standard_normal((9, 8))
    for count in (1, 2, 9):
        found = store.nearest(queries[:count], 4, layer=1)
        assert found.column_names[:2] == ["query", "score"]
        assert found["query"].to_pylist() == [n for n in range(count) for _ in range(4)]
        for number in range(count):
            alone = store.nearest(queries[number], 4, layer=1)
            mine = found.slice(4 * number, 4).drop_columns(["query"])
            assert mine.equals(alone)


def test_several_examples_leave_out_themselves(store: Store) -> None:
    names = ["e3", "e3", "e8", "e0", "e12"]
    found = store.nearest(names, 39, layer=2, columns=["example_id"])
    for number, name in enumerate(names):
        mine = found.slice(39 * number, 39)["example_id"].to_pylist()
        alone = store.nearest(name, 39, layer=2)["example_id"].to_pylist()
        assert mine == alone
        assert name not in mine
    itself = store.nearest(names, 1, layer=2, include_self=True, columns=["example_id"])
    assert itself["example_id"].to_pylist() == names
