"""What an attack tried is a line, and the lines of a run are a table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.children import children
from tests.torture.effort import attack
from tests.torture.figures import table


def spend() -> None:
    """Take a fifth of a second of CPU time."""
    import time

    while time.process_time() < 0.2:
        pass


def test_a_table_of_tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = tmp_path / "lines"
    monkeypatch.setenv("ACTSTORE_FIGURES", str(lines))
    with attack("damage", "bits") as tally:
        tally.tries = 1200
        child = children.Process(target=spend)
        child.start()
        child.join()
    with attack("damage", "bits") as tally:
        tally.tries, tally.peak = 34, 5 << 20
    with pytest.raises(AssertionError), attack("load", "`info`") as tally:
        raise AssertionError
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert found[0]["cpu"] >= 0.2  # of a process that has ended, and is another one's child
    assert [line["kept"] for line in found] == [True, True, False]
    *_, damage, load = table(found).splitlines()
    assert damage.startswith("| damage | bits | 1,234 |")
    assert damage.endswith("| 5 MB | kept |")
    assert load == "| load | `info` | 0 | 0 |  | **broken** |"
