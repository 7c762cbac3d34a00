"""A capture by Ray: an actor for each replica of the model, which stores its pieces itself.

Vectors never pass through Ray: actors get examples, write shards into the store, which lies on a
file system that all nodes share, and answer with counts.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from actstore.capturing.run.asked import asked_of, equal_runs
from actstore.capturing.run.options import CaptureSettings, Source
from actstore.capturing.run.pieces import Piece, finished
from actstore.capturing.run.provenance import differences
from actstore.capturing.run.retold import retold
from actstore.capturing.run.stored_rows import StoredRows, prompt_of
from actstore.capturing.run.summary import CaptureProgress, CaptureSummary
from actstore.capturing.workers.worker import Ready, State, Work, Worker
from actstore.errors import CommitError, ExampleError, MixedRunError, ModelError
from actstore.remote.bucket_address import check_seen_by_others, is_bucket
from actstore.remote.working import working
from actstore.storage import manifest as manifests
from actstore.storage.manifest import Run
from actstore.storage.transaction import Transaction
from actstore.wording import counted
from actstore.workers import cluster
from actstore.workers.handing import TRIES, Hand, Pieces

_LOOK = 0.5
"""Seconds between two looks at the workers."""
_ANSWER = 60.0
"""Seconds that a worker may take to say how far it is, before it is given up."""
_PARTING = 60.0
"""Seconds that workers have to commit what they have begun when the capture is broken off."""
_ROOM = 60.0
"""Seconds without any worker after which the user is told what the cluster has."""
_AHEAD = 1
"""Pieces that wait at a worker: it never waits for the next one, and few are left at the end."""


_UNHEARD = State(0, 0, 0, 0, 0)


@dataclass(slots=True)
class _Seat:
    """A place for a worker, and who is in it."""

    rank: int
    actor: Any
    """Its handle: Ray's types do not know what a handle of a class of ours can do."""
    ready: Any
    """The answer to come to whether it is ready."""
    hand: Hand[Piece] = field(default_factory=Hand)
    running: Any = None
    """The answer to come with what it did; None before it is ready."""
    given: Any = None
    """The answer to come when it has the piece that was given last; None before the first."""
    told: bool = False
    """Whether it knows that there are no more pieces."""
    done: bool = False
    state: State = _UNHEARD


