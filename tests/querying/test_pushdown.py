"""Rewriting changes how a query runs and nothing else: same rows, same names, same values."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actstore.errors import SqlError
from actstore.querying import pushdown
from actstore.querying.sql import Database
from actstore.storage.snapshot import open_snapshot
from tests.querying import stores


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    stores.layered(tmp_path / "store")
    found = Database(open_snapshot(tmp_path / "store"))
    yield found
    found.close()


def rewritten(database: Database, query: str) -> pushdown.PushedDown | None:
    return pushdown.push_down(database._connect().cursor(), query)


QUERY = [0.5, -1.0, 2.0, 0.25, 0.0, 1.0, -0.5, 3.0]

PUSHED = [
    "SELECT row_id, cosine(activation, $q) FROM activations ORDER BY row_id",
    "SELECT row_id, COSINE($q, a.activation) AS c FROM activations a ORDER BY row_id",
    "SELECT label, avg(dot(activation, $q)), count(*) FROM activations GROUP BY ALL ORDER BY ALL",
    "SELECT max(1 - distance(activation, $q) * 2) FROM activations WHERE layer = 1",
    "SELECT row_id FROM activations WHERE cosine(activation, $q) > 0 ORDER BY row_id",
    "SELECT row_id FROM activations ORDER BY distance(activation, $q) LIMIT 5",
    "SELECT layer, norm(activation)::INTEGER FROM activations ORDER BY row_id",
    "SELECT label, vector_mean(activation) FROM activations GROUP BY label ORDER BY label",
    "SELECT row_id, cosine(activation, [1,2,3,4,5,6,7,8.5]) FROM activations ORDER BY row_id",
    "SELECT row_id, dot(activation, (SELECT activation FROM activations WHERE row_id = 3)) AS d "
    "FROM activations ORDER BY row_id",
    "WITH near AS (SELECT *, cosine(activation, $q) AS c FROM activations) "
    "SELECT row_id, c FROM near WHERE c > 0 ORDER BY c DESC",
    "SELECT row_id, rank() OVER (ORDER BY dot(activation, $q)) FROM activations ORDER BY row_id",
    "SELECT a.row_id, dot(a.activation, $q) - dot(b.activation, $q) FROM activations a "
    "JOIN activations b ON a.example_id = b.example_id AND a.layer + 1 = b.layer ORDER BY a.row_id",
    "SELECT CASE WHEN cosine(activation, $q) > 0 THEN 'é' ELSE 'ü' END, (dot(activation, $q)) "
    "FROM activations ORDER BY row_id",
    "SELECT * EXCLUDE (activation), dot(activation, $q) FROM activations ORDER BY row_id",
    "SELECT dot(activation, $q) FROM activations WHERE layer = 0 UNION ALL "
    "SELECT dot(activation, $q) FROM activations WHERE layer = 1 ORDER BY 1",
    "SELECT layer, count(*) FROM activations WHERE norm(activation) > 2 GROUP BY layer "
    "HAVING max(dot(activation, $q)) > 0 ORDER BY layer",
    "SELECT g, vector_mean(a.activation) FROM range(4) t(g) LEFT JOIN activations a ON a.layer = g "
    "GROUP BY g ORDER BY g",
    # An alias of a column that the rewritten call takes instead of the vector.
    "SELECT row_id AS r, -row_id AS norm FROM activations ORDER BY norm(activation)",
    "SELECT row_id AS r, -row_id AS norm FROM activations t GROUP BY ALL "
    "HAVING cosine(activation, $q) > 0 ORDER BY r",
    "SELECT DISTINCT ON (norm(activation)) label, 0 AS norm FROM activations "
    "WHERE row_id < 2 ORDER BY norm(activation)",
]

LEFT_ALONE = [
    "SELECT cosine(a.activation, b.activation) FROM activations a JOIN activations b "
    "ON a.row_id = b.row_id + 1 ORDER BY a.row_id",
    "SELECT dot(v, $q) FROM (SELECT activation AS v, row_id FROM activations) ORDER BY row_id",
    # The name means another thing here: a table expression, a derived table, an alias, a lambda.
    "WITH activations AS (SELECT $q AS activation) SELECT dot(activation, $q) FROM activations",
    "SELECT dot(activation, $q) FROM (SELECT list_transform(activation, lambda x: x * 2) "
    "AS activation FROM activations) ORDER BY 1",
    "SELECT $q AS activation, dot(activation, $q) FROM activations ORDER BY row_id",
    "SELECT list_transform([$q], lambda activation: norm(activation)) FROM activations LIMIT 1",
    "SELECT dot(a, $q) FROM (SELECT activation FROM activations ORDER BY row_id) t(a)",
    "SELECT norm(activation[1:4]) FROM activations ORDER BY row_id",
    "SELECT count(activation), $q FROM activations",
]


def both(database: Database, query: str) -> tuple[Any, Any]:
    """Run the query as it is pushed down, and as it stands."""
    parameters = {"q": QUERY} if "$q" in query else None
    fast = database.table(query, parameters)
    plain = database._connect().cursor().sql(query, params=parameters).to_arrow_table()
    return fast, plain


def same(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return bool(np.isclose(left, right, rtol=1e-4, atol=1e-5))
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@pytest.mark.parametrize("query", PUSHED)
def test_pushed_down_and_the_same(database: Database, query: str) -> None:
    found = rewritten(database, query)
    assert found is not None
    database._connect().cursor().sql(  # binds as it is, with no need to fall back
        found.text,
        params={name: 0 for name in found.handles} | {name: QUERY for name in found.parameters},
    )
    fast, plain = both(database, query)
    assert fast.column_names == plain.column_names
    assert fast.num_rows == plain.num_rows > 0
    for name, left in zip(fast.column_names, fast.columns, strict=True):
        pairs = zip(left.to_pylist(), plain[name].to_pylist(), strict=True)
        assert all(same(a, b) for a, b in pairs), name


@pytest.mark.parametrize("query", LEFT_ALONE)
def test_left_alone(database: Database, query: str) -> None:
    assert rewritten(database, query) is None
    fast, plain = both(database, query)
    assert fast.equals(plain)


def test_the_vector_itself_is_not_read(database: Database, tmp_path: Path) -> None:
    found = rewritten(database, "SELECT label, avg(cosine(activation, $q)) FROM activations")
    assert found is not None
    assert "activation," not in found.text.split(" AS ")[0]
    assert found.handles == {"handle_of_q": "q"}


def test_what_cannot_be_bound_rewritten_runs_as_it_stands(database: Database) -> None:
    # row_id is neither grouped nor aggregated, so only the original binds.
    query = (
        "SELECT activation, dot(activation, $q) AS d, count(*) FROM activations "
        "GROUP BY activation ORDER BY d"
    )
    assert rewritten(database, query) is not None
    fast, plain = both(database, query)
    assert fast["d"].to_pylist() == pytest.approx(plain["d"].to_pylist(), rel=1e-4)


@pytest.mark.parametrize("query", ["$v", "[1, 2, 3, 4, 5, 6, 7, NULL]"])
def test_a_null_within_a_query_vector_is_no_number(database: Database, query: str) -> None:
    parameters = {"v": [1, 2, 3, 4, 5, 6, 7, None]} if query == "$v" else None
    with pytest.raises(SqlError, match="NULL"):
        database.table(f"SELECT cosine(activation, {query}) FROM activations", parameters)


def test_zero_vectors_have_no_cosine_either_way(tmp_path: Path) -> None:
    stores.add(tmp_path / "s", np.array([[0, 0], [3, 4]], np.float32))
    database = Database(open_snapshot(tmp_path / "s"))
    query = "SELECT isnan(cosine(activation, [3, 4])) FROM activations ORDER BY row_id"
    fast = database.table(query).column(0).to_pylist()
    plain = database._connect().cursor().sql(query).to_arrow_table().column(0).to_pylist()
    assert fast == plain == [True, False]
    database.close()


@pytest.mark.parametrize("narrow", [None, "int8"])
@pytest.mark.parametrize("scale", [1e-38, 1e-25, 5e37])
def test_cosines_of_rows_whose_squares_float32_does_not_hold(
    tmp_path: Path, scale: float, narrow: Any
) -> None:
    matrix = (stores.vectors(9, 96, "float32", 1).astype(np.float64) * scale).astype(np.float32)
    stores.add(tmp_path / "s", matrix, narrow=narrow)
    snapshot = open_snapshot(tmp_path / "s")
    database = Database(snapshot)
    towards = np.random.default_rng(0).standard_normal(96)
    held = snapshot.gather(np.arange(9)).astype(np.float64)
    expected = held @ towards / np.linalg.norm(held, axis=1) / np.linalg.norm(towards)
    query = "SELECT cosine(activation, $q) FROM activations ORDER BY row_id"
    assert rewritten(database, query) is not None
    parameters = {"q": towards.tolist()}
    fast = database.table(query, parameters).column(0).to_pylist()
    plain = database._connect().cursor().sql(query, params=parameters).fetchall()
    assert fast == pytest.approx(expected.tolist(), abs=1e-5)
    assert [row[0] for row in plain] == pytest.approx(expected.tolist(), abs=1e-5)
    lengths = (
        "SELECT norm(list_transform(activation, lambda x: x)) FROM activations ORDER BY row_id"
    )
    found = database.table(lengths).column(0).to_pylist()
    assert found == pytest.approx(np.linalg.norm(held, axis=1).tolist(), rel=1e-5)
    database.close()
