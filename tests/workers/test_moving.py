"""What is sent to a machine with other folders names files as they lie there."""

from __future__ import annotations

from pathlib import Path

from actstore.ingestion.source_file import Entry
from actstore.workers.moving import moved


def test_paths_below_a_folder_are_moved_wherever_they_stand() -> None:
    here, there = Path("/here/a"), Path("/there")
    entry = Entry(root=here, tail="x.pt", relative="x.pt", size=3)
    given = {
        "entry": entry,
        here / "b/c": [(here, {Path("/here/ab"), Path("rel")})],
        "text": "/here/a",
    }
    found = moved(given, {here: there})
    assert found == {
        "entry": Entry(root=there, tail="x.pt", relative="x.pt", size=3),
        there / "b/c": [(there, {Path("/here/ab"), Path("rel")})],
        "text": "/here/a",
    }
    assert moved(found, {there: here}) == given
    assert moved(given, {}) is given
