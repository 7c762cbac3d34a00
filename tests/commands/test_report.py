"""`actstore report`: one file, conditions, errors."""

from __future__ import annotations

import json
from pathlib import Path

from tests.commands.conftest import Command


def test_one_file_is_written(actstore: Command, store: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "page.html"
    done = actstore("report", store, "-o", target)
    assert done.code == 0
    assert done.out.startswith(f"{target}: 40 rows, ")
    assert target.read_text().startswith("<!doctype html>")
    assert [path.name for path in target.parent.iterdir()] == ["page.html"]


def test_conditions_and_json(actstore: Command, store: Path, tmp_path: Path) -> None:
    words = ("--layer", 3, "--by", "oracle", "-o", tmp_path / "a.html", "--json")
    document = json.loads(actstore("report", store, "label = 'faithful'", *words).out)
    assert document["rows"] == 10
    text = (tmp_path / "a.html").read_text()
    assert "Rows by oracle" in text
    assert "layer 7" not in text


def test_a_column_that_is_not_there(actstore: Command, store: Path, tmp_path: Path) -> None:
    done = actstore("report", store, "--by", "nothing", "-o", tmp_path / "a.html")
    assert done.code == 1
    assert "no column 'nothing'" in done.err
    assert not (tmp_path / "a.html").exists()
