"""Decides what tensors of one kind are rows of: by paths, keys, shapes and what the user said."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from actstore.errors import UsageError
from actstore.ingestion.inference.hints import Hints, Where
from actstore.ingestion.inference.mapping import Assignment, How
from actstore.ingestion.inference.paths import Level
from actstore.ingestion.inference.shapes import Around, Evidence, Reading, read_axes
from actstore.ingestion.inference.survey import Group, Leaf, Segment, form, places
from actstore.ingestion.inference.tables import Table, columns_of
from actstore.ingestion.inference.words import (
    CLASSES,
    COLUMNS,
    HIDDEN_STATES,
    MASKS,
    PLAIN,
    POOLINGS,
    SPLITS,
    TOKEN_IDS,
    known_site,
)
from actstore.ingestion.tensor import Tensor

_MOST_LAYERS: Final = 130
_HOOK: Final = "hook"
"""Stands for the expression of a layer that the name of a hook tells."""

_BEFORE_NUMBER: Final = re.compile(
    r"[._\- ]*(?:layers?|blocks?|resblocks?|blk|lyr|[hl])?[._\- ]*$", re.IGNORECASE
)

Columns = dict[str, Any]
"""Column: an expression, or a table of ``from``, ``map``, ``pattern`` and ``default``."""


@dataclass(slots=True, kw_only=True)
class TensorReading:
    """How the tensors of one kind become rows; what a ``[[tensors]]`` table says."""

    key: str | None
    axes: list[str]
    columns: Columns = field(default_factory=dict)
    count: int | None = None
    mask: str | None = None
    optional: bool = False
    """Whether a file may lack it."""
    site: str = ""
    """The schema's site or a free name; empty where it stands in the path or nowhere."""
    said: list[Assignment] = field(default_factory=list)
    joined: dict[str, tuple[Table, str | None]] = field(default_factory=dict)
    """Expression of the row number or id: the table, and its column of ids."""


@dataclass(slots=True)
class _Variable:
    """A part of the key that varies."""

    place: str
    segment: Segment
    values: set[Any]
    at: int
    """Number of its segment."""
    name: str = ""
    """Name in the template."""


