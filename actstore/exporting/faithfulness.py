"""Faithful and unfaithful tensors, one file per layer, with the scores and responses."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from actstore.errors import ExportError
from actstore.exporting.export_context import (
    PLACE,
    ExportContext,
    RowRange,
    check_alike,
)
from actstore.exporting.planned_files import File, Matrices, TextFile, json_lines, json_text, listed
from actstore.exporting.tensors import save, tensor

CLASSES = ("faithful", "unfaithful")
_OURS = ("row", "scores", "pair")
"""What of extra is no part of a response."""

ByClass = dict[str, list[RowRange]]


class FileGroup(NamedTuple):
    """Files that one writer wrote into one folder."""

    folder: str
    keys: tuple[str, ...]
    """Keys of the files beside the two classes."""

    @property
    def test(self) -> bool:
        """Whether the probe test wrote them: it names its tables by itself."""
        return self.keys == ("layer",)

    @property
    def first(self) -> bool:
        """Whether the first writer wrote them."""
        return not self.keys

    def table(self, kind: str, name: str) -> str:
        """Return where a table belongs."""
        name = f"test_{name}" if self.test else name
        data = re.fullmatch(r"((?:.*/)?data)/(?:test_)?activations", self.folder)
        if data is not None:
            return f"{data[1]}/{kind}/{name}"
        return f"{self.folder}/{name}" if self.folder != "." else name


def plan(context: ExportContext) -> Iterator[File]:
    """Yield one file per layer, then the tables that say what each row is.

    Raises:
        ExportError: a class is missing, layers hold different examples, or rows are tokens.
    """
    groups: dict[FileGroup, dict[str, ByClass]] = {}
    for path, classes in _files(context).items():
        one = next(iter(classes.values()))[0]
        keys = tuple(context.form(one).get("keys", ()))
        group = FileGroup(str(PurePosixPath(path).parent), keys)
        groups.setdefault(group, {})[path] = _ordered(context, path, classes)
    for group, files in groups.items():
        _check_layers(files)
        for path, classes in files.items():
            yield _file(context, group, path, classes)
        yield from _tables(context, group, next(iter(files.values())))


def _files(context: ExportContext) -> dict[str, ByClass]:
    pieces = context.pieces
    known = context.known(pieces)
    labels = context.table["label"].to_pylist()
    found: dict[str, ByClass] = {}
    for piece, label in zip(pieces, labels, strict=True):
        name = piece.key if known else label
        if name not in CLASSES:
            context.notes.say("rows labelled neither faithful nor unfaithful were left out")
            continue
        if piece.first is not None:
            raise ExportError(
                f"example {piece.example_id} is stored token by token; these files hold one "
                "vector per example: choose rows with --where \"pooling = 'mean'\""
            )
        path = f"layer_{piece.layer}_activations.pt"
        if known:
            path = piece.with_layer(piece.path)
        found.setdefault(path, {}).setdefault(name, []).append(piece)
    if not found:
        raise ExportError(
            "no row is labelled 'faithful' or 'unfaithful', and these files hold a tensor of "
            "each; set labels with `actstore label STORE --set`"
        )
    if not known:
        chosen = [each for classes in found.values() for some in classes.values() for each in some]
        check_alike(chosen, PLACE, lambda piece: "layers")
    return found


def _ordered(context: ExportContext, path: str, classes: ByClass) -> ByClass:
    for name in CLASSES:
        if name not in classes:
            raise ExportError(
                f"{path}: no {name} row; these files hold both classes: choose rows of both"
            )
    return {
        name: sorted(classes[name], key=lambda piece: (_row(context, piece), piece.row))
        for name in CLASSES
    }


def _row(context: ExportContext, piece: RowRange) -> int:
    row = context.extra(piece).get("row")
    if type(row) is int:
        return row
    return piece.example_index if piece.example_index is not None else 0


def _check_layers(files: Mapping[str, ByClass]) -> None:
    (first, classes), *others = files.items()
    for name in CLASSES:
        wanted = [_identity(each) for each in classes[name]]
        for path, other in others:
            found = [_identity(each) for each in other[name]]
            if found != wanted:
                theirs, ours = ({each[0] for each in some} for some in (found, wanted))
                missing = [each for each, *_ in (*wanted, *found) if each in theirs ^ ours]
                why = listed(missing) if missing else "of other data sets, or in another order"
                raise ExportError(
                    f"{path} and {first} hold different {name} examples ({why}), but their rows "
                    "are told apart by their number alone; choose whole layers with --layers"
                )


def _identity(piece: RowRange) -> tuple[str | None, ...]:
    return piece.example_id, piece.variant, piece.dataset, piece.split, piece.mode


def _file(context: ExportContext, group: FileGroup, path: str, classes: ByClass) -> Matrices:
    def write(target: Path, matrices: list[np.ndarray]) -> None:
        document: dict[str, Any] = {}
        for (name, pieces), vectors in zip(classes.items(), matrices, strict=True):
            dtype = context.dtype or context.form(pieces[0]).get("dtype")
            document[name] = tensor(vectors, dtype, vectors.shape)
        if "layer" in group.keys:
            document["layer"] = classes["faithful"][0].layer
        if "d_model" in group.keys:
            document["d_model"] = matrices[0].shape[1]
        save(document, target)

    rows = [np.array([each.row for each in classes[name]], np.int64) for name in CLASSES]
    return Matrices(path, rows, write)


def _tables(context: ExportContext, group: FileGroup, classes: ByClass) -> Iterator[TextFile]:
    scores: dict[str, dict[str, Any]] = {}
    responses: list[dict[str, Any]] = []
    pairs: dict[str, dict[str, Any]] = {}
    models: list[str] = []
    for name in CLASSES:
        for piece in classes[name]:
            row, extra = context.details(piece), context.extra(piece)
            if not isinstance(extra.get("scores"), dict):
                return  # rows that were only numbered
            pair = extra.get("pair") if isinstance(extra.get("pair"), dict) else None
            models.append(row["model"])
            scores.setdefault(row["example_id"], _score(row, extra["scores"], pair))
            if pair is not None:
                entry = pairs.setdefault(
                    row["example_id"], {"id": row["example_id"], "category": row["task"], **pair}
                )
                entry[row["variant"]] = row["question"]
                entry[f"{row['variant']}_answer"] = row["oracle"]
            response = {k: v for k, v in extra.items() if k not in _OURS}
            if response:
                responses.append(_response(group, row, extra["scores"], pair, response))
    yield TextFile(group.table("processed", "faithfulness_scores.csv"), _csv(list(scores.values())))
    if responses:
        yield TextFile(
            group.table("responses", _responses_name(group, models)), json_lines(responses)
        )
    if pairs:
        yield TextFile(
            group.table("raw", "question_pairs.json"), json_text({"pairs": list(pairs.values())})
        )
    context.notes.say(
        "scores, responses and pairs hold the entries of the rows that were exported, the "
        "faithful ones first"
    )


def _score(row: Mapping[str, Any], scores: dict[str, Any], pair: Any) -> dict[str, Any]:
    category = (
        {"category": row["task"]}
        if row["task"] is not None and (pair is None or "q1_answer" in scores)
        else {}
    )
    return {"pair_id": row["example_id"], **category, **scores}


def _response(
    group: FileGroup,
    row: Mapping[str, Any],
    scores: Mapping[str, Any],
    pair: Any,
    response: dict[str, Any],
) -> dict[str, Any]:
    """Return a line of the responses, with what the ingest moved into columns put back."""
    variant = row["variant"]
    line = {"pair_id": row["example_id"], "variant": variant}
    if row["question"] is not None:
        line["question"] = row["question"]
    line |= response
    if row["prediction"] is not None and not scores.get(f"{variant}_answer"):
        name = "final_answer" if group.first else "extracted_answer"
        line.setdefault(name, row["prediction"])
    told = scores.get(f"{variant}_correct_answer") or (
        scores.get(f"{variant}_expected") or pair is not None or scores.get("correct_answer")
    )
    if row["oracle"] is not None and not told:
        line["expected_answer"] = row["oracle"]
    return line


def _responses_name(group: FileGroup, models: Sequence[str]) -> str:
    """Return the writer's name for the file: the first one put the model's size into it."""
    if not group.first:
        return "responses.jsonl"
    short = re.sub(r"[^\w.]", "", models[0].rsplit("/", 1)[-1].rsplit("-", 1)[-1]) or "1"
    return f"model_{short}_responses.jsonl"


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
