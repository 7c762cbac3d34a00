"""The view, its vector functions, what SQL may not do, and what its errors say."""

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest

from actstore import schema
from actstore.errors import SqlError
from actstore.querying.sql import Database
from actstore.querying.sql_functions import VectorFunctions
from actstore.storage.snapshot import open_snapshot
from tests.interrupting import ctrl_c_heeded
from tests.querying import stores


@pytest.fixture
def matrices(tmp_path: Path) -> list[np.ndarray]:
    return stores.layered(tmp_path / "store")


@pytest.fixture
def database(tmp_path: Path, matrices: list[np.ndarray]) -> Iterator[Database]:
    found = Database(open_snapshot(tmp_path / "store"))
    yield found
    found.close()


def test_the_view_has_every_column_in_order_and_row_id(database: Database) -> None:
    table = database.table("SELECT * FROM activations")
    assert table.column_names == [*(column.name for column in schema.columns()), "row_id"]
    assert table["row_id"].to_pylist() == list(range(36))
    described = database.table("DESCRIBE activations").to_pylist()
    types = {row["column_name"]: row["column_type"] for row in described}
    assert (types["activation"], types["layer"], types["row_id"]) == (
        "FLOAT[8]",
        "INTEGER",
        "BIGINT",
    )


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_vectors_are_exact(tmp_path: Path, dtype: str) -> None:
    # 5,000 rows: more than DuckDB hands over at once, and enough to fill a row group.
    matrix = stores.vectors(5000, 33, dtype, 0)
    stores.add(tmp_path / "s", matrix)
    database = Database(open_snapshot(tmp_path / "s"))
    for condition in ("true", "row_id % 3 = 1", "row_id BETWEEN 17 AND 4000", "row_id = 4999"):
        table = database.table(
            f"SELECT row_id, activation FROM activations WHERE {condition} ORDER BY row_id"
        )
        rows = table["row_id"].to_numpy()
        got = table["activation"].combine_chunks().flatten().to_numpy().reshape(len(rows), 33)
        assert len(rows)
        assert np.array_equal(got, matrix[rows].astype(np.float32))
    database.close()


def test_functions_take_columns_literals_parameters_and_each_other(
    database: Database, matrices: list[np.ndarray]
) -> None:
    stored = matrices[1].astype(np.float64)
    query = stored[3]
    table = database.table(
        "SELECT dot(activation, $q) AS dot, cosine($q, activation) AS cosine, "
        "distance(activation, $q) AS distance, norm(activation) AS length, norm "
        "FROM activations WHERE layer = 1 ORDER BY row_id",
        {"q": matrices[1][3]},
    )
    lengths = np.linalg.norm(stored, axis=1)
    expected = {
        "dot": stored @ query,
        "cosine": stored @ query / lengths / lengths[3],
        "distance": np.linalg.norm(stored - query, axis=1),
        "length": lengths,
        "norm": lengths,
    }
    for name, values in expected.items():
        assert table[name].to_numpy() == pytest.approx(values, rel=1e-5, abs=1e-6)
    constants = database.table("SELECT dot([1, 2], [3, 4]), cosine([1, 0]::FLOAT[2], [2, 0])")
    assert [column[0].as_py() for column in constants.columns] == [11.0, 1.0]


def test_mean_of_vectors_by_group(database: Database, matrices: list[np.ndarray]) -> None:
    on_the_map = "SELECT label, vector_mean(activation) AS mean FROM activations"
    any_vectors = (
        "SELECT label, vector_mean(v) AS mean "
        "FROM (SELECT label, layer, activation AS v FROM activations)"
    )
    for query in (on_the_map, any_vectors):
        table = database.table(f"{query} WHERE layer = 2 GROUP BY label ORDER BY label NULLS LAST")
        assert table["label"].to_pylist() == ["no", "yes", None]
        for place, first in enumerate((1, 0, 2)):
            expected = matrices[2][first::3].astype(np.float64).mean(axis=0)
            assert table["mean"][place].as_py() == pytest.approx(expected, rel=1e-6)
    nothing = database.table("SELECT vector_mean(activation) FROM activations WHERE layer > 99")
    assert nothing.column(0).to_pylist() == [None]


