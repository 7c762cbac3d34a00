"""SpatialEval: one file per example with nine keys, and the answers beside the cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actstore.errors import ExportError
from actstore.exporting.export_context import ExportContext, RowRange
from actstore.exporting.planned_files import (
    File,
    Matrices,
    TextFile,
    file_name,
    folder_name,
    json_lines,
    listed,
)
from actstore.exporting.tensors import save, shape_of, tensor

_ADDED = ("prompt", "oracle_option", "oracle_full_answer", "image")
"""What the ingest adds to extra out of the answers."""
_FOLDERS = 4
"""Data set, model, mode and task."""
_RANK = 3
"""``[1, 1, hidden]``: what the original code writes, whatever its documentation says."""


def plan(context: ExportContext) -> Iterator[File]:
    """Yield one file per example, then the answers.

    Raises:
        ExportError: examples have several vectors, or are stored token by token.
    """
    pieces = context.pieces
    _check(pieces)
    known = context.known(pieces)
    ranks: Counter[tuple[str | None, ...]] = Counter()
    answers: dict[str, list[dict[str, Any]]] = {}
    for piece in pieces:
        row = context.table.slice(piece.number, 1).select(["task"]).to_pylist()[0]
        group = (piece.model, piece.dataset, piece.mode, row["task"])
        index = ranks[group] if piece.example_index is None else piece.example_index
        ranks[group] += 1
        path = _path(piece, row["task"], index)
        if known:
            path = _known_path(piece, row["task"], path)
        yield _file(context, piece, path, index)
        _collect(context, piece, path, answers)
    for path, lines in answers.items():
        yield TextFile(path, json_lines(lines))


def _check(pieces: Sequence[RowRange]) -> None:
    for piece in pieces:
        if piece.first is not None:
            raise ExportError(
                f"example {piece.example_id} is stored token by token; SpatialEval files hold "
                "one vector: choose pooled rows with --where \"pooling = 'last'\""
            )
    places = sorted({(piece.site, piece.layer is None, piece.layer or 0) for piece in pieces})
    if len(places) > 1:
        names = ", ".join(
            f"{site} {'unknown' if none else layer}" for site, none, layer in places[:6]
        )
        raise ExportError(
            f"a SpatialEval file holds one vector, and the rows are of {len(places)} places "
            f"({names}); choose one with --sites and --layers"
        )
    for name, said in (("pooling", "pooled in several ways"), ("region", "of several regions")):
        values = sorted({getattr(piece, name) or "" for piece in pieces})
        if len(values) > 1:
            told = listed([value or "null" for value in values])
            raise ExportError(
                f"the rows are {said} ({told}); choose one with --where \"{name} = '{values[-1]}'\""
            )


def _path(piece: RowRange, task: str | None, index: int) -> str:
    folders = (
        folder_name(piece.dataset),
        folder_name(piece.model),
        folder_name(piece.mode or "tqa"),
        folder_name(task),
    )
    return "/".join((*folders, f"{file_name(piece.example_id.replace('.', '_'))}_{index}.pt"))


def _known_path(piece: RowRange, task: str | None, built: str) -> str:
    """Return where the file was, completed where only part of its tree was ingested."""
    name = piece.path.rsplit("/", 1)[-1]
    if piece.path.count("/") >= _FOLDERS or None in (piece.dataset, piece.mode, task):
        return piece.path
    return f"{built.rsplit('/', 1)[0]}/{name}"


def _file(context: ExportContext, piece: RowRange, path: str, index: int) -> Matrices:
    def write(target: Path, matrices: list[np.ndarray]) -> None:
        row, extra, form = context.details(piece), context.extra(piece), context.form(piece)
        width = matrices[0].shape[1]
        shape = shape_of(form.get("rank", _RANK), width)
        document = {
            "question": row["question"] or "",
            "oracle_answer": row["oracle"],
            "model_prediction": row["prediction"],
            "example_id": row["example_id"],
            "index": index,
            "task": row["task"],
            "mode": row["mode"],
            "hidden_states_last": tensor(matrices[0], context.dtype or form.get("dtype"), shape),
            "hidden_size": width,
        }
        if form and piece.example_index is None:
            del document["index"]  # the file had none: it would be read as its number
        rest = {k: v for k, v in extra.items() if k not in _ADDED and k not in document}
        save(document | rest, target)

    return Matrices(path, [piece.rows], write)


def _collect(
    context: ExportContext, piece: RowRange, path: str, answers: dict[str, list[dict[str, Any]]]
) -> None:
    """Add a line to the answers; they lie beside the model's folder, under the data set."""
    extra = context.extra(piece)
    folders = path.split("/")[:-1]
    if not any(name in extra for name in _ADDED) or len(folders) < _FOLDERS:
        return
    row = context.details(piece)
    name = file_name(row["model"].rsplit("/", 1)[-1])
    line = {
        "id": row["example_id"],
        "answer": row["prediction"],
        "oracle_answer": row["oracle"],
        **{key: extra[key] for key in _ADDED[1:3] if key in extra},
        **{key: extra[key] for key in (_ADDED[0], _ADDED[3]) if key in extra},
    }
    *above, dataset, _, mode, task = folders
    file = "/".join((*above, dataset, mode, task, f"m-{name}_bare.jsonl"))
    answers.setdefault(file, []).append(line)
    context.notes.say(
        "answers are written as m-MODEL_bare.jsonl: which prompt style a run had is not stored"
    )
