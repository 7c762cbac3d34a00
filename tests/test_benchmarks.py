"""What the benchmarks conclude from their figures; none is timed here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import committed, roofs
from benchmarks.measure import Moved, Outcome


def ratio(what: str, value: float, **target: float) -> Outcome:
    return Outcome(point=1, what=what, value=value, **target)  # type: ignore[arg-type]


BEFORE = [
    ratio("reading", 4.0, at_least=2),
    ratio("ingest", 1.5, at_most=2),
    ratio("for information", 9.0),
    Outcome(point=1, what="seconds", value=3, unit=" s", at_most=5),
]


def test_a_run_is_not_worse_than_itself(tmp_path: Path) -> None:
    committed.write(BEFORE, "a machine\nand its libraries", tmp_path / "c.json")
    assert committed.worse(BEFORE, tmp_path / "c.json") == []
    kept = json.loads((tmp_path / "c.json").read_text())
    assert kept == {
        "machine": ["a machine", "and its libraries"],
        "ratios": {"ingest": 1.5, "reading": 4.0},
    }


def test_what_got_worse_is_named_whichever_way_is_better(tmp_path: Path) -> None:
    committed.write(BEFORE, "", tmp_path / "c.json")
    now = [ratio("reading", 2.5, at_least=2), ratio("ingest", 2.4, at_most=2)]
    lines = committed.worse(now, tmp_path / "c.json", noise=1.5)
    assert [line.split(":")[0] for line in lines] == ["reading", "ingest"]
    assert "1.60 times worse" in lines[0]
    better = [ratio("reading", 9.0, at_least=2), ratio("ingest", 0.4, at_most=2)]
    assert committed.worse(better, tmp_path / "c.json", noise=1.5) == []
    assert committed.worse(now, tmp_path / "c.json", noise=1.7) == []


def test_other_benchmarks_keep_their_ratios(tmp_path: Path) -> None:
    committed.write(BEFORE, "", tmp_path / "c.json")
    committed.write([ratio("reading", 5.0, at_least=2)], "", tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text())["ratios"] == {
        "ingest": 1.5,
        "reading": 5.0,
    }


def test_nothing_compared_is_not_a_success(tmp_path: Path) -> None:
    committed.write(BEFORE, "", tmp_path / "c.json")
    with pytest.raises(ValueError, match="none of these"):
        committed.worse([ratio("something else", 2.0, at_least=1)], tmp_path / "c.json")


def test_how_near_to_the_machine_is_a_share_of_the_right_speed(tmp_path: Path) -> None:
    found = roofs.Speeds(reading=10e9, copying=5e9, writing=1e9, loading=2e9)
    outcomes = [
        Outcome(point=1, what="read", value=1, moved=Moved(8_000_000_000, 1.0, "memory")),
        Outcome(point=1, what="write", value=1, moved=Moved(500_000_000, 1.0, "disk")),
        ratio("nothing moved", 2),
    ]
    _, _, read, write = roofs.table(outcomes, found).splitlines()
    assert read == "| read | 8,000,000,000 | 8 | memory 10 | 80% |"
    assert write == "| write | 500,000,000 | 0.5 | disk 1 | 50% |"


def test_the_speeds_of_this_machine_are_measured(tmp_path: Path) -> None:
    found = roofs.speeds(tmp_path, size=1 << 16)
    assert min(found.reading, found.copying, found.writing, found.loading) > 0
    assert list(tmp_path.iterdir()) == []