def test_parameters_may_be_tensors_arrays_lists_and_scalars(
    database: Database, matrices: list[np.ndarray]
) -> None:
    import torch

    found = [
        database.table("SELECT max(dot(activation, $q)) FROM activations", {"q": query})
        .column(0)[0]
        .as_py()
        for query in (
            matrices[0][0],
            matrices[0][0].tolist(),
            torch.from_numpy(matrices[0][0]).to(torch.float64),
            str(matrices[0][0].tolist()),
        )
    ]
    assert found[:3] == found[:1] * 3
    assert found[3] == pytest.approx(found[0], rel=1e-5)
    by_position = database.table(
        "SELECT count(*) FROM activations WHERE layer = ? AND norm > ?",
        [np.int64(1), np.float32(0)],
    )
    assert by_position.column(0).to_pylist() == [12]
    nulls = database.table("SELECT count(dot(activation, $q)) FROM activations", {"q": None})
    assert nulls.column(0).to_pylist() == [0]


def test_several_widths_are_lists_and_only_fitting_rows_are_compared(tmp_path: Path) -> None:
    matrices = stores.mixed(tmp_path / "s")
    database = Database(open_snapshot(tmp_path / "s"))
    vectors = database.table("SELECT activation FROM activations ORDER BY row_id")
    expected = [*matrices[4].astype(np.float32).tolist(), *matrices[6].tolist()]
    assert vectors.column(0).to_pylist() == expected
    scattered = database.table(
        "SELECT activation FROM activations WHERE row_id % 2 = 0 ORDER BY row_id"
    )
    assert scattered.column(0).to_pylist() == expected[::2]
    found = database.table(
        "SELECT dot(activation, $q) AS d FROM activations ORDER BY row_id",
        {"q": matrices[6][0]},
    )["d"].to_pylist()
    assert found[:5] == [None] * 5
    assert found[5:] == pytest.approx((matrices[6] @ matrices[6][0]).tolist(), rel=1e-5)
    with pytest.raises(SqlError, match="has 5 values, the stored vectors have 4 or 6"):
        database.table("SELECT dot(activation, $q) FROM activations", {"q": [1] * 5})
    with pytest.raises(SqlError, match="widths 4, 6 have no common mean"):
        database.table("SELECT vector_mean(activation) FROM activations")
    means = database.table(
        "SELECT vector_mean(activation) FROM activations GROUP BY model ORDER BY model"
    )
    for width, mean in zip((4, 6), means.column(0).to_pylist(), strict=True):
        assert mean == pytest.approx(matrices[width].astype(np.float64).mean(axis=0), rel=1e-5)
    database.close()


REFUSED = [
    "SELECT * FROM read_csv('{file}')",
    "SELECT * FROM '{file}'",
    "SELECT * FROM read_text('{file}')",
    "SELECT * FROM read_blob('{file}')",
    "SELECT * FROM glob('{folder}/*')",
    "SELECT * FROM sniff_csv('{file}')",
    "SELECT * FROM parquet_metadata('{file}')",
    "SELECT * FROM query('SELECT * FROM read_csv(''{file}'')')",
    "WITH x AS (SELECT * FROM read_text('{file}')) SELECT * FROM x",
    "COPY (SELECT 1) TO '{folder}/out.csv'",
    "COPY (SELECT 1) TO '{metadata}'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{metadata}'",
    "EXPLAIN (ANALYZE) COPY (SELECT 1) TO '{metadata}'",
    "/* */ EXPLAIN ANALYZE COPY (SELECT 1) TO '{metadata}'",
    "ATTACH '{folder}/x.db'",
    "EXPORT DATABASE '{folder}'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "SET threads = 1",
    "RESET threads",
    "SET VARIABLE x = 1",
    "CREATE TABLE t AS SELECT 1",
    "CREATE OR REPLACE VIEW activations AS SELECT 1",
    "CREATE OR REPLACE MACRO dot(a, b) AS 1",
    "DROP VIEW activations",
    "DELETE FROM activations",
    "UPDATE activations SET label = 'x'",
    "INSERT INTO activations VALUES (1)",
    "BEGIN",
    "SELECT 1; SELECT 2",
    "SELECT getenv('HOME')",
    "SELECT * FROM matrix_in_python",
    "",
    "-- nothing",
]


