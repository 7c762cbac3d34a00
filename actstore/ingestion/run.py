"""The ingest: files in, rows out, bad files named, everything or a whole part committed."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

from actstore.errors import RefusedError, UsageError
from actstore.ingestion import contract as contracts
from actstore.ingestion import (
    discovery,
    fetching,
    inference,
    provenance,
    recipes,
    report,
    width_check,
)
from actstore.ingestion.gate import Gate
from actstore.ingestion.inference import FolderMapping
from actstore.ingestion.label_table import Labels
from actstore.ingestion.options import IngestOptions, IngestSettings
from actstore.ingestion.readers import Context, Reader, create
from actstore.ingestion.reading import Arranged, FileReader, Outcome, Reading
from actstore.ingestion.recipe import Recipe
from actstore.ingestion.report import Group, IngestSummary, Refusal
from actstore.ingestion.sidecars import Sidecars
from actstore.ingestion.unmatched import damaged, without_sidecars
from actstore.remote.mirror import Mirror
from actstore.storage import narrowing
from actstore.storage.manifest import Run
from actstore.storage.partition import StoredRows
from actstore.storage.rehearsal import Rehearsal
from actstore.storage.rows import Narrow
from actstore.storage.source_dtypes import FormNotes
from actstore.storage.writer import CHECKPOINT_BYTES, StoreWriter
from actstore.wording import counted

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
    mirrors: Sequence[Mirror] = (),
    place: str | Path | None = None,
    note: Callable[[str], None] = lambda text: None,
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
        engine: ``local``, or ``ray``: the workers of a cluster read the files.
        workers: how many of them.
        address: of the cluster; when missing, ``RAY_ADDRESS``, or a Ray of this machine, which is
            started if there is none.
        mirrors: sources that lie elsewhere; the folders among ``sources`` stand for them here.
        place: where the store really is, as workers on other machines name it: its folder, or
            its address in a bucket that ``store`` stands for.
        note: told what the user should know while the workers read.

    Raises:
        UsageError: an option cannot work, the source does not exist, or a guess is unconfirmed.
        RecipeError: the recipe is malformed, or none or several fit.
        RefusedError: ``strict``, and files were refused; lists them.
        ContractError: the rows break the contract; lists every violation.
        CommitError: the store cannot be written.
    """
    chosen = IngestSettings(**options)
    read = chosen.options()
    chosen.check_engine()
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
    reading = Reading(
        found=found, options=read, gate=gate, labels=table, contracted=rules is not None
    )
    return _Ingest(
        reading=reading,
        sources=[(called or {}).get(path, path) for path in paths],
        store=Path(store),
        mirrors=mirrors,
        place=Path(store).resolve() if place is None else place,
        contract=rules,
        chosen=chosen,
        confirm_replacing=confirm_replacing,
        note=note,
    ).run()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """What came of all files."""

    outcome: Outcome
    refused: tuple[Refusal, ...]
    unmatched: Sequence[str]
    commit: int | None = None
    replaced: int = 0
    rounded: str | None = None
    """What values lost on their way into a smaller type."""
    notes: Sequence[str] = ()
    continued: tuple[str, ...] = ()
    run: Run | None = None
    """Whose rows these are, where that is one that an earlier process has begun."""


