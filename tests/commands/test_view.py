"""`actstore view`: the table, and the report where there is no viewer."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from actstore.analysis import viewing
from tests.commands.conftest import Command
from tests.querying import stores


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


@pytest.fixture
def atlas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the viewer's place, which notes what it was asked for."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / viewing.PROGRAM
    program.write_text(
        f'#!/bin/sh\ncp "$1" {tmp_path}/given.parquet\necho "$@" > {tmp_path}/words\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(folder / "python"))
    return tmp_path / "words"


def test_what_the_browser_needs_is_said_before_it_opens(
    actstore: Command, store: Path, atlas: Path
) -> None:
    done = actstore("view", store, "--port", 6001)
    assert done.code == 0, done.err
    first, second = done.err.splitlines()
    assert "needs a browser with WebGPU" in first
    assert "the table, search and filters beside it work" in first
    assert "ssh" not in first
    assert second.endswith("Ctrl-C ends the viewer")
    assert "--port 6001" in atlas.read_text()
    done = actstore("view", store, "--host", "0.0.0.0", "--port", 6001)
    assert "ssh -L 6001:localhost:6001" in done.err


def test_the_viewer_is_given_no_more_text_than_it_can_hold(
    actstore: Command, tmp_path: Path, atlas: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewing, "TEXT_BYTES", 6000)
    texts = ["é" * 5000, "short", None] * 4
    stores.add(tmp_path / "s", stores.vectors(12, 6, "float16", 0), question=texts)
    done = actstore("view", tmp_path / "s")
    assert "texts cut at 500 characters" in done.err
    given = pq.read_table(tmp_path / "given.parquet")["question"].to_pylist()
    assert given == ["é" * 500, "short", None] * 4
    whole = tmp_path / "whole.parquet"
    assert "cut" not in actstore("view", tmp_path / "s", "-o", whole).out
    assert pq.read_table(whole)["question"].to_pylist() == texts
