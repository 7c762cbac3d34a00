"""One worker of an ingest: reads the files of a piece, and stores their rows when told to."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from actstore.errors import ConflictError, LayoutError
from actstore.ingestion import fetching
from actstore.ingestion.readers import Notes, create
from actstore.ingestion.reading import FileReader, Outcome, Reading
from actstore.ingestion.width_check import Widths
from actstore.ingestion.workers.answers import Kept, Read, Ready, Stored
from actstore.ingestion.workers.draft import DraftPlace, stored_of
from actstore.ingestion.workers.pieces import SETTING, Finished, Piece, recorded
from actstore.remote.bucket_address import is_bucket
from actstore.remote.mirror import Mirror, Place, mirrored, named
from actstore.remote.working import working
from actstore.storage import manifest as manifests
from actstore.storage import narrowing
from actstore.storage.drafting import AlreadyThereError, DraftWriter, parts_of
from actstore.storage.manifest import Run
from actstore.storage.piece_writer import PieceWriter
from actstore.storage.source_dtypes import FormNotes
from actstore.storage.staging import is_held
from actstore.workers.cluster import sendable
from actstore.workers.moving import moved

_TRIES = 5
"""Readings of a piece whose rows others bring in other versions meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What all workers of an ingest are told."""

    store: Path | str
    """Its folder, which all workers see, or its address in a bucket."""
    folder: Path
    """Where relative paths start."""
    places: Sequence[Place] = ()
    """Where sources lie that no folder holds."""
    names: Mapping[Path, Path] = field(default_factory=dict)
    """What stands for folders in what is kept."""
    sign: Path = Path()
    """A staging folder of the store, held by who hands the work out."""
    reading: Reading
    widths: Widths
    run: Run
    """Whose rows these are."""
    fingerprint: str
    message: str
    """What the log says of the commits."""
    seen: Mapping[str, Any] = field(default_factory=dict)
    """What readers must know of all files."""
    draft: DraftPlace | None = None
    """Where pieces wait for the commit of all; None: each is committed to the store."""
    replace: bool = False
    """Whether rows take the place of stored ones."""


class _Forms(FormNotes):
    """Keeps what is noted, to be noted where all pieces come together."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[str, str, Mapping[str, Any]]] = []

    def note(self, source: str, *, kind: str = "", **form: Any) -> None:
        self.noted.append((source, kind, form))