@pytest.mark.parametrize("statement", REFUSED)
def test_sql_reads_the_view_and_nothing_else(
    tmp_path: Path, database: Database, statement: str
) -> None:
    matrix_in_python = np.zeros(3)
    (tmp_path / "secret.csv").write_text("word\nsesame\n")
    metadata = open_snapshot(tmp_path / "store").metadata_file()
    before = metadata.read_bytes()
    text = statement.format(file=tmp_path / "secret.csv", folder=tmp_path, metadata=metadata)
    with pytest.raises(SqlError) as caught:
        database.table(text)
    assert "sesame" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert metadata.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.csv", "store"]
    # And the view stands as it did.
    assert database.table("SELECT count(*) FROM activations").column(0)[0].as_py() == 36
    assert len(matrix_in_python) == 3


@pytest.mark.parametrize(
    "statement",
    [
        "FROM activations LIMIT 1",
        "WITH x AS (SELECT layer FROM activations) SELECT count(*) FROM x",
        "VALUES (1)",
        "DESCRIBE activations",
        "SUMMARIZE SELECT layer, norm FROM activations",
        "SHOW TABLES",
        "EXPLAIN SELECT * FROM activations",
        "EXPLAIN ANALYZE SELECT count(*) FROM activations",
        "PIVOT (SELECT label, layer FROM activations) ON label USING count(*)",
    ],
)
def test_everything_that_reads_is_taken(database: Database, statement: str) -> None:
    assert database.table(statement).num_rows >= 1


def test_allow_external_reads_and_writes_files(tmp_path: Path) -> None:
    stores.layered(tmp_path / "store")
    database = Database(open_snapshot(tmp_path / "store"), allow_external=True)
    (tmp_path / "extra.csv").write_text("example_id,colour\ne1,red\n")
    joined = database.table(
        f"SELECT colour FROM activations JOIN read_csv('{tmp_path}/extra.csv') USING (example_id)"
    )
    assert joined["colour"].to_pylist() == ["red"] * 3
    database.table(f"COPY (SELECT layer FROM activations) TO '{tmp_path}/out.csv'")
    assert (tmp_path / "out.csv").read_text().splitlines()[:2] == ["layer", "0"]
    database.close()


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("SELECT labl FROM activations", '"labl" not found.*label'),
        ("SELECT * FROM activation", "The store's table is activations"),
        ("SELEC 1", 'syntax error at or near "SELEC"'),
        ("SELECT $x", "parameters: x"),
        ("SELECT cosine(activation, [1, 2]) FROM activations", "has 2 values.*have 8"),
        ("SELECT cosine(activation, 'abc') FROM activations", "FLOAT"),
        ("SELECT cosine([1, 2], [1, 2, 3])", "dimensions must be equal"),
        ("SELECT vector_at(36)", "0 to 35"),
        ("SELECT vector_at(-1)", "0 to 35"),
        ("SELECT * FROM read_csv('/x')", "allow_external"),
    ],
)
def test_errors_are_one_helpful_line(database: Database, statement: str, says: str) -> None:
    with pytest.raises(SqlError, match=says) as caught:
        database.table(statement)
    assert "\n" not in str(caught.value)


def test_errors_while_streaming_are_ours(database: Database) -> None:
    def read() -> None:
        database.reader("SELECT error(example_id) FROM activations", rows=10).read_all()

    with pytest.raises(SqlError, match="e0"):
        read()
    streamed = database.reader("SELECT row_id FROM activations", rows=10).read_all()
    assert streamed.num_rows == 36


