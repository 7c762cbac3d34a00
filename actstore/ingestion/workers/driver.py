"""Hands the pieces of an ingest to workers of a Ray cluster, and says whose turn it is to store.

Pieces are read side by side and stored one after the other; a worker that is lost is replaced.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from pathlib import Path
from typing import Any

from actstore.errors import IngestError
from actstore.ingestion.label_table import Labels
from actstore.ingestion.readers import Context
from actstore.ingestion.reading import Outcome
from actstore.ingestion.report import Progress
from actstore.ingestion.workers.answers import Read, Ready, Stored
from actstore.ingestion.workers.draft import Draft
from actstore.ingestion.workers.pieces import Finished, Piece
from actstore.ingestion.workers.worker import Work, Worker, finished_by
from actstore.remote.bucket_address import is_bucket
from actstore.storage import narrowing
from actstore.storage.manifest import Run
from actstore.storage.rows import Narrow
from actstore.storage.transaction import Transaction
from actstore.wording import counted
from actstore.workers import cluster
from actstore.workers.handing import TRIES, Hand, Pieces
from actstore.workers.moving import moved

_LOOK = 5.0
"""Seconds without news after which it is looked whether the work stands still."""
_PARTING = 60.0
"""Seconds that workers have to leave the store."""
_ROOM = 60.0
"""Seconds without any worker after which the user is told what the cluster has."""
_PATIENCE = 60.0
"""Seconds that those who wait for a lost piece wait for a new worker that could read it."""


class _Doing(Enum):
    STARTING = auto()
    IDLE = auto()
    READING = auto()
    WAITING = auto()
    """It has read a piece; those before it are not stored yet."""
    STORING = auto()


@dataclass(slots=True)
class _Seat:
    """A place for a worker, and who is in it."""

    rank: int
    actor: Any
    """Its handle: Ray's types do not know what a handle of a class of ours can do."""
    answer: Any
    """The answer to come; None while nothing is asked of it."""
    doing: _Doing = _Doing.STARTING
    piece: Piece | None = None
    read: Read | None = None
    told: int = 0
    """How many of the run's shards it knows."""

    @property
    def number(self) -> int:
        """Of the piece that it has."""
        return -1 if self.piece is None else self.piece.number


@dataclass(slots=True)
class Made:
    """What came of all pieces."""

    outcome: Outcome = field(default_factory=Outcome)
    commit: int | None = None
    """Number of the last commit."""
    rounded: str | None = None
    """What values lost on their way into a smaller type."""
    notes: list[str] = field(default_factory=list)
    continued: tuple[str, ...] = ()
    """Earlier runs that had stored some of them."""
    run: Run | None = None
    """Whose rows these are, where an earlier process has begun it."""
    replaced: int = 0
    """Rows that took the place of stored ones."""
    shards: set[str] = field(default_factory=set)
    """Those that this run has stored."""
    going: dict[str, set[int]] = field(default_factory=dict)
    """Rows of stored shards, by their paths, that are to be replaced."""


