"""Reads the inputs and outputs of MLPs that were captured to train cross-layer transcoders.

One MLP output stands in many files. Files are read batch by batch and layer by layer, so
that while a batch is at hand, what its next files will repeat is in memory: repeats are
compared there and never reach the store.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from actstore.errors import ActstoreError, ConflictError, LayoutError, SidecarError
from actstore.ingestion.axes import interpret, limited
from actstore.ingestion.documents import rest, to_json
from actstore.ingestion.readers import Arrangement, Reader, reader
from actstore.ingestion.readers.assembly import batches, constants
from actstore.ingestion.source_file import SourceFile
from actstore.ingestion.tensor import Tensor
from actstore.storage.rows import RowBatch

AXES = {3: ("example", "token", "hidden"), 4: ("example", "batch", "token", "hidden")}
_KEYS = ("x", "y", "data", "targets", "n_targets")
_SINGLE = ("x", "y", "data", "")


class ReadOutput(NamedTuple):
    """An MLP output that was read, and where."""

    source: str
    tensor: Tensor


class NamedTensor(NamedTuple):
    """One tensor of a file and what it is."""

    key: str
    site: str
    layer: int
    tensor: Tensor


@dataclass(slots=True)
class Capture:
    """What is known of one folder of captures."""

    last_layer: int
    last_batch: int
    batch_size: int | None = None
    batch: int | None = None
    """The batch at hand."""
    outputs: dict[int, ReadOutput] = field(default_factory=dict)
    """MLP outputs of that batch by layer, as long as a file may still repeat them."""


@reader("clt")
class Clt(Reader):
    """Reads ``batch_{i}_x.pt`` and ``batch_{i}_y.pt``."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._captures: dict[Path, Capture] = {}

    def fits(self, document: Any) -> bool:
        """Say whether there is a tensor where such files keep it."""
        if isinstance(document, dict):
            document = next((document[key] for key in ("x", "y", "data") if key in document), None)
        return isinstance(document, Tensor) and document.ndim in AXES

    def arrange(self, files: Sequence[SourceFile]) -> Arrangement:
        """Go by batch, then by layer, and take note of the last of each."""
        for file in files:
            capture = self._captures.setdefault(file.folder, Capture(0, 0))
            capture.last_layer = max(capture.last_layer, file.parts["layer"])
            capture.last_batch = max(capture.last_batch, file.parts["batch"])
        return Arrangement(sorted(files, key=_order))

    def together(self, file: SourceFile) -> Hashable:
        """Return the folder and the batch: outputs are compared from layer to layer."""
        return file.folder, file.parts["batch"]

    def look_ahead(
        self, files: Sequence[SourceFile], opened: Callable[[SourceFile], Any]
    ) -> Mapping[str, Any]:
        """Return of each capture its last layer and batch, and how many samples a batch holds.

        The first batch that can be read says so, as it does to who reads them one by one.
        """
        for file in files:
            capture, batch = self._captures[file.folder], file.parts["batch"]
            if capture.batch_size is None and (batch < capture.last_batch or batch == 0):
                with contextlib.suppress(ActstoreError, OSError, MemoryError):
                    next(self.read(file, opened(file)), None)
        return {
            str(folder): [capture.last_layer, capture.last_batch, capture.batch_size]
            for folder, capture in self._captures.items()
        }

    def begin(self, seen: Mapping[str, Any]) -> None:
        """Begin a batch."""
        for folder, capture in self._captures.items():
            capture.batch, capture.outputs = None, {}
            *_, capture.batch_size = seen[str(folder)]

    def read(self, file: SourceFile, document: Any) -> Iterator[RowBatch]:
        """Yield one row per sample and token, or per sample where tokens are pooled.

        Raises:
            LayoutError: the file holds other keys or shapes than the two kinds have.
            ConflictError: an MLP output differs from what an earlier file holds.
            SidecarError: the queries do not reach as far as the samples.
        """
        layer, batch = file.parts["layer"], file.parts["batch"]
        capture = self._captures.setdefault(file.folder, Capture(layer, batch))
        if capture.batch != batch:
            capture.batch, capture.outputs = batch, {}
        parts = _parts(file, document)
        _check_shapes(parts)
        capture.outputs = {at: held for at, held in capture.outputs.items() if at > layer}
        self.context.forms.note(file.relative, kind=file.parts["side"], **_form(parts))
        found: dict[int, ReadOutput] = {}
        for part in parts:
            source = f"{file.relative}#{part.key}" if part.key else file.relative
            if part.site == "mlp_out":
                if part.layer > capture.last_layer and part.tensor.is_zero():
                    self.context.notes.count("zero targets past the last layer, left out")
                    continue
                if self._repeats(capture, part, source):
                    continue
                found[part.layer] = ReadOutput(source, part.tensor)
            yield from self._rows(file, document, capture, part, source)
        # Only here, when all rows were taken: a file that is refused has stored nothing.
        capture.outputs |= found

    def _repeats(self, capture: Capture, part: NamedTensor, source: str) -> bool:
        held = capture.outputs.get(part.layer)
        if held is None:
            return False
        if not held.tensor.same_bits(part.tensor):
            raise ConflictError(
                f"{part.key}: the MLP output of layer {part.layer} differs from the one in "
                f"{held.source}, which is already stored; the two are from different runs"
            )
        self.context.notes.count("MLP outputs in more than one file, compared and stored once")
        return True

    def _rows(
        self, file: SourceFile, document: Any, capture: Capture, part: NamedTensor, source: str
    ) -> Iterator[RowBatch]:
        grid = interpret(part.tensor, AXES, squeeze=False)
        size = grid.rows["example"]
        first = self._first(capture, file.parts["batch"], size)
        if (first_k := self.context.options.first_k) is not None:
            if first >= first_k:
                return
            grid = limited(grid, "example", first_k - first)
            size = grid.rows["example"]
        left = rest(document, _KEYS).values
        constant = constants(
            self.context,
            file,
            document,
            layer=part.layer,
            site=part.site,
            source=source,
        )
        columns = self._columns(file, range(first, first + size), left)
        if size > 1:
            self.context.notes.say(
                "batches hold several samples, padded to the longest, and no mask says where: "
                "padding is among the tokens"
            )
        yield from batches(self.context, grid, constant, columns, pooled_region="prompt")

    def _first(self, capture: Capture, batch: int, size: int) -> int:
        """Return the number of the batch's first sample; only the last batch may be shorter."""
        if capture.batch_size is None and (batch < capture.last_batch or batch == 0):
            capture.batch_size = size
        whole = capture.batch_size
        if whole is None:
            self.context.notes.say(
                f"only the last batch is here: samples are numbered as if all {batch} batches "
                f"before it held {size}"
            )
            whole = size
        if size > whole or (size < whole and batch < capture.last_batch):
            raise LayoutError(
                f"the batch holds {size} samples, others {whole}: the numbers of its samples "
                "cannot be told"
            )
        return batch * whole

    def _columns(
        self, file: SourceFile, numbers: range, left: Mapping[str, Any]
    ) -> dict[str, list[Any]]:
        queries = self.context.sidecars.table("queries", file)
        columns: dict[str, list[Any]] = {}
        for number in numbers:
            query = {} if queries is None else queries.at(number)
            if query is None:
                assert queries is not None
                raise SidecarError(
                    f"{queries.path}: has {len(queries)} entries, but the file holds sample "
                    f"{number}: these are the queries of another capture"
                )
            for name, value in _row(number, dict(query), left).items():
                columns.setdefault(name, []).append(value)
        return columns


