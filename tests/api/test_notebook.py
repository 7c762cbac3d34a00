"""What a notebook shows of a store and a selection."""

from __future__ import annotations

from pathlib import Path

import actstore
from tests.querying import stores

HOSTILE = "</td><script>alert('&')</script>"


def test_a_store_shows_its_parts_escaped(tmp_path: Path) -> None:
    stores.add(tmp_path, stores.vectors(3, 4, "float16", 0), model="<b>org</b>")
    with actstore.open(tmp_path) as store:
        html = store._repr_html_()
    assert "&lt;b&gt;org" in html
    assert "<b>org" not in html
    assert "3 rows, commit 1; labels: no 1, yes 1, none 1" in html


def test_a_selection_shows_its_first_rows(tmp_path: Path) -> None:
    stores.add(tmp_path, stores.vectors(25, 4, "float16", 0), question=[HOSTILE] * 25)
    with actstore.open(tmp_path) as store:
        html = store.select()._repr_html_()
        assert html.count("<tr>") == 11
        assert "and 15 more" in html
        assert "<script" not in html
        assert "&lt;script&gt;" in html
        assert "oracle" not in html  # a column without values says nothing
        assert "<table>" not in store.select("false")._repr_html_()


def test_one_row_and_characters_that_are_not_seen(tmp_path: Path) -> None:
    stores.add(tmp_path, stores.vectors(1, 4, "float16", 0), label=["a\u202eb"])
    with actstore.open(tmp_path) as store:
        assert "1 row, commit" in store._repr_html_()
        assert "a\ufffdb" in store._repr_html_()
        assert "\u202e" not in store.select()._repr_html_()