class Driver:
    """Starts workers, hands pieces out, and says whose turn it is to store."""

    def __init__(
        self,
        labels: Labels | None,
        context: Context,
        run: Run,
        pieces: Sequence[Piece],
        here: Mapping[Path, Path],
        progress: Callable[[Progress], None] | None,
        note: Callable[[str], None],
    ) -> None:
        self._labels = labels
        self._context = context
        self._run = run
        self._here = here
        """Where this process has the folders that answers name."""
        self._progress = progress
        self._note = note
        self._made = Made()
        self._done: dict[str, Finished] = {}
        self._rows = 0
        """Rows that this run has stored."""
        self._losses: list[narrowing.Part] = []
        self._shards: list[str] = []
        """Those that this run has stored, in their order."""
        self._left = list(pieces)
        self._draft = False
        self._turn = 0
        """Number of the piece that is stored next."""
        self._forms_of: set[int] = set()
        self._failed_starts: Counter[int] = Counter()
        self._replaced = 0
        self._moved = time.monotonic()
        """When anything came last."""
        self._told_of_room = False
        self._total = Progress(
            files=0,
            files_total=sum(len(piece.files) for piece in pieces),
            bytes=0,
            bytes_total=sum(piece.bytes for piece in pieces),
            rows=0,
        )

    def take_over(self, done: Mapping[str, tuple[str, Finished]]) -> None:
        """Count what earlier runs have stored.

        Args:
            done: pieces by their digests, each with its run.
        """
        there = [piece for piece in self._left if piece.digest in done]
        outcome = self._made.outcome
        for piece in there:
            _, counts = done[piece.digest]
            outcome.read += counts.files
            outcome.tally.present += counts.rows
            self._count(piece)
        runs = dict.fromkeys(done[piece.digest][0] for piece in there)
        self._made.continued = tuple(runs)
        self._left = [piece for piece in self._left if piece.digest not in done]
        if there:
            self._made.notes.append(_not_again(there, "stored by an earlier run of this ingest"))

    def go_on(self, draft: Draft) -> None:
        """Go on with a draft: count what is in it as stored now, since all will be one commit."""
        self._draft = True
        there = [piece for piece in self._left if piece.name in draft.done]
        self._left = [piece for piece in self._left if piece.name not in draft.done]
        for piece in there:
            self._add(piece, *draft.done[piece.name])
        if there:
            self._note(f"note: {_not_again(there, 'an earlier run of this ingest has read them')}")

    @property
    def has_some(self) -> bool:
        """Whether a piece is stored."""
        return self._total.files > 0

    def run(
        self, work: Work, workers: int, address: str | None, change: Transaction | None = None
    ) -> None:
        """Store all pieces that are left.

        Args:
            work: what workers are told.
            workers: how many.
            address: of the cluster.
            change: of the store, where one is under way already.
        """
        if not self._left:
            return
        with cluster.joined(address, "ingesting with Ray"), contextlib.ExitStack() as held:
            if not is_bucket(work.store):
                change = change or held.enter_context(Transaction(Path(work.store)))
                work = replace(work, sign=change.folder)
            began = [replace(piece, number=number) for number, piece in enumerate(self._left)]
            self._work_off(work, began, workers)

    def _work_off(self, work: Work, left: Sequence[Piece], workers: int) -> None:
        import ray

        self._ray = ray
        self._pieces = Pieces(iter(left), IngestError, "files")
        self._make: Any = ray.remote(Worker)
        self._work = ray.put(work)
        self._store = work.store
        if len(left) < workers:
            self._note(
                f"note: {counted(len(left), 'piece')} of files for {counted(workers, 'worker')}: "
                "the others would have nothing to do"
            )
        self._seats = [self._start(rank) for rank in range(min(workers, len(left)))]
        try:
            while self._turn < len(left):
                self._hand_out()
                asked = {seat.answer: seat for seat in self._seats if seat.answer is not None}
                came, _ = ray.wait(list(asked), num_returns=1, timeout=_LOOK)
                for answer in came:
                    self._heard(asked[answer])
                if not came:
                    self._look()
            self._part()
        except BaseException as error:
            if not self._draft:
                what = f"what is stored in {work.store} stays"
            elif self.has_some:
                what = f"nothing is stored in {work.store}, what was read is kept beside it"
            else:
                raise
            error.add_note(f"{what}: run the same ingest again to go on")
            raise
        finally:
            for seat in self._seats:
                with contextlib.suppress(Exception):
                    ray.kill(seat.actor)

    def _start(self, rank: int) -> _Seat:
        actor = self._make.options(num_cpus=1, max_restarts=0).remote(self._work)
        return _Seat(rank, actor, actor.ready.remote())

    def _hand_out(self) -> None:
        """Give every idle worker a piece, and the one whose turn it is its commit."""
        for seat in self._seats:
            if seat.doing is _Doing.WAITING and seat.number == self._turn:
                self._let_store(seat)
            elif seat.doing is _Doing.IDLE:
                piece = self._pieces.next(Hand())
                if piece is not None:
                    self._let_read(seat, piece)

    def _tell(self, seat: _Seat) -> None:
        """Let a worker know what others of this run have stored."""
        if seat.told < len(self._shards):
            seat.actor.learn.remote(self._shards[seat.told :])
            seat.told = len(self._shards)

    def _let_read(self, seat: _Seat, piece: Piece) -> None:
        self._tell(seat)
        seat.piece, seat.doing = piece, _Doing.READING
        seat.answer = seat.actor.read.remote(piece)

    def _let_store(self, seat: _Seat) -> None:
        assert seat.read is not None
        # A worker that was lost meanwhile may have had it too.
        if not self._draft and seat.number not in self._forms_of:
            self._forms_of.add(seat.number)
            self._note_forms(seat.read)
        self._tell(seat)
        seat.doing = _Doing.STORING
        seat.answer = seat.actor.store.remote(self._run, self._done, self._rows)

    def _heard(self, seat: _Seat) -> None:
        """Take in what a worker says."""
        self._moved = time.monotonic()
        try:
            found = self._ray.get(seat.answer)
        except Exception as error:
            self._lost(seat, error)
            return
        seat.answer = None
        if seat.doing is _Doing.STARTING:
            self._check(found)
            seat.doing = _Doing.IDLE
        elif seat.doing is _Doing.READING:
            seat.read, seat.doing = found, _Doing.WAITING
        else:
            self._stored(seat, found)

    def _check(self, ready: Ready) -> None:
        self._told_of_room = True
        if not ready.sees_store:
            raise cluster.unshared(ready.host, self._store)

    def _stored(self, seat: _Seat, stored: Stored) -> None:
        """Go on to the next piece."""
        assert seat.piece is not None
        assert seat.read is not None
        self._turn += 1
        self._add(seat.piece, stored.again or seat.read, stored)
        seat.piece, seat.read, seat.doing = None, None, _Doing.IDLE

    def _add(self, piece: Piece, read: Read, stored: Stored) -> None:
        """Add what came of a piece to what came of those before it."""
        made = self._made
        self._done |= finished_by(piece, read.outcome)
        read.outcome.tally.overtake(*stored.left_out)
        self._rows += read.outcome.tally.written
        made.outcome.merge(read.outcome)
        made.commit = made.commit if stored.commit is None else stored.commit
        context, labels = self._context, self._labels
        context.notes.add(read.notes)
        context.sidecars.add(moved(read.tables, self._here))
        if context.shapes is not None:
            context.shapes.update(read.shapes)
        if self._draft:  # else they are in the record of the run that this piece was stored with
            self._note_forms(read)
        if labels is not None:
            labels.asked += read.labels_asked
            labels.found += read.labels_found
        self._losses += read.losses
        self._shards += stored.shards
        for path, rows in stored.replaced.items():
            made.going.setdefault(path, set()).update(rows)
        self._count(piece)

    def _note_forms(self, read: Read) -> None:
        for source, kind, form in read.forms:
            self._context.forms.note(source, kind=kind, **form)

    def _count(self, piece: Piece) -> None:
        self._total = replace(
            self._total,
            files=self._total.files + len(piece.files),
            bytes=self._total.bytes + piece.bytes,
            rows=self._made.outcome.tally.rows,
        )
        if self._progress is not None:
            self._progress(self._total)

    def _look(self) -> None:
        """Tell of a cluster without room, and end a standstill."""
        still = time.monotonic() - self._moved
        if still > _ROOM and not self._told_of_room:
            self._told_of_room = True
            self._note(cluster.no_room(0, "order the files"))
        others = [seat for seat in self._seats if seat.doing is not _Doing.STARTING]
        waiting = [seat for seat in others if seat.doing is _Doing.WAITING]
        if still > _PATIENCE and others and waiting == others:
            # All wait for a piece whose worker was lost, and there is no room for another one.
            last = max(waiting, key=lambda seat: seat.number)
            assert last.piece is not None
            self._pieces.back(Hand([last.piece], through=1), "")
            piece = self._pieces.next(Hand())
            assert piece is not None
            self._let_read(last, piece)

    def _lost(self, seat: _Seat, error: Exception) -> None:
        """Put another worker in the place of one that is gone; raise what would come again."""
        cluster.raise_own(error)
        with contextlib.suppress(Exception):
            self._ray.kill(seat.actor)
        reason = cluster.reason_of(error)
        if seat.doing is _Doing.STARTING:
            self._failed_starts[seat.rank] += 1
            if self._failed_starts[seat.rank] >= TRIES:
                raise IngestError(
                    f"worker {seat.rank} ended {TRIES} times before it had a file to read, the "
                    f"last time by {reason}"
                ) from error
        left = self._pieces.back(Hand([] if seat.piece is None else [seat.piece]), reason)
        self._replaced += 1
        self._note(cluster.lost(seat.rank, reason, left))
        self._seats[self._seats.index(seat)] = self._start(seat.rank)

    def _part(self) -> None:
        """Let workers leave the store as writers do."""
        there = [seat for seat in self._seats if seat.doing is _Doing.IDLE]
        answers = [seat.actor.end.remote() for seat in there]
        if answers:
            self._ray.wait(answers, num_returns=len(answers), timeout=_PARTING)

    def made(self, narrow: Narrow | None) -> Made:
        """Return what came of all pieces."""
        made = self._made
        made.shards.update(self._shards)
        if narrow is not None:
            made.rounded = narrowing.note(narrow, self._losses)
        if self._replaced:
            made.notes.append(
                f"{counted(self._replaced, 'worker')} lost and replaced: what these had read and "
                "not stored was read again"
            )
        return made


def _not_again(pieces: Sequence[Piece], why: str) -> str:
    """Say that the files of some pieces are not read again."""
    files = sum(len(piece.files) for piece in pieces)
    return f"{counted(files, 'file')} not read again: {why}"