def test_relations_do_not_disturb_one_another(database: Database) -> None:
    first = database.relation("SELECT row_id FROM activations ORDER BY row_id").to_arrow_reader(2)
    assert first.read_next_batch().column(0).to_pylist() == [0, 1]
    assert database.relation("SELECT 7").fetchall() == [(7,)]
    assert first.read_next_batch().column(0).to_pylist() == [2, 3]
    assert database.relation("SELECT layer FROM activations").filter("layer = 1").count(
        "layer"
    ).fetchall() == [(12,)]


def test_many_query_vectors_stay_right(database: Database, matrices: list[np.ndarray]) -> None:
    # Each row has a query of its own: one handle per row, over and over.
    table = database.table(
        "SELECT a.row_id, cosine(a.activation, (SELECT b.activation FROM activations b "
        "WHERE b.row_id = a.row_id)) AS same FROM activations a"
    )
    assert table["same"].to_pylist() == pytest.approx([1.0] * 36, rel=1e-6)


def test_what_comes_from_a_store_that_nobody_holds_can_be_read(
    tmp_path: Path, matrices: list[np.ndarray]
) -> None:
    """Once it crashed the process: DuckDB ran functions that had gone with the store."""
    for _ in range(3):
        relation = Database(open_snapshot(tmp_path / "store")).relation("FROM activations")
        gc.collect()
        assert len(relation.fetchall()) == 36
        chained = Database(open_snapshot(tmp_path / "store")).relation("FROM activations")
        chained = chained.filter("layer >= 0")
        gc.collect()
        assert len(chained.fetchall()) > 0
        reader = Database(open_snapshot(tmp_path / "store")).reader("FROM activations")
        gc.collect()
        assert reader.read_all().num_rows == 36


def test_relations_end_with_their_database(tmp_path: Path, matrices: list[np.ndarray]) -> None:
    stores.add(
        tmp_path / "own", np.ones((2, 3), np.float32), extra=['{"group": "a"}', '{"group": "b"}']
    )
    for name, query in (
        ("store", "FROM activations"),
        ("store", "SELECT layer FROM activations"),
        ("own", "SELECT extra.group FROM activations"),
    ):
        database = Database(open_snapshot(tmp_path / name))
        open_one = database.relation(query)
        assert len(open_one.fetchall()) > 0
        kept = database.relation(query)
        database.close()
        with pytest.raises(duckdb.ConnectionException, match="closed"):
            kept.fetchall()
        database.close()
        assert database.table(query).num_rows > 0  # a closed one opens again when it is asked
        database.close()


@pytest.mark.parametrize("condition", ["isnan(norm)", "norm > 100", "NOT norm <= 100"])
def test_norms_that_are_no_numbers_are_found(tmp_path: Path, condition: str) -> None:
    stores.add(tmp_path / "s", np.array([[3, 4], [np.nan, 0], [0, 0]], np.float32))
    database = Database(open_snapshot(tmp_path / "s"))
    query = f"SELECT row_id FROM activations WHERE {condition}"
    assert database.table(query)["row_id"].to_pylist() == [1]
    assert np.isnan(database.table("SELECT max(norm) FROM activations")[0][0].as_py())
    database.close()


def test_an_empty_result_and_a_vector_of_one(tmp_path: Path) -> None:
    stores.add(tmp_path / "s", np.ones((1, 1), np.float32))
    database = Database(open_snapshot(tmp_path / "s"))
    assert database.table("SELECT activation FROM activations").to_pylist() == [
        {"activation": [1.0]}
    ]
    assert database.table("SELECT * FROM activations WHERE layer > 5").num_rows == 0
    database.close()


def test_the_cache_may_vanish_while_a_database_is_open(tmp_path: Path, database: Database) -> None:
    assert database.table("SELECT count(*) FROM activations").num_rows == 1
    for path in (tmp_path / "store" / ".cache").iterdir():
        path.unlink()
    assert database.table("SELECT sum(layer) FROM activations").column(0)[0].as_py() == 36


