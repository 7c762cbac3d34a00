"""Writes what was found about a folder as the TOML text of a recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actstore.ingestion.inference.decision import TensorReading
from actstore.ingestion.inference.mapping import FolderMapping

_FIRST = ("example_id", "example_index", "layer", "site", "pooling")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReading:
    """One kind of files and the tensors in them."""

    path: str
    container: str
    tensors: Sequence[TensorReading]


def recipe_text(
    title: str,
    files: Sequence[FileReading],
    mapping: FolderMapping,
    *,
    each: str | None,
    sidecar: Mapping[str, Any] | None,
    extra: Mapping[str, str],
    notes: Sequence[str],
) -> str:
    """Return the recipe of some files."""
    lines = [
        'name = "folder"',
        f"title = {_value(title)}",
        f"container = {_value(files[0].container)}",
    ]
    if each is not None:
        lines.append(f"each = {_value(each)}")
    lines += [f"# guessed: {_comment(line)}" for line in _guesses(mapping)]
    for number, file in enumerate(files):
        lines += ["", "[[files]]", f"path = {_value(file.path)}"]
        if len(files) > 1:
            lines.append(f"name = {_value(_name(number))}")
        if file.container != files[0].container:
            lines.append(f"container = {_value(file.container)}")
    everything = [tensors.columns for file in files for tensors in file.tensors]
    shared = {
        name: value
        for name, value in everything[0].items()
        if all(other.get(name) == value for other in everything)
    }
    for number, file in enumerate(files):
        for tensors in file.tensors:
            lines += ["", "[[tensors]]"]
            if tensors.key is not None:
                lines.append(f"key = {_value(tensors.key)}")
            if len(files) > 1:
                lines.append(f"files = [{_value(_name(number))}]")
            lines.append(f"axes = [{_value(tensors.axes)}]")
            if "token" in tensors.axes:
                lines.append("squeeze = false")
            if tensors.optional:
                lines.append("optional = true")
            if tensors.count is not None:
                lines.append(f"count = {tensors.count}")
            if tensors.mask is not None:
                lines.append(f"mask = {_value(tensors.mask)}")
            own = {name: value for name, value in tensors.columns.items() if name not in shared}
            if own:
                lines.append("[tensors.columns]")
                lines += _columns(own)
    lines += ["", "[columns]", *_columns(shared)]
    if extra:
        lines += ["", "[extra.add]", *(f"{_value(name)} = {_value(extra[name])}" for name in extra)]
    if sidecar is not None:
        lines += ["", "[[sidecars]]", *(f"{name} = {_value(sidecar[name])}" for name in sidecar)]
    for note in notes:
        lines += ["", "[[notes]]", f"text = {_value(note)}"]
    return "\n".join(lines) + "\n"


def _name(number: int) -> str:
    return f"files{number + 1}"


def _guesses(mapping: FolderMapping) -> list[str]:
    return [
        f"{each.role} = {each.place}{f' of {each.tensors}' if each.tensors else ''}: {each.why}"
        for each in mapping.guesses
    ]


def _comment(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _columns(columns: Mapping[str, Any]) -> list[str]:
    ordered = sorted(columns, key=lambda name: (name not in _FIRST, list(columns).index(name)))
    return [f"{name} = {_value(columns[name])}" for name in ordered]


def _value(value: Any) -> str:
    """Return a value as TOML, which writes texts as JSON does."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(name)} = {_value(v)}" for name, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if name.replace("_", "a").isalnum() and name.isascii() else _value(name)
