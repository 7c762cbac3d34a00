"""`actstore view`: the table, and the report where there is no viewer."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from actstore.analysis import viewing
from tests.commands.conftest import Command


def test_the_table_alone(actstore: Command, store: Path, tmp_path: Path) -> None:
    target = tmp_path / "rows.parquet"
    words = ("--layer", 3, "-o", target, "--json")
    document = json.loads(actstore("view", store, *words).out)
    assert document == {"path": str(target), "rows": 20, "note": "20 rows"}
    assert {"projection_x", "projection_y", "prediction"} <= set(pq.read_table(target).column_names)


def test_without_the_viewer_there_is_a_report(
    actstore: Command, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    if viewing.program() is not None:
        pytest.skip("embedding-atlas is installed beside this Python")
    done = actstore("view", store)
    assert done.code == 0
    assert "pip install 'actstore[view]'" in done.err
    assert len(done.err.splitlines()) == 1
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    # What was to be beside others is beside them, under its own name.
    assert actstore("view", store, "-o", tmp_path / "shared" / "viewer.zip").code == 0
    assert (tmp_path / "shared" / "viewer.html").exists()