def _order(file: SourceFile) -> tuple[Any, ...]:
    return (str(file.folder), file.parts["batch"], file.parts["layer"], file.parts["side"])


def _row(number: int, query: dict[str, Any], left: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "example_id": str(query.pop("id", number)),
        "example_index": number,
        "question": query.pop("query", None),
        "extra": to_json({**left, **query}),
    }


def _parts(file: SourceFile, document: Any) -> list[NamedTensor]:
    """Return the tensors of a file.

    Raises:
        LayoutError: the keys are of neither kind.
    """
    side, layer = file.parts["side"], file.parts["layer"]
    if isinstance(document, Tensor):
        document = {"": document}
    if not isinstance(document, dict):
        raise LayoutError(f"expected a dictionary or a tensor, got a {type(document).__name__}")
    key = next((key for key in (side, "data", "") if isinstance(document.get(key), Tensor)), None)
    if key is None:
        keys = ", ".join(map(str, document)) or "none"
        raise LayoutError(f"no tensor under {side!r} or 'data'; the keys are: {keys}")
    if side == "x":
        return [NamedTensor(key, "mlp_in", layer, document[key])]
    if "targets" not in document:
        return [NamedTensor(key, "mlp_out", layer + 1, document[key])]
    targets = _targets(document)
    if not targets[0].same_bits(document[key]):
        raise LayoutError(f"{key!r} differs from targets[0], which it should repeat")
    return [
        NamedTensor(f"targets.{number}", "mlp_out", layer + 1 + number, target)
        for number, target in enumerate(targets)
    ]


def _form(parts: Sequence[NamedTensor]) -> dict[str, Any]:
    """Return how a file holds its tensors, for an export to write it again."""
    found: dict[str, Any] = {"dtype": parts[0].tensor.dtype, "rank": parts[0].tensor.ndim}
    if parts[0].key in _SINGLE:
        return {**found, "key": parts[0].key}
    types = tuple(part.tensor.dtype for part in parts)
    different = {"dtypes": types} if len(set(types)) > 1 else {}
    return {**found, "targets": len(parts), **different}


def _targets(document: Mapping[str, Any]) -> Sequence[Tensor]:
    targets = document["targets"]
    if (
        not isinstance(targets, (list, tuple))
        or not targets
        or not all(isinstance(target, Tensor) for target in targets)
    ):
        raise LayoutError("'targets' is no list of tensors")
    count = document.get("n_targets", len(targets))
    if count != len(targets):
        raise LayoutError(f"n_targets says {count}, but there are {len(targets)} targets")
    return targets


def _check_shapes(parts: Sequence[NamedTensor]) -> None:
    shapes = {part.tensor.shape: part.key for part in parts}
    if len(shapes) > 1:
        found = ", ".join(f"{key} {list(shape)}" for shape, key in shapes.items())
        raise LayoutError(f"the targets differ in shape: {found}")
