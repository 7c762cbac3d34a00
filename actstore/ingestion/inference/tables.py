"""Tables of rows beside the activations: which there are, and which file's each of them is."""

from __future__ import annotations

import glob
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final, NamedTuple

from actstore import paths, schema
from actstore.errors import PathError, SidecarError
from actstore.ingestion.inference.paths import Level
from actstore.ingestion.inference.survey import Group
from actstore.ingestion.inference.words import COLUMNS
from actstore.ingestion.sidecar_table import Record, read_records
from actstore.ingestion.source_file import Entry

_SUFFIXES: Final = (".csv", ".jsonl", ".ndjson", ".json", ".parquet")
_LARGEST: Final = 64 << 20
_MOST: Final = 6
"""Tables that stand alone: more are not looked into."""
_MOST_NAMES: Final = 12
_PLAIN_NAME: Final = re.compile(r"[^{}|\[\]]*[^{}|\[\]0-9]|[^{}|\[\]+-]+")


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """The rows of one file."""

    path: str
    """Relative to SOURCE."""
    records: Sequence[Record]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table beside the files: one for all of them, or one of a kind for each folder or file."""

    paths: tuple[str, ...]
    """Where a recipe looks for it."""
    members: frozenset[str]
    """The files that it consists of, relative to SOURCE."""
    sheets: Mapping[str, Sheet]
    """File of activations: the sheet that is its own, where that was read."""
    own: bool = False
    """Whether folders or files have one each."""

    @property
    def called(self) -> str:
        """What people call it."""
        return " or ".join(self.paths) if self.own else next(iter(self.members))

    @property
    def lengths(self) -> frozenset[int]:
        """How many rows the sheets have."""
        return frozenset(len(sheet.records) for sheet in self.sheets.values())

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that an expression can name."""
        sheets = dict.fromkeys(self.sheets.values())
        return tuple(dict.fromkeys(name for sheet in sheets for name in _columns(sheet)))

    def rows(self, file: str) -> int | None:
        """Return how many rows there are for a file, or None where it has no sheet."""
        sheet = self.sheets.get(file)
        return None if sheet is None else len(sheet.records)

    def id_column(self, ids: Iterable[tuple[str, str]]) -> str | None:
        """Return the column that holds every example's name once, or None.

        Args:
            ids: file and name of each example.
        """
        wanted: dict[Sheet, set[str]] = defaultdict(set)
        for file, name in ids:
            if file in self.sheets:
                wanted[self.sheets[file]].add(name.strip())
        for column in self.columns if wanted else ():
            for sheet, names in wanted.items():
                values = [str(record.get(column)).strip() for record in sheet.records]
                if len(set(values)) < len(values) or not names <= set(values):
                    break
            else:
                return column
        return None


@dataclass(slots=True)
class Shelf:
    """The files that may be tables, each read once, when it is first asked for."""

    entries: Mapping[str, Entry]
    problems: dict[str, str] = field(default_factory=dict)
    """File: why it could not be read as a table."""
    _read: dict[str, Sheet | None] = field(default_factory=dict)

    def sheet(self, path: str) -> Sheet | None:
        """Return the rows of a file; None where it is no table: a configuration, a log.

        Raises:
            PathError, SidecarError: the system cannot read it.
        """
        if path not in self._read:
            entry = self.entries[path]
            self._read[path] = None
            try:
                records = read_records(entry.path, None, (paths.real(entry.root),))
                self._read[path] = Sheet(path, records)
            except (PathError, SidecarError) as error:
                if isinstance(error.__cause__, OSError):  # nobody knows what it would have joined
                    raise
                if not path.lower().endswith(".json") and entry.size:  # these may be anything
                    self.problems[path] = str(error).removeprefix(f"{entry.path}: ")
        return self._read[path]

    def read(self) -> list[Sheet]:
        """Return what was read."""
        return [sheet for sheet in self._read.values() if sheet is not None]


def shelf(entries: Iterable[Entry]) -> Shelf:
    """Return the tables among some files, unread."""
    return Shelf(
        {
            entry.relative: entry
            for entry in entries
            if entry.relative.lower().endswith(_SUFFIXES) and entry.size <= _LARGEST
        }
    )


def tables(known: Shelf, group: Group, above: Sequence[Level]) -> list[Table]:
    """Return the tables of a group of files, those first that are its folders' or files' own.

    A table that lies above some of the files is theirs, the nearest of several of one name; one
    whose name holds what tells the files or folders apart is of these; any other is of all.

    Raises:
        PathError, SidecarError: the system cannot read one.
    """
    makers = _Makers(known, group)
    found: list[Table] = []
    left: list[str] = []
    lone: list[Table] = []
    for name, homes in _by_name(known.entries, makers.folders, left).items():
        if len(homes) == 1 and makers.folders <= makers.below(*homes):
            left += homes.values()
            continue
        table = makers.of_folders(name, homes)
        (lone if len(homes) == 1 else found).append(table)
    found += _merged(lone)
    for template, texts in _tied(left, above).items():
        found.append(makers.of_texts(template, texts))
        left = [path for path in left if path not in found[-1].members]
    alone = [
        sheet
        for path in sorted(left, key=list(known.entries).index)[:_MOST]
        if (sheet := known.sheet(path)) is not None
    ]
    found = [table for table in found if table.sheets]
    return found + [makers.of_all(sheet) for sheet in alone]


class _Texts(NamedTuple):
    """Tables whose paths hold the text of a level."""

    level: Level
    paths: dict[str, str]
    """By text."""


