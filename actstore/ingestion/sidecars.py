"""Tables beside the activations: where they lie, how they are read, how rows are looked up."""

from __future__ import annotations

import csv
import glob
import io
import json
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from actstore.errors import SidecarError, UsageError
from actstore.ingestion import fetching
from actstore.ingestion.expression import Expression, compile_expression
from actstore.ingestion.recipe import Recipe, SidecarSpec
from actstore.ingestion.source_file import SourceFile
from actstore.ingestion.template import part_value

Record = Mapping[str, Any]

_PARENTS = 4
_SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json"}
_SUFFIXES |= {".parquet": "parquet"}


@dataclass(slots=True)
class SidecarTable:
    """The rows of one table, with an index per set of join columns."""

    path: Path
    records: Sequence[Record]
    many: str = "error"
    _indexes: dict[tuple[str, ...], dict[tuple[str, ...], Record]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.records)

    def find(self, values: Mapping[str, Any]) -> Record | None:
        """Return the row whose columns hold ``values`` (compared as text), or None.

        Raises:
            SidecarError: a column is missing from the table, or two rows hold the same
                values and the recipe does not say which to take (``many``).
        """
        names = tuple(values)
        index = self._indexes.get(names)
        if index is None:
            index = self._indexes[names] = self._index(names)
        return index.get(tuple(_text(value) for value in values.values()))

    def at(self, row: int) -> Record | None:
        """Return the row of that number, counted from 0, or None past the end."""
        return self.records[row] if 0 <= row < len(self.records) else None

    def _index(self, names: tuple[str, ...]) -> dict[tuple[str, ...], Record]:
        index: dict[tuple[str, ...], Record] = {}
        ambiguous: set[tuple[str, ...]] = set()
        for number, record in enumerate(self.records):
            missing = [name for name in names if name not in record]
            if missing and number == 0:
                raise SidecarError(
                    f"{self.path}: no column {missing[0]!r} to join by; "
                    f"the table has {', '.join(map(str, record))}"
                )
            if missing:
                continue
            key = tuple(_text(record[name]) for name in names)
            if key in index and self.many == "first":
                continue
            if key in index and self.many == "skip" and index[key] != record:
                ambiguous.add(key)
            if key in index and self.many == "error" and index[key] != record:
                pairs = ", ".join(f"{n}={v!r}" for n, v in zip(names, key, strict=True))
                raise SidecarError(
                    f"{self.path}: row {number + 1} repeats {pairs} with other values; "
                    "remove one of the two, or join by more columns"
                )
            index[key] = record
        for key in ambiguous:
            del index[key]
        return index


class Sidecars:
    """Finds and reads the sidecar tables of one recipe."""

    def __init__(self, recipe: Recipe, overrides: Mapping[str, Path] | None = None) -> None:
        """Take ``overrides`` (name: path) before any candidate path.

        Raises:
            UsageError: an override names a sidecar that the recipe does not have.
        """
        self._recipe = recipe
        self._overrides = dict(overrides or {})
        names = [spec.name for spec in recipe.sidecars]
        for name, path in self._overrides.items():
            if name not in names:
                raise UsageError(
                    f"--sidecar {name}=…: recipe {recipe.name} has no such sidecar; "
                    f"it has {', '.join(names) or 'none'}"
                )
            if not path.exists():
                raise UsageError(f"--sidecar {name}={path}: no such file or folder")
        self._tables: dict[tuple[str, tuple[Path, ...]], SidecarTable] = {}
        self._found: dict[tuple[Any, ...], list[Path]] = {}
        self.used: dict[str, set[Path]] = {}
        """Name: the files that were read for it."""
        self._asked: dict[str, dict[Hashable, bool]] = {}

    def table(self, name: str, file: SourceFile) -> SidecarTable | None:
        """Return the table ``name`` that belongs to ``file``, or None where there is none.

        Raises:
            SidecarError: it is required and missing, several candidates fit, or it
                cannot be read.
        """
        spec = self._recipe.sidecar(name)
        paths = self._paths(spec, file)
        if not paths:
            if spec.required:
                raise SidecarError(
                    f"sidecar {name} is missing: looked for {', '.join(spec.paths)} near "
                    f"{file.relative}; name it with --sidecar {name}=PATH"
                )
            return None
        key = (name, tuple(paths))
        if key not in self._tables:
            records = [record for path in paths for record in read_records(path, spec)]
            self._tables[key] = SidecarTable(paths[0], records, spec.many)
            self.used.setdefault(name, set()).update(paths)
        return self._tables[key]

    def asked(self, name: str, key: Hashable, found: bool) -> None:
        """Note that a row was looked up, and whether it was there."""
        self._asked.setdefault(name, {})[key] = found

    def notes(self) -> list[str]:
        """Say which tables were used and how well they joined."""
        lines = []
        for name, paths in self.used.items():
            files = _named(paths)
            answers = self._asked.get(name)
            joined = f", joined {sum(answers.values()):,} of {len(answers):,}" if answers else ""
            lines.append(f"sidecar {name}: {files}{joined}")
        return lines

    def path(self, name: str, file: SourceFile) -> Path | None:
        """Return where the table ``name`` of ``file`` lies, or None.

        Raises:
            SidecarError: several files fit one candidate path.
        """
        paths = self._paths(self._recipe.sidecar(name), file)
        return paths[0] if paths else None

    def _paths(self, spec: SidecarSpec, file: SourceFile) -> list[Path]:
        if spec.name in self._overrides:
            return [self._overrides[spec.name]]
        patterns = tuple(_filled_in(path, file.parts) for path in spec.paths)
        key = (spec.name, file.path.parent, file.folder, patterns)
        if key not in self._found:
            wanted = [pattern for pattern in patterns if pattern is not None]
            self._found[key] = _search(spec, wanted, file)
        return self._found[key]


