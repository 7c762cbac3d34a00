"""What the modules import: other packages as declared, each other downwards and in no circle."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest

from docs import rooms

PROGRAMS = {"accelerate", "embedding-atlas"}
"""Declared and not imported: transformers asks for one, the other is run as a program."""
DEVELOPMENT = {"bench", "dev"}


def names(requirements: list[str]) -> set[str]:
    """The normalized names of some requirements."""
    plain = (re.split(r"[^A-Za-z0-9._-]", each, maxsplit=1)[0] for each in requirements)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in plain}


def declared() -> tuple[set[str], dict[str, set[str]]]:
    """What pyproject.toml asks for: always, and with each extra."""
    project = tomllib.loads((rooms.ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].items()
    return names(project["dependencies"]), {
        extra: names(needed) - {"actstore"} for extra, needed in extras if extra not in DEVELOPMENT
    }


def used() -> dict[str, set[str]]:
    """By distribution that is imported: the modules that do so."""
    known = packages_distributions()
    found: dict[str, set[str]] = {}
    for module, (_, tree) in rooms.modules().items():
        for name in rooms.imported(tree):
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names and top != "actstore":
                (distribution,) = names(known.get(top, [top]))  # an extra may not be installed
                found.setdefault(distribution, set()).add(module)
    return found


def test_what_is_imported_is_declared_and_the_other_way_round() -> None:
    core, extras = declared()
    everything = core.union(*extras.values())
    assert used().keys() == everything - PROGRAMS
    assert sum(map(len, extras.values())) + len(core) == len(everything)  # each once


def test_every_import_points_down() -> None:
    assert {rooms.room(name) for name in rooms.modules()} == {*sum(rooms.LEVELS, ())}
    assert rooms.upward() == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert len(rooms.arrows()) > 200
    assert rooms.circles(rooms.arrows()) == {}


@pytest.mark.parametrize("depth", [2, 3])
def test_no_folders_import_each_other_in_a_circle(depth: int) -> None:
    assert rooms.circles(rooms.between(depth)) == {}


def test_a_circle_is_found() -> None:
    """Two in one, what leads there, and what it leads to."""
    edges = {"in": {"a"}, "a": {"b"}, "b": {"a", "out"}, "out": set[str]()}
    assert rooms.circles(edges) == {"a": ["b"], "b": ["a"]}


def test_the_picture_of_the_rooms_shows_the_imports_as_they_are() -> None:
    assert rooms.PICTURE.read_text("utf-8") == rooms.picture(), "run `make docs`"
