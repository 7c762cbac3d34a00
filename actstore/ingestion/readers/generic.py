"""The reader that a recipe alone describes: keys, axes and columns from TOML."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actstore import schema
from actstore.errors import ForeignFileError, LayoutError, UsageError
from actstore.ingestion import axes, documents
from actstore.ingestion.expression import Expression, Level, compile_expression
from actstore.ingestion.expression import constant as constant_expression
from actstore.ingestion.readers import Context, Reader, reader
from actstore.ingestion.recipe import ColumnSource, Recipe, TensorSpec
from actstore.ingestion.scope import FileScope, column_value
from actstore.ingestion.tensor import Tensor
from actstore.storage.rows import RowBatch

if TYPE_CHECKING:
    from actstore.ingestion.discovery import SourceFile

_FIXED = ("model", "dataset", "site", "layer")
_EXTRA = "extra"
_canonical_site = cache(schema.canonical_site)


@dataclass(frozen=True, slots=True)
class _Plan:
    """A tensor's columns, sorted by how often their values change."""

    spec: TensorSpec
    columns: Mapping[str, ColumnSource]
    by_level: Mapping[Level, tuple[str, ...]]
    extra_level: Level

    def names(self, *levels: Level) -> tuple[str, ...]:
        return tuple(name for level in levels for name in self.by_level.get(level, ()))


class _Found(NamedTuple):
    plan: _Plan
    key: str
    parts: Mapping[str, Any]
    tensor: Tensor


@dataclass(slots=True)
class _Piece:
    """Vectors with what sets them apart from the rest of their file."""

    base: Mapping[str, Any]
    """Columns with one value for the whole file."""
    vectors: np.ndarray
    constants: dict[str, Any]
    columns: dict[str, Sequence[Any]] = field(default_factory=dict)


