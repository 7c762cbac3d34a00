"""The reader that a recipe alone describes: keys, axes and columns from TOML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from actstore import schema
from actstore.errors import ForeignFileError, LayoutError
from actstore.ingestion import axes, documents, plan
from actstore.ingestion.expression import Expression, Level
from actstore.ingestion.pieces import Piece, Pile
from actstore.ingestion.plan import TensorPlan
from actstore.ingestion.readers import Context, Reader, reader
from actstore.ingestion.readers.matching import Found, Matcher, contents, example_lengths
from actstore.ingestion.readers.scope import FileScope, column_value
from actstore.ingestion.recipe import Recipe
from actstore.ingestion.source_file import SourceFile
from actstore.ingestion.tensor import Tensor
from actstore.storage.rows import RowBatch

_EXTRA = "extra"
_canonical_site = cache(schema.canonical_site)


class _Values(NamedTuple):
    """What is already known of a tensor's rows."""

    base: Mapping[str, Any]
    """Columns of the whole file."""
    constants: dict[str, Any]
    """Columns of the tensor."""
    rest: dict[str, Any]
    """What no column takes from the file."""
    each: Mapping[str, list[Any]]
    """Likewise, where there is one value per row."""


@reader("generic")
class GenericReader(Reader):
    """Reads whatever the recipe says; the base of readers that only add to it."""

    def __init__(self, recipe: Recipe, context: Context) -> None:
        super().__init__(recipe, context)
        self._plans = [plan.make(recipe, spec, context.options) for spec in recipe.tensors]
        self._taken = plan.file_keys(recipe, self._plans)
        self._matcher = Matcher(recipe.name, self._plans, context.options.first_k)
        self._mapped = {
            column: key
            for column, key in context.options.map.items()
            if column != schema.VECTOR and "{" not in key
        }

    def fits(self, document: Any) -> bool:
        """Say whether every tensor that one kind of file needs is there, in a known rank."""
        for pattern in self.recipe.files:
            try:
                for _, part in islice(self._parts(document), 1):
                    self._matcher.found(pattern.name, part)
                    return True
            except LayoutError:
                continue
        return False

    def one_each(self, file: SourceFile) -> bool:
        """Say whether no tensor of the file has an example axis, or a key that names examples."""
        if self.recipe.each is not None:
            return False
        if any(_names_examples(each) for each in self._plans if each.belongs(file.pattern.name)):
            return False
        return file.pattern.example is not None or not any(
            "example" in meaning
            for each in self._plans
            if each.belongs(file.pattern.name)
            for meaning in each.spec.axes.values()
        )

    def read(self, file: SourceFile, document: Any) -> Iterator[RowBatch]:
        """Yield the rows of one file, several tensors together in one batch."""
        for entry, part in islice(self._parts(document), self._entries()):
            try:
                yield from self._read_part(file, part, entry)
            except LayoutError as error:
                if entry is None:
                    raise
                raise LayoutError(f"entry {entry}: {error}") from error

    def _entries(self) -> int | None:
        return self.context.options.first_k if self.recipe.each is not None else None

    def _parts(self, document: Any) -> Iterator[tuple[str | int | None, Any]]:
        """Yield what is read as one document: the whole of it, or each of its entries.

        Raises:
            LayoutError: there are no entries where the recipe says.
        """
        where = self.recipe.each
        if where is None:
            yield None, document
            return
        held = document if where == "." else documents.find(document, where)
        if not isinstance(held, (dict, list, tuple)) or not held:
            place = "the file" if where == "." else where
            raise LayoutError(
                f"{place} should hold one entry per example; the file holds {contents(document)}"
            )
        yield from held.items() if isinstance(held, dict) else enumerate(held)

    def _read_part(
        self, file: SourceFile, document: Any, entry: str | int | None
    ) -> Iterator[RowBatch]:
        self.check_required(document)
        for column, key in self._mapped.items():
            if not documents.has(document, key):
                what = "files" if entry is None else "entries"
                self.context.notes.count(
                    f"{what} without {key!r}, so that --map {column}={key} gives nothing"
                )
        found = self._matcher.found(file.pattern.name, document)
        whole = documents.has_whole_keys(document)
        scope = FileScope(file, document, {}, self.context, entry)
        aligned = self._aligned(document, found)
        rest = self._rest(document, found, aligned)
        bases: dict[int, dict[str, Any]] = {}
        pile = Pile()
        for each in found:
            scope.with_columns(each.plan.columns)
            base = bases.get(id(each.plan))
            if base is None:
                base = bases[id(each.plan)] = self._base(each.plan, scope, rest)
            inside = ".".join(str(name) for name in (entry, each.key) if name not in (None, ""))
            source = f"{file.relative}#{inside}" if inside else file.relative
            tensor = each.tensor
            self.context.forms.note(
                source, dtype=tensor.dtype, rank=tensor.ndim, **({"keys": "int"} if whole else {})
            )
            try:
                for piece in self._pieces(
                    each, scope, _Values(base, {"source": source}, rest, aligned)
                ):
                    if not pile.takes(piece):
                        yield pile.batch()
                    pile.add(piece)
            except LayoutError as error:
                raise LayoutError(f"{each.key}: {error}" if each.key else str(error)) from error
        if pile.size:
            yield pile.batch()

    def check_required(self, document: Any) -> None:
        """Refuse a file that lacks a required key.

        Raises:
            ForeignFileError: it has none of them.
            LayoutError: names what is missing and what is there.
        """
        missing = [key for key in self.recipe.required if not documents.has(document, key)]
        if missing:
            # A file with none of the keys is something else; one that lacks a few is damaged.
            kind = ForeignFileError if len(missing) == len(self.recipe.required) else LayoutError
            raise kind(
                f"no {', '.join(missing)}; recipe {self.recipe.name} expects "
                f"{', '.join(self.recipe.required)}, the file holds {contents(document)}"
            )

    def _aligned(self, document: Any, found: list[Found]) -> dict[str, list[Any]]:
        rows = example_lengths(found)
        if not self.recipe.keep_rest or len(rows) != 1:
            return {}
        return documents.per_row(document, self._taken | {each.key for each in found}, rows.pop())

    def _rest(
        self, document: Any, found: list[Found], aligned: Mapping[str, list[Any]]
    ) -> dict[str, Any]:
        if not self.recipe.keep_rest or not isinstance(document, dict):
            return {}
        rest = documents.rest(document, self._taken | {each.key for each in found} | {*aligned})
        for key in rest.cut:
            self.context.notes.count(f"values of {key!r} too large for extra, left out")
        for key in rest.tensors:
            self.context.notes.count(f"tensors {key!r} that the recipe does not name, left out")
        return rest.values

    def _base(self, each: TensorPlan, scope: FileScope, rest: dict[str, Any]) -> dict[str, Any]:
        values = {name: column_value(name, each.columns[name], scope) for name in each.per_file}
        if each.extra <= Level.FILE:
            values[_EXTRA] = self._extra(scope, rest)
        return values

    def _extra(self, scope: FileScope, rest: dict[str, Any]) -> str | None:
        more = {name: each.evaluate(scope) for name, each in self.recipe.extra.items()}
        return documents.to_json(
            rest | {name: value for name, value in more.items() if value is not None}
        )

    def _pieces(self, found: Found, scope: FileScope, values: _Values) -> Iterator[Piece]:
        each, tensor = found.plan, found.tensor
        spec, constants = each.spec, values.constants
        scope.key, scope.key_text, scope.tensor = found.parts, found.key, tensor
        scope.row, scope.rows, scope.token, scope.axis = 0, 1, None, {}
        scope.examples = 1
        grid = axes.interpret(tensor, spec.axes, squeeze=spec.squeeze)
        if spec.count is not None and grid.rows.get("layer", spec.count) != spec.count:
            raise LayoutError(
                f"shape {list(tensor.shape)}: {grid.rows['layer']} layers, expected {spec.count}"
            )
        if spec.width is not None:
            _check_width(spec.width, scope, grid)
        for name in each.per_tensor:
            constants[name] = column_value(name, each.columns[name], scope)
        if each.extra is Level.TENSOR:
            constants[_EXTRA] = self._extra(scope, values.rest)
        options = self.context.options
        if self.context.shapes is not None:
            self.context.shapes[constants["source"]] = (tensor.shape, tensor.dtype)
        if grid.tokens is None and options.pool is not None:
            self.context.notes.say(
                f"--pool {options.pool} changes nothing where there is no token axis"
            )
        if grid.tokens is None and not grid.rows:  # one vector: the usual case, made short
            self._add_single(each, scope, constants, values.rest)
            _settle_site(values.base, constants, {})
            yield Piece(values.base, grid.tensor.numpy().reshape(1, -1), constants)
            return
        # Of all, under --first-k too: the file's lists and tables are as long.
        scope.rows = scope.examples = grid.rows.get("example", 1)
        if options.first_k is not None:
            grid = axes.limited(grid, "example", options.first_k)
        mask = _mask(spec.mask, scope, grid)
        for block in axes.blocks(grid, pool=options.pool, mask=mask):
            if len(block.vectors):
                yield self._piece(each, scope, grid, block, values)

    def _add_single(
        self, each: TensorPlan, scope: FileScope, own: dict[str, Any], rest: dict[str, Any]
    ) -> None:
        """Add the columns of a row that stands alone."""
        for name in each.per_row:
            own[name] = column_value(name, each.columns[name], scope)
        for name in each.per_token:
            own[name] = None
        if each.extra is Level.ROW:
            own[_EXTRA] = self._extra(scope, rest)

    def _piece(
        self,
        each: TensorPlan,
        scope: FileScope,
        grid: axes.Grid,
        block: axes.Block,
        values: _Values,
    ) -> Piece:
        own = dict(values.constants)
        columns: dict[str, Sequence[Any]] = {}
        share = len(block.vectors) // block.rows
        rows = _row_numbers(grid, block)
        if grid.rows:
            columns = self._per_row(each, scope, rows, values)
            if share > 1:
                columns = {
                    name: [value for value in column for _ in range(share)]
                    for name, column in columns.items()
                }
        else:
            self._add_single(each, scope, own, values.rest)
        if block.positions is not None:
            own["pooling"] = "none"
            for name in each.per_token:
                own.pop(name, None)
            columns |= _per_token(each, scope, rows, block.positions, share)
        elif block.counts is not None:
            own["pooling"], own["position"] = self.context.options.pool, None
            columns["token_count"] = block.counts
        _settle_site(values.base, own, columns)
        return Piece(values.base, block.vectors, own, columns)

    def _per_row(
        self, each: TensorPlan, scope: FileScope, rows: list[dict[str, int]], values: _Values
    ) -> dict[str, Sequence[Any]]:
        columns: dict[str, list[Any]] = {name: [] for name in each.per_row}
        if each.extra >= Level.ROW or values.each:
            columns[_EXTRA] = []
        for axis in rows if columns else ():
            scope.axis, scope.row = axis, axis.get("example", 0)
            for name, column in columns.items():
                if name == _EXTRA:
                    own = {key: cells[scope.row] for key, cells in values.each.items()}
                    column.append(self._extra(scope, values.rest | own))
                else:
                    column.append(column_value(name, each.columns[name], scope))
        return dict(columns)


