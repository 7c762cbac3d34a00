"""The pictures of the documents can be drawn, and are those that the page shows."""

from __future__ import annotations

import re
from pathlib import Path

from docs import pictures


def test_every_picture_of_the_page_is_drawn(tmp_path: Path) -> None:
    page = (pictures.FOLDER.parent / "plots.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"!\[\]\(pictures/([^)]+)\)", page))
    drawn = {path.name for path in pictures.draw(tmp_path)}
    assert shown == drawn
    # Other pages keep pictures there too.
    assert drawn <= {path.name for path in pictures.FOLDER.iterdir()}
