"""`actstore queries` lists the named queries and prints one as it is."""

import json
from pathlib import Path

from actstore import resources
from actstore.querying import named
from tests.commands.conftest import Command


def test_every_query_is_listed(actstore: Command) -> None:
    listed = {line.split()[0] for line in actstore("queries").out.splitlines()[1:]}
    assert listed == {path.stem for path in resources.folder("query").glob("*.sql")}
    assert listed == {item["name"] for item in json.loads(actstore("queries", "--json").out)}


def test_a_printed_query_is_a_query(actstore: Command, tmp_path: Path) -> None:
    path = tmp_path / "label-counts.sql"
    path.write_text(actstore("queries", "label-counts").out, encoding="utf-8")
    assert named.load(path) == named.find("label-counts")


def test_an_unknown_query_names_those_there_are(actstore: Command) -> None:
    finished = actstore("queries", "labels")
    assert finished.code == 2
    assert "label-counts" in finished.err
