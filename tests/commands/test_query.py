"""`actstore query`: SQL and named queries in every format, read-only, at any commit."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from actstore.storage.labels import set_labels
from actstore.storage.snapshot import open_snapshot
from tests.commands.conftest import ROWS, WIDTH, Command, vectors

COUNT = "SELECT label, layer, count(*) AS n FROM activations GROUP BY ALL ORDER BY ALL"


def test_a_table(actstore: Command, store: Path) -> None:
    assert actstore("query", store, COUNT).out.splitlines() == [
        "label       layer   n",
        "faithful        3  10",
        "faithful        7  10",
        "unfaithful      3  10",
        "unfaithful      7  10",
        "(4 rows)",
    ]


@pytest.mark.parametrize("format", ["csv", "json", "jsonl"])
def test_vectors_come_whole_in_text_formats(actstore: Command, store: Path, format: str) -> None:
    sql = "SELECT example_id, activation FROM activations WHERE layer = 7 ORDER BY row_id"
    out = actstore("query", store, sql, "--format", format).out
    if format == "csv":
        read = [json.loads(row["activation"]) for row in csv.DictReader(io.StringIO(out))]
    elif format == "json":
        read = [row["activation"] for row in json.loads(out)]
    else:
        read = [json.loads(line)["activation"] for line in out.splitlines()]
    assert np.array(read, np.float16).tobytes() == vectors(7).tobytes()


def test_a_file_gets_the_format_of_its_name(actstore: Command, store: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.parquet"
    finished = actstore("query", store, "FROM activations", "-o", target)
    assert finished.out == ""
    assert finished.err == f"40 rows written to {target}\n"
    table = pq.read_table(target)
    assert len(table) == 2 * ROWS
    assert len(table["activation"][0]) == WIDTH


def test_parameters(actstore: Command, store: Path) -> None:
    sql = "SELECT count(*) AS n FROM activations WHERE layer = $l AND example_id = $e"
    words = ("--param", "l=7", "--param", "e=e3", "--format", "jsonl")
    assert actstore("query", store, sql, *words).out == '{"n": 1}\n'


def test_a_named_query(actstore: Command, store: Path) -> None:
    words = ("--name", "label-counts", "--param", "layer=3", "--format", "jsonl")
    rows = [json.loads(line) for line in actstore("query", store, *words).out.splitlines()]
    assert [(row["layer"], row["label"], row["rows"]) for row in rows] == [
        (3, "faithful", 10),
        (3, "unfaithful", 10),
    ]


def test_an_earlier_commit_has_its_labels(actstore: Command, store: Path) -> None:
    set_labels(open_snapshot(store), np.arange(40), ["new"] * 40, message="")
    sql = "SELECT DISTINCT label FROM activations ORDER BY ALL"
    assert actstore("query", store, sql, "--format", "csv").out == "label\nnew\n"
    before = actstore("query", store, sql, "--format", "csv", "--at", 1).out
    assert before == "label\nfaithful\nunfaithful\n"


def test_other_files_only_on_request(actstore: Command, store: Path, tmp_path: Path) -> None:
    table = tmp_path / "scores.csv"
    table.write_text("example_id,score\ne1,5\n")
    sql = f"SELECT count(*) AS n FROM activations JOIN '{table}' USING (example_id)"
    assert actstore("query", store, sql).code == 1
    allowed = actstore("query", store, sql, "--allow-external", "--format", "jsonl")
    assert allowed.out == '{"n": 2}\n'


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((), 2),
        (("SELECT 1", "--name", "layers"), 2),
        (("--name", "nothing"), 2),
        (("--name", "label-counts", "--param", "layer=x"), 2),
        (("SELECT nothing FROM activations",), 1),
        (("DELETE FROM activations",), 1),
        (("SELECT 1", "--format", "parquet"), 2),
        (("SELECT 1", "--at", "7"), 1),
    ],
)
def test_what_cannot_be_asked(
    actstore: Command, store: Path, words: tuple[str, ...], code: int
) -> None:
    finished = actstore("query", store, *words)
    assert finished.code == code
    assert finished.out == ""
    assert finished.err.startswith("error: ")
