"""Contrastive caches: pairs and validation examples, stacked or one file each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from actstore.errors import ExportError
from actstore.exporting.export_context import (
    ORIGIN,
    PLACE,
    ExportContext,
    RowRange,
    check_alike,
    differing,
    joined,
)
from actstore.exporting.planned_files import File, Matrices, TextFile, json_text, listed
from actstore.exporting.tensors import save, shape_of, tensor

_SOURCE = re.compile(
    r"(?P<prefix>(?:.*/)?)layer_\d+/"
    r"(?:(?P<side>test|deploy)(?:_activations|/(?P<index>\d+))"
    r"|activations|(?P<validation>\d+))\.pt"
)
_SIDES = ("test", "deploy")
_INDIVIDUAL = ("individual", "validation-individual")
_NOTES = {
    "individual": "Each activation saved separately to handle variable sequence lengths",
    "validation": "Validation activations - one per example, from raw questions",
    "validation-individual": "Validation activations - one per example, from raw questions, "
    "variable seq lengths",
}

CacheTensors = dict[tuple[int, str], dict[int, list[RowRange]]]
"""Layer and side (empty for validation examples): the pieces of each example, by index."""


@dataclass(slots=True)
class CacheFolder:
    """One folder with ``metadata.json``."""

    prefix: str
    pattern: str
    tensors: CacheTensors = field(default_factory=dict)

    @property
    def individual(self) -> bool:
        """Whether each example has a file of its own."""
        return self.pattern in _INDIVIDUAL

    @property
    def examples(self) -> int:
        """How many there are."""
        return 1 + max(index for found in self.tensors.values() for index in found)


def plan(context: ExportContext) -> Iterator[File]:
    """Yield the files of each cache, layer by layer, and its two tables.

    Raises:
        ExportError: examples, sides or layers are missing, or rows of several kinds.
    """
    for cache in _caches(context):
        _check(cache)
        shapes: list[list[int]] = []
        for (layer, side), examples in sorted(cache.tensors.items(), key=_order):
            stem = f"{cache.prefix}layer_{layer}/"
            if not cache.individual:
                name = f"{stem}{side}_activations.pt" if side else f"{stem}activations.pt"
                yield _stacked(context, cache, name, examples)
                continue
            for index, pieces in sorted(examples.items()):
                path = f"{stem}{side}/{index}.pt" if side else f"{stem}{index}.pt"
                rows = joined(pieces, f"layer {layer}, example {pieces[0].example_id}")
                rank = context.form(pieces[0], cache.pattern, pieces[0].path).get("rank", 3)
                width = context.selection.snapshot.shape(rows[:1])[0]
                shapes.append(list(shape_of(rank, len(rows), width)))
                yield _single(context, cache, path, pieces[0], rows)
        yield from _tables(context, cache, shapes)


def _order(item: tuple[tuple[int, str], Any]) -> tuple[int, int]:
    (layer, side), _ = item
    return layer, _SIDES.index(side) if side else 2


def _caches(context: ExportContext) -> list[CacheFolder]:
    pieces = context.pieces
    known = context.known(pieces)
    if not known:
        check_alike(pieces, ("model", "site"), lambda piece: "layers")
        pooled = [piece for piece in pieces if piece.first is None]  # tokens are of all regions
        check_alike(pooled, PLACE, lambda piece: "layers")
        check_alike(pieces, ORIGIN, _example)
    numbers: dict[tuple[str, ...], dict[str, int]] = {}
    caches: dict[str, CacheFolder] = {}
    for piece in pieces:
        if piece.layer is None:
            raise ExportError(
                f"example {piece.example_id} has a vector of an unknown layer; leave it out "
                "with --where 'layer IS NOT NULL'"
            )
        match = _SOURCE.fullmatch(piece.path) if known else None
        if match is not None:
            prefix, side = match["prefix"], match["side"] or ""
            number = match["index"] or match["validation"]
            single = number is not None
            index = piece.example_index if number is None else int(number)
        else:
            prefix, side = "", piece.variant if piece.variant in _SIDES else ""
            single = piece.first is not None
            ranks = numbers.setdefault((prefix,), {})
            index = ranks.setdefault(piece.example_id, len(ranks))
        if piece.pooling not in ("last", "none", "unknown"):
            raise ExportError(
                f"example {piece.example_id} is pooled by {piece.pooling}; these caches hold "
                "last tokens or whole sequences: choose rows with --where \"pooling = 'last'\""
            )
        pattern = "individual" if side else "validation-individual"
        if not single:
            pattern = "stacked" if side else "validation"
        cache = caches.setdefault(prefix, CacheFolder(prefix, pattern))
        if cache.pattern != pattern:
            raise ExportError(
                f"{prefix or 'the rows'}: both {cache.pattern} and {pattern} examples; a cache "
                "holds one kind: choose by --where on variant and pooling"
            )
        place = cache.tensors.setdefault((piece.layer, side), {})
        place.setdefault(int(index or 0), []).append(piece)
    return list(caches.values())


def _example(piece: RowRange) -> str:
    side = f", {piece.variant}" if piece.variant in _SIDES else ""
    return f"example {piece.example_id}{side}"


def _check(cache: CacheFolder) -> None:
    layers = sorted({layer for layer, _ in cache.tensors})
    sides = _SIDES if cache.pattern in ("stacked", "individual") else ("",)
    count = cache.examples
    for layer in layers:
        for side in sides:
            found = cache.tensors.get((layer, side), {})
            missing = [index for index in range(count) if index not in found]
            if missing:
                of = f" of {side!r}" if side else ""
                raise ExportError(
                    f"{cache.prefix}layer {layer}{of} lacks examples {listed(missing)} of "
                    f"{count:,}: files of this layout are numbered without gaps; choose whole "
                    "caches and layers, without --where on single examples"
                )
    for examples in cache.tensors.values():
        for pieces in examples.values():
            if len(pieces) > 1 and (not cache.individual or pieces[0].first is None):
                raise ExportError(
                    f"example {pieces[0].example_id} has several vectors in one layer; they "
                    f"differ in {differing(pieces)}: choose with --model, --sites or --where"
                )


def _stacked(
    context: ExportContext,
    cache: CacheFolder,
    path: str,
    examples: Mapping[int, Sequence[RowRange]],
) -> Matrices:
    pieces = [examples[index][0] for index in sorted(examples)]
    form = context.form(pieces[0], cache.pattern, pieces[0].path)

    def write(target: Path, matrices: list[np.ndarray]) -> None:
        count, width = matrices[0].shape
        shape = (count, width) if form.get("rank", 3) == 2 else (count, 1, width)
        save(tensor(matrices[0], context.dtype or form.get("dtype"), shape), target)

    return Matrices(path, [np.array([piece.row for piece in pieces], np.int64)], write)


def _single(
    context: ExportContext, cache: CacheFolder, path: str, piece: RowRange, rows: np.ndarray
) -> Matrices:
    form = context.form(piece, cache.pattern, piece.path)

    def write(target: Path, matrices: list[np.ndarray]) -> None:
        shape = shape_of(form.get("rank", 3), *matrices[0].shape)
        save(tensor(matrices[0], context.dtype or form.get("dtype"), shape), target)

    return Matrices(path, [rows], write)


def _tables(
    context: ExportContext, cache: CacheFolder, shapes: Sequence[list[int]]
) -> Iterator[TextFile]:
    layers = sorted({layer for layer, _ in cache.tensors})
    firsts = {
        side: {index: pieces[0] for index, pieces in examples.items()}
        for (layer, side), examples in cache.tensors.items()
        if layer == layers[0]
    }
    entries = [_entry(context, index, firsts) for index in range(cache.examples)]
    if any(
        any(value not in (None, index) for value in entry.values())
        for index, entry in enumerate(entries)
    ):
        yield TextFile(f"{cache.prefix}metadata.json", json_text(entries))
    info: dict[str, Any] = {"layers": layers, "num_examples": cache.examples}
    if cache.individual:
        info["storage_format"] = "individual"
        info["sample_shapes"] = _samples(context, cache, shapes)
    else:
        piece = next(iter(firsts.values()))[0]
        form = context.form(piece, cache.pattern, piece.path)
        width = context.selection.snapshot.shape(piece.rows)[0]
        info["activation_shape"] = [width] if form.get("rank", 3) == 2 else [1, width]
    if cache.pattern in _NOTES:
        info["note"] = _NOTES[cache.pattern]
    yield TextFile(f"{cache.prefix}layer_info.json", json_text(info))


def _samples(
    context: ExportContext, cache: CacheFolder, shapes: Sequence[list[int]]
) -> list[list[int]]:
    """Return three shapes; a reader takes sequences for pooled if all of these are of one token."""
    pieces = [p for examples in cache.tensors.values() for each in examples.values() for p in each]
    pooled = any(piece.first is None for piece in pieces)
    first = [shape for shape in shapes if shape[-2] == 1][:3] if pooled else list(shapes[:3])
    if not pooled and all(shape[-2] == 1 for shape in first):
        first[-1:] = [shape for shape in shapes if shape[-2] > 1][:1] or first[-1:]
    return first


def _entry(
    context: ExportContext, index: int, firsts: Mapping[str, Mapping[int, RowRange]]
) -> dict[str, Any]:
    rows = {side: context.details(pieces[index]) for side, pieces in firsts.items()}
    extras = {side: context.extra(pieces[index]) for side, pieces in firsts.items()}
    one = next(iter(rows.values()))
    entry: dict[str, Any] = {"idx": index, "question": one["question"]}
    for name in ("answer", "token_type"):
        for side in _SIDES:
            if name in extras.get(side, {}):
                entry[f"{side}_{name}"] = extras[side][name]
    kinds = {side: row["label"] for side, row in rows.items()}
    labels = set(kinds.values()) - {None}
    if labels and kinds != {side: side for side in _SIDES}:
        if len(labels) == 1 and None not in kinds.values():
            entry["type"] = labels.pop()
        else:
            context.notes.say(
                "labels that differ from 'test' and 'deploy' within a pair have no place in "
                "metadata.json and were left out"
            )
    for extra in extras.values():
        entry |= {k: v for k, v in extra.items() if k not in ("answer", "token_type", *entry)}
    return entry