class _Makers:
    """Makes the tables of one group of files."""

    def __init__(self, known: Shelf, group: Group) -> None:
        self._known = known
        self._files = [entry.relative for entry in group.entries]
        # Of the others the sheets are looked into when their rows are joined.
        self._seen = {sample.file.relative for sample in group.samples}
        self.folders = {_parent(file) for file in self._files}

    def below(self, home: str) -> set[str]:
        """Return the folders of files that are, or lie in, one folder."""
        return {folder for folder in self.folders if home in _and_above(folder)}

    def of_folders(self, name: str, homes: Mapping[str, str]) -> Table:
        """Return the tables of one name, each that of the files below its folder."""
        nearest = {
            folder: next((homes[each] for each in _and_above(folder) if each in homes), None)
            for folder in self.folders
        }
        return self._own(
            (_literal(name),), homes.values(), [nearest[_parent(f)] for f in self._files]
        )

    def of_texts(self, template: str, texts: _Texts) -> Table:
        """Return the tables whose paths hold what tells the files apart."""
        each = [texts.paths.get(text) for text in texts.level.texts]
        return self._own((template,), texts.paths.values(), each)

    def of_all(self, sheet: Sheet) -> Table:
        """Return a table that is of all files."""
        return Table(
            paths=(_literal(sheet.path),),
            members=frozenset([sheet.path]),
            sheets=dict.fromkeys(self._files, sheet),
        )

    def _own(
        self, spelled: tuple[str, ...], members: Iterable[str], each: Sequence[str | None]
    ) -> Table:
        pairs = [(file, path) for file, path in zip(self._files, each, strict=True) if path]
        wanted = {path for file, path in pairs if file in self._seen}
        found = {file: self._known.sheet(path) for file, path in pairs if path in wanted}
        sheets = {file: sheet for file, sheet in found.items() if sheet is not None}
        return Table(paths=spelled, members=frozenset(members), sheets=sheets, own=True)


def _by_name(
    candidates: Iterable[str], folders: Collection[str], left: list[str]
) -> dict[str, dict[str, str]]:
    """Sort tables above the files by name and folder; ``left`` takes those that lie elsewhere."""
    above = {each for folder in folders for each in _and_above(folder)}
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for path in candidates:
        if _parent(path) in above:
            found[PurePosixPath(path).name][_parent(path)] = path
        else:
            left.append(path)
    return found


def _merged(lone: Sequence[Table]) -> list[Table]:
    """Take tables of several names for one, where folders have one each with the same columns."""
    alike: dict[tuple[str, ...], list[Table]] = defaultdict(list)
    for table in lone:
        alike[table.columns].append(table)
    found: list[Table] = []
    for columns, several in alike.items():
        files = [file for table in several for file in table.sheets]
        if not columns or len(several) > _MOST_NAMES or len(set(files)) < len(files):
            found += several
            continue
        found.append(
            Table(
                paths=tuple(path for table in several for path in table.paths),
                members=frozenset().union(*(table.members for table in several)),
                sheets={file: each for table in several for file, each in table.sheets.items()},
                own=True,
            )
        )
    return found


def _tied(candidates: Iterable[str], above: Sequence[Level]) -> dict[str, _Texts]:
    """Return tables whose paths hold the text of a level of the files' paths, by template."""
    levels = [(level, {*level.texts}) for level in above if level.texts and not level.sides]
    found: dict[str, _Texts] = {}
    for path in candidates:
        stem = path[: -len(PurePosixPath(path).suffix)]
        for level, known in levels:
            fits = [(start, end) for start, end in _words(stem) if stem[start:end] in known]
            if not fits:
                continue
            start, end = max(fits, key=lambda each: each[1] - each[0])
            part = f"{{path.{level.place}}}"
            template = f"{_literal(path[:start])}{part}{_literal(path[end:])}"
            found.setdefault(template, _Texts(level, {})).paths[stem[start:end]] = path
            break
    return {
        template: texts
        for template, texts in found.items()
        if len(texts.paths) > 1
        or (texts.level.place == "name" and PurePosixPath(template).stem == "{path.name}")
    }


def _words(text: str) -> Iterator[tuple[int, int]]:
    """Yield where the parts of a path stand that end at marks: of `a/b_c` also `b`, `b_c`."""
    marks = [at for match in re.finditer(r"[\W_]", text) for at in match.span()]
    cuts = sorted({0, *marks, len(text)})
    yield from ((start, end) for start in cuts for end in cuts if end > start)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _and_above(folder: str) -> Iterator[str]:
    """Yield a folder and those above it, SOURCE as an empty text last."""
    while folder:
        yield folder
        folder = _parent(folder)
    yield ""


def _literal(text: str) -> str:
    """Return a text as a recipe's path takes it."""
    return glob.escape(text).replace("{", "?").replace("}", "?")


def _columns(sheet: Sheet) -> tuple[str, ...]:
    names = dict.fromkeys(str(name) for record in sheet.records[:50] for name in record)
    return tuple(name for name in names if _PLAIN_NAME.fullmatch(name))


def columns_of(names: Iterable[str]) -> dict[str, str]:
    """Return which column of the schema stands under which of some names."""
    known = {str(name).lower(): str(name) for name in reversed(list(names))}
    allowed = set(schema.metadata_names()) - {"site", "pooling", "region", "position"}
    found: dict[str, str] = {}
    for column, words in COLUMNS.items():
        for word in words:
            if word in known and column in allowed:
                found[column] = known[word]
                break
    return found
