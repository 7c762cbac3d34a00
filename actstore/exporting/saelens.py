"""What SAELens caches and trains on: a data set on disk with a column per hook.

``ActivationsStore`` loads it with ``load_from_disk``, wants a column called like the hook
whose feature is ``Array2D((context_size, d_in))``, and takes ``token_ids`` where they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actstore.errors import ExportError
from actstore.exporting.export_context import ExportContext, RowRange, joined
from actstore.exporting.planned_files import File, Gather, Stream, TextFile, listed

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Features

_SHARD = 256 << 20
"""Bytes of one Arrow file."""
_BLOCK = 32 << 20
_TOKENS = "token_ids"
_HOOKS = {
    "embeddings": "hook_embed",
    "final_norm": "ln_final.hook_normalized",
    "mlp_in": "blocks.{layer}.ln2.hook_normalized",
}

Contexts = list[np.ndarray]
"""Row numbers of each context, all of one length."""


def plan(context: ExportContext) -> Iterator[File]:
    """Yield the Arrow files of one data set and the two files that describe it.

    Raises:
        ExportError: rows are no tokens, or contexts of one length cannot be made of them.
    """
    if context.dtype == "bfloat16":
        raise ExportError("Arrow has no bfloat16: leave out --dtype, or use float32")
    hooks = _hooks(context)
    size, columns = _contexts(context, hooks)
    count = len(next(iter(columns.values())))
    snapshot = context.selection.snapshot
    kinds = {name: snapshot.shape(np.concatenate(rows)) for name, rows in columns.items()}
    types = {name: context.dtype or kind for name, (_, kind) in kinds.items()}
    ids = _token_ids(context, next(iter(columns.values())))
    features = _features(
        {name: (size, kinds[name][0], types[name]) for name in columns}, size if ids else None
    )
    per_context = sum(size * kinds[name][0] * np.dtype(types[name]).itemsize for name in columns)
    step = max(1, _SHARD // per_context)
    starts = range(0, count, step)
    names = [f"data-{n:05d}-of-{len(starts):05d}.arrow" for n in range(len(starts))]
    for name, start in zip(names, starts, strict=True):
        part = {hook: contexts[start : start + step] for hook, contexts in columns.items()}
        own = ids[start : start + step] if ids else None
        yield Stream(
            name,
            sum(map(len, part.values())) * size,
            _writer(features, part, types, own, max(1, _BLOCK // per_context)),
        )
    yield from _description(context, features, names)


def _hooks(context: ExportContext) -> dict[str, list[RowRange]]:
    models = sorted({piece.model for piece in context.pieces})
    if len(models) > 1:
        raise ExportError(f"rows of several models ({listed(models)}): choose one with --model")
    found: dict[str, list[RowRange]] = {}
    for piece in context.pieces:
        if piece.first is None:
            raise ExportError(
                f"example {piece.example_id} is one vector; SAELens takes whole sequences: "
                "ingest or capture without pooling, or choose rows with --where "
                "\"pooling = 'none'\""
            )
        if piece.layer is None and piece.site not in _HOOKS:
            raise ExportError(f"the layer of {piece.site} is unknown, so its hook has no name")
        name = _HOOKS.get(piece.site, f"blocks.{{layer}}.hook_{piece.site}")
        found.setdefault(name.format(layer=piece.layer), []).append(piece)
    return found


def _contexts(
    context: ExportContext, hooks: Mapping[str, Sequence[RowRange]]
) -> tuple[int, dict[str, Contexts]]:
    """Return the context size and each hook's contexts, of the same tokens in all."""
    wholes: dict[str, dict[tuple[Any, ...], np.ndarray]] = {}
    for hook, pieces in hooks.items():
        examples: dict[tuple[Any, ...], list[RowRange]] = {}
        for each in pieces:
            key = (
                each.dataset,
                each.split,
                each.example_id,
                each.example_index,
                each.mode,
                each.variant,
            )
            examples.setdefault(key, []).append(each)
        wholes[hook] = {
            key: joined(own, f"{hook}, example {key[2]}") for key, own in examples.items()
        }
    (first, wanted), *others = wholes.items()
    for hook, found in others:
        for key in {**wanted, **found}:
            if key not in wanted or key not in found or len(found[key]) != len(wanted[key]):
                raise ExportError(
                    f"example {key[2]} has not the same tokens in {first} and {hook}; choose "
                    "one with --sites and --layers, or examples that are whole with --where"
                )
    lengths = sorted({len(rows) for rows in wanted.values()})
    if len(lengths) > 1 and context.context is None:
        raise ExportError(
            f"SAELens takes contexts of one length, and the examples have {lengths[0]} to "
            f"{lengths[-1]} tokens; --context N cuts each into contexts of N tokens and "
            "leaves out what is left of it"
        )
    size = context.context or lengths[0]
    columns: dict[str, Contexts] = {hook: [] for hook in wholes}
    for key, rows in wanted.items():
        for start in range(0, len(rows) - size + 1, size):
            for hook in wholes:
                columns[hook].append(wholes[hook][key][start : start + size])
    left = sum(len(rows) % size for rows in wanted.values())
    if left:
        context.notes.say(f"{left:,} tokens that fill no context of {size} were left out")
    if not columns[first]:
        raise ExportError(f"no example has {size} tokens; choose a smaller --context")
    return size, columns


