"""On a terminal: a progress bar on standard error, colours, tables as wide as the window."""

from __future__ import annotations

from pathlib import Path

from actstore.commands.formats import TABLE_ROWS
from tests.commands.terminal import COLUMNS, on_a_terminal
from tests.layouts import faithfulness


def test_an_ingest_shows_how_far_it_is(tmp_path: Path) -> None:
    faithfulness.write_v1(tmp_path / "project")
    _, shown = on_a_terminal("ingest", tmp_path / "project", "--store", tmp_path / "s")
    assert "ingesting" in shown
    assert "52 rows" in shown.split("recipe")[0]
    assert "rows/s" in shown


def test_a_wide_table_fits_the_window(store: Path) -> None:
    _, shown = on_a_terminal("query", store, "FROM activations LIMIT 2", NO_COLOR="1")
    header, first, *_ = shown.replace("\r", "").splitlines()
    assert " …" in header
    assert header.startswith("example_id")
    assert len(header) <= COLUMNS
    assert len(first) <= COLUMNS


def test_a_long_table_says_how_many_rows_it_hides(store: Path) -> None:
    _, shown = on_a_terminal("query", store, "SELECT range FROM range(1000)", NO_COLOR="1")
    lines = shown.replace("\r", "").splitlines()
    assert len(lines) == TABLE_ROWS + 2
    assert lines[-1].startswith("(1,000 rows, the first 40 shown")


def test_colours_unless_they_are_unwanted(store: Path) -> None:
    assert "\x1b[31m" in on_a_terminal("query", store, "SELEC")[1]
    assert "\x1b" not in on_a_terminal("query", store, "SELEC", NO_COLOR="1")[1]
