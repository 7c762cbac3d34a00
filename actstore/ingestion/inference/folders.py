"""Puts together what was found about a folder: one recipe, and the mapping behind it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Final

from actstore import schema
from actstore.errors import RecipeError, UsageError
from actstore.ingestion import recipes
from actstore.ingestion.inference.decision import Decision, TensorReading
from actstore.ingestion.inference.hints import Hints
from actstore.ingestion.inference.mapping import Assignment, FolderMapping, unique
from actstore.ingestion.inference.paths import Level, levels, shortened
from actstore.ingestion.inference.shapes import evidence
from actstore.ingestion.inference.survey import (
    Group,
    Leaf,
    Segment,
    form,
    places,
    stem_of,
    suffix_of,
    survey,
)
from actstore.ingestion.inference.tables import Shelf, columns_of, shelf, tables
from actstore.ingestion.inference.words import known_site
from actstore.ingestion.inference.writing import FileReading, recipe_text
from actstore.ingestion.recipe import Recipe
from actstore.ingestion.source_file import Entry

_LAYER: Final = "{layer:int}"
_TOLD_BY_NAMES: Final = frozenset({"layer", "site"})
_TOLD_BY_FOLDERS: Final = _TOLD_BY_NAMES | {"label", "split", "pooling"}
_PLAIN_LAYER: Final = re.compile(r"(?:layers?[_.]?|L)?\{layer:int\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inferred:
    """A recipe that was found, and what was found and guessed for it."""

    recipe: Recipe
    mapping: FolderMapping
    beyond_rows: bool
    """Whether it holds more than vectors and matrices with a row per example, or layers in names
    that recipes which go by the shapes alone do not read."""
    in_paths: frozenset[str]
    """What the files' paths say for certain: some of layer, site, and, where folders are called
    so, label, split, pooling."""


def infer(entries: Sequence[Entry], hints: Hints, title: str) -> Inferred:
    """Return the recipe of some files.

    Raises:
        RecipeError: none of them holds vectors that can become rows; says what was found.
        UsageError: the hints name places that are not there.
    """
    groups = survey(entries)
    useful = [group for group in groups if group.kinds]
    left_out: list[tuple[str, str]] = []
    for group in groups:
        left_out += list(group.left_out.items())
        left_out += [(entry.relative, "holds no vectors of real numbers") for entry in group.empty]
    if not useful:
        raise RecipeError(_nothing(groups, left_out))
    each = useful[0].each
    known = shelf(_near(entries, useful))
    files: list[FileReading] = []
    _check_places(useful, hints)
    for group in useful:
        if group.each != each:
            name = f"{group.entries[0].relative} and others like it"
            left_out.append((name, "holds its examples otherwise; ingest it on its own"))
            continue
        reading = _read_group(group, known, hints, left_out)
        if reading is not None:
            files.append(reading)
    if not files:
        raise RecipeError(_nothing(groups, left_out))
    used = {
        member
        for file in files
        for reading in file.tensors
        for table, _ in reading.joined.values()
        for member in table.members
    }
    for sheet in known.read():
        if sheet.path not in used:
            why = "as long as no axis, and no column holds the examples' names"
            left_out.append((sheet.path, f"{len(sheet.records)} rows: {why}"))
    left_out += known.problems.items()
    notes = [f"{path} was not read as a table: {why}" for path, why in known.problems.items()]
    return _put_together(_in_order(files), each, title, left_out, notes)


def _in_order(files: Sequence[FileReading]) -> list[FileReading]:
    """Put the templates that say most first, and tensors under one template together."""
    merged: dict[tuple[str, str], FileReading] = {}
    for file in files:
        other = merged.get((file.path, file.container))
        if other is not None:
            file = replace(other, tensors=_together(other, file))
        merged[file.path, file.container] = file
    return sorted(merged.values(), key=lambda file: (-file.path.count("/"), _open_parts(file.path)))


def _together(one: FileReading, other: FileReading) -> list[TensorReading]:
    """Return the tensors of files of one template that lie at different depths.

    Raises:
        RecipeError: they would be read in two ways.
    """
    tensors = list(one.tensors)
    for each in other.tensors:
        alike = [
            known for known in tensors if (known.key, len(known.axes)) == (each.key, len(each.axes))
        ]
        if not alike:
            tensors.append(each)
        elif (alike[0].axes, alike[0].columns) != (each.axes, each.columns):
            raise RecipeError(
                f"files at different depths hold {each.key or 'tensors'} as "
                f"[{', '.join(alike[0].axes)}] and as [{', '.join(each.axes)}], going by their "
                "shapes, paths and names; ingest these folders one by one"
            )
    for each in tensors:
        each.optional = True
    return tensors


def _open_parts(path: str) -> int:
    return path.count("{") - path.count("{layer:int}")


def _near(entries: Sequence[Entry], groups: Sequence[Group]) -> list[Entry]:
    """Return the other files that lie beside or above the activations, or one folder down."""
    above = {
        folder
        for group in groups
        for entry in group.entries
        for folder in PurePosixPath(entry.relative).parents
    }
    return [
        entry
        for entry in entries
        if suffix_of(entry.relative) is None
        and (entry.relative.count("/") <= 1 or PurePosixPath(entry.relative).parent in above)
    ]


def _nothing(groups: Sequence[Group], left_out: Sequence[tuple[str, str]]) -> str:
    problems = [
        f"{entry.relative}: {text}" for group in groups for entry, text in group.problems
    ] + [f"{key}: {reason}" for key, reason in left_out]
    return problems[0].splitlines()[0].rstrip(".") if problems else ""


def _check_places(groups: Sequence[Group], hints: Hints) -> None:
    """Refuse a place that the user names and no tensor has."""
    there = {place for group in groups for place in places(group)}
    for option, said in (
        ("--layer-from", hints.layer_from),
        ("--example-from", hints.example_from),
    ):
        if said is not None and said.place not in there:
            raise UsageError(
                f"{option} {said.place}: there is no such part; the paths, keys and axes of "
                f"{groups[0].entries[0].relative} and the others have {', '.join(sorted(there))}"
            )


def _read_group(
    group: Group, known: Shelf, hints: Hints, left_out: list[tuple[str, str]]
) -> FileReading | None:
    layer_place = hints.layer_from.place if hints.layer_from is not None else None
    above = levels(group, layer_place)
    found_tables = tables(known, group, above)
    if not any(table.own for table in found_tables):
        shorter = [shortened(above[0]), *above[1:]]
        of_these = tables(known, group, shorter) if shorter != above else []
        if any(table.own for table in of_these):
            above, found_tables = shorter, of_these
    stems = [(entry.relative, stem_of(entry, group.suffix)) for entry in group.entries]
    in_tables = any("{path.name}" in path for table in found_tables for path in table.paths) or any(
        table.id_column(stems) for table in found_tables
    )
    if hints.example_from is None and not in_tables:
        above = levels(group, layer_place, sides=True)
    seen = [evidence(sample) for sample in group.samples]
    readings: list[TensorReading] = []
    for segments, leaves in _worthwhile(group, left_out).items():
        reading = Decision(group, above, leaves, seen, found_tables, hints).decide()
        if isinstance(reading, str):
            left_out.append((form(segments) or "the tensor", reading))
            continue
        reading.optional = len({leaf.sample for leaf in leaves}) < len(group.samples)
        readings.append(reading)
    if not readings:
        return None
    _tell_apart(readings, hints)
    highest = _highest(above, readings)
    _say_dataset(above[highest + 1 :], readings)
    return FileReading(
        path="/".join(level.template for level in reversed(above[: highest + 1])) + group.suffix,
        container=group.container,
        tensors=readings,
    )


def _worthwhile(
    group: Group, left_out: list[tuple[str, str]]
) -> dict[tuple[Segment, ...], list[Leaf]]:
    """Leave out vectors beside matrices that no name explains: means, scales, scores."""
    ranks = {key: max(leaf.tensor.ndim for leaf in leaves) for key, leaves in group.kinds.items()}
    most = max(ranks.values())
    kept = {}
    for key, leaves in group.kinds.items():
        by_rank: dict[int, list[Leaf]] = {}
        for leaf in leaves:
            by_rank.setdefault(leaf.tensor.ndim, []).append(leaf)
        rank, chosen = max(by_rank.items(), key=lambda item: len(item[1]))
        for other in sorted(by_rank.keys() - {rank}):
            left_out.append((form(key), f"with {other} axes, where most have {rank}"))
        if ranks[key] < most and not _explained(key, chosen[0].key):
            left_out.append((form(key), f"{list(chosen[0].tensor.shape)}: fewer axes than others"))
        else:
            kept[key] = chosen
    return kept


def _explained(segments: Sequence[Segment], key: str) -> bool:
    names = [segment.prefix for segment in segments if not segment.varies]
    return (
        any(segment.varies for segment in segments)
        or known_site(key) is not None
        or any(known_site(name) for name in names)
    )


def _tell_apart(readings: Sequence[TensorReading], hints: Hints) -> None:
    """Name the site of each reading; those that would be one place by their keys."""
    for reading in readings:
        if not reading.site or hints.site:
            reading.columns.setdefault("site", "unknown")
            continue
        alike = [
            other
            for other in readings
            if other.site == reading.site
            and all(
                other.columns.get(name) == reading.columns.get(name)
                for name in ("label", "pooling", "layer")
            )
        ]
        if len(alike) > 1 and reading.site == "unknown" and reading.key:
            parts = (re.sub(r"\{[^{}]*\}", "", part) for part in reading.key.split("."))
            names = [part.strip("_-") for part in parts]
            reading.columns["site"] = ".".join(name for name in names if name) or "unknown"
            reading.said.append(
                Assignment(
                    role="site",
                    place=reading.key,
                    tensors=reading.key,
                    how="guessed",
                    why="several tensors of one file, told apart by their names",
                    option="--site",
                )
            )
        else:
            reading.columns["site"] = reading.site


def _highest(above: Sequence[Level], readings: Sequence[TensorReading]) -> int:
    """Return the number of the highest level of the path that means something."""
    tables_of = [table.paths for each in readings for table, _ in each.joined.values()]
    used = repr([[reading.columns for reading in readings], tables_of])
    highest = 0
    for number, level in enumerate(above):
        if level.layer or level.hook or f"path.{level.place}" in used:
            highest = number
    return highest


def _say_dataset(rest: Sequence[Level], readings: Sequence[TensorReading]) -> None:
    level = next((each for each in rest if each.texts), None)
    if level is not None and not any("dataset" in reading.columns for reading in readings):
        readings[0].said.append(
            Assignment(
                role="dataset",
                place=level.place,
                tensors="",
                how="found",
                why="what tells the folders apart",
            )
        )


def _put_together(
    files: Sequence[FileReading],
    each: str | None,
    title: str,
    left_out: Sequence[tuple[str, str]],
    notes: Sequence[str],
) -> Inferred:
    readings = [reading for file in files for reading in file.tensors]
    sidecar: dict[str, Any] | None = None
    extra: dict[str, str] = {}
    joined = [(number, *table) for reading in readings for number, table in reading.joined.items()]
    if joined:
        number, table, column = joined[0]
        sidecar = {"name": "rows", "paths": list(table.paths)}
        sidecar |= {"row": number} if column is None else {"on": {column: number}}
        known = columns_of(table.columns)
        known = {name: under for name, under in known.items() if under != column}
        for reading in readings:
            for name, under in known.items() if reading.joined else ():
                if name != "example_id":
                    reading.columns.setdefault(name, f"{{sidecar.rows.{under}}}")
        taken = {*known.values(), column}
        extra = {name: f"{{sidecar.rows.{name}}}" for name in table.columns if name not in taken}
    mapping = FolderMapping(
        files=tuple(file.path for file in files),
        assignments=unique(each for reading in readings for each in reading.said),
        left_out=tuple(dict.fromkeys(left_out)),
    )
    text = recipe_text(title, files, mapping, each=each, sidecar=sidecar, extra=extra, notes=notes)
    return Inferred(
        recipe=replace(recipes.parse(text), text=text),
        mapping=mapping,
        beyond_rows=any(
            len(reading.axes) > 2 or "token" in reading.axes or _layer_in_name(reading.key or "")
            for reading in readings
        ),
        in_paths=frozenset(each.role for each in mapping.assignments if _told_by_path(each)),
    )


def _told_by_path(assignment: Assignment) -> bool:
    roles = _TOLD_BY_NAMES if assignment.place == "name" else _TOLD_BY_FOLDERS
    in_path = assignment.place == "name" or assignment.place.startswith("folder")
    return in_path and assignment.how == "found" and assignment.role in roles


def _layer_in_name(key: str) -> bool:
    """Say whether a tensor's name holds its layer, other than as a hook's or `layer_3` does."""
    if _LAYER not in key or _PLAIN_LAYER.fullmatch(key):
        return False
    return schema.canonical_site(key.replace(_LAYER, "0"))[1] is None