def _token_ids(context: ExportContext, contexts: Contexts) -> list[list[int]] | None:
    """Return the token ids of each context, or None where some token has none."""
    found = []
    for rows in contexts:
        ids = context.store.rows_at(rows).table(["token_id"])["token_id"]
        if ids.null_count:
            context.notes.say("some tokens have no id, so the data set has no column token_ids")
            return None
        found.append(ids.to_pylist())
    return found


def _features(hooks: Mapping[str, tuple[int, int, str]], tokens: int | None) -> Features:
    from datasets import Array2D, Features, Sequence, Value

    columns = {name: Array2D((size, width), dtype) for name, (size, width, dtype) in hooks.items()}
    if tokens is not None:
        columns[_TOKENS] = Sequence(Value("int32"), length=tokens)
    return Features(columns)


def _writer(
    features: Features,
    columns: Mapping[str, Contexts],
    types: Mapping[str, str],
    ids: list[list[int]] | None,
    step: int,
) -> Callable[[Path, Gather], None]:
    def write(path: Path, gather: Gather) -> None:
        import pyarrow as pa

        arrow = features.arrow_schema
        count = len(next(iter(columns.values())))
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, arrow) as stream:
            for start in range(0, count, step):
                arrays = []
                for field in arrow:
                    if field.name == _TOKENS:
                        arrays.append(pa.array(ids[start : start + step], field.type))  # type: ignore[index]  # there are ids
                        continue
                    contexts = columns[field.name][start : start + step]
                    arrays.append(_array(field, contexts, gather, types[field.name]))
                stream.write_batch(pa.record_batch(arrays, schema=arrow))

    return write


def _array(field: pa.Field, contexts: Contexts, gather: Gather, dtype: str) -> pa.Array:
    import pyarrow as pa

    from actstore.exporting.tensors import tensor

    vectors = gather(np.concatenate(contexts))
    values = tensor(vectors, dtype, vectors.shape).numpy()
    size, width = len(contexts[0]), values.shape[1]
    inner = pa.ListArray.from_arrays(
        pa.array(np.arange(0, values.size + 1, width, dtype=np.int32)), pa.array(values.reshape(-1))
    )
    outer = pa.ListArray.from_arrays(
        pa.array(np.arange(0, len(values) + 1, size, dtype=np.int32)), inner
    )
    return pa.ExtensionArray.from_storage(field.type, outer.cast(field.type.storage_type))


def _description(
    context: ExportContext, features: Features, names: Sequence[str]
) -> Iterator[TextFile]:
    from datasets import DatasetInfo

    info = {
        key: value
        for key, value in DatasetInfo(features=features).__dict__.items()
        if value is not None and key in ("description", "citation", "homepage", "license")
    }
    info |= {"features": features.to_dict()}
    content = f"{context.store.commit} {features} {context.selection.rows.tobytes()!r}"
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": hashlib.sha256(content.encode()).hexdigest()[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    yield TextFile("dataset_info.json", json.dumps(info, indent=2))
    yield TextFile("state.json", json.dumps(state, indent=2))
