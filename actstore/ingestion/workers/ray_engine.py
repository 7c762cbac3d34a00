"""An ingest by Ray: actors read pieces of the files, and store them one after the other.

Pieces are read side by side and committed in the order of the source: so rows stand in the order in
which one process would have stored them, and what repeats or contradicts an earlier file is left
out or refused as there.
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

from actstore.errors import IngestError, UsageError
from actstore.ingestion.label_table import Labels
from actstore.ingestion.readers import Context, Reader
from actstore.ingestion.reading import Outcome, Reading
from actstore.ingestion.report import Progress
from actstore.ingestion.source_file import SourceFile
from actstore.ingestion.width_check import Widths
from actstore.ingestion.workers.pieces import Finished, Piece, cut, fingerprint, finished
from actstore.ingestion.workers.worker import Read, Ready, Stored, Work, Worker, finished_by
from actstore.remote.bucket_address import is_bucket
from actstore.storage import narrowing
from actstore.storage.manifest import Run
from actstore.storage.rows import Narrow
from actstore.storage.transaction import Transaction
from actstore.wording import counted
from actstore.workers import cluster
from actstore.workers.handing import TRIES, Hand, Pieces

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


def ingest_with_ray(
    reading: Reading,
    reader: Reader,
    files: Sequence[SourceFile],
    widths: Widths,
    *,
    run: Run,
    place: str | Path,
    root: Path,
    message: str,
    workers: int,
    address: str | None,
    progress: Callable[[Progress], None] | None,
    note: Callable[[str], None],
) -> Made:
    """Read and store files with so many actors; lost ones are replaced.

    Pieces that the store has are not read again, whether the driver, a worker or a node was lost:
    the same call goes on.

    Args:
        reading: how files are read.
        reader: has ordered them; what workers note is noted in its context.
        files: what to read.
        widths: what most of them hold.
        run: whose rows these are.
        place: the store: a folder that all nodes see, or an address in a bucket.
        root: a folder that stands for it here.
        message: what the log says of the commits.
        workers: how many.
        address: of the cluster; see :func:`actstore.workers.cluster.joined`.
        progress: called after each piece, over all workers.
        note: told what the user should know meanwhile.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: the cluster is not there, nodes do not share the store, or the layout is read
            in order by one process.
        IngestError: a piece ended workers again and again.
        ActstoreError: what a worker failed with.
    """
    if not reader.independent:
        raise UsageError(
            f"files of the layout {reading.found.recipe.name} are read in their order, by one "
            "process: use --engine local"
        )
    known = fingerprint(run, reading, reader.context)
    pieces = list(cut(files, known))
    done = finished(root, known)
    left = [piece for piece in pieces if piece.digest not in done]
    driver = _Driver(reading.labels, reader.context, run, pieces, done, progress, note)
    if left:
        began = [replace(piece, number=number) for number, piece in enumerate(left)]
        with cluster.joined(address, "ingesting with Ray"), contextlib.ExitStack() as held:
            sign = Path()
            if not is_bucket(place):
                sign = held.enter_context(Transaction(Path(place))).folder
            work = Work(
                store=place,
                folder=Path.cwd(),
                sign=sign,
                reading=reading,
                widths=widths,
                run=run,
                fingerprint=known,
                message=message,
            )
            driver.run(work, began, workers)
    return driver.made(narrowing.narrow_of(reading.options.storage_dtype))


class _Driver:
    """Starts workers, hands pieces out, and says whose turn it is to store."""

    def __init__(
        self,
        labels: Labels | None,
        context: Context,
        run: Run,
        pieces: Sequence[Piece],
        done: Mapping[str, tuple[str, Finished]],
        progress: Callable[[Progress], None] | None,
        note: Callable[[str], None],
    ) -> None:
        self._labels = labels
        self._context = context
        self._run = run
        self._progress = progress
        self._note = note
        self._made = Made()
        self._done: dict[str, Finished] = {}
        self._rows = 0
        """Rows that this run has stored."""
        self._losses: list[narrowing.Part] = []
        self._shards: list[str] = []
        """Those that this run has stored."""
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
        self._take_over([(piece, *done[piece.digest]) for piece in pieces if piece.digest in done])

    def _take_over(self, pieces: Sequence[tuple[Piece, str, Finished]]) -> None:
        """Count what earlier runs have stored."""
        if not pieces:
            return
        outcome = self._made.outcome
        for piece, _, counts in pieces:
            outcome.read += counts.files
            outcome.tally.present += counts.rows
            self._count(piece)
        self._made.continued = tuple(dict.fromkeys(run for _, run, _ in pieces))
        files = sum(len(piece.files) for piece, _, _ in pieces)
        self._made.notes.append(
            f"{counted(files, 'file')} not read again: stored by an earlier run of this ingest"
        )

    def run(self, work: Work, left: Sequence[Piece], workers: int) -> None:
        """Store all pieces that are left."""
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
            error.add_note(
                f"what is stored in {work.store} stays: run the same ingest again to go on"
            )
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
        if seat.number not in self._forms_of:  # a worker that was lost meanwhile had it too
            self._forms_of.add(seat.number)
            for source, kind, form in seat.read.forms:
                self._context.forms.note(source, kind=kind, **form)
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
        """Add what came of a piece to what came of those before it."""
        assert seat.piece is not None
        read, made = stored.again or seat.read, self._made
        assert read is not None
        self._done |= finished_by(seat.piece, read.outcome)
        read.outcome.tally.overtake(stored.overtaken)
        self._rows += read.outcome.tally.written
        made.outcome.merge(read.outcome)
        made.commit = made.commit if stored.commit is None else stored.commit
        context, labels = self._context, self._labels
        context.notes.add(read.notes)
        context.sidecars.add(read.tables)
        if labels is not None:
            labels.asked += read.labels_asked
            labels.found += read.labels_found
        self._losses += read.losses
        self._shards += stored.shards
        self._turn += 1
        self._count(seat.piece)
        seat.piece, seat.read, seat.doing = None, None, _Doing.IDLE

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
        if narrow is not None:
            made.rounded = narrowing.note(narrow, self._losses)
        if self._replaced:
            made.notes.append(
                f"{counted(self._replaced, 'worker')} lost and replaced: what these had read and "
                "not stored was read again"
            )
        return made
