"""One text for each row of a selection."""

from __future__ import annotations

from pathlib import Path

import actstore
from actstore.querying import row_texts
from tests.querying import stores


def test_rows_that_come_twice_have_their_text_twice(tmp_path: Path) -> None:
    stores.layered(tmp_path / "s", layers=1, rows=6)
    with actstore.open(tmp_path / "s") as store:
        rows = store.rows_at([4, 1, 4, 1, 2])
        assert row_texts.texts(rows, "example_id || '!'").tolist() == [
            *("e4!", "e1!", "e4!", "e1!", "e2!")
        ]
