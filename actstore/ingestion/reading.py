"""Reads source files one after the other, and adds their rows to a writer: a file whole, or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from actstore.errors import (
    ActstoreError,
    CommitError,
    ConflictError,
    CorruptStoreError,
    ForeignFileError,
    IngestError,
    ReadError,
)
from actstore.ingestion import contract as contracts
from actstore.ingestion import discovery, fetching, page_cache, precision, read_ahead, width_check
from actstore.ingestion.conflicts import reason_of
from actstore.ingestion.discovery import Discovery
from actstore.ingestion.gate import Gate
from actstore.ingestion.label_table import Labels
from actstore.ingestion.options import Options, with_layer
from actstore.ingestion.read_ahead import open_file
from actstore.ingestion.readers import Context, Reader, create
from actstore.ingestion.report import Progress, Refusal, Tally
from actstore.ingestion.sidecars import Sidecars
from actstore.ingestion.source_file import SourceFile
from actstore.storage import narrowing
from actstore.storage.rows import RowBatch
from actstore.storage.source_dtypes import FormNotes
from actstore.storage.writer import StoreWriter


@dataclass(frozen=True, slots=True)
class Arranged:
    """The files of a source, as a reader has ordered them."""

    files: list[SourceFile]
    """The ones to read."""
    refused: list[Refusal]
    """The ones that are refused unread."""
    unmatched: list[str]


@dataclass(slots=True)
class Outcome:
    """What came of some files."""

    read: int = 0
    tally: Tally = field(default_factory=Tally)
    counts: Counter[contracts.Count] = field(default_factory=Counter)
    refused: list[Refusal] = field(default_factory=list)
    foreign: list[Refusal] = field(default_factory=list)
    """Files of another kind than the recipe's."""

    def merge(self, other: Outcome) -> None:
        """Add what came of further files."""
        self.read += other.read
        self.tally.merge(other.tally)
        self.counts.update(other.counts)
        self.refused += other.refused
        self.foreign += other.foreign


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How the files of an ingest are read; the same in every process that has a part in it."""

    found: Discovery
    options: Options
    gate: Gate
    labels: Labels | None
    contracted: bool
    """Whether rows and shapes are counted for a contract."""

    def context(self, forms: FormNotes | None = None) -> Context:
        """Return what a new reader may use."""
        return Context(
            recipe=self.found.recipe,
            options=self.options,
            sidecars=Sidecars(self.found.recipe, self.options.sidecars, self.gate),
            forms=FormNotes() if forms is None else forms,
            shapes={} if self.contracted else None,
        )

    def arranged(self, reader: Reader) -> Arranged:
        """Let a reader order the files."""
        files: list[SourceFile] = []
        refused: list[Refusal] = []
        unmatched: list[str] = []
        for group in _by_root(self.found.files):
            arranged = reader.arrange(group)
            files += arranged.files
            refused += [Refusal(path, reason) for path, reason in arranged.refused]
            unmatched += arranged.unmatched
        unmatched += [entry.relative for entry in self.found.others]
        if self.options.first_k is not None:
            files = discovery.first_examples(files, self.options.first_k, reader.one_each)
        return Arranged(files, refused, unmatched)

    def looked_ahead(self, files: Sequence[SourceFile]) -> Mapping[str, Any]:
        """Return what readers must know of all files that read some of them: JSON values."""
        reader = create(self.found.recipe, self.context())
        self.arranged(reader)
        return reader.look_ahead(files, partial(open_file, self.found.recipe))

    def usual_widths(self, files: Sequence[SourceFile]) -> width_check.Widths:
        """Look at a few files first, with a reader of their own.

        Raises:
            UsageError: see :func:`actstore.ingestion.width_check.usual_widths`.
        """
        reader = create(self.found.recipe, self.context())
        for group in _by_root(self.found.files):
            reader.arrange(group)
        return width_check.usual_widths(reader, files)


class FileReader:
    """Reads files in one process.

    Args:
        reading: how.
        reader: has arranged the files.
        widths: what most files hold.
        output: takes the rows.
    """

    def __init__(
        self, reading: Reading, reader: Reader, widths: width_check.Widths, output: StoreWriter
    ) -> None:
        self._reading = reading
        self._reader = reader
        self._widths = widths
        self._output = output
        self._memory = page_cache.MappedPages(output.root)
        narrow = narrowing.narrow_of(reading.options.storage_dtype)
        self._stored_as = None if narrow is None else narrowing.HELD[narrow]

    def read(
        self, files: Sequence[SourceFile], progress: Callable[[Progress], None] | None = None
    ) -> Outcome:
        """Add the rows of some files; say what came of them.

        Raises:
            CommitError: the store cannot be written.
            CorruptStoreError: it is damaged.
            ReadError: it cannot be read.
            HubError: the repository that they are fetched from cannot be reached.
        """
        outcome = Outcome()
        outside = self._reader.context.sidecars.outside
        done = Progress(
            files=0,
            files_total=len(files),
            bytes=0,
            bytes_total=sum(file.size for file in files),
            rows=0,
        )
        with closing(read_ahead.ahead(self._reading.found.recipe, files)) as opened:
            for loaded in opened:
                try:
                    reason = self._file(loaded, outcome)
                except ForeignFileError as error:
                    outcome.foreign.append(Refusal.of(loaded.file, str(error), outside))
                else:
                    if reason is None:
                        outcome.read += 1
                        self._output.checkpoint()
                    else:
                        outcome.refused.append(Refusal.of(loaded.file, reason, outside))
                done = replace(
                    done,
                    files=done.files + 1,
                    bytes=done.bytes + loaded.file.size,
                    rows=outcome.tally.rows,
                )
                if progress is not None:
                    progress(done)
        return outcome

    def _file(self, loaded: read_ahead.Loaded, outcome: Outcome) -> str | None:
        """Store the rows of one file; return why it is refused, or None."""
        own = Tally()
        kept: Counter[contracts.Count] = Counter()
        try:
            if loaded.error is not None:
                raise loaded.error
            with self._output.file():
                for batch in _reading(self._reader.read(loaded.file, loaded.document)):
                    loaded.check_unchanged()  # before it is copied out of the map
                    ready = self._ready(batch, own)
                    self._widths.check(ready)
                    own.add(ready, self._output.add(ready), self._stored_as)
                    self._memory.read(loaded.file.content, ready.vectors.nbytes)
                    if self._reading.contracted:
                        kept.update(contracts.count_rows(ready))
                loaded.check_unchanged()
        except (CommitError, CorruptStoreError, ReadError, ForeignFileError):
            raise
        except ConflictError as error:
            return reason_of(error, self._reading.found)
        except ActstoreError as error:
            if fetching.ends_the_run(error):
                raise
            return _reason(error, loaded.file)
        except (_ReadingError, MemoryError) as error:
            return _reason(error.__cause__ or error, loaded.file)
        except OSError as error:
            if loaded.error is None:  # the store's disk, not the source's
                raise CommitError(f"{self._output.root}: cannot be written: {error}") from error
            return _reason(error, loaded.file)
        outcome.tally.merge(own)
        outcome.counts.update(kept)
        return None

    def _ready(self, batch: RowBatch, tally: Tally) -> RowBatch:
        """Return the batch as it is stored: type, layer, labels."""
        options, labels = self._reading.options, self._reading.labels

        def describe(row: int) -> str:
            def value(name: str) -> Any:
                column = batch.columns.get(name)
                return batch.constants.get(name) if column is None else column[row]

            return f"{value('source')} (example {value('example_id')}, layer {value('layer')})"

        stored = precision.stored(batch.vectors, options, describe)
        tally.rounded += stored.rounded
        tally.nonfinite += stored.nonfinite
        if stored.vectors is not batch.vectors:
            batch = RowBatch(
                vectors=stored.vectors, constants=batch.constants, columns=batch.columns
            )
        if options.layer is not None:
            batch = with_layer(batch, options.layer)
        return labels.apply(batch) if labels is not None else batch


class _ReadingError(Exception):
    """Something about the source failed; the cause says what."""


def _reading(batches: Iterator[RowBatch]) -> Iterator[RowBatch]:
    """Mark what fails while reading, so that the store's own failures are told from it."""
    while True:
        try:
            batch = next(batches, None)
        except OSError as error:
            raise _ReadingError from error
        if batch is None:
            return
        yield batch


def _by_root(files: Sequence[SourceFile]) -> list[list[SourceFile]]:
    groups: dict[Path, list[SourceFile]] = {}
    for file in files:
        groups.setdefault(file.root, []).append(file)
    return list(groups.values())


def _reason(error: BaseException, file: SourceFile) -> str:
    if isinstance(error, MemoryError):
        return f"not enough memory to read it ({file.size:,} bytes on disk)"
    if isinstance(error, OSError) and not isinstance(error, ActstoreError):
        return f"cannot be read: {error.strerror or error}"
    if isinstance(error, IngestError) and error.path == file.path:
        return error.reason
    return str(error)
