"""Training pairs for cross-layer transcoders: what the store holds once, written out again.

An MLP output stands in as many files as there are targets; padding past the last layer is
zeros, and ``y`` repeats ``targets[0]`` (one storage in the file).
"""

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
    ExportContext,
    RowRange,
    check_alike,
    joined,
)
from actstore.exporting.planned_files import File, Matrices, TextFile, json_text, listed
from actstore.exporting.tensors import save, tensor

_SOURCE = re.compile(r"(?P<prefix>(?:.*/)?)L(?P<layer>\d+)/batch_(?P<batch>\d+)_(?P<side>[xy])\.pt")
_TARGETS = 16
"""How many the original's default is."""

PairTensors = dict[tuple[int, int], dict[str, list[RowRange]]]
"""Layer and batch: the pieces of each sample."""


@dataclass(slots=True)
class CaptureFolder:
    """One folder of captures."""

    inputs: PairTensors = field(default_factory=dict)
    outputs: PairTensors = field(default_factory=dict)
    last: int = 0
    """The last layer that the store has inputs of: what lies past it is padding."""
    dtype: str = "float32"
    """One that holds all outputs: each stands in several files, which must agree."""


def plan(context: ExportContext) -> Iterator[File]:
    """Yield ``L{layer}/batch_{i}_x.pt`` and ``_y.pt`` batch by batch, then the queries.

    ``--layers`` chooses the folders; later outputs are taken from wherever they are.

    Raises:
        ExportError: inputs or outputs of a layer are missing, tokens are, or the samples
            of a batch differ in length.
    """
    for prefix, capture in _captures(context).items():
        layers = sorted({layer for layer, _ in capture.inputs})
        batches = sorted({batch for _, batch in capture.inputs})
        for batch in batches:
            for layer in layers:
                samples = capture.inputs.get((layer, batch))
                if samples is None:
                    raise ExportError(
                        f"batch {batch} has no input of layer {layer}, as others have; choose "
                        "layers and samples that all have, with --layers and --where"
                    )
                yield from _files(context, prefix, capture, layer, batch, samples)
        yield from _queries(context, prefix, capture)


def _captures(context: ExportContext) -> dict[str, CaptureFolder]:
    layers = context.equals.pop("layer", None)
    pieces = [piece for piece in context.pieces if piece.site in ("mlp_in", "mlp_out")]
    if len(pieces) < len(context.pieces):
        context.notes.say("rows of other sites than mlp_in and mlp_out were left out")
    if not any(piece.site == "mlp_in" for piece in pieces):
        raise ExportError(
            f"there are no inputs of MLPs (site mlp_in) among the rows; the sites are "
            f"{listed(sorted({piece.site for piece in context.pieces}))}"
        )
    known = context.known(pieces)
    models = sorted({piece.model for piece in pieces})
    if len(models) > 1 and not known:
        raise ExportError(f"rows of several models ({listed(models)}): choose one with --model")
    if not known:
        check_alike(pieces, ORIGIN, lambda piece: f"sample {piece.example_id}")
    wanted = None if layers is None else {layers} if isinstance(layers, int) else set(layers)
    numbers: dict[str, int] = {}
    captures: dict[str, CaptureFolder] = {}
    for piece in pieces:
        match = _SOURCE.fullmatch(piece.path) if known else None
        prefix = match["prefix"] if match else ""
        name = piece.example_id
        batch = int(match["batch"]) if match else numbers.setdefault(name, len(numbers))
        capture = captures.setdefault(prefix, CaptureFolder())
        if piece.layer is None:
            raise ExportError(f"sample {name} has a vector of an unknown layer")
        if piece.site == "mlp_in":
            capture.last = max(capture.last, piece.layer)
            if wanted is not None and piece.layer not in wanted:
                continue
        side = capture.inputs if piece.site == "mlp_in" else capture.outputs
        side.setdefault((piece.layer, batch), {}).setdefault(name, []).append(piece)
    last = [
        shard.layer or 0
        for shard in context.selection.snapshot.shards
        if shard.site == "mlp_in" and shard.model in models
    ]
    absent = sorted((wanted or set()) - {at for each in captures.values() for at, _ in each.inputs})
    if absent:
        raise ExportError(
            f"there are no inputs of MLPs (site mlp_in) of layer {listed(absent)} among the rows"
        )
    for capture in captures.values():
        samples = (capture.outputs or capture.inputs).values()
        rows = [piece.row for each in samples for pieces in each.values() for piece in pieces]
        capture.dtype = context.selection.snapshot.shape(np.array(rows, np.int64))[1]
        # What a condition left out is missing, not padding; one capture tells for itself.
        capture.last = max([capture.last, *(last if len(captures) == 1 else ())])
        first = min((layer for layer, _ in capture.inputs), default=0)
        before = sorted({layer for layer, _ in capture.outputs if layer <= first})
        if before and wanted is None:
            context.notes.say(
                f"MLP outputs of layer {listed(before)} have no place in this layout, whose "
                "files hold the outputs of later layers than their own"
            )
    return {prefix: each for prefix, each in captures.items() if each.inputs}