@cache
def _compiled(path: str) -> Expression:
    return compile_expression(path)


def _filled_in(path: str, parts: Mapping[str, Any]) -> str | None:
    """Return a candidate path with the parts of the file's own, or None where one is missing."""
    if "{" not in path:
        return path
    words = []
    for piece in _compiled(path).pieces:
        if isinstance(piece, str):
            words.append(piece)
            continue
        found = [part_value(parts, ref.rest) for ref in piece if ref.root == "path"]
        value = next((each for each in found if each is not None), None)
        if value is None:
            return None
        words.append(glob.escape(str(value)))
    return "".join(words)


def folders_near(file: SourceFile) -> Iterator[Path]:
    """Yield the folders in which sidecars of ``file`` may lie, nearest first."""
    seen: set[Path] = set()
    for start in (file.path.parent, file.folder):
        for folder in (start, *list(start.parents)[:_PARENTS]):
            if folder not in seen:
                seen.add(folder)
                yield folder
    if file.root not in seen:
        yield file.root


def _search(spec: SidecarSpec, patterns: Iterable[str], file: SourceFile) -> list[Path]:
    fits = Path.is_dir if spec.format == "folder" else Path.is_file
    for pattern in patterns:
        for folder in folders_near(file):
            if not glob.has_magic(pattern):
                if fits(folder / pattern):
                    return [folder / pattern]
                continue
            found = sorted(path for path in folder.glob(pattern) if fits(path))
            if len(found) > 1 and not spec.merge:
                names = ", ".join(path.name for path in found[:5])
                raise SidecarError(
                    f"sidecar {spec.name}: {len(found)} files fit {pattern} in {folder} "
                    f"({names}); choose one with --sidecar {spec.name}=PATH"
                )
            if found:
                return found
    return []


def read_records(path: Path, spec: SidecarSpec | None = None) -> list[Record]:
    """Read the rows of a csv, jsonl, json or parquet file.

    CSV values stay text. JSON is a list of objects, an object that holds the list under
    ``spec.records``, or (``records = "*"``) an object of several lists, whose key becomes
    the column ``spec.class_column``.

    Raises:
        SidecarError: the file is missing, not of its format, or holds no rows.
    """
    kind = (spec.format if spec else None) or _SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise SidecarError(
            f"{path}: the format of {path.suffix or 'a file without suffix'} is not known; "
            "use .csv, .jsonl, .json or .parquet"
        )
    fetching.ensure(path)
    try:
        if kind == "parquet":
            records = _read_parquet(path)
        else:
            text = path.read_text(encoding="utf-8-sig")
            if kind == "csv":
                records = _read_csv(text)
            elif kind == "jsonl":
                records = list(_read_jsonl(text, path))
            else:
                records = list(_read_json(json.loads(text), path, spec))
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError, RecursionError) as error:
        raise SidecarError(f"{path}: cannot be read as {kind}: {error}") from error
    if not records:
        raise SidecarError(f"{path}: holds no rows")
    return records


def _read_csv(text: str) -> list[Record]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def _read_jsonl(text: str, path: Path) -> Iterator[Record]:
    # Not splitlines(): a JSON text may hold U+2028 and other line ends of its own.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise SidecarError(f"{path}: line {number} is not JSON: {error}") from error
            yield _object(record, path, f"line {number}")


def _read_json(document: Any, path: Path, spec: SidecarSpec | None) -> Iterable[Record]:
    records = spec.records if spec else None
    if records == "*":
        if not isinstance(document, dict):
            raise SidecarError(f"{path}: expected an object of lists, got a {_kind(document)}")
        column = (spec.class_column if spec else None) or "class"
        for name, entries in document.items():
            for entry in _list(entries, path, name):
                # Some writers list bare ids instead of objects.
                entry = entry if isinstance(entry, dict) else {"id": entry}
                yield {column: name, **entry}
        return
    if records is not None:
        if not isinstance(document, dict) or records not in document:
            raise SidecarError(f"{path}: has no key {records!r} with the rows")
        document = document[records]
    elif isinstance(document, dict):
        lists = [key for key, value in document.items() if isinstance(value, list)]
        if len(lists) != 1:
            raise SidecarError(
                f"{path}: expected a list of objects, or an object with one list; "
                f"it has the lists {', '.join(lists) or 'none'}"
            )
        document = document[lists[0]]
    for number, entry in enumerate(_list(document, path, records or "the document")):
        yield _object(entry, path, f"entry {number}")


def _list(value: Any, path: Path, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise SidecarError(f"{path}: {where}: expected a list, got a {_kind(value)}")
    return value


def _object(value: Any, path: Path, where: str) -> Record:
    if not isinstance(value, dict):
        raise SidecarError(f"{path}: {where}: expected an object, got a {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    names: dict[type, str] = {dict: "object", list: "list", str: "text"}
    return names.get(type(value), type(value).__name__)


def _read_parquet(path: Path) -> list[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[Record] = pq.read_table(path).to_pylist()
    except pa.ArrowException as error:
        raise SidecarError(f"{path}: cannot be read as parquet: {error}") from error
    return rows


def _text(value: Any) -> str:
    """Return what a value is compared as: 1, 1.0 and "1" are the same id."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value.strip() if isinstance(value, str) else str(value)


def _named(paths: Iterable[Path]) -> str:
    """Name tables by their file names, those of one name with their folders."""
    paths = sorted(paths)
    alike = len({path.name for path in paths}) < len(paths)
    names = [f"{path.parent.name}/{path.name}" if alike else path.name for path in paths]
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + more
