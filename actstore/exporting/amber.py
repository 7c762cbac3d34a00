"""AMBER samples: ``sample_0000.pt`` … with a vector per layer, and the tables around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actstore.errors import ExportError
from actstore.exporting.export_context import (
    ORIGIN,
    PLACE,
    ExportContext,
    RowRange,
    as_extra,
    check_alike,
    differing,
)
from actstore.exporting.planned_files import (
    File,
    Matrices,
    TextFile,
    home,
    json_lines,
    json_text,
    listed,
)
from actstore.exporting.tensors import save, shape_of, tensor

_OF_ALL = {"layer", "site", "model", "dataset"}
"""Conditions that cut the same from every sample."""


def plan(context: ExportContext) -> Iterator[File]:
    """Yield one file per sample, then answers, classes and queries.

    Raises:
        ExportError: tokens, several vectors of one layer, or layers that a sample lacks.
    """
    samples = _samples(context)
    _check_layers(context, samples)
    for path, layers in samples.items():
        yield _file(context, path, layers)
    folders = list(home(list(samples)))
    for folder in folders:
        firsts = [
            next(iter(layers.values()))
            for path, layers in samples.items()
            if len(folders) == 1 or path.startswith(folder)
        ]
        yield from _tables(context, folder, firsts)


def _samples(context: ExportContext) -> dict[str, dict[int, RowRange]]:
    pieces = context.pieces
    known = context.known(pieces)
    numbers = {} if known else _numbers(pieces)

    def sample(piece: RowRange) -> str:
        return piece.path if known else f"sample_{numbers[piece.example_id]:04d}.pt"

    check_alike(pieces, (*PLACE, *ORIGIN, "example_index"), sample)
    if not known:
        check_alike(pieces, PLACE, lambda piece: "samples")
    found: dict[str, dict[int, RowRange]] = {}
    for piece in pieces:
        if piece.first is not None:
            raise ExportError(
                f"example {piece.example_id} is stored token by token; AMBER samples hold one "
                "vector per layer: ingest with --pool, or choose rows with --where"
            )
        if piece.layer is None:
            raise ExportError(
                f"example {piece.example_id} has a vector of an unknown layer; leave it out "
                "with --where 'layer IS NOT NULL'"
            )
        name = sample(piece)
        layers = found.setdefault(name, {})
        if piece.layer in layers:
            raise ExportError(
                f"{name}: layer {piece.layer} has several vectors, which differ in "
                f"{differing([layers[piece.layer], piece])}; choose with --model, --sites or "
                "--where"
            )
        layers[piece.layer] = piece
    return {name: dict(sorted(found[name].items())) for name in sorted(found)}


def _numbers(pieces: Sequence[RowRange]) -> dict[str, int]:
    """Return the number of each sample: the stored one where all have their own, else its rank."""
    indices = {piece.example_id: piece.example_index for piece in pieces}
    values = [value for value in indices.values() if value is not None and value >= 0]
    if len(set(values)) == len(indices):
        return {name: int(value or 0) for name, value in indices.items()}
    return {name: number for number, name in enumerate(indices)}


def _check_layers(context: ExportContext, samples: dict[str, dict[int, RowRange]]) -> None:
    folders: dict[str, set[int]] = {}
    for name, layers in samples.items():
        folders.setdefault(_folder(name), set()).update(layers)
    # Without a condition that could have cut some, the files themselves lacked them.
    pieces = [piece for layers in samples.values() for piece in layers.values()]
    whole = context.where is None and set(context.equals) <= _OF_ALL and context.known(pieces)
    for name, layers in samples.items():
        missing = [layer for layer in sorted(folders[_folder(name)]) if layer not in layers]
        if missing and not whole:
            raise ExportError(
                f"{name} lacks layers {listed(missing)}, which other samples have; choose "
                "layers that all have with --layers, or samples that have all with --where"
            )
        if missing:
            context.notes.say(
                "some samples lack layers that others have, as the files did that were "
                f"ingested; one is {name}, without {listed(missing)}"
            )


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _file(context: ExportContext, path: str, layers: dict[int, RowRange]) -> Matrices:
    pieces = list(layers.values())

    def write(target: Path, matrices: list[np.ndarray]) -> None:
        table: dict[Any, Any] = {}
        for piece, vectors in zip(pieces, matrices, strict=True):
            form = context.form(piece)
            whole = form.get("keys", "int" if not form else "str") == "int"
            shape = shape_of(form.get("rank", 1), vectors.shape[1])
            value = tensor(vectors, context.dtype or form.get("dtype"), shape)
            table[piece.layer if whole else str(piece.layer)] = value
        flat = context.known(pieces[:1]) and not pieces[0].key.startswith("activations.")
        row = context.details(pieces[0])
        extra = as_extra(row["extra"])
        tables = _of_tables(row, extra)
        rest = {k: v for k, v in extra.items() if k not in tables}
        save({**table, **rest} if flat else {"activations": table, **rest}, target)

    return Matrices(path, [piece.rows for piece in pieces], write)


def _of_tables(row: Mapping[str, Any], extra: Mapping[str, Any]) -> set[str]:
    """Return the names in extra that came out of tables, and not of a key of the file."""
    entry = extra.get("classification")
    found = {"image"} & {*extra} if row["question"] is not None else set()
    return found | ({"classification"} if isinstance(entry, dict) and "class" in entry else set())


def _tables(context: ExportContext, folder: str, pieces: Sequence[RowRange]) -> Iterator[TextFile]:
    queries: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    classes: dict[str, list[dict[str, Any]]] = {}
    for piece in pieces:
        row = context.details(piece)
        extra = as_extra(row["extra"])
        name = row["example_id"]
        number = int(name) if name.isdecimal() and str(int(name)) == name else name
        tables = _of_tables(row, extra)
        image = {"image": extra["image"]} if "image" in tables else {}
        if row["question"] is not None:
            queries.append({"id": number, **image, "query": row["question"]})
        if row["prediction"] is not None:
            answers.append({"id": number, "response": row["prediction"]})
        if "classification" in tables:
            entry = extra["classification"]
            rest = {key: value for key, value in entry.items() if key != "class"}
            classes.setdefault(str(entry["class"]), []).append(rest)
    if queries:
        yield TextFile(f"{folder}data/query/query_generative.json", json_text(queries))
    if answers:
        yield TextFile(f"{folder}results/amber/answer/model_responses.jsonl", json_lines(answers))
    if classes:
        yield TextFile(f"{folder}analysis/amber_classification.json", json_text(classes))
