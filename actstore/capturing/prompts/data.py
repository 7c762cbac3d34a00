"""The questions of a run: a file or data set, its columns, and what is left out of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from actstore.capturing.prompts.capture_recipes import FIELDS, CaptureRecipe, JoinedTable
from actstore.capturing.prompts.example import Example, from_dict, stream
from actstore.capturing.prompts.fields import TextTemplate, column
from actstore.capturing.prompts.records import Record, Records, open_records
from actstore.errors import ExampleError, SidecarError, UsageError

_NAMED = 12


class Questions:
    """Examples that can be read again and again; the second time they are the same."""

    def __init__(
        self,
        parts: Sequence[tuple[Records, Mapping[str, TextTemplate]]],
        *,
        columns: Mapping[str, str],
        recipe: CaptureRecipe | None,
        tables: Mapping[str, tuple[JoinedTable, Mapping[tuple[str, ...], Mapping[str, Any]]]],
        split: str | None,
        images: Path | None,
        first_k: int | None,
        only: Mapping[str, Sequence[str]],
    ) -> None:
        self._parts = parts
        self._given = dict(columns)
        self._chosen = {name: column(theirs) for name, theirs in columns.items()}
        self._recipe = recipe
        self._tables = tables
        self._split = split
        self._images = images
        self._first_k = first_k
        self._only = {**(recipe.only if recipe else {}), **only}
        self.dataset = (recipe.dataset if recipe else None) or parts[0][0].name
        """What the data set is called, unless the user says otherwise."""

    @property
    def count(self) -> int | None:
        """How many examples there are, if that is known without reading them."""
        if self._only or (self._recipe is not None and self._recipe.most):
            return None
        total = 0
        for records, _ in self._parts:
            if records.count is None:
                return None
            total += records.count
        if self._recipe is not None and self._recipe.expand:
            total *= len(self._recipe.expand)
        return total if self._first_k is None else min(total, self._first_k)

    def __len__(self) -> int:
        """Return :attr:`count`.

        Raises:
            TypeError: it is not known, as of an iterator.
        """
        if self.count is None:
            raise TypeError("how many questions are left is known only once they are read")
        return self.count

    @property
    def settings(self) -> dict[str, Any]:
        """What makes the examples what they are, for the run's record: no path is absolute."""
        return {
            "data": [
                {"name": records.name, "split": records.split, "digest": records.digest()}
                for records, _ in self._parts
            ],
            "columns": self._given,
            "recipe": self._recipe.name if self._recipe is not None else None,
            "only": {name: list(values) for name, values in self._only.items()},
            "first_k": self._first_k,
        }

    def __iter__(self) -> Iterator[Example]:
        """Yield the examples in the source's order.

        Raises:
            ExampleError: a record is malformed, lacks a column, or two examples have the same
                key; the message names the lines. Also if there are no examples at all.
        """
        number = 0
        for example in stream(self._capped()):
            if self._first_k is not None and number >= self._first_k:
                return
            number += 1
            yield example
        if not number:
            places = ", ".join(records.place for records, _ in self._parts)
            left = " that --only or the recipe leaves over" if self._only else ""
            raise ExampleError(f"{places}: no examples{left}")

    def _capped(self) -> Iterator[Example]:
        most = self._recipe.most if self._recipe is not None else {}
        taken: dict[tuple[str, str], set[str]] = {}
        for example in self._kept():
            limited = [
                (taken.setdefault((name, value), set()), limits[value])
                for name, limits in most.items()
                if (value := str(getattr(example, name))) in limits
            ]
            # Ids are counted: the phrasings of one pair count once.
            if all(example.id in ids or len(ids) < limit for ids, limit in limited):
                for ids, _ in limited:
                    ids.add(example.id)
                yield example

    def _kept(self) -> Iterator[Example]:
        for example in self._all():
            if all(str(getattr(example, name)) in values for name, values in self._only.items()):
                yield example

    def _all(self) -> Iterator[Example]:
        for records, columns in self._parts:
            folder = self._images if self._images is not None else records.folder
            for number, record in enumerate(records.read()):
                for mapping in self._mappings(record, columns, number):
                    if mapping.get("split") is None and (self._split or records.split):
                        mapping["split"] = self._split or records.split
                    yield from_dict(mapping, source=record[0], images=folder, number=number)

    def _mappings(
        self, record: Record, columns: Mapping[str, TextTemplate], number: int
    ) -> Iterator[dict[str, Any]]:
        where, given = record
        if self._recipe is None:
            yield self._plain(where, given)
            return
        known = {"row": number} | dict(given)
        for name, (table, rows) in self._tables.items():
            known[name] = _joined(table, rows, known, where)
        for changes in self._recipe.expand or ({},):
            fields = {**self._recipe.columns, **columns, **changes, **self._chosen}
            mapping = {name: each.value(known, where) for name, each in fields.items()}
            extra = {name: each.value(known, where) for name, each in self._recipe.extra.items()}
            mapping["extra"] = {name: each for name, each in extra.items() if each is not None}
            yield mapping

    def _plain(self, where: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Take the columns that the user chose, and those that are called as the fields are."""
        mapping: dict[str, Any] = {
            name: each.value(given, where) for name, each in self._chosen.items()
        }
        used = {path for each in self._chosen.values() for path in each.columns}
        extra: dict[str, Any] = {}
        for name, value in given.items():
            field = {"example_id": "id", "example_index": "index"}.get(name, name)
            # Most data sets call the right answer so; it is appended to prompts only if asked.
            implied = field in FIELDS and field != "answer"
            if implied and field not in self._chosen:
                mapping.setdefault(field, value)
            elif name == "extra" and isinstance(value, Mapping):
                extra |= value
            elif name not in used and value is not None and _is_json(value):
                extra[str(name)] = value
        if mapping.get("question") is None and mapping.get("messages") is None:
            what = "an empty question" if "question" in mapping else "no column 'question'"
            raise ExampleError(
                f"{where}: {what}; there are {', '.join(list(map(str, given))[:_NAMED])} "
                "(choose one with --question COLUMN)"
            )
        mapping["extra"] = extra
        return mapping


def open_questions(
    data: str | Path,
    *,
    columns: Mapping[str, str | None] | None = None,
    recipe: CaptureRecipe | None = None,
    split: str | None = None,
    images: Path | str | None = None,
    first_k: int | None = None,
    only: Mapping[str, Sequence[str]] | None = None,
) -> Questions:
    """Open a file of questions, or a data set on the Hub.

    Args:
        data: a .jsonl, .json, .csv, .tsv or .parquet file, a Hub id (``ORG/NAME``,
            ``ORG/NAME:SPLIT``, ``ORG/NAME:CONFIG:SPLIT``), or what the recipe calls ``{data}``.
        columns: field of an example: the source's column, as ``{"question": "prompt"}``. Others
            are taken where the source calls them as :class:`Example` does.
        recipe: how to make examples of records; ``columns`` come before its own.
        split: value of the column ``split`` for all examples that have none.
        images: folder that relative image paths start from; by default the data file's.
        first_k: only the first so many examples.
        only: field of an example: the values that it may have.

    Raises:
        ExampleError: no such file, or of an unknown kind.
        UsageError: an unknown field, or fewer than one example asked for.
        SidecarError: a table that the recipe joins is missing or contradicts itself.
        RepositoryNotFoundError, AccessError, OfflineError: the Hub's answer.
    """
    chosen = {name: theirs for name, theirs in (columns or {}).items() if theirs is not None}
    for name in (*chosen, *(only or {})):
        if name not in FIELDS:
            raise UsageError(f"an example has no {name!r}; it has {', '.join(FIELDS)}")
    if first_k is not None and first_k < 1:
        raise UsageError(f"the first {first_k} examples: at least 1")
    if images is not None and not Path(images).is_dir():
        raise UsageError(f"{images}: no such folder of images")
    parts: list[tuple[Records, Mapping[str, TextTemplate]]] = []
    if recipe is not None and recipe.parts:
        for part in recipe.parts:
            parts.append((open_records(_place(part.data, data)), part.columns))
    else:
        parts.append((open_records(data), {}))
    tables = {each.name: (each, _table(each, data)) for each in (recipe.tables if recipe else ())}
    return Questions(
        parts,
        columns=chosen,
        recipe=recipe,
        tables=tables,
        split=split,
        images=Path(images) if images is not None else None,
        first_k=first_k,
        only=only or {},
    )


def _place(candidates: Sequence[str], data: str | Path) -> str:
    """Return the first candidate that exists here, else the one that names a Hub data set."""
    places = [text.replace("{data}", str(data).rstrip("/")) for text in candidates]
    # The folder of the file that was named stands for it too.
    folder = str(Path(data).parent)
    places += [t.replace("{data}", folder) for t in candidates if Path(data).is_file()]
    for place in places:
        if Path(place).is_file():
            return place
    if not Path(data).exists():
        for place in places:
            if ":" in place:
                return place
    raise ExampleError(f"{data}: the recipe's file is not there: looked for {', '.join(places)}")


def _table(table: JoinedTable, data: str | Path) -> dict[tuple[str, ...], Mapping[str, Any]]:
    try:
        records = open_records(_place(table.data, data))
    except ExampleError as problem:
        if table.required:
            raise SidecarError(f"table {table.name}: {problem}") from None
        return {}
    rows: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for where, record in records.read():
        missing = [name for name in table.on if name not in record]
        if missing:
            raise SidecarError(
                f"table {table.name}: {where}: no column {missing[0]!r} to join by; there are "
                f"{', '.join(map(str, record))}"
            )
        key = tuple(str(record[name]) for name in table.on)
        if rows.setdefault(key, record) != record:
            raise SidecarError(
                f"table {table.name}: {where} repeats {', '.join(key)} with other values"
            )
    return rows


def _joined(
    table: JoinedTable,
    rows: Mapping[tuple[str, ...], Mapping[str, Any]],
    record: Mapping[str, Any],
    where: str,
) -> Mapping[str, Any]:
    key = tuple(str(each.value(record, where)) for each in table.on.values())
    found = rows.get(key)
    if found is None and table.required:
        raise SidecarError(
            f"{where}: table {table.name} has no row with {', '.join(table.on)} = {', '.join(key)}"
        )
    return found or {}


def _is_json(value: Any) -> bool:
    """Return whether a value can go into ``extra``; images and bytes cannot."""
    if isinstance(value, str | int | float | bool):
        return True
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
