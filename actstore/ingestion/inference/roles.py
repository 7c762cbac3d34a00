"""Finds the layer and the example of tensors of one kind: by keys, paths and what the user said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from actstore.errors import UsageError
from actstore.ingestion.inference.hints import Hints, Where
from actstore.ingestion.inference.mapping import Assignment, How
from actstore.ingestion.inference.paths import Level
from actstore.ingestion.inference.shapes import Evidence
from actstore.ingestion.inference.survey import Group, Leaf, Segment, form, places
from actstore.ingestion.inference.tables import Table
from actstore.ingestion.inference.words import (
    COLUMNS,
    HIDDEN_STATES,
    SPLITS,
)
from actstore.ingestion.tensor import Tensor

_MOST_LAYERS: Final = 130
HOOK: Final = "hook"
"""Stands for the expression of a layer that the name of a hook tells."""

Columns = dict[str, Any]
"""Column: an expression, or a table of ``from``, ``map``, ``pattern`` and ``default``."""


@dataclass(slots=True)
class Variable:
    """A part of the key that varies."""

    place: str
    segment: Segment
    values: set[Any]
    at: int
    """Number of its segment."""
    name: str = ""
    """Name in the template."""


class Roles:
    """What the parts of paths and keys are, for one kind of tensors in one group of files."""

    def __init__(
        self,
        group: Group,
        levels: Sequence[Level],
        leaves: Sequence[Leaf],
        seen: Sequence[Evidence],
        tables: Sequence[Table],
        hints: Hints,
    ) -> None:
        self.group = group
        self.levels = levels
        self.leaves = leaves
        self.seen = seen
        self.tables = tables
        there = places(group, leaves[0].segments)
        # A place that only other tensors of the files have says nothing about these.
        self.hints = replace(
            hints,
            layer_from=_if_there(hints.layer_from, there),
            example_from=_if_there(hints.example_from, there),
        )
        self.form = form(leaves[0].segments)
        self.said: list[Assignment] = []
        self.columns: Columns = {}
        self.count: int | None = None
        self.variables = _variables(leaves)
        self.layer = ""
        """Expression of the layer where it stands in a key or path."""
        self.example: Variable | Level | str | None = None
        self.used: set[str] = set()
        """Places that are taken."""

    def say(self, role: str, place: str, how: How, why: str, option: str = "") -> None:
        self.said.append(
            Assignment(role=role, place=place, tensors=self.form, how=how, why=why, option=option)
        )

    def variable(self, place: str | None) -> Variable | None:
        return next((each for each in self.variables if each.place == place), None)

    def layer_by_name(self) -> None:
        where = self.hints.layer_from
        if where is not None:
            self._layer_said(where)
            return
        said = self.hints.example_from.place if self.hints.example_from is not None else ""
        for variable in self.variables:
            if variable.segment.word == "layer" and not self.layer and variable.place != said:
                self._take_layer(variable, "found", "by its name")
        level = next((each for each in self.levels if each.layer), None)
        if level is not None and not self.layer:
            self.layer = "{path.layer}"
            self.used.add(f"{level.place}.layer")
            self.say("layer", level.place, "found", f"the number in {level.template}")
        if any(level.hook for level in self.levels) and not self.layer:
            self.layer = HOOK
        if not self.layer and self.scalar("layer") is not None:
            self.layer = f"{{file.{self.scalar('layer')}}}"
            self.say("layer", f"{self.scalar('layer')} in the file", "found", "by its name")

    def _layer_said(self, where: Where) -> None:
        variable = self.variable(where.place)
        if variable is not None:
            self._take_layer(variable, "option", "--layer-from")
        elif any(level.place == where.place and level.layer for level in self.levels):
            self.layer = "{path.layer}"
            self.say("layer", where.place, "option", "--layer-from")
        elif where.place == "entry":
            self.layer = "{entry}"
            self.used.add("entry")
            self.say("layer", "entry", "option", "--layer-from")
        elif not where.place.startswith("axis"):
            raise UsageError(f"--layer-from {where.place}: not every file has a number there")

    def _take_layer(self, variable: Variable, how: How, why: str, option: str = "") -> None:
        if not all(isinstance(value, int) for value in variable.values):
            raise UsageError(
                f"--layer-from {variable.place}: {next(iter(variable.values))!r} is no number"
            )
        variable.name = "layer"
        self.layer = "{key.layer}"
        self.used.add(variable.place)
        if variable.segment.source in ("list", "tuple"):
            self.count = self._usual_length()
        elif variable.segment.source != "name":
            self.count = len(variable.values) if self._complete(variable) else None
        self.say("layer", variable.place, how, why, option)

    def _complete(self, variable: Variable) -> bool:
        """Say whether every sample holds the same numbers there."""
        at = [each.place for each in self.variables].index(variable.place)
        found: dict[int, set[Any]] = {}
        for leaf in self.leaves:
            found.setdefault(leaf.sample, set()).add(leaf.values[at])
        return len(self.variables) == 1 and all(
            values == variable.values for values in found.values()
        )

    def _usual_length(self) -> int | None:
        """Return how many places most samples have: in others these would be other layers."""
        if len(self.variables) > 1:
            return None
        lengths = Counter(Counter(leaf.sample for leaf in self.leaves).values())
        return max(lengths, key=lambda length: (lengths[length], length))

    def whole_numbers(self, rows: frozenset[int]) -> None:
        """Give numbers that no word explains to the layer or the example."""
        bare = [
            each
            for each in self.variables
            if each.place not in self.used and each.segment.source in ("whole", "list", "tuple")
        ]
        known_axis = axis_of(self.hints.layer_from) is not None
        for number, variable in enumerate(bare):
            what = {
                "list": "the position in a list",
                "tuple": "the position in a tuple",
            }.get(variable.segment.source, "a number as key")
            if variable.segment.prefix:
                what = f"the number behind {variable.segment.prefix}"
            size = len(variable.values)
            where = f"{what}, {size} of them"
            if self.called_hidden_states():
                where += (
                    "; where the writer chose the layers, list them: --layer-from "
                    f"{variable.place}=2,14,24"
                )
            no_example = (
                self.example is None
                and axis_of(self.hints.example_from) is None
                and not self.file_each()
            )
            left = len(bare) - number
            examples = no_example and (
                bool(self.layer or known_axis or self.hints.layer)
                or size in rows
                or size > _MOST_LAYERS
                or left > 1
                or self._lengths_differ()
            )
            if examples:
                variable.name = "example"
                self.example = variable
                self.used.add(variable.place)
                sure = size in rows and not self.layer
                why = (
                    f"{where}{', as long as the table' if size in rows else '; it could be layers'}"
                )
                self.say(
                    "example", variable.place, "found" if sure else "guessed", why, "--example-from"
                )
            elif not self.layer and not known_axis:
                other = "examples" if no_example else "something else"
                self._take_layer(
                    variable, "guessed", f"{where}; it could be {other}", "--layer-from"
                )

    def _lengths_differ(self) -> bool:
        """Say whether tensors of one sample differ in length, as examples do and layers do not."""
        shapes: dict[int, set[tuple[int, ...]]] = {}
        for leaf in self.leaves:
            shapes.setdefault(leaf.sample, set()).add(leaf.tensor.shape)
        return any(len(each) > 1 for each in shapes.values())

    def example_by_name(self) -> None:
        where = self.hints.example_from
        if where is not None:
            self._example_said(where)
            return
        if self.group.each is not None and "entry" not in self.used and self._entry_each():
            self.example = "entry"
            repeated = self.scalar("layer") is not None
            why = "one table per example"
            if repeated:
                why += "; they tell their layers, and several could be one example"
            how: How = "guessed" if repeated else "found"
            self.say("example", "entry", how, why, "--example-from")
            return
        for variable in self.variables:
            if variable.place in self.used:
                continue
            if variable.segment.word == "example":
                variable.name = "example"
                self.example = variable
                self.used.add(variable.place)
                self.say("example", variable.place, "found", "by its name")
                return
            if variable.segment.source == "free":
                variable.name = "example"
                self.example = variable
                self.used.add(variable.place)
                some = ", ".join(sorted(map(str, variable.values))[:3])
                why = f"names side by side ({some}, …); they could be sites or classes"
                self.say("example", variable.place, "guessed", why, "--example-from")
                return

    def _entry_each(self) -> bool:
        """Say whether the entries are examples, and not splits or layers."""
        names = {sample.entry for sample in self.group.samples}
        if names <= SPLITS:
            self.columns["split"] = "{entry}"
            self.say("split", "entry", "found", "by name")
            return False
        layer = self.scalar("layer")
        if layer is None:
            return True
        layers = [_number(self.value(sample, layer)) for sample in self.group.samples]
        files = {sample.file.relative for sample in self.group.samples}
        return len(set(layers)) * len(files) < len(layers)

    def _example_said(self, where: Where) -> None:
        if where.place.startswith("axis"):
            return
        self.say("example", where.place, "option", "--example-from")
        variable = self.variable(where.place)
        if variable is not None:
            variable.name = "example"
            self.example = variable
            self.used.add(variable.place)
        elif where.place == "entry":
            self.example = "entry"
        else:
            self.example = next(each for each in self.levels if each.place == where.place)

    def file_level(self) -> Level | None:
        """Return the level of the path that tells files apart by something that has no role."""
        rest = [level for level in self.levels if level.texts and not level.role]
        if rest and (rest[0].place == "name" or not self.levels[0].texts):
            return rest[0]
        return None

    def file_each(self) -> bool:
        """Say whether a file holds one example, by its name."""
        level = self.file_level()
        return level is not None and not level.batches

    def is_example(self) -> bool:
        if axis_of(self.hints.example_from) is not None:
            return False
        return self.example is not None or self.file_each()

    def sure(self) -> bool:
        """Say whether example and layer, as far as they are known, need no guess."""
        said = self.hints.example_from is not None or self.example == "entry"
        return said and not any(each.how == "guessed" for each in self.said)

    def called_hidden_states(self) -> bool:
        names = [segment.prefix for segment in self.leaves[0].segments if not segment.varies]
        return any(name in HIDDEN_STATES for name in names)

    def value(self, sample: Any, name: str) -> Any:
        document = sample.document
        return document.get(name) if isinstance(document, dict) else None

    def scalar(self, column: str) -> str | None:
        """Return the name under which every sample holds one whole number."""
        for name in COLUMNS[column]:
            values = [self.value(sample, name) for sample in self.group.samples]
            if values and all(_is_whole(value) for value in values):
                return name
        return None


def _variables(leaves: Sequence[Leaf]) -> list[Variable]:
    found: list[Variable] = []
    for at, segment in enumerate(leaves[0].segments):
        if segment.varies:
            number = len(found)
            values = {leaf.values[number] for leaf in leaves}
            found.append(Variable(f"key{number + 1}", segment, values, at))
    return found


def _if_there(said: Where | None, there: set[str]) -> Where | None:
    return said if said is not None and said.place in there else None


def axis_of(where: Where | None) -> int | None:
    return int(where.place[4:]) if where is not None and where.place.startswith("axis") else None


def _is_whole(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.ndim and not value.dtype.startswith(("float", "bfloat", "str"))
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> int:
    return int(value.item()) if isinstance(value, Tensor) else int(value)
