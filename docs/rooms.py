"""The rooms of the package, which may import which, and the picture of it in docs/architecture.md.

The order below is what the tests hold every import to. ``make docs`` draws the picture from
the imports as they are.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from html import escape
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "actstore"
PICTURE = Path(__file__).parent / "pictures" / "rooms.svg"

LEVELS = (
    ("commands",),
    ("api",),
    ("analysis", "training", "exporting", "hub", "capturing", "ingestion"),
    ("querying", "models", "workers"),
    ("remote",),
    ("storage",),
    ("schema", "paths"),
    ("errors", "resources", "wording"),
)
"""Rooms from top to bottom. A module imports from its own room and from levels below it."""
WORDS = {
    "commands": "one file per command; only these print",
    "api": "open, Store, Selection: the face",
    "analysis": "statistics, probes, steering, pictures",
    "training": "batches for SAEs and CLTs",
    "exporting": "one file per layout",
    "hub": "push and pull",
    "capturing": "models answer, rows come out",
    "ingestion": "files become rows",
    "querying": "SQL, filters, selected rows, nearest",
    "models": "load a model, find its blocks",
    "workers": "who has which piece; Ray",
    "remote": "a store read from afar, by ranges",
    "storage": "pages, shards, manifests, transactions",
    "schema": "the fixed schema",
    "paths": "files that others name",
    "errors": "one tree",
    "resources": "data folders",
    "wording": "counts in words",
}
_EVERYBODYS = {*LEVELS[-2], *LEVELS[-1]}
"""Imported from everywhere: the picture leaves these arrows out."""
_TOP = ("actstore", "actstore.cli", "actstore.__main__")


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


@cache
def arrows() -> dict[str, set[str]]:
    """By module of the package: the modules of the package that it imports."""
    known = modules()
    found = {}
    for name, (_, tree) in known.items():
        targets = {
            target if target in known else target.rpartition(".")[0] for target in imported(tree)
        }
        found[name] = (targets & known.keys()) - {name}
    return found


def room(module: str) -> str:
    """Return the room of a module; what starts the command line belongs to the commands."""
    return "commands" if module in _TOP else module.split(".")[1]


def upward() -> list[str]:
    """Return the imports that go against the order, in words."""
    level = {name: number for number, names in enumerate(LEVELS) for name in names}
    return sorted(
        f"{source} imports {target}"
        for source, targets in arrows().items()
        for target in targets
        if room(source) != room(target) and level[room(target)] <= level[room(source)]
    )


def circles(edges: dict[str, set[str]]) -> dict[str, list[str]]:
    """Return the part of a graph that lies in circles, or leads from one to another."""
    left = {name: targets - {name} for name, targets in edges.items()}
    while True:
        pointed_at = set().union(*left.values()) if left else set()
        ends = {n for n, t in left.items() if not t & left.keys() or n not in pointed_at}
        if not ends:
            return {name: sorted(targets & left.keys()) for name, targets in left.items()}
        left = {name: targets for name, targets in left.items() if name not in ends}


def between(depth: int) -> dict[str, set[str]]:
    """By folder, ``depth`` names deep: the folders that its modules import."""
    found: dict[str, set[str]] = {}
    for source, targets in arrows().items():
        if source in _TOP:
            continue
        here = ".".join(source.split(".")[:depth])
        there = {".".join(target.split(".")[:depth]) for target in targets - set(_TOP)}
        found.setdefault(here, set()).update(there - {here})
    return found


def picture() -> str:
    """Return the rooms and the imports between them as an SVG drawing."""
    edges = {
        (room(source), room(target))
        for source, targets in arrows().items()
        for target in targets
        if room(source) != room(target) and room(target) not in _EVERYBODYS
    }
    width, height, box, high, gap = 1000, 720, 152, 50, 12
    places: dict[str, tuple[float, float]] = {}
    boxes = []
    step = (height - high - 20) / (len(LEVELS) - 1)
    for row, names in enumerate(LEVELS):
        wide = 280 if len(names) == 1 else box
        left = (width - len(names) * wide - (len(names) - 1) * gap) / 2
        for column, name in enumerate(names):
            x, y = left + column * (wide + gap), 10 + row * step
            places[name] = x + wide / 2, y
            lines = _wrapped(WORDS[name], 44 if wide > box else 25)
            text = "".join(
                f'<text x="{x + wide / 2:.0f}" y="{y + 31 + 12 * number:.0f}" class="w">'
                f"{escape(line)}</text>"
                for number, line in enumerate(lines)
            )
            boxes.append(
                f'<rect x="{x:.0f}" y="{y:.0f}" width="{wide}" height="{high}" rx="6"/>'
                f'<text x="{x + wide / 2:.0f}" y="{y + 17:.0f}" class="n">{name}</text>{text}'
            )
    boxes.append(
        f'<text x="{width - 120}" y="{10 + (len(LEVELS) - 1.4) * step:.0f}" class="w" '
        'style="text-anchor:end">all rooms import these two rows</text>'
    )
    lines = []
    for source, target in sorted(edges):
        (x1, y1), (x2, y2) = places[source], places[target]
        bend = (y2 - y1 - high) / 2
        lines.append(
            f'<path d="M{x1:.0f} {y1 + high:.0f} C{x1:.0f} {y1 + high + bend:.0f} '
            f'{x2:.0f} {y2 - bend:.0f} {x2:.0f} {y2:.0f}">'
            f"<title>{source} imports {target}</title></path>"
        )
    style = (
        "rect{fill:#eef3fa;stroke:#3b6ea5}text{font-family:sans-serif;text-anchor:middle;"
        "fill:#1a1a1a}.n{font-size:14px;font-weight:bold}.w{font-size:10px;fill:#444}"
        "path{fill:none;stroke:#3b6ea5;stroke-width:1.5;stroke-opacity:.35}path:hover{stroke-opacity:1}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">\n'
        "<title>The rooms of actstore: every import points down</title>\n"
        f'<style>{style}</style>\n<rect width="{width}" height="{height}" '
        'style="fill:#fff;stroke:none"/>\n' + "\n".join([*lines, *boxes]) + "\n</svg>\n"
    )


def _wrapped(text: str, most: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + 1 > most:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