@reader("generic")
class GenericReader(Reader):
    """Reads whatever the recipe says; the base of readers that only add to it."""

    def __init__(self, recipe: Recipe, context: Context) -> None:
        super().__init__(recipe, context)
        self._plans = [self._plan(spec) for spec in recipe.tensors]
        self._taken = frozenset(
            ref.rest
            for expression in _expressions(recipe, self._plans)
            for ref in expression.references
            if ref.root == "file"
        ) | set(recipe.drop)
        self._matches: dict[tuple[str | None, str, int], tuple[_Plan, dict[str, Any]] | None] = {}

    def fits(self, document: Any) -> bool:
        """Say whether every tensor that one kind of file needs is there, in a known rank."""
        for pattern in self.recipe.files:
            try:
                self._found(pattern.name, document)
            except LayoutError:
                continue
            return True
        return False

    def one_each(self, file: SourceFile) -> bool:
        """Say whether no tensor of the file has an example axis."""
        return file.pattern.example is not None or not any(
            "example" in meaning
            for plan in self._plans
            if not plan.spec.files or file.pattern.name in plan.spec.files
            for meaning in plan.spec.axes.values()
        )

    def read(self, file: SourceFile, document: Any) -> Iterator[RowBatch]:
        """Yield the rows of one file, several tensors together in one batch."""
        self.check_required(document)
        found = self._found(file.pattern.name, document)
        scope = FileScope(file, document, {}, self.context)
        rest = self._rest(document, found)
        bases: dict[int, dict[str, Any]] = {}
        waiting: list[_Piece] = []
        for each in found:
            scope.with_columns(each.plan.columns)
            base = bases.get(id(each.plan))
            if base is None:
                base = bases[id(each.plan)] = self._base(each.plan, scope, rest)
            for piece in self._pieces(file, each, scope, base, rest):
                if waiting and not _together(waiting, piece):
                    yield _merged(waiting)
                    waiting = []
                waiting.append(piece)
        if waiting:
            yield _merged(waiting)

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
                f"{', '.join(self.recipe.required)}, the file holds {_held(document)}"
            )

    def _plan(self, spec: TensorSpec) -> _Plan:
        # What the user fixed stands above the recipe's columns and the tensor's own.
        columns = _with_options({**self.recipe.columns, **spec.columns}, self.context)
        sidecars: dict[str, Level] = {}
        levels: dict[str, Level] = {}
        for _ in range(len(columns) + len(self.recipe.sidecars) + 1):
            before = {**levels}, {**sidecars}
            for side in self.recipe.sidecars:
                joins = [*side.on.values(), *([side.row] if side.row else [])]
                sidecars[side.name] = _highest(joins, levels, sidecars)
            for name, source in columns.items():
                levels[name] = source.expression.level(levels, sidecars)
            if before == (levels, sidecars):
                break
        by_level: dict[Level, list[str]] = {}
        for name in columns:
            by_level.setdefault(max(levels[name], Level.FILE), []).append(name)
        return _Plan(
            spec,
            columns,
            {level: tuple(names) for level, names in by_level.items()},
            _highest(self.recipe.extra.values(), levels, sidecars),
        )

    def _found(self, kind: str | None, document: Any) -> list[_Found]:
        """Return the tensors that are to be stored, in the document's order.

        Raises:
            LayoutError: a tensor is missing or of a rank that the recipe does not know.
        """
        leaves = documents.leaves(document)
        found: list[_Found] = []
        for key, tensor in leaves:
            matched = self._match(kind, key, tensor)
            if matched is not None:
                found.append(_Found(matched[0], key, matched[1], tensor))
        seen = {id(each.plan) for each in found}
        for plan in self._plans:
            needed = not plan.spec.files or kind in plan.spec.files
            if needed and not plan.spec.optional and id(plan) not in seen:
                raise LayoutError(_missing(plan.spec, leaves, document))
        if not found:
            raise LayoutError(
                f"no tensor that recipe {self.recipe.name} knows; the file holds {_held(document)}"
            )
        return found

    def _match(
        self, kind: str | None, key: str, tensor: Tensor
    ) -> tuple[_Plan, dict[str, Any]] | None:
        rank = tensor.ndim
        known = (kind, key, rank)
        if known not in self._matches:
            if len(self._matches) > 100_000:
                self._matches.clear()
            self._matches[known] = self._search(kind, key, rank)
        matched = self._matches[known]
        if matched is None or _real(tensor):
            return matched
        # Whole numbers are token ids, masks, labels, unless the recipe names them outright.
        template = matched[0].spec.key
        return matched if template is not None and not template.parts else None

    def _search(self, kind: str | None, key: str, rank: int) -> tuple[_Plan, dict[str, Any]] | None:
        for plan in self._plans:
            spec = plan.spec
            if (spec.files and kind not in spec.files) or rank not in spec.axes:
                continue
            if spec.key is None:
                if not key:
                    return plan, {}
            elif (match := spec.key.match(key)) is not None:
                return plan, match.parts
        return None

    def _rest(self, document: Any, found: list[_Found]) -> dict[str, Any]:
        if not self.recipe.keep_rest or not isinstance(document, dict):
            return {}
        rest = documents.rest(document, self._taken | {each.key for each in found})
        for key in rest.cut:
            self.context.notes.count(f"values of {key!r} too large for extra, left out")
        for key in rest.tensors:
            self.context.notes.count(f"tensors {key!r} that the recipe does not name, left out")
        return rest.values

    def _base(self, plan: _Plan, scope: FileScope, rest: dict[str, Any]) -> dict[str, Any]:
        values = {
            name: column_value(name, plan.columns[name], scope) for name in plan.names(Level.FILE)
        }
        if plan.extra_level <= Level.FILE:
            values[_EXTRA] = self._extra(scope, rest)
        if values.get("model", ...) is None:
            raise UsageError(
                "the model is not recorded in this layout; name it with --model, "
                "such as --model meta-llama/Llama-3.1-8B-Instruct"
            )
        return values

    def _extra(self, scope: FileScope, rest: dict[str, Any]) -> str | None:
        more = {name: each.evaluate(scope) for name, each in self.recipe.extra.items()}
        return documents.to_json(
            rest | {name: value for name, value in more.items() if value is not None}
        )

    def _pieces(
        self,
        file: SourceFile,
        found: _Found,
        scope: FileScope,
        base: Mapping[str, Any],
        rest: dict[str, Any],
    ) -> Iterator[_Piece]:
        plan, spec, tensor = found.plan, found.plan.spec, found.tensor
        scope.key, scope.key_text, scope.tensor = found.parts, found.key, tensor
        scope.row, scope.rows, scope.token = 0, 1, None
        source = f"{file.relative}#{found.key}" if found.key else file.relative
        try:
            grid = axes.interpret(tensor, spec.axes, squeeze=spec.squeeze)
            self._check_width(spec, scope, grid)
            constants = {"source": source}
            for name in plan.names(Level.TENSOR):
                constants[name] = column_value(name, plan.columns[name], scope)
            self._settle_site(base, constants)
            if self.context.shapes is not None:
                self.context.shapes[source] = (tensor.shape, tensor.dtype)
            if self.context.options.first_k is not None:
                grid = axes.limited(grid, "example", self.context.options.first_k)
            yield from self._blocks(plan, scope, grid, base, constants, rest)
        except LayoutError as error:
            if not found.key:
                raise
            raise LayoutError(f"{found.key}: {error}") from error

    def _check_width(self, spec: TensorSpec, scope: FileScope, grid: axes.Grid) -> None:
        if spec.width is None:
            return
        said = spec.width.evaluate(scope)
        if said is not None and said != grid.width:
            raise LayoutError(
                f"the vectors have width {grid.width}, the file says {spec.width.source} = {said}"
            )

    def _settle_site(self, base: Mapping[str, Any], constants: dict[str, Any]) -> None:
        """Put the site in the schema's words; a name that holds a layer gives the layer."""
        site = constants.get("site") or base.get("site")
        if site is None:
            return
        canonical, layer = _canonical_site(site)
        if canonical != site:
            constants["site"] = canonical
        if layer is not None and constants.get("layer", base.get("layer")) is None:
            constants["layer"] = layer

    def _blocks(
        self,
        plan: _Plan,
        scope: FileScope,
        grid: axes.Grid,
        base: Mapping[str, Any],
        constants: dict[str, Any],
        rest: dict[str, Any],
    ) -> Iterator[_Piece]:
        pool = self.context.options.pool
        mask = _mask(plan.spec.mask, scope, grid)
        if pool is not None and grid.tokens is None:
            self.context.notes.say(f"--pool {pool} changes nothing where there is no token axis")
        per_row = plan.names(Level.ROW)
        if plan.extra_level is Level.TENSOR:
            constants[_EXTRA] = self._extra(scope, rest)
        scope.rows = grid.rows.get("example", 1)
        for block in axes.blocks(grid, pool=pool, mask=mask):
            own = dict(constants)
            columns: dict[str, Sequence[Any]] = {}
            share = len(block.vectors) // block.rows
            rows = _row_numbers(grid, block)
            if grid.rows and (per_row or plan.extra_level is Level.ROW):
                columns = self._per_row(plan, scope, rows, rest)
                if share > 1:
                    columns = {
                        name: [value for value in values for _ in range(share)]
                        for name, values in columns.items()
                    }
            else:
                scope.row, scope.axis = 0, {}
                for name in per_row:
                    own[name] = column_value(name, plan.columns[name], scope)
                if plan.extra_level is Level.ROW:
                    own[_EXTRA] = self._extra(scope, rest)
            if block.positions is not None:
                self._per_token(plan, scope, rows, block, own, columns)
            else:
                for name in plan.names(Level.TOKEN):
                    own[name] = None
                if block.counts is not None:
                    own["pooling"], own["position"] = pool, None
                    columns["token_count"] = block.counts
            piece = _Piece(base, block.vectors, own, columns)
            _check_complete(piece)
            yield piece

    def _per_row(
        self,
        plan: _Plan,
        scope: FileScope,
        rows: list[dict[str, int]],
        rest: dict[str, Any],
    ) -> dict[str, Sequence[Any]]:
        columns: dict[str, list[Any]] = {name: [] for name in plan.names(Level.ROW)}
        if plan.extra_level >= Level.ROW:
            columns[_EXTRA] = []
        for axis in rows:
            scope.axis, scope.row = axis, axis.get("example", 0)
            for name, values in columns.items():
                if name == _EXTRA:
                    values.append(self._extra(scope, rest))
                else:
                    values.append(column_value(name, plan.columns[name], scope))
        return dict(columns)

    def _per_token(
        self,
        plan: _Plan,
        scope: FileScope,
        rows: list[dict[str, int]],
        block: axes.Block,
        own: dict[str, Any],
        columns: dict[str, Sequence[Any]],
    ) -> None:
        assert block.positions is not None
        own["pooling"] = "none"
        columns["position"] = block.positions
        names = plan.names(Level.TOKEN)
        if not names:
            return
        share = len(block.positions) // block.rows
        values: dict[str, list[Any]] = {name: [] for name in names}
        for number, token in enumerate(block.positions):
            axis = rows[number // share]
            scope.axis, scope.row, scope.token = axis, axis.get("example", 0), token
            for name, column in values.items():
                column.append(column_value(name, plan.columns[name], scope))
        scope.token = None
        columns.update(values)


def _with_options(columns: Mapping[str, ColumnSource], context: Context) -> dict[str, ColumnSource]:
    """Return the columns with what the user fixed, and the data set named by its folder."""
    options = context.options
    result = {"model": ColumnSource(expression=compile_expression(None)), **columns}
    given = result.get("dataset")
    if given is None:
        result["dataset"] = ColumnSource(expression=compile_expression("{cache}"))
    for name, where in options.map.items():
        if name != schema.VECTOR:
            text = where if "{" in where else f"{{file.{where}[*]}}"
            result[name] = ColumnSource(expression=compile_expression(text))
    for name in _FIXED:
        value = getattr(options, name)
        if value is not None:
            result[name] = ColumnSource(expression=constant_expression(value))
    return result


def _highest(
    expressions: Iterable[Expression], columns: Mapping[str, Level], sidecars: Mapping[str, Level]
) -> Level:
    return max((each.level(columns, sidecars) for each in expressions), default=Level.CONSTANT)


def _expressions(recipe: Recipe, plans: list[_Plan]) -> Iterator[Expression]:
    for plan in plans:
        yield from (source.expression for source in plan.columns.values())
        yield from (each for each in (plan.spec.width, plan.spec.mask) if each is not None)
    yield from recipe.extra.values()
    for side in recipe.sidecars:
        yield from side.on.values()


def _real(tensor: Tensor) -> bool:
    return tensor.dtype.startswith(("float", "bfloat"))


def _mask(expression: Expression | None, scope: FileScope, grid: axes.Grid) -> np.ndarray | None:
    value = expression.evaluate(scope) if expression is not None else None
    if value is None or grid.tokens is None:
        return None
    mask = np.asarray(value.numpy() if isinstance(value, Tensor) else value).astype(bool)
    if mask.size != grid.count * grid.tokens:
        raise LayoutError(
            f"the mask has shape {list(mask.shape)}; expected [{grid.count}, {grid.tokens}]"
        )
    return mask.reshape(grid.count, grid.tokens)


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


def _check_complete(piece: _Piece) -> None:
    for name in ("example_id", "site", "pooling", "model"):
        column = piece.columns.get(name)
        value = piece.constants.get(name, piece.base.get(name)) if column is None else ...
        if value is None or (column is not None and None in column):
            raise LayoutError(f"no value for column {name}, which every row needs")


def _together(waiting: list[_Piece], piece: _Piece) -> bool:
    first = waiting[0]
    return (
        first.base is piece.base
        and first.vectors.dtype == piece.vectors.dtype
        and first.vectors.shape[1] == piece.vectors.shape[1]
        and sum(each.vectors.nbytes for each in waiting) + piece.vectors.nbytes <= axes.CHUNK_BYTES
    )


def _merged(pieces: list[_Piece]) -> RowBatch:
    if len(pieces) == 1:
        piece = pieces[0]
        constants = {**piece.base, **piece.constants}
        for name in piece.columns:
            constants.pop(name, None)
        return RowBatch(vectors=piece.vectors, constants=constants, columns=piece.columns)
    vectors = np.concatenate([piece.vectors for piece in pieces])
    base = pieces[0].base
    constants = dict(base)
    columns: dict[str, Sequence[Any]] = {}
    names = {name for piece in pieces for name in (*piece.constants, *piece.columns)}
    for name in names:
        values: list[Any] = []
        for piece in pieces:
            column = piece.columns.get(name)
            if column is None:
                value = piece.constants.get(name, base.get(name))
                values.extend([value] * len(piece.vectors))
            else:
                values.extend(column)
        constants.pop(name, None)
        columns[name] = values
    return RowBatch(vectors=vectors, constants=constants, columns=columns)


def _held(document: Any) -> str:
    """Describe what a file holds, for a message."""
    if isinstance(document, Tensor):
        return f"a bare tensor of shape {list(document.shape)}"
    if not isinstance(document, dict):
        return f"a {type(document).__name__}"
    if not document:
        return "no keys"
    keys = [str(key) for key in document]
    return f"the keys {', '.join(keys[:10])}{', …' if len(keys) > 10 else ''}"


def _missing(spec: TensorSpec, leaves: list[tuple[str, Tensor]], document: Any) -> str:
    name = spec.key.text if spec.key is not None else "a bare tensor"
    ranks = " or ".join(f"[{', '.join(meaning)}]" for meaning in spec.axes.values())
    near = [
        f"{key or 'the tensor'} {list(tensor.shape)}"
        for key, tensor in leaves
        if (spec.key.match(key) is not None if spec.key is not None else not key)
    ]
    if near:
        return f"{near[0]}: expected {ranks}"
    return f"no tensor {name} of shape {ranks}; the file holds {_held(document)}"
