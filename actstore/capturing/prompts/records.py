"""Reads files of questions record by record: jsonl, json, csv, tsv, parquet, or the Hub."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actstore import paths
from actstore.errors import (
    AccessError,
    ExampleError,
    MissingExtraError,
    OfflineError,
    PathError,
    RepositoryNotFoundError,
)

Record = tuple[str, Mapping[str, Any]]
"""Where it was read (``questions.jsonl:17``), and its columns."""

_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+){0,2}")
_ROWS = 256
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """A file of records that can be read again and again."""

    name: str
    """What the data set is called: the Hub id, or the file's name without its ending."""
    place: str
    """As the user named it."""
    folder: Path | None
    """Where relative paths inside it start; None on the Hub."""
    count: int | None
    """How many records there are, if that is known without reading them."""
    read: Callable[[], Iterator[Record]]
    digest: Callable[[], str | None]
    """SHA-256 of the file, or what the Hub's library calls the data set's fingerprint."""
    split: str | None = None


def open_records(place: str | Path) -> Records:
    """Find out what ``place`` is; records are read when they are asked for.

    Args:
        place: a .jsonl, .json, .csv, .tsv or .parquet file, or ``ORG/NAME``,
            ``ORG/NAME:SPLIT`` or ``ORG/NAME:CONFIG:SPLIT`` on the Hub.

    Raises:
        PathError: a folder, a pipe, a device, an address elsewhere.
        ExampleError: no such file, or of another kind.
        RepositoryNotFoundError, AccessError, OfflineError: the Hub's answer.
    """
    text = str(place)
    path = paths.require_ordinary(place)
    if path.is_file():
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            raise ExampleError(
                f"{path}: files of questions end in {', '.join(_READERS)}, not {path.suffix!r}"
            )
        return Records(
            name=path.stem,
            place=text,
            folder=path.parent,
            count=_counted(path),
            read=lambda: reader(path),
            digest=lambda: _sha256(path),
        )
    if path.is_dir():
        raise PathError(f"{path}: is a folder; expected a file of questions in it")
    if path.suffix.lower() in _READERS or not _HUB.fullmatch(text):
        raise ExampleError(f"{path}: no such file")
    return _hub(text)


def _counted(path: Path) -> int | None:
    """Return how many records there are where a quick look tells."""
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        with path.open("rb") as file:
            return sum(1 for line in file if not line.isspace())
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        try:
            return int(pq.read_metadata(path).num_rows)
        except Exception:  # reading it says what is wrong
            return None
    return None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _jsonl(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            where = f"{path.name}:{number}"
            yield where, _object(_parsed(line, where), where)


def _json(path: Path) -> Iterator[Record]:
    document = _parsed(path.read_bytes(), path.name)
    if isinstance(document, dict):
        lists = {name: value for name, value in document.items() if isinstance(value, list)}
        tables = all(isinstance(value, dict) for value in document.values())
        if len(lists) == 1:  # {"pairs": [...], "version": 1}
            document = next(iter(lists.values()))
        elif document and tables:  # {"num_001": {...}, ...}
            document = [{"id": name} | value for name, value in document.items()]
    if not isinstance(document, list):
        raise ExampleError(
            f"{path}: expected a list of objects, an object that holds one list, or objects by id"
        )
    for number, record in enumerate(document):
        where = f"{path.name}[{number}]"
        yield where, _object(record, where)


def _parsed(text: bytes, where: str) -> Any:
    try:
        return json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError as problem:
        raise ExampleError(f"{where}: not UTF-8 text: {problem}") from None
    except json.JSONDecodeError as problem:
        place = f"line {problem.lineno}, " if b"\n" in text.strip() else ""
        raise ExampleError(
            f"{where}: not JSON: {problem.msg} at {place}column {problem.colno}"
        ) from None
    except RecursionError:
        raise ExampleError(f"{where}: nested too deeply") from None


def _object(record: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(record, dict):
        raise ExampleError(f"{where}: expected an object with columns, got {str(record)[:60]!r}")
    return record


def _csv(path: Path) -> Iterator[Record]:
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        try:
            header = next(reader, None)
            if header is None:
                return
            twice = [name for at, name in enumerate(header) if name in header[:at]]
            if twice:
                raise ExampleError(f"{path.name}:1: column {twice[0]!r} stands there twice")
            for cells in reader:
                if not cells:
                    continue
                where = f"{path.name}:{reader.line_num}"
                if len(cells) != len(header):
                    raise ExampleError(
                        f"{where}: {len(cells)} cells, but the header has {len(header)}: a comma "
                        "or line break inside a cell needs quotes"
                    )
                # An empty cell is how CSV says nothing.
                yield where, {n: c or None for n, c in zip(header, cells, strict=True)}
        except csv.Error as problem:
            raise ExampleError(f"{path.name}:{reader.line_num}: not CSV: {problem}") from None
        except UnicodeDecodeError as problem:
            raise ExampleError(f"{path}: not UTF-8 text: {problem}") from None


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS):
                for record in batch.to_pylist():
                    yield f"{path.name}[{number}]", record
                    number += 1
    except (pa.ArrowInvalid, OSError) as problem:
        raise ExampleError(f"{path}: not a readable Parquet file: {problem}") from None


_READERS: Mapping[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}


def _hub(place: str) -> Records:
    name, *rest = place.split(":")
    config, split = (rest[0], rest[1]) if len(rest) == 2 else (None, rest[0] if rest else None)
    data = _loaded(name, config, split)
    if isinstance(data, dict):
        if len(data) > 1:
            raise ExampleError(
                f"{name} has the splits {', '.join(data)}: choose one, as in "
                f"{name}:{next(iter(data))}"
            )
        split, data = next(iter(data.items()))

    def read() -> Iterator[Record]:
        for number, record in enumerate(data):
            yield f"{place}[{number}]", record

    return Records(
        name=name,
        place=place,
        folder=None,
        count=len(data),
        read=read,
        digest=lambda: getattr(data, "_fingerprint", None),
        split=split,
    )


def _loaded(name: str, config: str | None, split: str | None) -> Any:
    """Return a data set, or a dict of them by split; images are left as bytes."""
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("questions from the Hub", "capture") from None
    try:
        data = datasets.load_dataset(name, config, split=split)
    except Exception as problem:
        kinds: set[str] = set()
        at: BaseException | None = problem
        while at is not None:
            kinds |= {each.__name__ for each in type(at).__mro__}
            at = at.__cause__ or at.__context__
        said = " ".join(str(problem).split())[:300]
        unreachable = {"OfflineModeIsEnabled", "ConnectError", "ConnectTimeout", "ConnectionError"}
        if kinds & unreachable or said.startswith("Couldn't reach"):
            raise OfflineError(
                f"{name}: no such file here, and the Hub cannot be reached ({said})"
            ) from None
        if "GatedRepoError" in kinds:
            raise AccessError(f"{name} is gated: accept its terms on the Hub and log in") from None
        if "DatasetNotFoundError" in kinds or "RepositoryNotFoundError" in kinds:
            raise RepositoryNotFoundError(
                f"{name}: no such file here and no such data set on the Hub, or no token opens it"
            ) from None
        if isinstance(problem, ValueError | OSError):
            raise ExampleError(f"{name}: {said}") from problem
        raise
    if isinstance(data, dict):
        return {each: _undecoded(table, datasets) for each, table in data.items()}
    return _undecoded(data, datasets)


def _undecoded(data: Any, datasets: Any) -> Any:
    for name, feature in data.features.items():
        if isinstance(feature, datasets.Image):
            data = data.cast_column(name, datasets.Image(decode=False))
    return data
