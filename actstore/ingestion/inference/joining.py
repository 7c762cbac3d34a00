"""Finds the table of rows that belongs to tensors: by how many there are, or by their names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from actstore.ingestion.inference.roles import Roles, Variable
from actstore.ingestion.inference.survey import Leaf
from actstore.ingestion.inference.tables import Sheet, Table
from actstore.ingestion.inference.words import last_number

Joined = dict[str, tuple[Table, str | None]]
"""Expression of the row's number or of the id: the table, and its column of ids."""


class Joins(Roles):
    """Joins tables, once it is decided what the examples are."""

    def joined(self, position: str, identity: str, ids: Sequence[tuple[str, str]]) -> Joined:
        """Return the table that fits, if one does.

        Args:
            position: expression of the example's number along an axis, if it is one.
            identity: expression of the example's name, if it has one.
            ids: file and name of each example.
        """
        fitting = [
            (table, number) for table in self.tables if (number := self._number(table, position))
        ]
        if len(fitting) > 1 and not fitting[0][0].own and self._other_examples():
            return {}  # each is likely to be of one of the files, and nothing says of which
        if fitting:
            table, number = fitting[0]
            lengths = sorted(table.lengths)
            rows = " to ".join(map(str, dict.fromkeys((lengths[0], lengths[-1]))))
            sure = len(fitting) == 1
            why = f"its {rows} rows in order"
            if not sure:
                why = (
                    f"{rows} rows in order, as {', '.join(each.called for each, _ in fitting)} have"
                )
            elif table.own:
                why += ", each file's own"
            elif self._other_examples():
                sure = False
                why += " in each file; they could be those of one file"
            self.say("table", table.called, "found" if sure else "guessed", why)
            return {number: (table, None)}
        for table in self.tables:
            column = table.id_column(ids) if ids and identity and not position else None
            if column is not None:
                self.say("table", table.called, "found", f"its column {column} holds the examples")
                return {"{column.example_id}": (table, column)}
        return {} if position or self.example is not None else self._by_file_number()

    def _other_examples(self) -> bool:
        """Say whether rows are those of a file, and files are told apart by other examples."""
        if self.example_axis() is None:
            return False
        level = self.file_level()
        return level is not None or any(each.role == "split" and each.texts for each in self.levels)

    def _number(self, table: Table, position: str) -> str:
        """Return the expression of a row's number, where a table has as many as there are."""
        each: dict[Sheet, list[Leaf]] = {}
        for leaf in self.leaves:
            sheet = table.sheets.get(self._file(leaf))
            if sheet is not None:
                each.setdefault(sheet, []).append(leaf)
        if not each:
            return ""
        if position:
            axis = self.example_axis()
            fits = axis is not None and all(
                leaf.tensor.shape[axis] == len(sheet.records)
                for sheet, leaves in each.items()
                for leaf in leaves
            )
            return "{axis.example}" if fits else ""
        if isinstance(self.example, Variable):
            at = self.variables.index(self.example)
            found = [{leaf.values[at] for leaf in leaves} for leaves in each.values()]
            lengths = [len(sheet.records) for sheet in each]
            firsts = {counted(values) for values in found}
            if [len(values) for values in found] != lengths or len(firsts) > 1 or None in firsts:
                return ""
            return "{key.example-1}" if firsts.pop() else "{key.example}"
        if self.example == "entry":
            files = {sheet: {self._file(leaf) for leaf in leaves} for sheet, leaves in each.items()}
            fits = all(
                len(names) == 1 and self.group.entry_counts[min(names)] == len(sheet.records)
                for sheet, names in files.items()
            )
            alone = table.own or len(self.group.entries) == 1
            return "{entry}" if fits and alone else ""
        return ""

    def example_axis(self) -> int | None:
        """Return which axis counts the examples, once that is said."""
        for each in self.said:
            if each.role == "example" and each.place.startswith("axis"):
                return int(each.place[4:])
        return None

    def _file(self, leaf: Leaf) -> str:
        return self.group.samples[leaf.sample].file.relative

    def _by_file_number(self) -> Joined:
        """Take the number in the files' names for that of a row, where these are as many."""
        level = self.file_level()
        if level is None:
            return {}
        for table in self.tables:
            texts: dict[Sheet, dict[str, None]] = {}
            for entry, text in zip(self.group.entries, level.texts, strict=True):
                if (sheet := table.sheets.get(entry.relative)) is not None:
                    texts.setdefault(sheet, {})[text] = None
            firsts = {_first(sheet, names) for sheet, names in texts.items()}
            if len(firsts) != 1 or None in firsts:
                continue
            first = firsts.pop()
            self.columns["example_index"] = {
                "from": f"{{path.{level.place}}}",
                "pattern": r"(\d+)$",
            }
            why = f"its rows by the files' numbers, from {first}; they could be in another order"
            self.say("table", table.called, "guessed", why)
            row = "{column.example_index-1}" if first else "{column.example_index}"
            return {row: (table, None)}
        return {}


def _first(sheet: Sheet, texts: Collection[str]) -> int | None:
    """Return 0 or 1 where names count from there, one for each row."""
    found = [last_number(text) for text in texts]
    numbers = {int(each.number) for each in found if each is not None and not each.suffix}
    if not len(numbers) == len(texts) == len(sheet.records):
        return None
    return counted(numbers)


def counted(values: set[Any]) -> int | None:
    """Return 0 or 1 where some numbers count without a gap from there, else None."""
    for first in (0, 1):
        if values == set(range(first, first + len(values))):
            return first
    return None