def _names_examples(each: TensorPlan) -> bool:
    return each.key is not None and "example" in each.key.names


def _per_token(
    each: TensorPlan,
    scope: FileScope,
    rows: list[dict[str, int]],
    positions: list[int],
    share: int,
) -> dict[str, Sequence[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in each.per_token}
    for number, token in enumerate(positions if columns else ()):
        axis = rows[number // share]
        scope.axis, scope.row, scope.token = axis, axis.get("example", 0), token
        for name, column in columns.items():
            column.append(column_value(name, each.columns[name], scope))
    scope.token = None
    return {"position": positions, **columns}


def _check_width(expected: Expression, scope: FileScope, grid: axes.Grid) -> None:
    said = expected.evaluate(scope)
    if said is not None and said != grid.width:
        raise LayoutError(
            f"the vectors have width {grid.width}, the file says {expected.source} = {said}"
        )


def _settle_site(
    base: Mapping[str, Any], own: dict[str, Any], columns: dict[str, Sequence[Any]]
) -> None:
    """Put sites in the schema's words; a name that holds a layer gives the layer."""
    sites = columns.get("site")
    if sites is not None:
        found = [_canonical_site(site) if site else (None, None) for site in sites]
        columns["site"] = [site for site, _ in found]
        layers = columns.get("layer") or [own.get("layer", base.get("layer"))] * len(found)
        columns["layer"] = [
            within if layer is None else layer
            for layer, (_, within) in zip(layers, found, strict=True)
        ]
        return
    site = own.get("site") or base.get("site")
    if not site:
        return
    canonical, within = _canonical_site(site)
    if canonical != site:
        own["site"] = canonical
    if within is None:
        return
    if "layer" in columns:
        columns["layer"] = [within if layer is None else layer for layer in columns["layer"]]
    elif own.get("layer", base.get("layer")) is None:
        own["layer"] = within


def _mask(expression: Expression | None, scope: FileScope, grid: axes.Grid) -> np.ndarray | None:
    value = expression.evaluate(scope) if expression is not None else None
    if value is None or grid.tokens is None:
        return None
    mask = np.asarray(value.numpy() if isinstance(value, Tensor) else value).astype(bool)
    # Under --first-k the mask still speaks of every example.
    if mask.size % grid.tokens or mask.size < grid.count * grid.tokens:
        raise LayoutError(
            f"the mask has shape {list(mask.shape)}; expected [{grid.count}, {grid.tokens}]"
        )
    return mask.reshape(-1, grid.tokens)[: grid.count]


def _row_numbers(grid: axes.Grid, block: axes.Block) -> list[dict[str, int]]:
    if not grid.rows:
        return [{}]
    names, lengths = tuple(grid.rows), tuple(grid.rows.values())
    numbers = range(block.row, block.row + block.rows)
    if len(names) == 1:
        return [{names[0]: number} for number in numbers]
    return [
        dict(zip(names, map(int, np.unravel_index(number, lengths)), strict=True))
        for number in numbers
    ]