SCRIPT = """
import sys
from actstore.querying.sql import Database
from actstore.storage.snapshot import open_snapshot
database = Database(open_snapshot(sys.argv[1]))
relation = database.relation("SELECT vector_at(row_id) FROM activations")
relation.fetchall()
other = Database(open_snapshot(sys.argv[1])).relation("SELECT activation FROM activations")
{}
"""


@pytest.mark.parametrize("ending", ["", "raise SystemExit(0)", "database.close()"])
def test_nothing_is_printed_when_python_ends(tmp_path: Path, ending: str) -> None:
    stores.layered(tmp_path / "store", layers=1)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(ending), tmp_path / "store"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


INTERRUPTED = """
import os, signal, sys, threading
from actstore.querying.sql import Database
from actstore.querying.sql_functions import VectorFunctions
from actstore.storage.snapshot import open_snapshot

running = threading.Event()
vector_at = VectorFunctions._vector_at


def at_work(self, rows):
    running.set()
    return vector_at(self, rows)


def interrupt():
    running.wait()
    os.kill(os.getpid(), signal.SIGINT)


VectorFunctions._vector_at = at_work
database = Database(open_snapshot(sys.argv[1]))
threading.Thread(target=interrupt).start()
try:
    database.table(
        "SELECT count(*) FROM (SELECT vector_at(row_id) AS v FROM activations), "
        "range(10_000_000_000_000) AS r WHERE v[1] <> r.range"
    )
except KeyboardInterrupt:
    print("interrupted")
"""


def said_when_interrupted(root: Path, script: str) -> tuple[str, str]:
    """Return what a script over a store says before it ends."""
    stores.layered(root, layers=1)
    with ctrl_c_heeded():
        done = subprocess.run(
            [sys.executable, "-c", script, root],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    return done.stdout, done.stderr


def test_ctrl_c_ends_a_query(tmp_path: Path) -> None:
    assert said_when_interrupted(tmp_path / "store", INTERRUPTED) == ("interrupted\n", "")


LOST = """
import duckdb, os, signal, sys
from actstore.querying.sql import Database
from actstore.querying.sql_functions import VectorFunctions
from actstore.storage.snapshot import open_snapshot

vector_at = VectorFunctions._vector_at


sent = set()


def at_work(self, rows):
    try:
        if number not in sent:
            sent.add(number)
            os.kill(os.getpid(), signal.SIGINT)
            sum(range(100_000))  # here Python hears of it
    except KeyboardInterrupt:
        pass  # as DuckDB loses it where it comes a little later
    return vector_at(self, rows)


connect = duckdb.connect
duckdb.connect = lambda *given, config: connect(*given, config={**config, "threads": 1})
VectorFunctions._vector_at = at_work
database = Database(open_snapshot(sys.argv[1]))
before = signal.getsignal(signal.SIGINT)
for number, read in enumerate((database.table, lambda sql: database.reader(sql).read_all())):
    try:
        read(
            "SELECT count(*) FROM (SELECT vector_at(row_id) AS v FROM activations), "
            "range(10_000_000_000_000) AS r WHERE v[1] <> r.range"
        )
    except KeyboardInterrupt:
        print("interrupted", signal.getsignal(signal.SIGINT) is before)
"""


def test_ctrl_c_ends_a_query_in_which_its_exception_is_lost(tmp_path: Path) -> None:
    said = said_when_interrupted(tmp_path / "store", LOST)
    assert said == (2 * "interrupted True\n", "")


def test_ctrl_c_inside_a_vector_function_is_no_error_of_the_query(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: VectorFunctions, rows: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(VectorFunctions, "_vector_at", interrupted)
    with pytest.raises(KeyboardInterrupt):
        database.table("SELECT vector_at(row_id) FROM activations WHERE row_id > 1")
