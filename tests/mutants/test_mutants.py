"""The mutants' tool: what it changes, what it finds in a tiny project, and what it leaves alone."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.mutants import __main__ as tool
from tests.mutants.changes import mutants
from tests.mutants.trying import ATTACKS, Project, trial, valid

CODE = '''"""A tiny module."""
from __future__ import annotations

LIMIT = 10


def clamp(value: int, low: int = 0) -> int:
    if value < low:
        return low
    return min(value, LIMIT)


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self, text: str) -> None:
        def known(word: str) -> bool:
            return word != "" and word != "-"

        for word in text.split(" "):
            if not known(word):
                continue
            self.count += 1


def unused() -> int:
    return 7


def forever(steps: int) -> int:
    while steps > 0:
        steps -= 1
    return steps
'''
FEW = """LIMIT = 10


def clamp(value: int, low: int) -> int:
    if value < low:
        return low
    return min(value, LIMIT)


def unused() -> int:
    return UNUSED
"""
TESTS = """from tiny.room.thing import LIMIT, clamp


def test_clamp():
    assert [clamp(value, 0) for value in (-3, 4, 99)] == [0, 4, LIMIT]
"""

MORE = """from importlib import import_module

import pytest


@pytest.fixture(scope="module")
def found():
    return import_module("tiny.room.thing").unused()


def test_nothing():
    pass


def test_the_first(found):
    assert isinstance(found, list)


def test_the_second(found):
    assert found == []
"""


def git(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    command = ["git", *identity, *words]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "project"
    for name, text in {
        "tiny/room/thing.py": FEW,
        "tiny/other.py": "def half(value):\n    return value / 2\n",
        "tests/room/test_thing.py": TESTS,
        "pytest.ini": "[pytest]\naddopts = --import-mode=importlib\n",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(root, "init", "-q", "-b", "main")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "all")
    return Project(root, "tiny")


def test_every_kind_of_change_keeps_its_place() -> None:
    source = CODE.encode()
    found = mutants("m.py", source)
    changes = {(one.where, one.line, one.was, one.becomes) for one in found}
    assert {
        ("", 4, "10", "11"),
        ("", 7, "0", "1"),
        ("clamp", 8, "value < low", "(value <= low)"),
        ("clamp", 9, "low", "None"),
        ("Counter.__init__", 15, "self.count = 0", "pass"),
        ("Counter.add.<locals>.known", 19, 'word != ""', "(word == '')"),
        (
            "Counter.add.<locals>.known",
            19,
            'word != "" and word != "-"',
            "(word != '' or word != '-')",
        ),
        ("Counter.add", 22, "not known(word)", "(known(word))"),
        ("Counter.add", 23, "continue", "break"),
        ("Counter.add", 24, "self.count += 1", "self.count -= 1"),
        ("unused", 28, "7", "8"),
    } <= changes
    for one in found:
        assert source[one.start : one.stop].decode() == one.was
        assert valid(one, source)
    assert len({(one.where, one.was, one.becomes, one.repeat) for one in found}) == len(found)


def test_text_types_and_messages_are_left_alone() -> None:
    source = (
        b'def f(x: "int | None" = None) -> list[int]:\n    """Text, 1."""\n'
        b"    y: dict[int, int]\n    assert x, 5\n"
        b'    return g(zip(x, strict=True), f"{x + 1} \xc3\xa9")\n'
    )
    assert [(one.was, one.becomes) for one in mutants("m.py", source)] == [
        ('g(zip(x, strict=True), f"{x + 1} \u00e9")', "None")
    ]


def test_survivors_are_found_and_nothing_is_touched(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A change of a line comes before all others.
    thing = project.root / "tiny/room/thing.py"
    thing.write_text(FEW.replace("UNUSED", "[]"))
    equal = tmp_path / "equivalent.toml"
    equal.write_text(
        '[[mutant]]\npath = "tiny/room/thing.py"\nwas = "value < low"\nbecomes = "(value <= low)"\n'
        'reason = "equal values are the limit themselves"\n'
    )
    before = {path: path.read_bytes() for path in project.root.rglob("*") if path.is_file()}
    results = tmp_path / "out/results.jsonl"
    words = ["--root", str(project.root), "--package", "tiny", "--results", str(results)]
    words += ["--equivalent", str(equal), "--number", "100", "tiny/room"]
    assert tool.main([*words, "--at-least", "61"]) == 1
    after = {path: path.read_bytes() for path in project.root.rglob("*") if path.is_file()}
    assert after == before
    records = [json.loads(line) for line in results.read_text().splitlines()]
    assert records[0]["where"] == "unused"
    assert {(one["where"], one["was"], one["becomes"]): one["outcome"] for one in records} == {
        ("unused", "[]", "None"): "survived",
        ("", "10", "11"): "survived",  # the test asks for LIMIT itself
        ("clamp", "low", "None"): "killed",
        ("clamp", "min(value, LIMIT)", "None"): "killed",
    }
    told = capsys.readouterr().out
    assert "  tiny/room/thing.py:11 in unused: []  →  None\n" in told
    assert "  tiny/room/thing.py:1: 10  →  11\n" in told
    assert "2 of 4 mutants noticed: 50.0 % (0 by taking too long); 1 more are listed" in told
    # A second run takes up what the first one found.
    tool.main([*words[:-1], "tiny"])
    more = [json.loads(line) for line in results.read_text().splitlines()]
    assert more[:4] == records
    assert {one["path"] for one in more[4:]} == {"tiny/other.py"}


def test_what_other_files_enter_is_learned_and_kept(project: Project, tmp_path: Path) -> None:
    thing = project.root / "tiny/room/thing.py"
    thing.write_text(FEW.replace("UNUSED", "[]"))
    more = "tests/room/test_more.py"  # it is about no module, by its name or its imports
    (project.root / more).write_text(MORE)
    (mutant,) = [one for one in mutants("tiny/room/thing.py", thing.read_bytes()) if one.line == 11]
    memory = tmp_path / "memory"
    with trial(project, memory, seed=0) as attempt:
        assert attempt.try_out(mutant) == "killed"
        # Whichever of the two was quicker when they were learned.
        assert attempt.failed in {f"{more}::test_the_{one}" for one in ("first", "second")}
    kept = json.loads((memory / "tests.room.test_more.json").read_text())
    entered = {test.partition("::")[2]: found["marks"] for test, found in kept["tests"].items()}
    # What a fixture does is done for each test that shares it.
    unused = [["tiny/room/thing.py", 11]]
    assert entered == {"test_nothing": [], "test_the_first": unused, "test_the_second": unused}
    assert set(kept["hashes"]) == {"tiny/room/thing.py", more}


def test_the_listed_equivalents_are_there() -> None:
    """An entry whose code has changed says nothing any more: it goes, or is written anew."""
    for entry in tool.equivalents(tool.EQUIVALENT):
        found = mutants(entry["path"], (tool.ROOT / entry["path"]).read_bytes())
        assert any(tool.matches(entry, mutant) for mutant in found), entry
        assert len(entry["reason"]) > 10


def test_the_attacks_that_are_not_asked_are_there() -> None:
    assert {path.name for path in (tool.ROOT / "tests").rglob("test_*.py")} >= ATTACKS