class Worker:
    """Reads pieces and stores them."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._opened = contextlib.ExitStack()
        self._forms = _Forms()
        self._output: PieceWriter | None = None
        self._own: set[str] = set()
        self._said: dict[str, None] = {}
        self._mirrors: list[Mirror] = []
        """The places where sources lie, as this process has them."""

    def ready(self) -> Ready:
        """Order the files, as a reader must before it reads one.

        Raises:
            ActstoreError: the store cannot be opened.
        """
        work = self._work
        with sendable(), named(self._mirrors):
            if work.folder.is_dir():
                os.chdir(work.folder)
            self._root = self._opened.enter_context(working(work.store))
            if work.draft is not None:
                self._root = self._opened.enter_context(work.draft.opened(self._root))
            for place in work.places:
                mirror = self._opened.enter_context(mirrored(place))
                self._opened.enter_context(fetching.registered(mirror))
                self._mirrors.append(mirror)
            self._here = {each.canonical: each.root for each in self._mirrors}
            self._called = {each.root: each.canonical for each in self._mirrors}
            self._called |= work.names
            reading = self._reading = moved(work.reading, self._here)
            self._reader = create(reading.found.recipe, reading.context(self._forms))
            reading.arranged(self._reader)
            self._noted()  # the process that hands pieces out has noted the same
            self._said.clear()
        sees = is_bucket(work.store) or is_held(work.sign)
        return Ready(host=platform.node(), sees_store=sees)

    def learn(self, shards: Sequence[str]) -> None:
        """Know shards that other workers of this run have made: their rows are not others'."""
        self._own.update(shards)
        if self._output is not None:
            self._output.own |= self._own

    def read(self, piece: Piece) -> Read:
        """Read a piece; its rows wait for :meth:`store`, and are dropped if another one comes.

        Raises:
            CommitError: the store cannot be written.
        """
        with sendable(), named(self._mirrors):
            self._piece = moved(piece, self._here)
            self._found = self._read()
            return self._found

    def _read(self) -> Read:
        work = self._work
        if self._output is None or self._output.pending_rows:
            self.end_writing()
            self._output = self._writer()
            self._output.own |= self._own
        before = len(self._output.losses)
        self._reader.begin(work.seen)
        reader = FileReader(self._reading, self._reader, work.widths, self._output)
        outcome = reader.read(self._piece.files)
        return self._noted(outcome, self._output.losses[before:])

    def _writer(self) -> PieceWriter:
        work = self._work
        narrow = narrowing.narrow_of(work.reading.options.storage_dtype)
        if work.draft is None:
            return PieceWriter(self._root, run=work.run, checkpoint_bytes=None, narrow=narrow)
        return DraftWriter(
            self._root, base=work.draft.base, run=work.run, narrow=narrow, replace=work.replace
        )

    def _noted(self, outcome: Outcome | None = None, losses: Any = ()) -> Read:
        """Hand out what was noted since the last time."""
        context, labels = self._reader.context, self._reading.labels
        asked, found = (labels.asked, labels.found) if labels is not None else (0, 0)
        if labels is not None:
            labels.asked = labels.found = 0
        forms, self._forms.noted = self._forms.noted, []
        shapes = dict(context.shapes or {})
        if context.shapes is not None:
            context.shapes.clear()
        notes = context.notes.taken()
        # All that was said: what a reader says once it does not say again of a piece read anew.
        self._said.update(dict.fromkeys(notes.lines))
        return Read(
            outcome=outcome or Outcome(),
            forms=forms,
            notes=Notes([*self._said], notes.counts),
            tables=moved(context.sidecars.taken(), self._called),
            shapes=shapes,
            labels_asked=asked,
            labels_found=found,
            losses=list(losses),
        )

    def store(self, run: Run, done: Mapping[str, Finished], rows: int) -> Stored:
        """Commit the piece that was read last. All before it are stored by now.

        Args:
            run: the record of the run, with what was noted of all pieces up to this one.
            done: the pieces that the run has finished before.
            rows: how many it has stored.

        Raises:
            CommitError: the store cannot be written.
        """
        with sendable(), named(self._mirrors):
            again = None
            for tried in range(_TRIES):
                try:
                    if self._work.draft is None:
                        stored = self._store(run, done, rows)
                    else:
                        stored = self._store_in(self._work.draft)
                    return stored._replace(again=stored.again or again)
                except (ConflictError, LayoutError):
                    # A piece before it has a row of it in another version: the file that has it
                    # too is refused when it is read again, as if one process had read both.
                    if tried == _TRIES - 1:
                        raise
                    again = self.read(self._piece)
            raise AssertionError

    def _store(self, run: Run, done: Mapping[str, Finished], rows: int) -> Stored:
        output = self._output
        assert output is not None
        before, pending, known = output.left_out, output.pending_rows, set(output.own)

        def record(_: Run, overtaken: int) -> Run:
            own = rows + pending - (overtaken - before.rows)
            there = {**done, **finished_by(self._piece, self._found.outcome)}
            note = recorded(self._work.fingerprint, there, own)
            return replace(run, settings={**run.settings, SETTING: note})

        output.recorded = record
        commit = output.commit(operation="ingest", message=self._work.message)
        made = frozenset(output.own - known)
        self._own |= made
        return Stored(commit, output.left_out.since(before), made, None)

    def _store_in(self, draft: DraftPlace) -> Stored:
        """Commit the piece to the draft, once."""
        output = self._output
        assert isinstance(output, DraftWriter)
        before = output.left_out
        replaced = {entry.path: rows.tolist() for entry, rows in output.replaced()}
        record = draft.keep(self._piece.name, Kept(self._found, replaced))

        def note() -> dict[str, Any]:
            return {"record": record, "left_out": list(output.left_out.since(before))}

        try:
            part = output.commit_part(
                self._piece.name,
                note,
                number=draft.number_of(self._piece),
                operation="ingest",
                message=self._work.message,
            )
        except AlreadyThereError:
            # By a worker that was taken for lost: what it has stored counts.
            part = parts_of(manifests.latest(self._root))[self._piece.name]
            read, stored = draft.kept(part)
            return stored._replace(again=read)
        return stored_of(part, replaced)

    def end_writing(self) -> None:
        """Give the store's staging folder back, and what waits for a commit up."""
        if self._output is not None:
            self._output.close()
            self._output = None

    def end(self) -> None:
        """Leave the store."""
        with sendable(), named(self._mirrors):
            self.end_writing()
            self._opened.close()


def finished_by(piece: Piece, outcome: Outcome) -> dict[str, Finished]:
    """Return a piece as finished; nothing where files were refused, to name them the next time."""
    if outcome.refused or outcome.foreign:
        return {}
    return {piece.digest: Finished(outcome.read, outcome.tally.rows)}
