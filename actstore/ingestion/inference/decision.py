"""Decides what tensors of one kind are rows of, and where each column comes from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from actstore.errors import UsageError
from actstore.ingestion.inference.hints import Where
from actstore.ingestion.inference.joining import Joined, Joins
from actstore.ingestion.inference.mapping import Assignment, How
from actstore.ingestion.inference.paths import Level
from actstore.ingestion.inference.roles import HOOK, Columns, Variable, axis_of
from actstore.ingestion.inference.shapes import Around, Reading, read_axes
from actstore.ingestion.inference.survey import Leaf, Segment, form, joined
from actstore.ingestion.inference.tables import Table, columns_of
from actstore.ingestion.inference.words import (
    CLASSES,
    COLUMNS,
    MASKS,
    MODULES,
    PLAIN,
    POOLINGS,
    TOKEN_IDS,
    known_site,
)
from actstore.ingestion.tensor import Tensor

_BEFORE_NUMBER: Final = re.compile(
    r"[._\- ]*(?:layers?|blocks?|resblocks?|blk|lyr|[hl])?[._\- ]*$", re.IGNORECASE
)


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
    joined: Joined = field(default_factory=dict)


class Decision(Joins):
    """Decides for one kind of tensors in one group of files."""

    def decide(self) -> TensorReading | str:
        """Return the reading, or why the tensors cannot become rows."""
        self.layer_by_name()
        self.example_by_name()
        layer_from, example_from = self.hints.layer_from, self.hints.example_from
        self.whole_numbers(frozenset(rows for table in self.tables for rows in table.lengths))
        around = Around(
            layer=bool(self.layer)
            or self.hints.layer
            or known_site(self.leaves[0].key) is not None,
            example=self.is_example(),
            rows=self._rows(self.tables),
            own_rows=self._rows([table for table in self.tables if table.own])
            if example_from is None
            else (),
            sure=self.sure(),
            example_axis=axis_of(example_from),
            layer_axis=axis_of(layer_from),
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

    def _say_axes(self, readings: Sequence[Reading]) -> None:
        for axis, reading in enumerate(readings):
            if reading.meaning == "batch":
                continue
            how: How = "guessed" if reading.guessed else "found"
            if reading.why.startswith("--"):
                how = "option"
            layers = reading.meaning == "layer"
            other = "--example-from, --layer-from" if layers else "--example-from"
            why = reading.why
            if reading.meaning == "layer" and how == "guessed" and self.called_hidden_states():
                why += (
                    f"; where position 0 is the embeddings, as transformers counts, say "
                    f"--layer-from axis{axis}-1"
                )
            self.say(reading.meaning, f"axis{axis}", how, why, other)

    def _layer_column(self, axes: Sequence[str]) -> None:
        where = self.hints.layer_from or Where("")
        expression = self.layer
        if "layer" in axes:
            expression = "{axis.layer}"
            lengths = {leaf.tensor.shape[axes.index("layer")] for leaf in self.leaves}
            self.count = lengths.pop() if len(lengths) == 1 else None
        if expression in ("", HOOK) or "layer" in self.columns:
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
                self.say(
                    "site", f"{form(self.leaves[0].segments)}", "found", f"{found[0]}, by name"
                )
                if found[1] is not None and not self.layer:
                    self.columns["layer"] = found[1]
                return found[0]
        for name in steps:
            if module := MODULES.get(name.lower()):
                self.say("site", self.form, "guessed", f"what {name} puts out", "--site")
                return module
        for level in self.levels:
            if level.hook:
                self.columns["site"] = f"{{path.{level.place}}}"
                self.say("site", level.place, "found", "the names of hooks")
                self.say("layer", level.place, "found", "the names of hooks")
                return ""
            if level.role == "site":
                if level.texts:
                    self.columns["site"] = f"{{path.{level.place}}}"
                else:
                    self.say("site", level.place, "found", f"{level.constant}, by name")
                    return (known_site(level.constant) or (level.constant, None))[0]
                self.say("site", level.place, "found", "by name")
                return ""
        free = [name for name in steps if name.lower() not in {*PLAIN, *POOLINGS, *CLASSES}]
        if free:
            why = f"{free[0]!r}, a name that the schema does not know"
            self.say("site", self.form, "guessed", why, "--site")
            return free[0]
        return "unknown"

    def _is_hidden_states(self) -> bool:
        """Read a complete tuple of transformers' hidden states by its convention."""
        where = self.hints.layer_from
        named = self.called_hidden_states()
        variable = next((each for each in self.variables if each.name == "layer"), None)
        if where is not None or variable is None or variable.segment.source != "tuple":
            return False
        last = (self.count or 0) - 1
        if last < 2 or not variable.values >= set(range(last + 1)):
            return False
        if not (named or len(self.leaves[0].segments) == 1):
            return False
        said = next(each for each in self.said if each.role == "layer")
        self.said.remove(said)
        why = (
            f"a tuple of {last + 1}, as output_hidden_states gives: 0 the embeddings, k the output "
            f"of block k - 1, {last} after the final norm; it could be {last + 1} blocks"
        )
        self.say("layer", f"{said.place}-1", "guessed", why, "--layer-from")
        if not self.hints.site:
            self.say("site", said.place, "guessed", "embeddings, resid_post, final_norm", "--site")
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

    def _rows(self, tables: Sequence[Table]) -> list[frozenset[int]]:
        """Return how many rows tables have for each sample."""
        files = [sample.file.relative for sample in self.group.samples]
        lengths = [[table.rows(file) for table in tables] for file in files]
        return [frozenset(rows for rows in each if rows is not None) for each in lengths]

    def _examples(self, axes: Sequence[str]) -> Joined:
        """Fill in the example's id, and join the table of rows that fits."""
        position = ""
        if "example" in axes:
            position = "{row}"
            self.columns["example_index"] = "{row}"
        own = self._own_id()
        level = self.file_level()
        has_layer_path = any(level.layer or level.hook for level in self.levels)
        if isinstance(self.example, Variable):
            identity, ids = "{key.example}", self._ids_in_keys(self.example)
        elif self.example == "entry":
            identity = "{entry}"
            ids = [(sample.file.relative, str(sample.entry)) for sample in self.group.samples]
            if len(self.group.entries) > 1:
                identity = "{stem}:{entry}"
        elif isinstance(self.example, Level):
            identity, ids = self._of_level(self.example)
        elif level is not None and level.sides and position:
            identity, ids = "{stem}", []  # both sides count their rows from 0
        elif level is not None:
            identity, ids = f"{{path.{level.place}}}", self._ids_in_paths(level)
            if not position:
                self.say("example", level.place, "found", "what tells the files apart")
            elif has_layer_path:
                self.columns["variant"] = identity
                self.say("variant", level.place, "found", "what tells the files of a layer apart")
                identity = ""
        else:
            identity, ids = ("" if position and has_layer_path else "{stem}"), []
            if not position:
                self.say("example", "name", "found", "the file's name")
        if isinstance(self.example, Variable | str) and self.file_each() and level is not None:
            whole = "{stem}" if level.sides else f"{{path.{level.place}}}"
            self.columns.setdefault("variant", whole)
            self.say("variant", level.place, "found", "what tells the files apart")
        self._path_columns()
        joined = self.joined(position, identity, ids)
        default = ":".join(part for part in (identity, position) if part)
        if own is not None and position and self._one_each(own):
            self.columns["example_id"] = {"from": f"{{file.{own}}}:{position}", "default": default}
        elif own is not None:
            self.columns["example_id"] = {"from": f"{{file.{own}[*]}}", "default": default}
        elif name := _id_in_rows(joined):
            self.columns["example_id"] = {"from": f"{{sidecar.rows.{name}}}", "default": default}
        else:
            self.columns["example_id"] = default
        return joined

    def _of_level(self, level: Level) -> tuple[str, list[tuple[str, str]]]:
        if not level.texts and level.place == "name":
            return "{stem}", []
        return f"{{path.{level.place}}}", self._ids_in_paths(level)

    def _ids_in_paths(self, level: Level) -> list[tuple[str, str]]:
        files = [entry.relative for entry in self.group.entries]
        return list(zip(files, level.texts or [level.constant] * len(files), strict=True))

    def _ids_in_keys(self, example: Variable) -> list[tuple[str, str]]:
        files = [sample.file.relative for sample in self.group.samples]
        at = self.variables.index(example)
        return [(files[leaf.sample], str(leaf.values[at])) for leaf in self.leaves]

    def _path_columns(self) -> None:
        for level in self.levels:
            if level.texts and level.role in ("split", "label"):
                self.columns.setdefault(level.role, f"{{path.{level.place}}}")
                if level.role == "label":  # the other side may have examples of the same names
                    self.columns.setdefault("variant", f"{{path.{level.place}}}")
                self.say(level.role, level.place, "found", "by name")
            if level.sides:
                self._side_columns(level)

    def _side_columns(self, level: Level) -> None:
        """Take the class in a file's name for its side of an example, and for its label."""
        self.columns.setdefault("variant", "{path.side}")
        role = (
            "variant" if any(self._holds(name, "label") for name in COLUMNS["label"]) else "label"
        )
        self.columns.setdefault(role, "{path.side}")
        why = f"{' or '.join(level.sides)} in the file's name; it could belong to the name"
        self.say(role, level.place, "guessed", why, "--example-from")

    def _own_id(self) -> str | None:
        """Return the name under which each sample itself names its examples."""
        return next((n for n in COLUMNS["example_id"] if self._holds(n, "example_id")), None)

    def _one_each(self, name: str) -> bool:
        """Say whether the samples hold one value there, not one per row."""
        values = [self.value(sample, name) for sample in self.group.samples]
        return all(not isinstance(value, list | tuple | Tensor) for value in values)

    def _pooling(self, axes: Sequence[str]) -> None:
        words = [name.lower() for segment in self.leaves[0].segments for name in _names_in(segment)]
        found = [POOLINGS[word] for word in words if word in POOLINGS]
        for level in self.levels:
            if level.role == "pooling" and level.texts:
                names = {text: POOLINGS[text.lower()] for text in level.texts}
                self.columns["pooling"] = {"from": f"{{path.{level.place}}}", "map": names}
                self.say("pooling", level.place, "found", "by name")
                return
        if found and "token" not in axes:
            self.say("pooling", self.form, "found", f"{found[0]}, by name")
            self.columns["pooling"] = found[0]
        else:
            self.columns["pooling"] = "none" if "token" in axes else "unknown"
        classes = [word for word in words if word in CLASSES]
        if classes:
            self.columns["label"] = classes[-1]
            if "example" not in axes:  # both sides of one example
                self.columns.setdefault("variant", classes[-1])
            self.say("label", self.form, "found", f"{classes[-1]}, by name")
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
            values = [self.value(sample, name) for sample in self.group.samples]
            if values and all(isinstance(value, Tensor | list) for value in values):
                self.say("mask", f"{name} in the file", "found", "tokens with 0 are padding")
                return f"{{file.{name}}}"
        if "example" in axes and lengths:
            why = "no attention_mask: padding cannot be told from tokens, and would be stored"
            self.say("mask", "none", "guessed", why)
        return None

    def _inside(self, axes: Sequence[str]) -> None:
        """Take the columns that the file itself holds."""
        for column, names in COLUMNS.items():
            if column in ("layer", "example_id") or column in self.columns:
                continue
            name = next((name for name in names if self._holds(name, column)), None)
            if name is not None:
                self.columns[column] = f"{{file.{name}[*]}}"
                self.say(column, f"{name} in the file", "found", "by its name")
        if "token" in axes:
            name = next((name for name in TOKEN_IDS if self._tokens_at(name)), None)
            if name is not None:
                self.columns["token_id"] = f"{{file.{name}[token]}}"
                self.say("token_id", f"{name} in the file", "found", "by its name")

    def _holds(self, name: str, column: str) -> bool:
        """Say whether samples hold one plain value there, or one per row, where they hold any.

        Labels and ids are meant for the rows however many they are: read, they are refused.
        """
        counts = {leaf.sample: self._example_count(leaf) for leaf in self.leaves}
        values = [(self.value(self.group.samples[at], name), rows) for at, rows in counts.items()]
        values = [(value, rows) for value, rows in values if value is not None]
        any_length = column in ("label", "example_id") and self.example_axis() is not None
        numbers = column == "label"
        return bool(values) and all(
            _fits_rows(value, None if any_length else rows, numbers=numbers)
            for value, rows in values
        )

    def _example_count(self, leaf: Leaf) -> int:
        axis = self.example_axis()
        return 1 if axis is None else leaf.tensor.shape[axis]

    def _tokens_at(self, name: str) -> bool:
        values = [self.value(sample, name) for sample in self.group.samples]
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
                self.say("variant", name, "guessed", "nothing else explains it", "--example-from")
        return joined(self.leaves[0].segments, steps)


