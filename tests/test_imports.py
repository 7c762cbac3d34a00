"""What the modules import: other packages as declared, each other in no circle."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "actstore"
PROGRAMS = {"accelerate", "embedding-atlas"}
"""Declared and not imported: transformers asks for one, the other is run as a program."""
DEVELOPMENT = {"bench", "dev"}


@cache
def modules() -> dict[str, tuple[Path, ast.Module]]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = path, ast.parse(path.read_text("utf-8"))
    return found


def imported(tree: ast.Module) -> Iterator[str]:
    """Every name that a module imports: at its top, in functions, for types."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def names(requirements: list[str]) -> set[str]:
    """The normalized names of some requirements."""
    plain = (re.split(r"[^A-Za-z0-9._-]", each, maxsplit=1)[0] for each in requirements)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in plain}


def declared() -> tuple[set[str], dict[str, set[str]]]:
    """What pyproject.toml asks for: always, and with each extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].items()
    return names(project["dependencies"]), {
        extra: names(needed) - {"actstore"} for extra, needed in extras if extra not in DEVELOPMENT
    }


def used() -> dict[str, set[str]]:
    """By distribution that is imported: the modules that do so."""
    known = packages_distributions()
    found: dict[str, set[str]] = {}
    for module, (_, tree) in modules().items():
        for name in imported(tree):
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names and top != "actstore":
                (distribution,) = names(known[top])
                found.setdefault(distribution, set()).add(module)
    return found


def test_what_is_imported_is_declared_and_the_other_way_round() -> None:
    core, extras = declared()
    everything = core.union(*extras.values())
    assert used().keys() == everything - PROGRAMS
    assert sum(map(len, extras.values())) + len(core) == len(everything)  # each once


def arrows(room: str) -> dict[str, set[str]]:
    """By module of a room: the modules of the same room that it imports."""
    inside = {name for name in modules() if f"{name}.".startswith(f"actstore.{room}.")}
    found = {}
    for name in inside:
        targets = set()
        for target in imported(modules()[name][1]):
            targets.add(target if target in inside else target.rpartition(".")[0])
        found[name] = (targets & inside) - {name}
    return found


@pytest.mark.parametrize("room", ["storage", "hub", "ingestion"])
def test_no_modules_of_a_room_import_each_other_in_a_circle(room: str) -> None:
    left = arrows(room)
    assert len(left) > 20
    while ends := {name for name, targets in left.items() if not targets & left.keys()}:
        left = {name: targets for name, targets in left.items() if name not in ends}
    assert {name: sorted(targets & left.keys()) for name, targets in left.items()} == {}
