"""One table beside the activations: how it is read, and how its rows are looked up."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actstore import paths as gateway
from actstore.errors import ActstoreError, SidecarError
from actstore.ingestion import fetching
from actstore.ingestion.recipe import SidecarSpec
from actstore.wording import counted

Record = Mapping[str, Any]

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


def read_records(
    path: Path, spec: SidecarSpec | None = None, within: Sequence[Path] = ()
) -> list[Record]:
    """Read the rows of a csv, jsonl, json or parquet file.

    CSV values stay text; columns are parted by commas, or where the first line has none by ``;``
    or tabs. Text is UTF-8, or UTF-16 with its mark. JSON is a list of objects, an object that holds
    the list under ``spec.records``, or (``records = "*"``) an object of several lists, whose key
    becomes the column ``spec.class_column``.

    Args:
        path: of the file.
        spec: what the recipe says of it; None goes by the suffix.
        within: real folders in one of which it must lie; anywhere, if there are none.

    Raises:
        PathError: there is no such file, or it cannot be opened.
        SidecarError: it is not of its format, or holds no rows.
    """
    gateway.require_file(path)
    kind = (spec.format if spec else None) or _SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise SidecarError(
            f"{path}: the format of {path.suffix or 'a file without suffix'} is not known; "
            "use .csv, .jsonl, .json or .parquet"
        )
    fetching.ensure(path)
    try:
        if kind == "parquet":
            records = _read_parquet(path, within)
        else:
            text = _decoded(gateway.read_bytes(path, within), path)
            if kind == "csv":
                records = list(_read_csv(text, path))
            elif kind == "jsonl":
                records = list(_read_jsonl(text, path))
            else:
                records = list(_read_json(json.loads(text), path, spec))
    except ActstoreError:
        raise
    except OSError as error:
        raise SidecarError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, csv.Error, RecursionError) as error:  # of json and csv
        raise SidecarError(f"{path}: cannot be read as {kind}: {error}") from error
    if not records:
        raise SidecarError(f"{path}: holds no rows")
    return records


def _decoded(data: bytes, path: Path) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 where its first bytes say so.

    Raises:
        SidecarError: it is of another encoding.
    """
    encoding = "utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise SidecarError(
            f"{path}: line {line} holds bytes that are no UTF-8; save the table as UTF-8"
        ) from error
    if "\0" in text:
        raise SidecarError(
            f"{path}: holds NUL characters, as UTF-16 read as UTF-8 does; save the table as UTF-8"
        )
    # As text files are read: every line ends in \n.
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_csv(text: str, path: Path) -> Iterator[Record]:
    """Yield the rows of a table whose columns are parted by commas, or by ``;`` or tabs.

    Raises:
        SidecarError: a row has more or fewer values than there are columns.
        csv.Error: quotes do not fit.
    """
    first = text.lstrip("\n").partition("\n")[0]
    mark = next((each for each in ",;\t" if each in first), ",")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    names = [name.strip() for name in next((row for row in rows if row), [])]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise SidecarError(f"{path}: two columns are called {twice[0]!r}; rename one of them")
    last = rows.line_num
    for row in rows:
        line, last = last + 1, rows.line_num
        if not row:
            continue
        if len(row) != len(names):
            raise SidecarError(
                f"{path}: line {line} has {counted(len(row), 'value')} for "
                f"{counted(len(names), 'column')}; put texts that hold {mark!r} or line ends in "
                "double quotes"
            )
        yield dict(zip(names, row, strict=True))


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


def _read_parquet(path: Path, within: Sequence[Path]) -> list[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with (
            gateway.open_file(path, within) as file,
            pq.ParquetFile(file, pre_buffer=False) as parquet,
        ):
            # By this thread alone: storage/shard_columns.py says why.
            rows: list[Record] = parquet.read(use_threads=False).to_pylist()
    except pa.ArrowException as error:
        raise SidecarError(f"{path}: cannot be read as parquet: {error}") from error
    return rows


def _text(value: Any) -> str:
    """Return what a value is compared as: 1, 1.0 and "1" are the same id."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value.strip() if isinstance(value, str) else str(value)
