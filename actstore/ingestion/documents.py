"""Finds things in an opened file: tensors and values by dotted key, and what is left over."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from actstore.ingestion.tensor import Tensor
from actstore.storage import strict_json

# A file may nest without end; no layout goes deeper than a handful.
_DEPTH = 32
_NODES = 200_000

# What one row may carry along as JSON. Prompts and responses fit many times over.
_EXTRA_BYTES = 64 * 1024
_EXTRA_ELEMENTS = 4096

_INTEGERS = ("bool", "int", "uint", "str")


def leaves(document: Any) -> list[tuple[str, Tensor]]:
    """Return every tensor of a document with its dotted key, in the document's order.

    The key of a document that is itself a tensor is empty.
    """
    found: list[tuple[str, Tensor]] = []
    _collect(document, "", found, 0)
    return found


def _collect(node: Any, key: str, found: list[tuple[str, Tensor]], depth: int) -> None:
    if isinstance(node, Tensor):
        found.append((key, node))
    elif depth < _DEPTH and isinstance(node, (dict, list, tuple)):
        prefix = key + "." if key else ""
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for name, value in items:
            if isinstance(value, Tensor):
                found.append((f"{prefix}{name}", value))
            elif isinstance(value, (dict, list, tuple)):
                _collect(value, f"{prefix}{name}", found, depth + 1)


def has_whole_keys(document: Any) -> bool:
    """Say whether a document keeps things under whole numbers, at the top or one below."""
    if not isinstance(document, dict):
        return False
    tables = [document, *(value for value in document.values() if isinstance(value, dict))]
    return any(isinstance(key, int) for table in tables for key in table)


def find(document: Any, dotted: str) -> Any:
    """Return the value at a dotted key, or None.

    Keys may themselves hold dots, be integers, or be positions in a list: the longest
    key that exists at each step is taken.
    """
    if not isinstance(document, (dict, list, tuple)):
        return None
    found, value = _step(document, dotted)
    if found:
        return value
    end = len(dotted)
    while (end := dotted.rfind(".", 0, end)) > 0:
        found, value = _step(document, dotted[:end])
        if found:
            return find(value, dotted[end + 1 :])
    return None


def _step(node: Any, key: str) -> tuple[bool, Any]:
    if isinstance(node, dict):
        if key in node:
            return True, node[key]
        if key.isdecimal() and int(key) in node:
            return True, node[int(key)]
    elif key.isdecimal() and int(key) < len(node):
        return True, node[int(key)]
    return False, None


def has(document: Any, dotted: str) -> bool:
    """Say whether there is something other than null at a dotted key."""
    return find(document, dotted) is not None


def per_row(document: Any, taken: Collection[str], rows: int) -> dict[str, list[Any]]:
    """Return the lists and one-axis tensors of a document that hold one value per row.

    Only those at the top, that ``taken`` does not name, and of plain values.
    """
    if not isinstance(document, dict) or rows < 2:
        return {}
    found: dict[str, list[Any]] = {}
    for name, value in document.items():
        if str(name) in taken:
            continue
        if isinstance(value, Tensor) and value.shape == (rows,):
            found[str(name)] = [_plain_number(each) for each in value.tolist()]
        elif isinstance(value, (list, tuple)) and len(value) == rows and _flat(value):
            found[str(name)] = [_plain_number(each) for each in value]
    return found


def _flat(values: list[Any] | tuple[Any, ...]) -> bool:
    return all(each is None or isinstance(each, (bool, int, float, str)) for each in values)


def _plain_number(value: Any) -> Any:
    """Return numbers that JSON does not know by their names."""
    return value if not isinstance(value, float) or math.isfinite(value) else repr(value)


class Rest(NamedTuple):
    """What no column took from a document."""

    values: dict[str, Any]
    """Ready for JSON."""
    cut: tuple[str, ...]
    """Keys that were too large to keep."""
    tensors: tuple[str, ...]
    """Keys of tensors of real numbers that the recipe does not name."""


def rest(document: Any, taken: Collection[str]) -> Rest:
    """Return everything in a document but the keys in ``taken``.

    Small tensors of whole numbers or text are kept as lists, so that nothing that the
    file says about its rows is lost.
    """
    if not isinstance(document, dict):
        return Rest({}, (), ())
    walk = _Walk(frozenset(taken))
    values = walk.table(document, "", 0)
    # Largest first: one long list must not push out twenty short values.
    sizes = {key: len(_dumped(value)) for key, value in values.items()}
    excess = sum(sizes.values()) - _EXTRA_BYTES
    for key in sorted(sizes, key=lambda name: -sizes[name]):
        if excess <= 0:
            break
        excess -= sizes[key]
        del values[key]
        walk.cut.append(key)
    return Rest(values, tuple(walk.cut), tuple(walk.tensors))


class _Walk:
    def __init__(self, taken: frozenset[str]) -> None:
        self.taken = taken
        self.cut: list[str] = []
        self.tensors: list[str] = []
        self.nodes = 0

    def table(self, node: dict[Any, Any], prefix: str, depth: int) -> dict[str, Any]:
        kept = {}
        for name, value in node.items():
            key = f"{prefix}{name}"
            if key in self.taken:
                continue
            plain = self.plain(value, key, depth)
            # What held nothing but columns and tensors leaves no empty shell behind.
            if plain is None or (plain in ({}, []) and value):
                continue
            kept[str(name)] = plain
        return kept

    def plain(self, value: Any, key: str, depth: int) -> Any:
        self.nodes += 1
        if self.nodes > _NODES or depth > _DEPTH:
            self.cut.append(key)
            return None
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float):
            return _plain_number(value)
        if isinstance(value, dict):
            return self.table(value, key + ".", depth + 1)
        if isinstance(value, (list, tuple)):
            return list(self.entries(value, key, depth))
        if isinstance(value, Tensor):
            return self.tensor(value, key)
        return repr(value)

    def entries(self, value: list[Any] | tuple[Any, ...], key: str, depth: int) -> Iterator[Any]:
        for number, entry in enumerate(value):
            name = f"{key}.{number}"
            if name not in self.taken:
                plain = self.plain(entry, name, depth + 1)
                if plain is not None or entry is None:
                    yield plain

    def tensor(self, value: Tensor, key: str) -> Any:
        if not value.ndim:
            return self.plain(value.item(), key, 0)
        if not value.dtype.startswith(_INTEGERS):
            self.tensors.append(key)
            return None
        if math.prod(value.shape) > _EXTRA_ELEMENTS:
            self.cut.append(key)
            return None
        return value.tolist()


def _dumped(value: Any) -> str:
    return strict_json.dumps(value)


def to_json(values: dict[str, Any]) -> str | None:
    """Return values as one line of JSON, or None where there are none."""
    return strict_json.dumps(values, default=str) if values else None