def capture_with_ray(
    source: Source,
    work: Work,
    *,
    gpus: float = 0,
    address: str | None = None,
    progress: Callable[[CaptureProgress], None] | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> CaptureSummary:
    """Capture with ``work.world_size`` actors; lost ones are replaced.

    What is stored is not computed again, whether the driver, a worker or a node was lost: the
    same call goes on.

    Args:
        source: all examples; its part is the whole.
        work: what to do; ``sign`` is set here.
        gpus: of each worker.
        address: of the cluster; see :func:`actstore.workers.cluster.joined`.
        progress: called now and then, over all workers.
        note: told what the user should know meanwhile.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: the cluster is not there, or nodes do not share the store.
        ModelError: a piece, or loading the model, ended workers again and again.
        ActstoreError: what a worker failed with: see :func:`actstore.capture`.
    """
    check_seen_by_others(work.store)
    began = time.monotonic()
    with cluster.joined(address, "capturing with Ray"), contextlib.ExitStack() as held:
        if not is_bucket(work.store):
            change = held.enter_context(Transaction(Path(work.store)))
            work = replace(work, sign=change.folder)
        return _Driver(source, work, gpus, progress, note).run(began)


class _Driver:
    """Starts workers, hands pieces out, and looks after them."""

    def __init__(
        self,
        source: Source,
        work: Work,
        gpus: float,
        progress: Callable[[CaptureProgress], None] | None,
        note: Callable[[str], None],
    ) -> None:
        import ray

        self._ray = ray
        self._source = source
        self._work = work
        self._settings = CaptureSettings(**work.options)
        self._gpus = gpus
        self._progress = progress
        self._note = note
        self._make: Any = ray.remote(Worker)
        self._ready: Ready | None = None
        self._skipped = 0
        self._there: StoredRows | None = None
        self._rows_before = 0
        self._lost_examples = 0
        self._summaries: list[CaptureSummary] = []
        self._earlier = Counter[str]()
        """Examples and tokens of workers that are no more."""
        self._failed_starts: Counter[int] = Counter()
        self._replaced = 0
        self._told_of_room = False
        self._pieces = Pieces(self._left_to_do(), ModelError, "examples")

    def run(self, began: float) -> CaptureSummary:
        self._seats = [self._start(rank) for rank in range(self._count())]
        try:
            while not all(seat.done for seat in self._seats):
                self._look(began)
        except BaseException as error:
            self._part(error)
            raise
        finally:
            for seat in self._seats:
                with contextlib.suppress(Exception):
                    self._ray.kill(seat.actor)
        return self._summary(began)

    def _count(self) -> int:
        """Return how many workers have something to do."""
        total, wanted = self._source.total, self._work.world_size
        if total is None:
            return wanted
        pieces = -(-total // self._work.size)
        if pieces < wanted:
            self._note(
                f"note: {counted(pieces, 'piece')} of up to {self._work.size} examples for "
                f"{wanted} workers: smaller pieces (--piece) would keep all of them busy"
            )
        return max(1, min(wanted, pieces))

    def _start(self, rank: int) -> _Seat:
        actor = self._make.options(
            num_cpus=1, num_gpus=self._gpus, max_concurrency=4, max_restarts=0
        ).remote(self._work, rank)
        return _Seat(rank, actor, actor.ready.remote())

    def _look(self, began: float) -> None:
        """Take in what has happened, and hand out pieces."""
        waited = [
            seat.ready if seat.running is None else seat.running
            for seat in self._seats
            if not seat.done
        ]
        came, _ = self._ray.wait(waited, num_returns=len(waited), timeout=_LOOK)
        for number, seat in enumerate(self._seats):
            if not seat.done and (seat.running if seat.running is not None else seat.ready) in came:
                self._seats[number] = self._heard(seat)
        states: list[tuple[int, Any]] = [
            (number, seat.actor.state.remote())
            for number, seat in enumerate(self._seats)
            if seat.running is not None and not seat.done
        ]
        for number, answer in states:
            self._seats[number] = self._supply(self._seats[number], answer)
        if self._ready is None and not self._told_of_room and time.monotonic() > began + _ROOM:
            self._told_of_room = True
            self._note(cluster.no_room(self._gpus, "load the model"))
        if self._pieces.none_left:
            for seat in self._seats:  # those that are still to come would have nothing to do
                seat.done = seat.done or seat.running is None
        self._tell()

    def _heard(self, seat: _Seat) -> _Seat:
        """Take in the answer of a worker that is ready, or that has done its work."""
        try:
            if seat.running is None:
                self._check(self._ray.get(seat.ready))
                seat.running = seat.actor.run.remote()
                return seat
            summary = self._ray.get(seat.running)
            self._summaries.append(summary)
        except Exception as error:
            return self._lost(seat, error)
        seat.done = True
        there = summary.examples + len(summary.refused)
        seat.state = seat.state._replace(examples=there, tokens=summary.tokens)
        return seat

    def _check(self, ready: Ready) -> None:
        if not ready.sees_store:
            raise cluster.unshared(ready.host, self._work.store)
        if self._ready is None:
            self._ready = ready
        elif ready.fingerprint != self._ready.fingerprint:
            differing = "; ".join(differences(ready.values, self._ready.values)[:4])
            raise MixedRunError(
                f"nodes {self._ready.host} and {ready.host} would compute in different ways: "
                f"{differing}; give --dtype, --attn and --revision so that they are the same on "
                "all nodes"
            )

    def _supply(self, seat: _Seat, answer: Any) -> _Seat:
        """Take in how far a worker is, and give it the next piece."""
        try:
            state = seat.state = self._ray.get(answer, timeout=_ANSWER)
            seat.hand.through, seat.hand.committed = state.through, state.committed
            if seat.told or state.waiting >= _AHEAD or not self._has_all(seat):
                return seat
            piece = self._pieces.next(seat.hand)
            if piece is not None:
                seat.hand.pieces.append(piece)
                seat.given = seat.actor.give.remote([piece])
            elif self._pieces.none_left:
                seat.told = True
                seat.actor.last.remote()
        except Exception as error:
            return self._lost(seat, error)
        return seat

    def _has_all(self, seat: _Seat) -> bool:
        """Say whether a worker has what was given to it; raise what kept it from getting that.

        Ray keeps no order among calls of an actor of several threads: the next piece, or the word
        that there is none, may overtake a piece that is large.
        """
        if seat.given is None:
            return True
        came, _ = self._ray.wait([seat.given], timeout=0)
        if came:
            self._ray.get(seat.given)
            seat.given = None
        return bool(came)

    def _lost(self, seat: _Seat, error: Exception) -> _Seat:
        """Put another worker in the place of one that is gone; raise what would come again."""
        cluster.raise_own(error)
        with contextlib.suppress(Exception):
            self._ray.kill(seat.actor)
        reason = cluster.reason_of(error)
        if seat.running is None:
            self._failed_starts[seat.rank] += 1
            if self._failed_starts[seat.rank] >= TRIES:
                raise ModelError(
                    f"worker {seat.rank} ended {TRIES} times before its model was loaded, the "
                    f"last time by {reason}"
                ) from error
        left = self._pieces.back(seat.hand, reason)
        self._lost_examples += sum(
            len(piece.examples) for piece in seat.hand.pieces[: seat.hand.committed]
        )
        self._earlier["examples"] += seat.state.examples
        self._earlier["tokens"] += seat.state.tokens
        self._replaced += 1
        self._note(cluster.lost(seat.rank, reason, left))
        return self._start(seat.rank)

    def _left_to_do(self) -> Iterator[Piece]:
        """Yield the pieces that the store does not have; begins once a worker is ready."""
        ready = self._ready
        assert ready is not None
        done: frozenset[str] = frozenset()
        complete: frozenset[Any] = frozenset()
        with working(self._work.store, dry=True) as root:
            runs = self._runs(root)
            self._rows_before = _rows(runs)
            stored = StoredRows(root, ready.model, self._settings.dataset, runs)
            if self._settings.resume and runs:
                done = finished(runs, stored, ready.places, self._settings.pools)
                complete = stored.complete(ready.places, self._settings.pools)
                self._there = stored
            for piece in self._source.pieces():
                if piece.digest() in done or all(
                    example.key in complete and stored.prompt(example.key) == prompt_of(example)
                    for example in piece.examples
                ):
                    self._skipped += len(piece.examples)
                else:
                    yield piece

    def _runs(self, root: Path) -> tuple[Run, ...]:
        assert self._ready is not None
        return equal_runs(
            manifests.latest(root).runs,
            self._ready.model,
            self._settings.dataset,
            self._ready.fingerprint,
        )

    def _tell(self) -> None:
        if self._progress is None:
            return
        seats = [seat.state for seat in self._seats]
        total = self._source.total
        self._progress(
            CaptureProgress(
                examples=sum(state.examples for state in seats) + self._earlier["examples"],
                total=None if total is None else total - self._skipped,
                tokens=sum(state.tokens for state in seats) + self._earlier["tokens"],
                stored_earlier=self._skipped,
            )
        )

    def _part(self, error: BaseException) -> None:
        """Let workers commit what they have begun: the next run goes on there."""
        running = [seat for seat in self._seats if seat.running is not None and not seat.done]
        for seat in running:
            with contextlib.suppress(Exception):
                seat.actor.end.remote()
        with contextlib.suppress(Exception, KeyboardInterrupt):
            answers = [seat.running for seat in running]
            self._ray.wait(answers, num_returns=len(answers), timeout=_PARTING)
        error.add_note(
            f"what is stored in {self._work.store} stays: run the same capture again to go on"
        )

    def _summary(self, began: float) -> CaptureSummary:
        ready = self._ready
        assert ready is not None
        store = self._work.store
        with working(store, dry=True) as root:
            asked = asked_of(
                root,
                model=ready.model,
                dataset=self._settings.dataset,
                fingerprint=ready.fingerprint,
                keys=self._source.keys,
                places=ready.places,
                pools=self._settings.pools,
            )
        asked = replace(asked, store=store if is_bucket(store) else root)
        if not self._source.keys:
            raise ExampleError("there are no examples to capture")
        for summary in self._summaries:
            if summary.commit is not None and summary.commit > asked.commit:
                raise CommitError(
                    f"a worker made commit {summary.commit}, and this machine sees "
                    f"{asked.commit} as the latest one of {self._work.store}: the nodes do not "
                    "share it"
                )
        found, skipped = self._summaries, self._skipped
        notes = list(dict.fromkeys(note for summary in found for note in summary.notes))
        notes += retold(self._source, self._there, graded=self._settings.grade is not None)
        if self._replaced:
            notes.append(
                f"{counted(self._replaced, 'worker')} lost and replaced: what these computed and "
                "did not store was computed again"
            )
        first = found[0]
        return replace(
            first,
            run_id=", ".join(sorted({each.run_id for each in found if each.run_id})),
            resumed=any(each.resumed for each in found) or skipped > 0,
            commit=max((each.commit for each in found if each.commit is not None), default=None),
            examples=sum(each.examples for each in found) + self._lost_examples,
            skipped=sum(each.skipped for each in found) + skipped,
            refused=tuple(refused for each in found for refused in each.refused),
            rows=_rows(asked.runs) - self._rows_before,
            rows_present=sum(each.rows_present for each in found),
            empty=_sum(each.empty for each in found),
            empty_responses=sum(each.empty_responses for each in found),
            labels=_sum(each.labels for each in found),
            batches=sum(each.batches for each in found),
            tokens=sum(each.tokens for each in found) + self._earlier["tokens"],
            bytes=sum(each.bytes for each in found),
            seconds=round(time.monotonic() - began, 3),
            self_check=next((each.self_check for each in found if each.self_check), None),
            notes=tuple(notes),
            asked=asked,
        )


def _rows(runs: Iterable[Run]) -> int:
    """Return how many rows runs have stored."""
    return sum(run.settings.get("progress", {}).get("rows") or 0 for run in runs)


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(sorted(total.items()))
