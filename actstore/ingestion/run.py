"""The ingest: files in, rows out, bad files named, everything or a whole part committed."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from actstore.errors import (
    ActstoreError,
    CommitError,
    ConflictError,
    CorruptStoreError,
    ForeignFileError,
    IngestError,
    RefusedError,
    UsageError,
)
from actstore.ingestion import contract as contracts
from actstore.ingestion import (
    discovery,
    fetching,
    inference,
    page_cache,
    precision,
    provenance,
    read_ahead,
    recipes,
    report,
    width_check,
)
from actstore.ingestion.conflicts import reason_of
from actstore.ingestion.discovery import Discovery
from actstore.ingestion.gate import Gate
from actstore.ingestion.inference import FolderMapping
from actstore.ingestion.label_table import Labels
from actstore.ingestion.options import IngestOptions, IngestSettings, Options, with_layer
from actstore.ingestion.readers import Context, Reader, create
from actstore.ingestion.recipe import Recipe
from actstore.ingestion.report import Group, IngestSummary, Progress, Refusal, Tally
from actstore.ingestion.sidecars import Sidecars
from actstore.ingestion.source_file import SourceFile
from actstore.ingestion.unmatched import damaged, without_sidecars
from actstore.storage import narrowing
from actstore.storage.manifest import Run
from actstore.storage.partition import StoredRows
from actstore.storage.rehearsal import Rehearsal
from actstore.storage.rows import RowBatch
from actstore.storage.source_dtypes import FormNotes
from actstore.storage.writer import CHECKPOINT_BYTES, StoreWriter

_NAMES = 100
"""Unmatched files that the summary names; the report names all."""

Source = str | Path


def ingest(
    sources: Source | Sequence[Source],
    store: str | Path,
    *,
    called: Mapping[Path, str] | None = None,
    confirm: Callable[[FolderMapping], bool] | None = None,
    confirm_replacing: Callable[[Sequence[StoredRows]], None] | None = None,
    confirm_parent: Callable[[Sequence[Path]], bool] | None = None,
    **options: Unpack[IngestOptions],
) -> IngestSummary:
    """Turn folders of activation files into rows of a store.

    The rows of one file are stored all or not at all. A file that cannot be read or does
    not fit is refused with its reason, and the others go on; the summary and a report in
    the store list them. Rows that the store already holds bit for bit are not stored
    again, so an ingest that was cut off is completed by running it again.

    Args:
        sources: folders or files.
        store: folder of the store, made when missing.
        called: what the record of the run calls a source, where that is not its path.
        options: fields of :class:`~actstore.ingestion.options.IngestSettings`; one by one:
        recipe: name of a built-in recipe, a TOML file, or None to detect the layout; ``folder``
            goes by paths, keys and shapes alone.
        model: hub id or path of the model, where the layout does not record it.
        dataset: data set of all rows.
        labels: csv, jsonl, json or parquet with a column ``label``.
        labels_on: schema columns by which ``labels`` is joined.
        site: site of all rows; aliases such as ``hook_resid_pre`` are understood.
        layer: layer of the rows for which the source records none; a source that records
            another one is refused.
        pool: ``last``, ``first``, ``mean`` or ``max`` over a token axis; None stores tokens.
        storage_dtype: ``float32``, ``float16`` or ``auto``; ``compact16`` or ``int8``, which
            round and say by how much; None keeps the source's type.
        allow_rounding: let ``storage_dtype`` round values; they are counted.
        allow_nonfinite: store NaN and infinity.
        contract: name or file of a contract that the rows must keep.
        first_k: only the first examples of each folder, or of each file that holds many.
        dry_run: do everything but write: what is skipped and refused is the same.
        strict: store nothing if any file is refused.
        sidecars: name of a recipe's sidecar: the file to read for it.
        allow_parent: folders outside of the sources from which tables that a recipe names may
            be read; without it nothing is read that does not really lie in its source.
        map: schema column: key or expression that says where the source holds it.
        progress: called after each file.
        layer_from: where a folder of no known layout has its layers: ``name``, ``folder1``,
            ``key1``, ``axis0``, ``entry``; ``key1-1`` counts from the embeddings, and
            ``key1=2,14,24`` lists the layers of the positions.
        example_from: likewise where it has its examples.
        yes: confirm what was guessed about the folder; nothing is stored by an unconfirmed guess.
        confirm: asked instead, where ``yes`` is not given.
        confirm_parent: shown tables that lie in folders above a source and belong to it by the
            recipe, says whether they may be read; ``yes`` does not answer that.
        confirm_replacing: called before rows are replaced, with those that would be; may raise.
        replace: rows whose key is stored with another vector take the place of the stored
            ones, in one commit with all others; without it the file is refused.

    Raises:
        UsageError: an option cannot work, the source does not exist, or a guess is unconfirmed.
        RecipeError: the recipe is malformed, or none or several fit.
        RefusedError: ``strict``, and files were refused; lists them.
        ContractError: the rows break the contract; lists every violation.
        CommitError: the store cannot be written.
    """
    chosen = IngestSettings(**options)
    read = chosen.options()
    recipe = chosen.recipe
    layer_from, example_from = chosen.layer_from, chosen.example_from
    hints = inference.hints(layer_from, example_from, site=read.site, layer=read.layer)
    undescribed = recipe == "folder"
    if recipe is not None and not undescribed and (layer_from or example_from):
        raise UsageError(
            "--layer-from and --example-from speak of a folder whose layout is found; a recipe "
            "says itself where things stand: leave them out, or --recipe"
        )
    on = chosen.labels_on
    names = [on] if isinstance(on, str) else list(on or ())
    table = Labels(Path(chosen.labels), names) if chosen.labels is not None else None
    rules = contracts.load(chosen.contract) if chosen.contract is not None else None
    paths = [Path(sources)] if isinstance(sources, str | Path) else [Path(each) for each in sources]
    gate = Gate.allowing(chosen.allow_parent)
    found = discovery.discover(
        paths,
        recipe=recipe
        if isinstance(recipe, Recipe)
        else recipes.load(recipe)
        if recipe and not undescribed
        else None,
        recipes=recipes.known().values(),
        options=read,
        hints=hints,
        undescribed=undescribed,
        gate=gate,
    )
    if confirm_parent is not None:
        beside = Sidecars(found.recipe, read.sidecars, gate).beside(found.files)
        if beside and confirm_parent(beside):
            gate = gate.also(beside)
    if not chosen.dry_run:
        found = replace(found, mapping=inference.confirmed(found.mapping, chosen.yes, confirm))
    return _Ingest(
        found=found,
        sources=[(called or {}).get(path, path) for path in paths],
        store=Path(store),
        options=read,
        gate=gate,
        labels=table,
        contract=rules,
        dry_run=chosen.dry_run,
        strict=chosen.strict,
        progress=chosen.progress,
        memory=page_cache.MappedPages(Path(store)),
        replace_stored=chosen.replace,
        confirm_replacing=confirm_replacing,
    ).run()


@dataclass(slots=True, kw_only=True)
class _Ingest:
    """One run."""

    found: Discovery
    sources: list[str | Path]
    store: Path
    options: Options
    gate: Gate
    labels: Labels | None
    contract: contracts.Contract | None
    dry_run: bool
    strict: bool
    progress: Callable[[Progress], None] | None
    memory: page_cache.MappedPages
    replace_stored: bool
    confirm_replacing: Callable[[Sequence[StoredRows]], None] | None

    def run(self) -> IngestSummary:
        started = time.monotonic()
        recipe = self.found.recipe
        run = provenance.describe(
            self.sources,
            recipe,
            self.options,
            labels=self.labels.path.name if self.labels else None,
            contract=self.contract.name if self.contract else None,
            strict=self.strict,
            guesses_confirmed_by=self.found.mapping.confirmed_by if self.found.mapping else None,
        )
        context = self._context(run)
        reader = create(recipe, context)
        files, refused, unmatched = self._arranged(reader)
        widths = width_check.usual_widths(self._trial_reader(), files)
        tally = Tally()
        counts: Counter[contracts.Count] = Counter()
        whole = self.strict or self.contract is not None or self.replace_stored
        with self._output(run, whole) as output:
            try:
                read = self._files(reader, files, widths, output, tally, counts, refused, unmatched)
            except (KeyboardInterrupt, *fetching.FAILED):
                # What is whole is kept; the same command goes on from there.
                if not (whole or self.dry_run):
                    output.commit(operation="ingest", message=f"{self._message()} (interrupted)")
                raise
            unmatched = without_sidecars(unmatched, self.found, context.sidecars)
            strays = damaged(self.found)
            refused += strays
            named = {refusal.path for refusal in strays}
            unmatched = [path for path in unmatched if path not in named]
            self._enforce(context, counts, refused)
            replaced = output.replaced()
            if self.confirm_replacing is not None and replaced:
                self.confirm_replacing(replaced)
            if not self.dry_run:
                output.commit(operation="ingest", message=self._message())
            commit = output.commits[-1] if output.commits else None
            tally.overtake(output.overtaken)
        notes = self._notes(context, tally, output.narrowing_note)
        summary = self._summary(run, tally, read, refused, unmatched, commit, notes)
        summary = replace(
            summary,
            rows_replaced=sum(len(each.rows) for each in replaced),
            seconds=round(time.monotonic() - started, 3),
        )
        if self.dry_run or not (summary.commit or refused):
            return summary
        path = report.write(self.store, run.run_id, summary.as_dict(), unmatched=unmatched)
        return replace(summary, report=path)

    def _context(self, run: Run | None = None) -> Context:
        return Context(
            recipe=self.found.recipe,
            options=self.options,
            sidecars=Sidecars(self.found.recipe, self.options.sidecars, self.gate),
            forms=FormNotes(None if run is None else run.settings),
            shapes={} if self.contract is not None else None,
        )

    def _trial_reader(self) -> Reader:
        reader = create(self.found.recipe, self._context())
        for files in _by_root(self.found.files):
            reader.arrange(files)
        return reader

    def _output(self, run: Run, whole: bool) -> StoreWriter:
        narrow = narrowing.narrow_of(self.options.storage_dtype)
        if self.dry_run:
            return Rehearsal(self.store, run=run, replace=self.replace_stored, narrow=narrow)
        return StoreWriter(
            self.store,
            run=run,
            checkpoint_bytes=None if whole else CHECKPOINT_BYTES,
            replace=self.replace_stored,
            narrow=narrow,
        )

    def _arranged(self, reader: Reader) -> tuple[list[SourceFile], list[Refusal], list[str]]:
        """Return the files to read, those that are refused unread, and the unmatched ones."""
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
        return files, refused, unmatched

    def _files(
        self,
        reader: Reader,
        files: Sequence[SourceFile],
        widths: width_check.Widths,
        output: StoreWriter,
        tally: Tally,
        counts: Counter[contracts.Count],
        refused: list[Refusal],
        unmatched: list[str],
    ) -> int:
        read = 0
        foreign: list[Refusal] = []
        done = Progress(
            files=0,
            files_total=len(files),
            bytes=0,
            bytes_total=sum(file.size for file in files),
            rows=0,
        )
        with closing(read_ahead.ahead(self.found.recipe, files)) as opened:
            for loaded in opened:
                try:
                    reason = self._file(reader, loaded, widths, output, tally, counts)
                except ForeignFileError as error:
                    foreign.append(Refusal(loaded.file.relative, str(error)))
                else:
                    if reason is None:
                        read += 1
                        output.checkpoint()
                    else:
                        refused.append(Refusal(loaded.file.relative, reason))
                done = replace(
                    done,
                    files=done.files + 1,
                    bytes=done.bytes + loaded.file.size,
                    rows=tally.written + tally.present + tally.repeated,
                )
                if self.progress is not None:
                    self.progress(done)
        if read:
            unmatched += [refusal.path for refusal in foreign]
        else:  # nothing but foreign files: the user should learn why
            refused += foreign
        return read

    def _file(
        self,
        reader: Reader,
        loaded: read_ahead.Loaded,
        widths: width_check.Widths,
        output: StoreWriter,
        tally: Tally,
        counts: Counter[contracts.Count],
    ) -> str | None:
        """Store the rows of one file; return why it is refused, or None."""
        own = Tally()
        kept: Counter[contracts.Count] = Counter()
        narrow = narrowing.narrow_of(self.options.storage_dtype)
        stored_as = None if narrow is None else narrowing.HELD[narrow]
        try:
            if loaded.error is not None:
                raise loaded.error
            with output.file():
                for batch in _reading(reader.read(loaded.file, loaded.document)):
                    loaded.check_unchanged()  # before it is copied out of the map
                    ready = self._ready(batch, own)
                    widths.check(ready)
                    own.add(ready, output.add(ready), stored_as)
                    self.memory.read(loaded.file.content, ready.vectors.nbytes)
                    if self.contract is not None:
                        kept.update(contracts.count_rows(ready))
                loaded.check_unchanged()
        except (CommitError, CorruptStoreError, ForeignFileError):
            raise
        except ConflictError as error:
            return reason_of(error, self.found)
        except ActstoreError as error:
            if fetching.ends_the_run(error):
                raise
            return _reason(error, loaded.file)
        except (_ReadingError, MemoryError) as error:
            return _reason(error.__cause__ or error, loaded.file)
        except OSError as error:
            if loaded.error is None:  # the store's disk, not the source's
                raise CommitError(f"{self.store}: cannot be written: {error}") from error
            return _reason(error, loaded.file)
        tally.merge(own)
        counts.update(kept)
        return None

    def _ready(self, batch: RowBatch, tally: Tally) -> RowBatch:
        """Return the batch as it is stored: type, layer, labels."""

        def describe(row: int) -> str:
            def value(name: str) -> Any:
                column = batch.columns.get(name)
                return batch.constants.get(name) if column is None else column[row]

            return f"{value('source')} (example {value('example_id')}, layer {value('layer')})"

        stored = precision.stored(batch.vectors, self.options, describe)
        tally.rounded += stored.rounded
        tally.nonfinite += stored.nonfinite
        if stored.vectors is not batch.vectors:
            batch = RowBatch(
                vectors=stored.vectors, constants=batch.constants, columns=batch.columns
            )
        if self.options.layer is not None:
            batch = with_layer(batch, self.options.layer)
        return self.labels.apply(batch) if self.labels is not None else batch

    def _enforce(
        self,
        context: Context,
        counts: Counter[contracts.Count],
        refused: Sequence[Refusal],
    ) -> None:
        if self.strict and refused:
            raise RefusedError([(refusal.path, refusal.reason) for refusal in refused])
        if self.contract is not None:
            contracts.enforce(
                self.contract,
                (count._replace(rows=rows) for count, rows in counts.items()),
                (contracts.Shape(key, *shape) for key, shape in (context.shapes or {}).items()),
            )

    def _message(self) -> str:
        names = ", ".join(Path(each).name or str(each) for each in self.sources[:3])
        more = f" and {len(self.sources) - 3} more" if len(self.sources) > 3 else ""
        return f"ingest {names}{more} ({self.found.recipe.name})"

    def _recipe_notes(self) -> list[str]:
        return [
            note.text
            for note in self.found.recipe.notes
            if note.files is None
            or any(note.files.match_tail(entry.relative) for entry in self.found.others)
        ]

    def _notes(self, context: Context, tally: Tally, rounded: str | None) -> tuple[str, ...]:
        notes = [*self._recipe_notes(), *context.notes.all(), *context.sidecars.notes()]
        if self.labels is not None:
            notes.append(
                f"labels from {self.labels.path.name}: {self.labels.found:,} of "
                f"{self.labels.asked:,} rows have one"
            )
        if tally.differing:
            notes.append(
                f"{tally.differing:,} rows are stored already, with another label; "
                "`actstore label` changes labels"
            )
        mapping = self.found.mapping
        if mapping is not None and mapping.confirmed_by is not None:
            notes += [
                f"guessed, and confirmed by {mapping.confirmed_by}: {each}"
                for each in mapping.guessed()
            ]
        if any(group.site == "unknown" for group in tally.groups):
            notes.append("the site is not recorded and stored as 'unknown'; name it with --site")
        named = sorted({group.site for group in tally.groups if _may_hold_layer(group)})
        if named:
            notes.append(
                f"no layer is recorded of {', '.join(named[:5])}: stored as sites of these names; "
                "where the number is the layer, say so: --recipe folder --layer-from key1, or "
                "--map activation=NAME --site NAME --layer N, one after the other"
            )
        if tally.rounded:
            wish = self.options.storage_dtype
            to = "float32" if narrowing.narrow_of(wish) else wish
            notes.append(f"{tally.rounded:,} values were rounded to {to}")
        if rounded is not None:
            notes.append(rounded)
        if tally.nonfinite:
            notes.append(f"{tally.nonfinite:,} values are NaN or infinite")
        if links := self.found.links:
            more = f" and {len(links) - 3:,} more" if len(links) > 3 else ""
            notes.append(
                "links that lead out of the source are not followed (name one as a SOURCE of "
                f"its own): {', '.join(links[:3])}{more}"
            )
        return tuple(notes)

    def _summary(
        self,
        run: Run,
        tally: Tally,
        read: int,
        refused: Sequence[Refusal],
        unmatched: Sequence[str],
        commit: int | None,
        notes: tuple[str, ...],
    ) -> IngestSummary:
        groups = tally.groups
        return IngestSummary(
            recipe=self.found.recipe.name,
            detected=self.found.detected,
            run_id=run.run_id,
            dry_run=self.dry_run,
            files_read=read,
            rows_written=tally.written,
            rows_present=tally.present,
            rows_repeated=tally.repeated,
            refused=tuple(refused),
            unmatched=tuple(unmatched[:_NAMES]),
            unmatched_count=len(unmatched),
            commit=commit,
            seconds=0.0,
            bytes=tally.bytes,
            models=tuple(sorted({group.model for group in groups})),
            datasets=dict(sorted(tally.datasets.items())),
            layers=report.layers_in_order({group.layer for group in groups}),
            sites=tuple(sorted({group.site for group in groups})),
            widths=tuple(sorted({group.width for group in groups})),
            labels=dict(sorted(tally.labels.items())),
            groups=report.group_rows(groups),
            first_row=tally.first_row,
            sample_rows=tally.sample_rows,
            mapping=self.found.mapping,
            notes=notes,
            report=None,
        )


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


def _may_hold_layer(group: Group) -> bool:
    """Say whether a site is a name that ends in a number, and no layer is known."""
    return group.layer is None and re.search(r"[^0-9]\d+$", group.site) is not None


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