def _files(
    context: ExportContext,
    prefix: str,
    capture: CaptureFolder,
    layer: int,
    batch: int,
    samples: Mapping[str, Sequence[RowRange]],
) -> Iterator[Matrices]:
    rows, count, tokens = _stack(samples, f"L{layer}/batch_{batch}, input")
    one = next(iter(samples.values()))[0]
    stem = f"{prefix}L{layer}/batch_{batch}"
    form = context.form(one, "x", f"{stem}_x.pt")
    dtype = context.dtype or form.get("dtype")
    shape = (count, 1, tokens) if form.get("rank") == 4 else (count, tokens)
    known = bool(form)
    key = one.key if known else "x"

    def write_x(target: Path, matrices: list[np.ndarray]) -> None:
        value = tensor(matrices[0], dtype, (*shape, matrices[0].shape[1]))
        save({key: value} if key else value, target)

    yield Matrices(f"{stem}_x.pt", [rows], write_x)
    later = context.form(one, "y", f"{stem}_y.pt")
    single = bool(later) and "targets" not in later
    number = 1 if single else (context.targets or later.get("targets") or _TARGETS)
    found: list[np.ndarray | None] = []
    for at in range(layer + 1, layer + 1 + number):
        outputs = capture.outputs.get((at, batch))
        if outputs is None and at <= capture.last:
            raise ExportError(
                f"{stem}_y.pt holds the MLP outputs of layers {layer + 1} to "
                f"{min(layer + number, capture.last)}, and layer {at} has none; choose "
                "earlier layers with --layers, or fewer targets with --targets"
            )
        if outputs is None:
            found.append(None)
            continue
        where = f"{stem}, output of layer {at}"
        target_rows, target_count, target_tokens = _stack(outputs, where)
        if (target_count, target_tokens) != (count, tokens) or list(outputs) != list(samples):
            raise ExportError(
                f"{where}: {target_count} samples of {target_tokens} tokens, the input has "
                f"{count} of {tokens}; choose whole samples with --where"
            )
        found.append(target_rows)
    own = later.get("key", "y" if key == "x" else key)
    width = context.selection.snapshot.shape(rows[:1])[0]
    types = later.get("dtypes") or [later.get("dtype") or capture.dtype] * number
    types = [context.dtype or name for name in (*types, *types[-1:] * number)][:number]
    yield _later(f"{stem}_y.pt", found, (*shape, width), types, own if single else None)


def _later(
    path: str,
    targets: Sequence[np.ndarray | None],
    shape: tuple[int, ...],
    types: Sequence[str],
    key: str | None,
) -> Matrices:
    """Return the file of targets, or with ``key`` of one alone (under no key where it is empty)."""

    def write(target: Path, matrices: list[np.ndarray]) -> None:
        import torch

        stored = iter(matrices)
        values = [
            torch.zeros(shape, dtype=getattr(torch, name))
            if rows is None
            else tensor(next(stored), name, shape)
            for rows, name in zip(targets, types, strict=True)
        ]
        if key is None:
            save({"y": values[0], "targets": values, "n_targets": len(values)}, target)
        elif key:
            save({key: values[0]}, target)
        else:
            save(values[0], target)

    return Matrices(path, [rows for rows in targets if rows is not None], write)


def _stack(samples: Mapping[str, Sequence[RowRange]], what: str) -> tuple[np.ndarray, int, int]:
    """Return the rows of a batch, and how many samples and tokens it has."""
    parts = []
    for name, pieces in samples.items():
        if pieces[0].first is None:
            raise ExportError(
                f"{what}: the tokens of sample {name} were pooled; these files hold every "
                "token: ingest or capture without pooling"
            )
        parts.append(joined(pieces, f"{what}, sample {name}"))
    lengths = sorted({len(part) for part in parts})
    if len(lengths) > 1:
        raise ExportError(
            f"{what}: samples of {listed(lengths)} tokens in one batch, which was padded to "
            "one length; choose whole samples with --where"
        )
    return np.concatenate(parts), len(parts), lengths[0]


def _queries(context: ExportContext, prefix: str, capture: CaptureFolder) -> Iterator[TextFile]:
    firsts: dict[int, RowRange] = {}
    for samples in capture.inputs.values():
        for pieces in samples.values():
            if pieces[0].example_index is not None:
                firsts.setdefault(pieces[0].example_index, pieces[0])
    entries: list[dict[str, Any]] = []
    for number, piece in sorted(firsts.items()):
        row, extra = context.details(piece), context.extra(piece)
        name = row["example_id"]
        own: dict[str, Any] = {}
        if name != str(number):
            own["id"] = int(name) if name.isdecimal() and str(int(name)) == name else name
        own |= {k: v for k, v in extra.items() if k not in ("id", "query")}
        if row["question"] is not None:
            own["query"] = row["question"]
        if number > 1_000_000:
            return
        entries += [{} for _ in range(number - len(entries))]
        entries.append(own)
    if any(entries):
        yield TextFile(f"{prefix}queries.json", json_text(entries))
