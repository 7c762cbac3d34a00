"""A tensor's columns, sorted by how often their values change, so that each is made once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from actstore import schema
from actstore.ingestion.expression import Expression, Level, compile_expression, constant
from actstore.ingestion.options import Options
from actstore.ingestion.recipe import ColumnSource, Recipe, TensorSpec
from actstore.ingestion.template import Template, compile_template

_FIXED = ("model", "dataset", "site")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlan:
    """What to evaluate for the tensors of one spec, and when."""

    spec: TensorSpec
    key: Template | None
    """Template of the tensor's key, the user's own where one was given."""
    columns: Mapping[str, ColumnSource]
    per_file: tuple[str, ...]
    per_tensor: tuple[str, ...]
    per_row: tuple[str, ...]
    per_token: tuple[str, ...]
    extra: Level
    """How often the column ``extra`` changes."""

    def belongs(self, kind: str | None) -> bool:
        """Say whether files of the pattern ``kind`` may hold these tensors."""
        return not self.spec.files or kind in self.spec.files


def make(recipe: Recipe, spec: TensorSpec, options: Options) -> TensorPlan:
    """Return the plan for one tensor of a recipe; what the user fixed stands above both."""
    columns = effective_columns({**recipe.columns, **spec.columns}, options)
    levels: dict[str, Level] = {}
    sidecars: dict[str, Level] = {}
    # Columns may depend on sidecars and sidecars on columns: levels rise until nothing moves.
    while True:
        before = {**levels}, {**sidecars}
        for side in recipe.sidecars:
            joins = [*side.on.values(), *([side.row] if side.row else [])]
            sidecars[side.name] = _highest(joins, levels, sidecars)
        for name, source in columns.items():
            levels[name] = _highest(expressions_of(source), levels, sidecars)
        if before == (levels, sidecars):
            break

    def at(*wanted: Level) -> tuple[str, ...]:
        return tuple(name for name in columns if levels[name] in wanted)

    own = options.map.get(schema.VECTOR)
    return TensorPlan(
        spec=spec,
        key=compile_template(own, ".") if own and spec.key is not None else spec.key,
        columns=columns,
        per_file=at(Level.CONSTANT, Level.FILE),
        per_tensor=at(Level.TENSOR),
        per_row=at(Level.ROW),
        per_token=at(Level.TOKEN),
        extra=_highest(recipe.extra.values(), levels, sidecars),
    )


def effective_columns(
    columns: Mapping[str, ColumnSource], options: Options
) -> dict[str, ColumnSource]:
    """Return columns with what the user mapped and fixed, the data set named by its folder."""
    result = {
        "model": ColumnSource(expression=constant(None)),
        "dataset": ColumnSource(expression=compile_expression("{cache}")),
        **columns,
    }
    for name, where in options.map.items():
        if name != schema.VECTOR:
            text = where if "{" in where else f"{{file.{where}[*]}}"
            result[name] = ColumnSource(expression=compile_expression(text))
    for name in _FIXED:
        value = getattr(options, name)
        if value is not None:
            result[name] = ColumnSource(expression=constant(value))
    return result


def expressions_of(source: ColumnSource) -> tuple[Expression, ...]:
    """Return the expressions behind a column."""
    return (source.expression,) if source.default is None else (source.expression, source.default)


def file_keys(recipe: Recipe, plans: Iterable[TensorPlan]) -> frozenset[str]:
    """Return the dotted keys of the file that some column, check or join takes."""
    return frozenset(
        ref.rest
        for expression in _expressions(recipe, plans)
        for ref in expression.references
        if ref.root == "file"
    ) | set(recipe.drop)


def _expressions(recipe: Recipe, plans: Iterable[TensorPlan]) -> Iterator[Expression]:
    for plan in plans:
        for source in plan.columns.values():
            yield from expressions_of(source)
        yield from (each for each in (plan.spec.width, plan.spec.mask) if each is not None)
    yield from recipe.extra.values()
    for side in recipe.sidecars:
        yield from side.on.values()


def _highest(
    expressions: Iterable[Expression], columns: Mapping[str, Level], sidecars: Mapping[str, Level]
) -> Level:
    return max((each.level(columns, sidecars) for each in expressions), default=Level.CONSTANT)
