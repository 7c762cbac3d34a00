"""Pieces of an ingest: files that follow one another and are stored as one, and which are done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc

from actstore import paths
from actstore.ingestion import fetching
from actstore.ingestion.readers import Context
from actstore.ingestion.reading import Reading
from actstore.ingestion.source_file import SourceFile
from actstore.storage import manifest as manifests
from actstore.storage import shard_columns
from actstore.storage.manifest import Run
from actstore.storage.source_dtypes import SETTING as FORMS
from actstore.wording import counted
from actstore.workers.handing import Numbered

SETTING = "pieces"
"""Where a run's record names its finished pieces."""
_FILE = 4 << 20
"""Opening and describing a file takes about as long as reading so many bytes more."""
_LEAST = 64 << 20
_MOST = 1 << 30
"""A piece weighs between these, files and bytes together."""
_WANTED = 64
"""Pieces that a large source has at least: enough for many workers to end together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece(Numbered):
    """Some files."""

    files: Sequence[SourceFile]
    digest: str
    """Of what is in them, as far as sizes and times tell, and of all that decides their rows."""

    place: int
    """Its place among all, also where only some are left."""

    @property
    def name(self) -> str:
        """What a draft calls it: several may have one digest."""
        return f"{self.place}-{self.digest}"

    @property
    def bytes(self) -> int:
        """Bytes of the files."""
        return sum(file.size for file in self.files)

    def __str__(self) -> str:
        return (
            f"piece {self.number} ({counted(len(self.files), 'file')}, from "
            f"{self.files[0].relative} on)"
        )


class Finished(NamedTuple):
    """What is known of a piece that is stored."""

    files: int
    rows: int


def cut(
    files: Sequence[SourceFile],
    fingerprint: str,
    together: Callable[[SourceFile], Hashable] = lambda file: file.content,
) -> Iterator[Piece]:
    """Cut files, in their order, into pieces that do not depend on who reads them.

    Args:
        files: all that are read.
        fingerprint: see :func:`fingerprint`.
        together: what a file shares with those that it must not be parted from.
    """
    total = sum(file.size + _FILE for file in files)
    most = _LEAST
    while most < _MOST and most * _WANTED < total:
        most *= 2
    number, weight = 0, 0
    some: list[SourceFile] = []
    for _, group in groupby(files, key=together):
        unit = list(group)
        more = sum(file.size + _FILE for file in unit)
        if some and weight + more > most:
            yield Piece(number=number, place=number, files=some, digest=_digest(some, fingerprint))
            number, weight, some = number + 1, 0, []
        some += unit
        weight += more
    if some:
        yield Piece(number=number, place=number, files=some, digest=_digest(some, fingerprint))


def fingerprint(
    run: Run, reading: Reading, context: Context, further: Mapping[str, Any] | None = None
) -> str:
    """Return a hash of what decides a file's rows beside the file: options, recipe, tables.

    Every file of the source that is none of the recipe's counts as a table: it may be one.

    Args:
        run: its settings and versions count.
        reading: how files are read.
        context: of a reader that has ordered them.
        further: what else decides them, as JSON values.
    """
    found, labels = reading.found, reading.labels
    tables = {entry.path for entry in found.others}
    tables.update(context.sidecars.paths(found.files), reading.options.sidecars.values())
    if labels is not None:
        tables.add(labels.path)
    settings = {name: value for name, value in run.settings.items() if name != FORMS}
    seen = [(fetching.called(path), _seen(path)) for path in sorted(tables)]
    text = json.dumps([settings, run.versions, seen, further or {}], default=str, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _digest(files: Iterable[SourceFile], fingerprint: str) -> str:
    found = [(file.relative, file.cache, _seen(file.content)) for file in files]
    text = json.dumps([fingerprint, found])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _seen(path: Path) -> list[tuple[str, str]] | list[tuple[int, int]]:
    """Return size and time of a file, or of all files of a folder; nothing where it is gone.

    Of what lies elsewhere, what its place says.
    """
    if (known := fetching.version(path)) is not None:
        return known
    try:
        return [(state.size, state.modified) for state in paths.states(path)]
    except OSError:
        return []


def recorded(fingerprint: str, done: Mapping[str, Finished], rows: int) -> dict[str, Any]:
    """Return what a run's record keeps: the pieces that it has finished, and its rows so far."""
    counts = {digest: list(each) for digest, each in done.items()}
    return {"of": fingerprint, "rows": rows, "done": counts}


def finished(root: Path, fingerprint: str) -> dict[str, tuple[str, Finished]]:
    """Return the pieces that earlier runs have finished, each with its run.

    A run counts as long as all rows that it has stored are there.
    """
    manifest = manifests.latest(root)
    runs = {
        run.run_id: record
        for run in manifest.runs
        if isinstance(record := run.settings.get(SETTING), dict) and record["of"] == fingerprint
    }
    if not runs:
        return {}
    rows = dict.fromkeys(runs, 0)
    for entry in manifest.shards:
        column = shard_columns.read_columns(root, entry, ["run_id"])["run_id"]
        for each in pc.value_counts(column).to_pylist():
            if each["values"] in rows:
                rows[each["values"]] += each["counts"]
    return {
        digest: (name, Finished(*counts))
        for name, record in runs.items()
        if rows[name] >= record["rows"]
        for digest, counts in record["done"].items()
    }
