"""One file per question with what hooks left behind, as torch files instead of pickles.

A pickle runs code when it is opened. These hold the same dictionary, and
``torch.load(path, weights_only=True)`` opens them safely.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actstore.errors import ExportError
from actstore.exporting.export_context import (
    ORIGIN,
    ExportContext,
    RowRange,
    check_alike,
    joined,
)
from actstore.exporting.planned_files import (
    File,
    Matrices,
    TextFile,
    file_name,
    folder_name,
    json_text,
)
from actstore.exporting.tensors import save, shape_of, tensor

_ENDING = re.compile(r"\.(pkl\.gz|pkl|pickle|pt)$")
_ANSWER = re.compile(r"FINAL ANSWER:\s*.", re.IGNORECASE | re.DOTALL)
_PLACES = ("embeddings", "resid_post")


def plan(context: ExportContext) -> Iterator[File]:
    """Yield one file per question, then the logs of those answered correctly.

    Raises:
        ExportError: a layer of a question has several vectors, or tokens are missing.
    """
    questions = _questions(context)
    logs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    labelled = False
    for path, layers in questions.items():
        ordered = dict(sorted(layers.items(), key=lambda item: _rank(item[1][0])))
        yield _file(context, path, ordered)
        row, extra = (
            context.details(first := next(iter(ordered.values()))[0]),
            context.extra(next(iter(ordered.values()))[0]),
        )
        labelled |= row["label"] is not None
        if _are_logs(extra.get("logs")):
            logs.setdefault((first.model, row["question"]), extra["logs"])
    for (model, question), entries in logs.items():
        yield from _logs(model, question, entries)
    if labelled and not logs:
        context.notes.say(
            "labels are not written: this layout has none in its files, and no result log of "
            "a correct answer is among the rows"
        )


def _rank(piece: RowRange) -> tuple[bool, int]:
    return piece.site != "embeddings", -1 if piece.layer is None else piece.layer


def _questions(context: ExportContext) -> dict[str, dict[str, list[RowRange]]]:
    pieces = context.pieces
    known = context.known(pieces)
    found: dict[str, dict[str, list[RowRange]]] = {}
    for piece in pieces:
        if piece.pooling not in ("last", "none"):
            raise ExportError(
                f"example {piece.example_id} is pooled by {piece.pooling}; these files hold "
                "tokens or the last one: choose rows with --where \"pooling = 'last'\""
            )
        path = _path(piece, known)
        key = piece.with_layer(piece.key.removeprefix("activations.")) if known else _key(piece)
        layers = found.setdefault(path, {})
        other = next(iter(layers.values()))[0].example_id if layers else piece.example_id
        if other != piece.example_id:
            raise ExportError(
                f"examples {other!r} and {piece.example_id!r} would both become {path}; choose "
                "one with --where"
            )
        layers.setdefault(key, []).append(piece)
    check_alike(pieces, ("model", *ORIGIN, "example_index"), lambda piece: _path(piece, known))
    return found


def _path(piece: RowRange, known: bool) -> str:
    stem = _ENDING.sub("", piece.path) if known else file_name(piece.example_id)
    return f"{stem}.pt"


def _key(piece: RowRange) -> str:
    if piece.site not in _PLACES:
        raise ExportError(
            f"example {piece.example_id} has a vector of {piece.site}; these files hold "
            "'embeddings' and block outputs: choose them with --sites resid_post,embeddings"
        )
    return "embeddings" if piece.site == "embeddings" else f"layer_{piece.layer}"


def _file(context: ExportContext, path: str, layers: dict[str, list[RowRange]]) -> Matrices:
    one = next(iter(layers.values()))[0]
    rows = [joined(pieces, f"{path}, {key}") for key, pieces in layers.items()]

    def write(target: Path, matrices: list[np.ndarray]) -> None:
        row, extra = context.details(one), context.extra(one)
        ids = extra.pop("input_ids", None)
        if one.first is not None and ids is None:
            ids = _token_ids(context, rows[0])
        activations = {}
        for (key, pieces), vectors in zip(layers.items(), matrices, strict=True):
            form = context.form(pieces[0])
            shape = shape_of(form.get("rank", 3), *vectors.shape)
            if form.get("rank") == 1:
                shape = (vectors.shape[1],)
            activations[key] = tensor(vectors, context.dtype or form.get("dtype"), shape)
        document = {
            "prompt": extra.pop("prompt", row["question"]),
            "response": row["prediction"],
            "model": row["model"],
            "timestamp": extra.pop("timestamp", row["captured_at"]),
            "input_ids": _as_tensor(ids),
            "activations": activations,
        }
        # What is not there was not there: a null would be one more key.
        document = {key: value for key, value in document.items() if value is not None}
        derived = {"final_answer"} if _ANSWER.search(row["prediction"] or "") else set()
        derived |= {"logs"} if _are_logs(extra.get("logs")) else set()
        rest = {k: v for k, v in extra.items() if k not in derived and k not in document}
        save(document | rest, target)

    return Matrices(path, rows, write)


def _token_ids(context: ExportContext, rows: np.ndarray) -> list[list[int]] | None:
    table = context.store.rows_at(rows).table(["token_id"])
    found = [value for value in table["token_id"].to_pylist() if value is not None]
    return [found] if found else None


def _as_tensor(ids: Any) -> Any:
    import torch

    flat = ids[0] if isinstance(ids, list) and ids and isinstance(ids[0], list) else ids
    if not isinstance(flat, list) or not all(type(each) is int for each in flat):
        return ids
    return torch.tensor(ids, dtype=torch.int64)


def _are_logs(value: Any) -> bool:
    """Say whether these are what the ingest adds out of result logs, and no key of the file."""
    return isinstance(value, list) and bool(value) and all(isinstance(e, dict) for e in value)


def _logs(model: str, question: str, entries: Sequence[dict[str, Any]]) -> Iterator[TextFile]:
    folder = "/".join(file_name(part) for part in model.split("/"))
    for number, entry in enumerate(entries):
        content = {"original_question": question}
        content |= {key: entry[key] for key in entry if key not in ("benchmark", "trial")}
        places = [
            folder if "benchmark" in entry else None,
            *(folder_name(str(entry[key])) for key in ("benchmark", "trial") if key in entry),
            str(entry.get("category", "initial")),
        ]
        concept = file_name(str(entry.get("concept") or "log").split()[0])
        name = f"{_digest(question)}_{number:03d}_{concept}.json"
        path = "/".join(("results", *(place for place in places if place), name))
        yield TextFile(path, json_text(content))


def _digest(question: str) -> str:
    """Return a name for a question, so that logs of two never meet."""
    import hashlib

    return hashlib.sha256(question.encode("utf-8", "surrogatepass")).hexdigest()[:8]