class Decision:
    """Decides for one kind of tensors in one group of files."""

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
        self.example: _Variable | Level | str | None = None
        self.used: set[str] = set()
        """Places that are taken."""

    def decide(self) -> TensorReading | str:
        """Return the reading, or why the tensors cannot become rows."""
        self._layer_by_name()
        self._example_by_name()
        rows = frozenset(table.rows for table in self.tables)
        layer_from, example_from = self.hints.layer_from, self.hints.example_from
        self._whole_numbers(rows)
        around = Around(
            layer=bool(self.layer)
            or self.hints.layer
            or known_site(self.leaves[0].key) is not None,
            example=self._is_example(),
            rows=rows,
            sure=self._sure(),
            example_axis=_axis(example_from),
            layer_axis=_axis(layer_from),
        )
        readings = read_axes(self.leaves, self.seen, around)
        if isinstance(readings, str):
            return readings
        self._say_axes(readings)
        axes = [*(reading.meaning for reading in readings), "hidden"]
        site = self._site()
        self._layer_column(axes)
        joined = self._examples(axes)
        self._pooling(axes)
        mask = self._mask(axes)
        self._inside(axes)
        return TensorReading(
            key=self._key(),
            axes=axes,
            columns=self.columns,
            count=self.count,
            mask=mask,
            site=site,
            said=self.said,
            joined=joined,
        )

    def _say(self, role: str, place: str, how: How, why: str, option: str = "") -> None:
        self.said.append(
            Assignment(role=role, place=place, tensors=self.form, how=how, why=why, option=option)
        )

    def _variable(self, place: str | None) -> _Variable | None:
        return next((each for each in self.variables if each.place == place), None)

    # Layer.

    def _layer_by_name(self) -> None:
        where = self.hints.layer_from
        if where is not None:
            self._layer_said(where)
            return
        for variable in self.variables:
            if variable.segment.word == "layer" and not self.layer:
                self._take_layer(variable, "found", "by its name")
        level = next((each for each in self.levels if each.layer), None)
        if level is not None and not self.layer:
            self.layer = "{path.layer}"
            self.used.add(f"{level.place}.layer")
            self._say("layer", level.place, "found", f"the number in {level.template}")
        if any(level.hook for level in self.levels) and not self.layer:
            self.layer = _HOOK
        if not self.layer and self._scalar("layer") is not None:
            self.layer = f"{{file.{self._scalar('layer')}}}"
            self._say("layer", f"{self._scalar('layer')} in the file", "found", "by its name")

    def _layer_said(self, where: Where) -> None:
        variable = self._variable(where.place)
        if variable is not None:
            self._take_layer(variable, "option", "--layer-from")
        elif any(level.place == where.place and level.layer for level in self.levels):
            self.layer = "{path.layer}"
            self._say("layer", where.place, "option", "--layer-from")
        elif where.place == "entry":
            self.layer = "{entry}"
            self.used.add("entry")
            self._say("layer", "entry", "option", "--layer-from")
        elif not where.place.startswith("axis"):
            raise UsageError(f"--layer-from {where.place}: not every file has a number there")

    def _take_layer(self, variable: _Variable, how: How, why: str, option: str = "") -> None:
        if not all(isinstance(value, int) for value in variable.values):
            raise UsageError(
                f"--layer-from {variable.place}: {next(iter(variable.values))!r} is no number"
            )
        variable.name = "layer"
        self.layer = "{key.layer}"
        self.used.add(variable.place)
        if variable.segment.source != "name":
            self.count = len(variable.values) if self._complete(variable) else None
        self._say("layer", variable.place, how, why, option)

    def _complete(self, variable: _Variable) -> bool:
        """Say whether every sample holds the same numbers there."""
        at = [each.place for each in self.variables].index(variable.place)
        found: dict[int, set[Any]] = {}
        for leaf in self.leaves:
            found.setdefault(leaf.sample, set()).add(leaf.values[at])
        return len(self.variables) == 1 and all(
            values == variable.values for values in found.values()
        )

    def _whole_numbers(self, rows: frozenset[int]) -> None:
        """Give numbers that no word explains to the layer or the example."""
        bare = [
            each
            for each in self.variables
            if each.place not in self.used and each.segment.source in ("whole", "list", "tuple")
        ]
        known_axis = _axis(self.hints.layer_from) is not None
        for number, variable in enumerate(bare):
            what = {
                "list": "the position in a list",
                "tuple": "the position in a tuple",
            }.get(variable.segment.source, "a number as key")
            size = len(variable.values)
            where = f"{what}, {size} of them"
            if self._called_hidden_states():
                where += (
                    "; where the writer chose the layers, list them: --layer-from "
                    f"{variable.place}=2,14,24"
                )
            no_example = (
                self.example is None
                and _axis(self.hints.example_from) is None
                and not self._file_each()
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
                self._say(
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

    # Example.

    def _example_by_name(self) -> None:
        where = self.hints.example_from
        if where is not None:
            self._example_said(where)
            return
        if self.group.each is not None and "entry" not in self.used and self._entry_each():
            self.example = "entry"
            repeated = self._scalar("layer") is not None
            why = "one table per example"
            if repeated:
                why += "; they tell their layers, and several could be one example"
            how: How = "guessed" if repeated else "found"
            self._say("example", "entry", how, why, "--example-from")
            return
        for variable in self.variables:
            if variable.place in self.used:
                continue
            if variable.segment.word == "example":
                variable.name = "example"
                self.example = variable
                self.used.add(variable.place)
                self._say("example", variable.place, "found", "by its name")
                return
            if variable.segment.source == "free":
                variable.name = "example"
                self.example = variable
                self.used.add(variable.place)
                some = ", ".join(sorted(map(str, variable.values))[:3])
                why = f"names side by side ({some}, …); they could be sites or classes"
                self._say("example", variable.place, "guessed", why, "--example-from")
                return

    def _entry_each(self) -> bool:
        """Say whether the entries are examples, and not splits or layers."""
        names = {sample.entry for sample in self.group.samples}
        if names <= SPLITS:
            self.columns["split"] = "{entry}"
            self._say("split", "entry", "found", "by name")
            return False
        layer = self._scalar("layer")
        if layer is None:
            return True
        layers = [_number(self._value(sample, layer)) for sample in self.group.samples]
        files = {sample.file.relative for sample in self.group.samples}
        return len(set(layers)) * len(files) < len(layers)

    def _example_said(self, where: Where) -> None:
        if where.place.startswith("axis"):
            return
        self._say("example", where.place, "option", "--example-from")
        variable = self._variable(where.place)
        if variable is not None:
            variable.name = "example"
            self.example = variable
            self.used.add(variable.place)
        elif where.place == "entry":
            self.example = "entry"
        else:
            self.example = next(each for each in self.levels if each.place == where.place)

    def _file_level(self) -> Level | None:
        """Return the level of the path that tells files apart by something that has no role."""
        rest = [level for level in self.levels if level.texts and not level.role]
        if rest and (rest[0].place == "name" or not self.levels[0].texts):
            return rest[0]
        return None

    def _file_each(self) -> bool:
        """Say whether a file holds one example, by its name."""
        level = self._file_level()
        return level is not None and not level.batches

    def _is_example(self) -> bool:
        if _axis(self.hints.example_from) is not None:
            return False
        return self.example is not None or self._file_each()

    def _sure(self) -> bool:
        """Say whether example and layer, as far as they are known, need no guess."""
        said = self.hints.example_from is not None or self.example == "entry"
        return said and not any(each.how == "guessed" for each in self.said)

    # Axes.

    def _say_axes(self, readings: Sequence[Reading]) -> None:
        for axis, reading in enumerate(readings):
            if reading.meaning == "batch":
                continue
            how: How = "guessed" if reading.guessed else "found"
            if reading.why.startswith("--"):
                how = "option"
            other = "--layer-from" if reading.meaning == "layer" else "--example-from"
            why = reading.why
            if reading.meaning == "layer" and how == "guessed" and self._called_hidden_states():
                why += (
                    f"; where position 0 is the embeddings, as transformers counts, say "
                    f"--layer-from axis{axis}-1"
                )
            self._say(reading.meaning, f"axis{axis}", how, why, other)

    def _called_hidden_states(self) -> bool:
        names = [segment.prefix for segment in self.leaves[0].segments if not segment.varies]
        return any(name in HIDDEN_STATES for name in names)

    # Columns.

    def _layer_column(self, axes: Sequence[str]) -> None:
        where = self.hints.layer_from or Where("")
        expression = self.layer
        if "layer" in axes:
            expression = "{axis.layer}"
            lengths = {leaf.tensor.shape[axes.index("layer")] for leaf in self.leaves}
            self.count = lengths.pop() if len(lengths) == 1 else None
        if expression in ("", _HOOK) or "layer" in self.columns:
            return
        if where.plus:
            expression = f"{expression[:-1]}{where.plus:+d}}}"
        if where.numbers is not None:
            if self.count is not None and self.count != len(where.numbers):
                raise UsageError(
                    f"--layer-from {where.place}={','.join(map(str, where.numbers))}: "
                    f"{len(where.numbers)} layers for {self.count} positions"
                )
            self.count = len(where.numbers)
            self.columns["layer"] = {
                "from": expression,
                "map": {str(at): number for at, number in enumerate(where.numbers)},
            }
        else:
            self.columns["layer"] = expression

    def _site(self) -> str:
        """Name the site by the key, then by the path; return it where it is one name."""
        if self._is_hidden_states() or self.hints.site:
            return ""
        steps = [name for each in reversed(self.leaves[0].segments) for name in _names_in(each)]
        for name in [self.leaves[0].key, *steps]:
            if found := known_site(name):
                self._say(
                    "site", f"{form(self.leaves[0].segments)}", "found", f"{found[0]}, by name"
                )
                if found[1] is not None and not self.layer:
                    self.columns["layer"] = found[1]
                return found[0]
        for level in self.levels:
            if level.hook:
                self.columns["site"] = f"{{path.{level.place}}}"
                self._say("site", level.place, "found", "the names of hooks")
                self._say("layer", level.place, "found", "the names of hooks")
                return ""
            if level.role == "site":
                if level.texts:
                    self.columns["site"] = f"{{path.{level.place}}}"
                else:
                    self._say("site", level.place, "found", f"{level.constant}, by name")
                    return (known_site(level.constant) or (level.constant, None))[0]
                self._say("site", level.place, "found", "by name")
                return ""
        free = [name for name in steps if name.lower() not in {*PLAIN, *POOLINGS, *CLASSES}]
        if free:
            why = f"{free[0]!r}, a name that the schema does not know"
            self._say("site", self.form, "guessed", why, "--site")
            return free[0]
        return "unknown"

    def _is_hidden_states(self) -> bool:
        """Read a complete tuple of transformers' hidden states by its convention."""
        where = self.hints.layer_from
        named = self._called_hidden_states()
        variable = next((each for each in self.variables if each.name == "layer"), None)
        if where is not None or variable is None or variable.segment.source != "tuple":
            return False
        last = max(variable.values)
        if self.count != last + 1 or last < 2 or not (named or len(self.leaves[0].segments) == 1):
            return False
        said = next(each for each in self.said if each.role == "layer")
        self.said.remove(said)
        why = (
            f"a tuple of {last + 1}, as output_hidden_states gives: 0 the embeddings, k the output "
            f"of block k - 1, {last} after the final norm; it could be {last + 1} blocks"
        )
        self._say("layer", f"{said.place}-1", "guessed", why, "--layer-from")
        if not self.hints.site:
            self._say("site", said.place, "guessed", "embeddings, resid_post, final_norm", "--site")
        self.columns["site"] = {
            "from": "{key.layer}",
            "pattern": f"^(0|{last})$",
            "map": {"0": "embeddings", str(last): "final_norm"},
            "default": "resid_post",
        }
        self.columns["layer"] = {
            "from": "{key.layer-1}",
            "pattern": rf"^(?!{last - 1}$)(-?\d+)$",
        }
        return True

    def _examples(self, axes: Sequence[str]) -> dict[str, tuple[Table, str | None]]:
        """Fill in the example's id, and join the table of rows that fits."""
        position = ""
        if "example" in axes:
            position = "{row}"
            self.columns["example_index"] = "{row}"
        own = self._own_id()
        level = self._file_level()
        has_layer_path = any(level.layer or level.hook for level in self.levels)
        if isinstance(self.example, _Variable):
            identity, ids = "{key.example}", self.example.values
        elif self.example == "entry":
            identity, ids = "{entry}", {sample.entry for sample in self.group.samples}
            if len(self.group.entries) > 1:
                identity = "{stem}:{entry}"
        elif isinstance(self.example, Level):
            identity, ids = self._of_level(self.example)
        elif level is not None:
            identity, ids = f"{{path.{level.place}}}", set(level.texts)
            if not position:
                self._say("example", level.place, "found", "what tells the files apart")
            elif has_layer_path:
                self.columns["variant"] = identity
                self._say("variant", level.place, "found", "what tells the files of a layer apart")
                identity = ""
        else:
            identity, ids = ("" if position and has_layer_path else "{stem}"), set()
            if not position:
                self._say("example", "name", "found", "the file's name")
        if isinstance(self.example, _Variable | str) and self._file_each() and level is not None:
            self.columns.setdefault("variant", f"{{path.{level.place}}}")
            self._say("variant", level.place, "found", "what tells the files apart")
        self._path_columns()
        joined = self._joined(position, identity, ids)
        default = ":".join(part for part in (identity, position) if part)
        if own is not None and position and self._one_each(own):
            self.columns["example_id"] = {"from": f"{{file.{own}}}:{position}", "default": default}
        elif own is not None:
            self.columns["example_id"] = {"from": f"{{file.{own}[*]}}", "default": default}
        elif joined and (
            name := columns_of(next(iter(joined.values()))[0].columns).get("example_id")
        ):
            self.columns["example_id"] = {"from": f"{{sidecar.rows.{name}}}", "default": default}
        else:
            self.columns["example_id"] = default
        return joined

    def _of_level(self, level: Level) -> tuple[str, set[Any]]:
        if level.texts:
            return f"{{path.{level.place}}}", set(level.texts)
        if level.place == "name":
            return "{stem}", set()
        return f"{{path.{level.place}}}", {level.constant}

    def _path_columns(self) -> None:
        for level in self.levels:
            if level.texts and level.role in ("split", "label"):
                self.columns.setdefault(level.role, f"{{path.{level.place}}}")
                if level.role == "label":  # the other side may have examples of the same names
                    self.columns.setdefault("variant", f"{{path.{level.place}}}")
                self._say(level.role, level.place, "found", "by name")

    def _own_id(self) -> str | None:
        """Return the name under which each sample itself names its examples."""
        return next((name for name in COLUMNS["example_id"] if self._holds(name)), None)

    def _one_each(self, name: str) -> bool:
        """Say whether the samples hold one value there, not one per row."""
        values = [self._value(sample, name) for sample in self.group.samples]
        return all(not isinstance(value, list | tuple | Tensor) for value in values)

    def _joined(
        self, position: str, identity: str, ids: set[Any]
    ) -> dict[str, tuple[Table, str | None]]:
        number = position
        if not number and isinstance(self.example, _Variable):
            number = "{key.example}" if self.example.segment.source != "free" else ""
        if not number and self.example == "entry" and len(self.group.entries) == 1:
            number = "{entry}"
        fitting = [
            table for table in self.tables if number and table.rows in self._row_counts(position)
        ]
        if len(fitting) == 1:
            self._say("table", fitting[0].path, "found", f"its {fitting[0].rows} rows in order")
            return {number: (fitting[0], None)}
        if len(fitting) > 1:
            names = ", ".join(table.path for table in fitting)
            why = f"{fitting[0].rows} rows in order, as {names} have"
            self._say("table", fitting[0].path, "guessed", why)
            return {number: (fitting[0], None)}
        for table in self.tables:
            column = table.id_column(ids) if ids and identity and not position else None
            if column is not None:
                self._say("table", table.path, "found", f"its column {column} holds the examples")
                return {"{column.example_id}": (table, column)}
        return {}

    def _row_counts(self, position: str) -> set[int]:
        """Return how many examples the files hold, each."""
        if position:
            axis = next(
                int(each.place[4:])
                for each in self.said
                if each.role == "example" and each.place.startswith("axis")
            )
            return {leaf.tensor.shape[axis] for leaf in self.leaves}
        if isinstance(self.example, _Variable):
            return {len(self.example.values)}
        return self.group.entry_counts if self.example == "entry" else set()

    def _pooling(self, axes: Sequence[str]) -> None:
        words = [segment.prefix.lower() for segment in self.leaves[0].segments]
        found = [POOLINGS[word] for word in words if word in POOLINGS]
        for level in self.levels:
            if level.role == "pooling" and level.texts:
                names = {text: POOLINGS[text.lower()] for text in level.texts}
                self.columns["pooling"] = {"from": f"{{path.{level.place}}}", "map": names}
                self._say("pooling", level.place, "found", "by name")
                return
        if found and "token" not in axes:
            self._say("pooling", self.form, "found", f"{found[0]}, by name")
            self.columns["pooling"] = found[0]
        else:
            self.columns["pooling"] = "none" if "token" in axes else "unknown"
        classes = [word for word in words if word in CLASSES]
        if classes:
            self.columns["label"] = classes[-1]
            if "example" not in axes:  # both sides of one example
                self.columns.setdefault("variant", classes[-1])
            self._say("label", self.form, "found", f"{classes[-1]}, by name")
            if "example" in axes:
                self._class_ids(classes[-1])

    def _class_ids(self, name: str) -> None:
        """Keep the examples of two classes apart, whose rows are numbered from 0 each."""
        source = self.columns["example_id"]
        if isinstance(source, dict):
            source["default"] = f"{name}:{source['default']}"
        else:
            self.columns["example_id"] = f"{name}:{source}"

    def _mask(self, axes: Sequence[str]) -> str | None:
        if "token" not in axes:
            return None
        lengths = {leaf.tensor.shape[axes.index("token")] for leaf in self.leaves}
        for name in MASKS:
            values = [self._value(sample, name) for sample in self.group.samples]
            if values and all(isinstance(value, Tensor | list) for value in values):
                self._say("mask", f"{name} in the file", "found", "tokens with 0 are padding")
                return f"{{file.{name}}}"
        if "example" in axes and lengths:
            why = "no attention_mask: padding cannot be told from tokens, and would be stored"
            self._say("mask", "none", "guessed", why)
        return None

    def _inside(self, axes: Sequence[str]) -> None:
        """Take the columns that the file itself holds."""
        for column, names in COLUMNS.items():
            if column in ("layer", "example_id") or column in self.columns:
                continue
            name = next((name for name in names if self._holds(name)), None)
            if name is not None:
                self.columns[column] = f"{{file.{name}[*]}}"
                self._say(column, f"{name} in the file", "found", "by its name")
        if "token" in axes:
            name = next((name for name in TOKEN_IDS if self._tokens_at(name)), None)
            if name is not None:
                self.columns["token_id"] = f"{{file.{name}[token]}}"
                self._say("token_id", f"{name} in the file", "found", "by its name")

    # What the samples hold beside the tensors.

    def _value(self, sample: Any, name: str) -> Any:
        document = sample.document
        return document.get(name) if isinstance(document, dict) else None

    def _scalar(self, column: str) -> str | None:
        """Return the name under which every sample holds one whole number."""
        for name in COLUMNS[column]:
            values = [self._value(sample, name) for sample in self.group.samples]
            if values and all(_is_whole(value) for value in values):
                return name
        return None

    def _holds(self, name: str) -> bool:
        """Say whether every sample holds one plain value there, or one per row."""
        counts = {leaf.sample: self._example_count(leaf) for leaf in self.leaves}
        values = [self._value(self.group.samples[number], name) for number in counts]
        return bool(values) and all(
            _fits_rows(value, rows) for value, rows in zip(values, counts.values(), strict=True)
        )

    def _example_count(self, leaf: Leaf) -> int:
        for each in self.said:
            if each.role == "example" and each.place.startswith("axis"):
                return leaf.tensor.shape[int(each.place[4:])]
        return 1

    def _tokens_at(self, name: str) -> bool:
        values = [self._value(sample, name) for sample in self.group.samples]
        return bool(values) and all(
            (isinstance(value, Tensor) and not value.dtype.startswith(("float", "bfloat", "str")))
            or (isinstance(value, list) and value and isinstance(value[0], int | list))
            for value in values
        )

    def _key(self) -> str | None:
        if not self.leaves[0].segments:
            return None
        variables = {variable.at: variable for variable in self.variables}
        steps = []
        for at, segment in enumerate(self.leaves[0].segments):
            if not segment.varies:
                steps.append(_literal(segment.prefix))
                continue
            variable = variables[at]
            kind = ":int" if segment.source != "free" else ""
            if kind == "" and any("." in str(value) for value in variable.values):
                kind = ":any"
            name = variable.name or variable.place
            part = f"{{{name}{kind}}}"
            steps.append(f"{_literal(segment.prefix)}{part}{_literal(segment.suffix)}")
            if not variable.name:
                # Nothing explains it: kept apart all the same, or rows would collide.
                self.columns.setdefault("variant", f"{{key.{name}}}")
                self._say("variant", name, "guessed", "nothing else explains it", "--example-from")
        return ".".join(steps)


def _names_in(segment: Segment) -> list[str]:
    """Return the names in a step of a key: all of it, or what stands around its number."""
    if not segment.varies:
        return [segment.prefix]
    head = _BEFORE_NUMBER.sub("", segment.prefix)
    around = (segment.suffix.strip("._- "), head)
    if segment.word == "example" or segment.source == "free":
        return []
    return [name for name in around if re.search(r"[A-Za-z]{2}", name)]


def _variables(leaves: Sequence[Leaf]) -> list[_Variable]:
    found: list[_Variable] = []
    for at, segment in enumerate(leaves[0].segments):
        if segment.varies:
            number = len(found)
            values = {leaf.values[number] for leaf in leaves}
            found.append(_Variable(f"key{number + 1}", segment, values, at))
    return found


def _if_there(said: Where | None, there: set[str]) -> Where | None:
    return said if said is not None and said.place in there else None


def _axis(where: Where | None) -> int | None:
    return int(where.place[4:]) if where is not None and where.place.startswith("axis") else None


def _is_whole(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.ndim and not value.dtype.startswith(("float", "bfloat", "str"))
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> int:
    return int(value.item()) if isinstance(value, Tensor) else int(value)


def _fits_rows(value: Any, rows: int) -> bool:
    if isinstance(value, Tensor):
        plain = not value.dtype.startswith(("float", "bfloat"))
        return plain and (value.ndim == 0 or value.shape == (rows,))
    if isinstance(value, list | tuple):
        return len(value) == rows and all(isinstance(each, str | int | bool) for each in value)
    return isinstance(value, str | int | bool)


def _literal(text: str) -> str:
    """Return a name as a template takes it; what a template would take for more is any text."""
    for mark in "{}*":
        text = text.replace(mark, "*")
    return text
