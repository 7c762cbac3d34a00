"""`actstore label` says what it changed and what fit nothing."""

import json
from pathlib import Path

from tests.commands.conftest import Command


def test_from_a_table(actstore: Command, store: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("id,verdict\ne0,good\ne1,bad\nnobody,bad\n")
    finished = actstore("label", store, table, "--on", "example_id=id", "--column", "verdict")
    assert finished.code == 0
    assert finished.out.splitlines()[0] == "commit 2: 4 labels changed"
    assert finished.err == f"1 row of {table} fit no row of the store: nobody\n"


def test_by_sql(actstore: Command, store: Path) -> None:
    finished = actstore("label", store, "--set", "'x'", "--where", "layer = 3", "--json")
    done = json.loads(finished.out)
    assert (done["commit"], done["changed"], done["labels"]) == (2, 20, {"x": 20})
    assert done["examples"] == {"x": 20}
    both = actstore("label", store, "--set", "CASE WHEN example_id < 'e5' THEN 'y' END").out
    assert [line.split() for line in both.splitlines()[2:]] == [
        ["y", "30", "15"],
        ["(none)", "10", "5"],
    ]


def test_one_way_at_a_time(actstore: Command, store: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("example_id,label\ne0,a\n")
    for words in ((), (table,), (table, "--set", "'x'"), ("--set", "'x'", "--on", "example_id")):
        assert actstore("label", store, *words).code == 2
