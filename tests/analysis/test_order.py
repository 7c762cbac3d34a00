"""The rooms of the analysis import one way, in the order that its docstring states."""

import ast
import re
from pathlib import Path

import pytest

import actstore.analysis

ROOT = Path(actstore.analysis.__file__).parent
DOCSTRING = actstore.analysis.__doc__ or ""
ORDER = re.findall(r"``(\w+)``", DOCSTRING)


def test_every_room_has_its_place_in_the_order() -> None:
    rooms = {path.stem for path in ROOT.iterdir() if not path.name.startswith("__")}
    assert sorted(ORDER) == sorted(rooms)


@pytest.mark.parametrize("room", ORDER)
def test_a_room_imports_only_those_before_it(room: str) -> None:
    paths = [*(ROOT / room).rglob("*.py"), *ROOT.glob(f"{room}.py")]
    assert paths
    later = set(ORDER[ORDER.index(room) + 1 :])
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.ImportFrom):
                continue
            for name in node.names:
                words = f"{node.module}.{name.name}".split(".")
                if words[:2] == ["actstore", "analysis"] and words[2] in later:
                    found.add((path.name, words[2]))
    assert not found
