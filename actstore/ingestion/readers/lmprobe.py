"""Reads lmprobe data sets: an index of prompts, and the vectors of their last tokens by layer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from actstore import schema
from actstore.errors import LayoutError
from actstore.ingestion import fetching
from actstore.ingestion.axes import blocks, interpret
from actstore.ingestion.documents import to_json
from actstore.ingestion.options import model_unknown
from actstore.ingestion.readers import Arrangement, Context, Reader, reader
from actstore.ingestion.recipe import Recipe
from actstore.ingestion.source_file import SourceFile
from actstore.ingestion.tensor import Tensor
from actstore.ingestion.values import convert
from actstore.storage.rows import RowBatch

_AXES = {2: ("example", "hidden")}
_KEY = "hidden.layer_"
_POOLINGS = {
    "last_token": "last",
    "first_token": "first",
    "mean": "mean",
    "max": "max",
}
_PLACES = frozenset(
    {
        *("shard_index", "row_offset", "shard_index_logits", "row_offset_logits"),
        *("token_offset", "token_shard_ids", "token_shard_offsets"),
    }
)
"""Columns of the index that say where something lies in the shards."""
_TAKEN = {"text": "question", "label": "label", "num_tokens": "token_count"}


class _Prompt(NamedTuple):
    """A row of the index."""

    number: int
    record: Mapping[str, Any]


class _Index(NamedTuple):
    """The index of one data set."""

    model: str | None
    pooling: str
    last_token_shards: int | None
    """Later shards hold the other tokens; None: there are none."""
    shards: dict[int, dict[int, _Prompt]]
    """Per shard, by row."""


@reader("lmprobe")
class Lmprobe(Reader):
    """Reads ``tensors/hidden_layer{L}_shard{S}.safetensors``."""

    def __init__(self, recipe: Recipe, context: Context) -> None:
        super().__init__(recipe, context)
        self._indexes: dict[Path, _Index] = {}

    def fits(self, document: Any) -> bool:
        """Say whether the file holds a layer as lmprobe names it."""
        return isinstance(document, dict) and any(str(key).startswith(_KEY) for key in document)

    def arrange(self, files: Sequence[SourceFile]) -> Arrangement:
        """Leave out the shards of other tokens than the last.

        Raises:
            SidecarError: there is no index.
        """
        chosen: list[SourceFile] = []
        others: list[SourceFile] = []
        for file in files:
            last = self._index(file).last_token_shards
            (others if last is not None and file.parts["shard"] >= last else chosen).append(file)
        if others:
            self.context.notes.say(
                f"the data set holds whole sequences: the last tokens are read, the others "
                f"({len(others):,} files) are not"
            )
        return Arrangement(chosen, unmatched=[file.relative for file in others])

    def one_each(self, file: SourceFile) -> bool:
        """A shard holds many examples."""
        return False

    def read(self, file: SourceFile, document: Any) -> Iterator[RowBatch]:
        """Yield the rows of one layer and shard.

        Raises:
            LayoutError: the shard does not hold what the index says.
            SidecarError: there is no index.
        """
        layer, shard = file.parts["layer"], file.parts["shard"]
        key = f"{_KEY}{layer}"
        tensor = document.get(key) if isinstance(document, dict) else None
        if not isinstance(tensor, Tensor):
            keys = ", ".join(map(str, document)) if isinstance(document, dict) else "none"
            raise LayoutError(f"no tensor {key!r}; the keys are: {keys or 'none'}")
        index = self._index(file)
        prompts = index.shards.get(shard, {})
        grid = interpret(tensor, _AXES)
        size = grid.rows["example"]
        if sorted(prompts) != list(range(size)):
            raise LayoutError(
                f"{key} has {size} rows, and the index places {len(prompts)} prompts in shard "
                f"{shard}"
            )
        options = self.context.options
        if self.context.shapes is not None:
            self.context.shapes[f"{file.relative}#{key}"] = (tensor.shape, tensor.dtype)
        constant = {
            "model": options.model or index.model,
            "dataset": options.dataset or file.cache,
            "site": options.site or "resid_post",
            "layer": layer,
            "pooling": index.pooling,
            "source": f"{file.relative}#{key}",
        }
        for block in blocks(grid, stop=options.first_k):
            rows = [self._row(prompts[block.row + row]) for row in range(block.rows)]
            fixed = {name: value for name, value in constant.items() if value is not None}
            columns = {
                name: [row[name] for row in rows]
                for name in rows[0]
                if name not in fixed or name in options.map
            }
            if "model" not in fixed and None in columns.get("model", [None]):
                raise model_unknown()
            fixed = {name: value for name, value in fixed.items() if name not in columns}
            yield RowBatch(vectors=block.vectors, constants=fixed, columns=columns)

    def _row(self, prompt: _Prompt) -> dict[str, Any]:
        record = dict(prompt.record)
        found: dict[str, Any] = {"example_id": str(prompt.number), "example_index": prompt.number}
        for name in schema.metadata_names():
            if name in record and name not in ("norm", "run_id", "extra", *_TAKEN.values()):
                found[name] = record.pop(name)
        for name, column in _TAKEN.items():
            found[column] = record.pop(name, None)
        for column, name in self.context.options.map.items():
            if column == schema.VECTOR:
                continue
            if name not in prompt.record:
                raise LayoutError(
                    f"no column {name!r} for {column}; the index has {', '.join(prompt.record)}"
                )
            found[column] = prompt.record[name]
            record.pop(name, None)
        left = {
            name: value
            for name, value in record.items()
            if name not in _PLACES and value is not None and not isinstance(value, list)
        }
        found = {name: convert(name, value) for name, value in found.items()}
        return {**found, "extra": to_json(left)}

    def _index(self, file: SourceFile) -> _Index:
        table = self.context.sidecars.table("index", file)
        assert table is not None  # it is required
        if table.path not in self._indexes:
            self._indexes[table.path] = _read(table.path, table.records)
        return self._indexes[table.path]


def _read(path: Path, records: Sequence[Mapping[str, Any]]) -> _Index:
    shards: dict[int, dict[int, _Prompt]] = {}
    for number, record in enumerate(records):
        shard, row = record.get("shard_index"), record.get("row_offset")
        if not isinstance(shard, int) or not isinstance(row, int):
            raise LayoutError(
                f"{path.name}: prompt {number} has no shard_index and row_offset: this is no "
                "index of lmprobe's format 2"
            )
        if row in shards.setdefault(shard, {}):
            raise LayoutError(f"{path.name}: two prompts lie at row {row} of shard {shard}")
        shards[shard][row] = _Prompt(number, record)
    model, hidden = _facts(path)
    pooling = hidden.get("pooling") or "last_token"
    last = hidden.get("last_token_shards")
    return _Index(
        model=model,
        pooling=_POOLINGS.get(str(pooling), "unknown"),
        last_token_shards=last if isinstance(last, int) else None,
        shards=shards,
    )


def _facts(path: Path) -> tuple[str | None, Mapping[str, Any]]:
    """Return the model and the description of the hidden layers, from the index's metadata."""
    import pyarrow.parquet as pq

    fetching.ensure(path)
    known = pq.read_schema(path).metadata or {}

    def value(name: str) -> Any:
        try:
            return json.loads(known.get(b"lmprobe:" + name.encode(), b"null"))
        except ValueError:
            return None

    model, tensors = value("model"), value("tensors")
    name = model.get("name") if isinstance(model, dict) else model
    hidden = tensors.get("hidden_layers") if isinstance(tensors, dict) else None
    return (
        name if isinstance(name, str) else None,
        hidden if isinstance(hidden, dict) else {},
    )