def _id_in_rows(joined: Joined) -> str | None:
    """Return the column that names the rows of a table that is joined by their order."""
    for table, column in joined.values():
        if column is None:
            return columns_of(table.columns).get("example_id")
    return None


def _names_in(segment: Segment) -> list[str]:
    """Return the names in a step of a key: all of it, or what stands around its number."""
    if not segment.varies:
        return [segment.prefix]
    head = _BEFORE_NUMBER.sub("", segment.prefix)
    around = (segment.suffix.strip("._-/ "), head)
    if segment.word == "example" or segment.source == "free":
        return []
    return [name for name in around if re.search(r"[A-Za-z]{2}", name)]


def _fits_rows(value: Any, rows: int | None, *, numbers: bool) -> bool:
    """Say whether a value is plain, or a list of that many; with ``numbers`` of any numbers."""
    plain = (str, int, bool, float) if numbers else (str, int, bool)
    if isinstance(value, Tensor):
        fits = numbers or not value.dtype.startswith(("float", "bfloat"))
        return fits and (value.ndim == 0 or (value.ndim == 1 and rows in (None, len(value))))
    if isinstance(value, list | tuple):
        return rows in (None, len(value)) and all(
            each is None or isinstance(each, plain) for each in value
        )
    return isinstance(value, plain)


def _literal(text: str) -> str:
    """Return a name as a template takes it; what a template would take for more is any text."""
    for mark in "{}*":
        text = text.replace(mark, "*")
    return text