@dataclass(slots=True, kw_only=True)
class _Ingest:
    """One run."""

    reading: Reading
    sources: list[str | Path]
    store: Path
    mirrors: Sequence[Mirror]
    place: str | Path
    contract: contracts.Contract | None
    chosen: IngestSettings
    confirm_replacing: Callable[[Sequence[StoredRows]], None] | None
    note: Callable[[str], None]

    def run(self) -> IngestSummary:
        started = time.monotonic()
        found, labels = self.reading.found, self.reading.labels
        run = provenance.describe(
            self.sources,
            found.recipe,
            self.reading.options,
            labels=labels.path.name if labels else None,
            contract=self.contract.name if self.contract else None,
            strict=self.chosen.strict,
            guesses_confirmed_by=found.mapping.confirmed_by if found.mapping else None,
        )
        context = self.reading.context(FormNotes(run.settings))
        reader = create(found.recipe, context)
        arranged = self.reading.arranged(reader)
        widths = self.reading.usual_widths(arranged.files)
        if self.chosen.engine == "ray" and not self.chosen.dry_run:
            done = self._by_ray(run, reader, arranged, widths)
        else:
            self._tell_pieces(reader, arranged)
            done = self._here(run, reader, arranged, widths)
        run = done.run or run
        seconds = round(time.monotonic() - started, 3)
        summary = replace(self._summary(run, context, done), seconds=seconds)
        if self.chosen.dry_run or not (summary.commit or summary.refused):
            return summary
        path = report.write(self.store, run.run_id, summary.as_dict(), unmatched=done.unmatched)
        return replace(summary, report=path)

    def _here(
        self, run: Run, reader: Reader, arranged: Arranged, widths: width_check.Widths
    ) -> _Done:
        """Read all files in this process."""
        chosen, context, whole = self.chosen, reader.context, self._whole
        with self._output(run, whole) as output:
            try:
                outcome = FileReader(self.reading, reader, widths, output).read(
                    arranged.files, chosen.progress
                )
            except (KeyboardInterrupt, *fetching.FAILED):
                # What is whole is kept; the same command goes on from there.
                if not (whole or chosen.dry_run):
                    output.commit(operation="ingest", message=f"{self._message()} (interrupted)")
                raise
            replaced = output.replaced()
            done = self._agreed(outcome, arranged, context, replaced)
            if not chosen.dry_run:
                output.commit(operation="ingest", message=self._message())
            outcome.tally.overtake(output.overtaken)
        return replace(
            done,
            commit=output.commits[-1] if output.commits else None,
            replaced=sum(len(each.rows) for each in replaced),
            rounded=output.narrowing_note,
        )

    def _by_ray(
        self, run: Run, reader: Reader, arranged: Arranged, widths: width_check.Widths
    ) -> _Done:
        """Let the workers of a cluster read them."""
        from actstore.ingestion.workers.ray_engine import Whole, ingest_with_ray

        def agree(outcome: Outcome, replaced: Sequence[StoredRows]) -> None:
            self._agreed(outcome, arranged, reader.context, replaced)

        assert self.chosen.workers is not None
        made = ingest_with_ray(
            self.reading,
            reader,
            arranged.files,
            widths,
            run=run,
            place=self.place,
            root=self.store,
            message=self._message(),
            workers=self.chosen.workers,
            address=self.chosen.address,
            whole=Whole(agree=agree, replace=self.chosen.replace) if self._whole else None,
            mirrors=self.mirrors,
            progress=self.chosen.progress,
            note=self.note,
        )
        done = self._done(made.outcome, arranged, reader.context)
        return replace(
            done,
            commit=made.commit,
            rounded=made.rounded,
            notes=made.notes,
            continued=made.continued,
            replaced=made.replaced,
            run=made.run,
        )

    def _tell_pieces(self, reader: Reader, arranged: Arranged) -> None:
        """Say how a cluster would divide the files, where this is its rehearsal."""
        if self.chosen.engine != "ray":
            return
        from actstore.ingestion.workers.pieces import cut

        pieces = sum(1 for _ in cut(arranged.files, "", reader.together))
        self.note(
            f"note: --dry-run reads in this process; --engine ray would cut the files into "
            f"{counted(pieces, 'piece')} for {counted(self.chosen.workers or 0, 'worker')}"
        )

    def _agreed(
        self,
        outcome: Outcome,
        arranged: Arranged,
        context: Context,
        replaced: Sequence[StoredRows],
    ) -> _Done:
        """Say what came of all files, if it may be stored.

        Raises:
            RefusedError, ContractError: it may not.
        """
        done = self._done(outcome, arranged, context)
        self._enforce(context, outcome.counts, done.refused)
        if self.confirm_replacing is not None and replaced:
            self.confirm_replacing(replaced)
        return done

    def _done(self, outcome: Outcome, arranged: Arranged, context: Context) -> _Done:
        """Say what came of all files."""
        found = self.reading.found
        unseen = [Refusal(path, reason) for path, reason in found.refused]
        refused = [*unseen, *arranged.refused, *outcome.refused]
        unmatched = list(arranged.unmatched)
        if outcome.read:
            unmatched += [refusal.path for refusal in outcome.foreign]
        else:  # nothing but foreign files: the user should learn why
            refused += outcome.foreign
        unmatched = without_sidecars(unmatched, found, context.sidecars)
        strays = damaged(found)
        named = {refusal.path for refusal in strays}
        return _Done(
            outcome=outcome,
            refused=(*refused, *strays),
            unmatched=[path for path in unmatched if path not in named],
        )

    @property
    def _whole(self) -> bool:
        """Whether all is stored or nothing."""
        return self.chosen.strict or self.contract is not None or self.chosen.replace

    @property
    def _narrow(self) -> Narrow | None:
        return narrowing.narrow_of(self.reading.options.storage_dtype)

    def _output(self, run: Run, whole: bool) -> StoreWriter:
        if self.chosen.dry_run:
            return Rehearsal(self.store, run=run, replace=self.chosen.replace, narrow=self._narrow)
        return StoreWriter(
            self.store,
            run=run,
            checkpoint_bytes=None if whole else CHECKPOINT_BYTES,
            replace=self.chosen.replace,
            narrow=self._narrow,
        )

    def _enforce(
        self,
        context: Context,
        counts: Counter[contracts.Count],
        refused: Sequence[Refusal],
    ) -> None:
        if self.chosen.strict and refused:
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
        return f"ingest {names}{more} ({self.reading.found.recipe.name})"

    def _recipe_notes(self) -> list[str]:
        found = self.reading.found
        return [
            note.text
            for note in found.recipe.notes
            if note.files is None
            or any(note.files.match_tail(entry.relative) for entry in found.others)
        ]

    def _notes(self, context: Context, done: _Done) -> tuple[str, ...]:
        found, labels, tally = self.reading.found, self.reading.labels, done.outcome.tally
        notes = [
            *self._recipe_notes(),
            *context.notes.all(),
            *context.sidecars.notes(),
            *done.notes,
        ]
        if labels is not None:
            notes.append(
                f"labels from {labels.path.name}: {labels.found:,} of "
                f"{labels.asked:,} rows have one"
            )
        if tally.differing:
            notes.append(
                f"{tally.differing:,} rows are stored already, with another label; "
                "`actstore label` changes labels"
            )
        mapping = found.mapping
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
            wish = self.reading.options.storage_dtype
            to = "float32" if narrowing.narrow_of(wish) else wish
            notes.append(f"{tally.rounded:,} values were rounded to {to}")
        if done.rounded is not None:
            notes.append(done.rounded)
        if tally.nonfinite:
            notes.append(f"{tally.nonfinite:,} values are NaN or infinite")
        if links := found.links:
            more = f" and {len(links) - 3:,} more" if len(links) > 3 else ""
            notes.append(
                "links that lead out of the source are not followed (name one as a SOURCE of "
                f"its own): {', '.join(links[:3])}{more}"
            )
        return tuple(notes)

    def _summary(self, run: Run, context: Context, done: _Done) -> IngestSummary:
        tally = done.outcome.tally
        groups = tally.groups
        return IngestSummary(
            recipe=self.reading.found.recipe.name,
            detected=self.reading.found.detected,
            run_id=run.run_id,
            dry_run=self.chosen.dry_run,
            files_read=done.outcome.read,
            rows_written=tally.written,
            rows_present=tally.present,
            rows_repeated=tally.repeated,
            rows_replaced=done.replaced,
            continued=done.continued,
            refused=done.refused,
            unmatched=tuple(done.unmatched[:_NAMES]),
            unmatched_count=len(done.unmatched),
            commit=done.commit,
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
            mapping=self.reading.found.mapping,
            notes=self._notes(context, done),
            report=None,
        )


def _may_hold_layer(group: Group) -> bool:
    """Say whether a site is a name that ends in a number, and no layer is known."""
    return group.layer is None and re.search(r"[^0-9]\d+$", group.site) is not None
