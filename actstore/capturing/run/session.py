"""One capture from beginning to end: what is there, the check, window after window, the summary."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from actstore.capturing.forward.engine import Captured, state_width
from actstore.capturing.prompts.example import Example
from actstore.capturing.run import estimate as estimates
from actstore.capturing.run import provenance
from actstore.capturing.run.asked import asked_of, equal_runs
from actstore.capturing.run.background_writer import Sink, WindowRows
from actstore.capturing.run.batch_runner import Runner
from actstore.capturing.run.batching import Reached, Window, window_size, windows
from actstore.capturing.run.dry_run import dry_run
from actstore.capturing.run.estimate import CaptureEstimate
from actstore.capturing.run.options import CaptureSettings, Source
from actstore.capturing.run.parts import Parts
from actstore.capturing.run.pieces import begun_by, done_of, finished, windows_of
from actstore.capturing.run.provenance import Identity
from actstore.capturing.run.record import settings_of
from actstore.capturing.run.resume import Chain, Earlier, look
from actstore.capturing.run.retold import retold
from actstore.capturing.run.stored_rows import StoredRows
from actstore.capturing.run.summary import CaptureProgress, CaptureSummary, Refused, later_notes
from actstore.capturing.run.tables import settle_values, tabulate
from actstore.capturing.selfcheck import check
from actstore.capturing.selfcheck.reference import advice
from actstore.errors import ExampleError, ModelError, UsageError
from actstore.storage import backing, narrowing
from actstore.storage import manifest as manifests
from actstore.storage.manifest import Run
from actstore.storage.rows import RowBatch
from actstore.storage.writer import StoreWriter

_NAMED = 100
"""Refused examples that the run's record names."""


class Session:
    """One capture."""

    def __init__(
        self,
        parts: Parts,
        source: Source,
        *,
        store: Path,
        options: CaptureSettings,
        identity: Identity,
        progress: Callable[[CaptureProgress], None] | None = None,
        committed: Callable[[int], None] | None = None,
        commit_seconds: float | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.options = options
        self.store = store
        self.source = source
        self.identity = identity
        self.parts = parts
        self.engine = parts.engine
        self.anatomy = parts.anatomy
        self.prompter = parts.prompter
        self.generation = parts.generation
        self.layers = parts.layers
        self.points = parts.engine.points
        self.places = [(point.site, point.layer) for point in self.points]
        self._progress = progress
        self._committed = committed
        self._commit_seconds = commit_seconds
        self._size = window_size(options.examples_at_once)
        self._chain = Chain()
        self._reached: Reached | None = None
        self._pieces: list[str] = []
        """Of a capture in pieces: digests of those that this run has finished."""
        self._through = 0
        """Pieces that this session has gone through."""
        self._context = parts.context
        self._width = estimates.total_width(self.points, state_width(self.anatomy.model))
        self._complete: frozenset[Any] = frozenset()
        self._stored: StoredRows | None = None
        self._there: StoredRows | None = None
        self._notes: list[str] = list(notes)
        self._refused: list[Refused] = []
        self._runner = Runner(
            self.engine,
            batch_size=options.examples_at_once,
            max_new_tokens=options.max_new_tokens,
            strict=options.strict,
            refused=self._refused,
        )
        self._refused_earlier = 0
        self._named_earlier: list[list[str]] = []
        self._empty: Counter[str] = Counter()
        self._labels: Counter[str] = Counter()
        self._examples = self._skipped = self._batches = self._tokens = self._silent = 0
        self._skipped_first = 0

    def run(self) -> CaptureSummary:
        """Do it."""
        began = time.monotonic()
        settings = self.settings
        earlier = look(
            self.store,
            values=settings["values"],
            settings=settings,
            allow_mixed=self.options.allow_mixed,
        )
        self._notes += earlier.notes
        if self.source.part is None:
            earlier, rest = self._continued(earlier)
            upcoming = self._windows(rest, self._chain.count)
        else:
            earlier, upcoming = self._in_pieces(earlier)
        first = self._first_to_do(upcoming)
        if first is None:
            if self._chain.count == 0 and self.source.part is None:
                raise ExampleError("there are no examples to capture")
            run = earlier.run or (earlier.equal_runs[-1] if earlier.equal_runs else None)
            return self._summary(run, None, None, began)
        checked = self._self_check(first)
        run = earlier.run or provenance.new_run(
            {**settings, "self_check": checked, "first_prompt": self._first_prompt(first)}
        )
        if self.options.dry_run:
            found, notes = dry_run(
                self._runner,
                first,
                upcoming,
                points=self.points,
                dtype=self.options.storage_dtype,
                rows=lambda captured: self._rows(captured, run, frozenset()),
                left=None if self.source.total is None else self.source.total - self._passed,
                store=self.store,
            )
            self._notes += notes
            return self._summary(run, None, checked, began, found)
        self._check_disk(first)
        narrow = narrowing.narrow_of(self.options.storage_dtype)
        with (
            StoreWriter(self.store, run=run, narrow=narrow) as writer,
            Sink(writer, commit_seconds=self._commit_seconds, committed=self._committed) as sink,
        ):
            try:
                with self.engine:
                    for window in chain([first], upcoming):
                        self._window(window, run, sink)
            except BaseException as error:
                if sink.error is not None:  # nor is what waited for the disk stored
                    raise
                error.add_note(
                    f"{self._passed:,} examples are done and stored in {self.store}: run the "
                    "same capture again to go on"
                )
                raise
        self._notes += filter(None, (writer.narrowing_note,))
        return self._summary(run, sink, checked, began)

    def _first_to_do(self, upcoming: Iterator[Window]) -> Window | None:
        """Return the first window that has something to do; pass over those before it."""
        for window in upcoming:
            if window.examples or window.refused:
                return window
            self._skipped += window.skipped
            self._pass(window)
        return None

    def _pass(self, window: Window) -> None:
        """Take note that a window is done."""
        for example in window.taken:
            self._chain.add(example)
        reached = self._reached = window.reached
        if reached is not None and reached.whole:
            self._through += 1
            if reached.own:
                self._pieces.append(reached.digest)

    def _windows(self, examples: Iterator[Example], start: int) -> Iterator[Window]:
        return windows(
            examples,
            self._lengths,
            start=start,
            size=self._size,
            bytes_of=self._bytes_of,
            refuse=not self.options.strict,
            skip=self._is_stored,
        )

    def _is_stored(self, example: Example) -> bool:
        return self._stored is not None and (
            self._stored.answers(example) and example.key in self._complete
        )

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """What the run's record says of it, its ``fingerprint`` among that."""
        return settings_of(
            self.parts, self.identity, self.options, part=self.source.part, window=self._size
        )

    def _continued(self, earlier: Earlier) -> tuple[Earlier, Iterator[Example]]:
        """Return the examples that are left to do, and what is really continued."""
        rest = self.source.read()
        if not self.options.resume:
            return Earlier(), rest
        stored = self._there = StoredRows(
            self.store, self.identity.name, self.options.dataset, earlier.equal_runs
        )
        if earlier.run is not None and stored.lost(earlier.run):
            self._notes.append(
                f"rows of run {earlier.run.run_id} were dropped since: what is missing is "
                "captured again"
            )
            earlier = replace(earlier, run=None)
        done = int(earlier.progress.get("examples", 0))
        for example in islice(rest, done):
            self._chain.add(example)
        if earlier.run is not None and self._chain.digest == earlier.progress["digest"]:
            self._skipped = self._skipped_first = done
            self._runner.budget = earlier.progress.get("batch_tokens")
            self._refused_earlier = int(earlier.progress.get("refused_count", 0))
            if done:
                self._tell()
            return earlier, rest
        if earlier.run is not None:
            if not self.source.repeats:
                raise UsageError(
                    f"the examples are not those that run {earlier.run.run_id} began with, and an "
                    "iterator cannot be read from its beginning again: give a list, or resume=False"
                )
            self._notes.append(
                f"the examples are not those that run {earlier.run.run_id} began with: what the "
                "store has of them is left out"
            )
            self._chain = Chain()
            rest = self.source.read()
        self._complete = stored.complete(self.places, self.options.pools)
        self._stored = stored
        return Earlier(equal_runs=earlier.equal_runs), rest

    def _in_pieces(self, earlier: Earlier) -> tuple[Earlier, Iterator[Window]]:
        """Return the windows of the pieces that are left to do, and what is really continued."""
        done = self._finished(earlier.equal_runs, self.store)
        if earlier.run is not None and (self._stored is None or self._stored.lost(earlier.run)):
            earlier = replace(earlier, run=None)
        progress = earlier.progress
        self._pieces += progress.get("pieces", ())
        self._runner.budget = progress.get("batch_tokens")
        self._refused_earlier = int(progress.get("refused_count", 0))
        self._named_earlier = list(progress.get("refused", ()))
        begun = begun_by([earlier.run]) if earlier.run is not None else frozenset()
        return earlier, self._windows_of_pieces(done, begun)

    def _windows_of_pieces(
        self, done: frozenset[str], begun: frozenset[tuple[int, str]]
    ) -> Iterator[Window]:
        for piece in self.source.pieces():
            if piece.again:
                with backing.newest(self.store) as root:
                    runs = manifests.latest(root).runs
                    fingerprint = self.settings["fingerprint"]
                    runs = equal_runs(runs, self.identity.name, self.options.dataset, fingerprint)
                    done, begun = self._finished(runs, root), begun_by(runs)
            there = done_of(piece, done, begun)
            if there:
                self._skipped += there
                self._skipped_first += there
                self._tell()
            yield from windows_of(piece, there, self._windows)
            self._through += there == len(piece.examples)

    def _finished(self, runs: Sequence[Run], root: Path) -> frozenset[str]:
        """Look in a folder which pieces runs have finished, and which examples they have."""
        if not self.options.resume:
            return frozenset()
        stored = StoredRows(root, self.identity.name, self.options.dataset, runs).read()
        self._complete = stored.complete(self.places, self.options.pools)
        self._stored = self._there = stored
        return finished(runs, stored, self.places, self.options.pools)

    @property
    def _passed(self) -> int:
        """Examples that are behind."""
        return self._chain.count + (self._skipped_first if self.source.part is not None else 0)

    def _lengths(self, examples: Sequence[Example]) -> list[int]:
        found = self.prompter.lengths(examples)
        for example, length in zip(examples, found, strict=True):
            # The last token that is generated is not fed.
            needed = length + max(0, self.options.max_new_tokens - 1)
            if self._context is not None and needed > self._context:
                raise ExampleError(
                    f"{example.where}: {length:,} tokens and {self.options.max_new_tokens:,} to "
                    f"generate are more than the model's {self._context:,}"
                )
        return found

    def _bytes_of(self, length: int) -> int:
        """Return about how many bytes an example's vectors take in memory."""
        rows = estimates.rows_of(self.options.pools, length, self.options.max_new_tokens)
        return rows * self._width * 4

    def _self_check(self, window: Window) -> dict[str, Any] | None:
        if not self.options.self_check or not window.examples:
            return None
        places = self._runner.comparable(window)
        chosen = check.choose(
            [window.examples[at] for at in places], [window.lengths[at] for at in places]
        )
        usable = self._usable(chosen)
        return self.parts.check(usable) if usable else None

    def _first_prompt(self, window: Window) -> str | None:
        for example in self._usable(window.examples[:1]):
            batch = self.prompter.batch([example], self.engine.padding_side)
            return provenance.shown_prompt(batch.rendered[0])
        return None

    def _usable(self, examples: Sequence[Example]) -> list[Example]:
        """Return the examples whose input can be made: an image may be missing."""
        found = []
        for example in examples:
            try:
                self.prompter.batch([example], self.engine.padding_side)
            except ExampleError:
                if self.options.strict:
                    raise
                continue
            found.append(example)
        return found

    def _window(self, window: Window, run: Run, sink: Sink) -> None:
        done: list[Captured] = []
        left_out: set[int] = set()
        earlier = len(self._refused)
        self._refused += window.refused
        self._skipped += window.skipped
        for captured in self._runner.run(window):
            bad = settle_values(captured, self.options.storage_dtype)
            for row, what in bad.items():
                refusal = Refused(captured.examples[row].where, what + advice(self.parts.dtype))
                if self.options.strict:
                    raise ModelError(f"{refusal.example}: {refusal.reason}")
                self._refused.append(refusal)
                left_out.add(captured.positions[row])
            self._count(captured, bad)
            done.append(captured)
        # Batches go by length; a reader looks for them in the order of the file.
        order = {example.where: place for place, example in enumerate(window.taken)}
        self._refused[earlier:] = sorted(
            self._refused[earlier:], key=lambda each: order.get(each.example, 0)
        )
        self._pass(window)
        sink.put(
            WindowRows(
                partial(self._rows, done, run, frozenset(left_out)) if done else tuple,
                self._position(),
                self._through,
            )
        )

    def _rows(
        self, done: Sequence[Captured], run: Run, refused: frozenset[int]
    ) -> Iterator[RowBatch]:
        constants = {
            "model": self.identity.name,
            "dataset": self.options.dataset,
            "captured_at": run.started_at,
        }
        return tabulate(done, self.options.pools, constants, stored=self._stored, refused=refused)

    def _position(self) -> dict[str, Any]:
        """Return how far the run is, for its record."""
        found: dict[str, Any]
        if self.source.part is None:
            found = {"examples": self._chain.count, "digest": self._chain.digest}
        else:
            at = self._reached
            begun = [at.examples, at.digest] if at and at.own and not at.whole else None
            found = {"pieces": list(self._pieces), "begun": begun}
        return found | {
            "refused_count": self._refused_earlier + len(self._refused),
            "refused": [*self._named_earlier, *map(list, self._refused)][:_NAMED],
            "batch_tokens": self._runner.budget,
        }

    def _count(self, captured: Captured, bad: Mapping[int, str]) -> None:
        count = len(captured.examples) - len(bad)
        self._examples += count
        self._batches += 1
        self._tokens += captured.tokens
        for pool in self.options.pools:
            having = set(captured.pooled.rows[pool].example.tolist())
            missing = sum(
                row not in having and row not in bad for row in range(len(captured.examples))
            )
            if missing:
                self._empty[pool.text] += missing
        if self.generation is not None:
            self._silent += int((captured.pooled.response_tokens == 0).sum())
        self._labels.update(label for label in captured.labels if label is not None)
        self._tell()

    def _tell(self) -> None:
        """Say how far it is."""
        if self._progress is not None:
            total = self.source.total
            self._progress(
                CaptureProgress(
                    examples=self._examples
                    + len(self._refused)
                    + self._skipped
                    - self._skipped_first,
                    total=None if total is None else total - self._skipped_first,
                    tokens=self._tokens,
                    stored_earlier=self._skipped_first,
                )
            )

    def _check_disk(self, window: Window) -> None:
        """Refuse a run of known length that the disk cannot hold."""
        total = self.source.total
        if total is None or not window.examples:
            return
        each = sum(map(self._bytes_of, window.lengths)) / len(window.lengths)
        each /= {"float16": 2, "compact16": 2, "int8": 4}.get(self.options.storage_dtype or "", 1)
        estimates.check_space(
            self.store,
            int(each * (total - self._passed)),
            estimates.free_bytes(self.store),
        )

    def _summary(
        self,
        run: Run | None,
        sink: Sink | None,
        checked: Mapping[str, Any] | None,
        began: float,
        estimate: CaptureEstimate | None = None,
    ) -> CaptureSummary:
        runner = self._runner
        notes = [*self._notes, *self.prompter.notes]
        notes += later_notes(runner.padding, runner.budget, self._empty)
        notes += retold(self.source, self._there, graded=self.options.grade is not None)
        if sink is not None and self._examples and not sink.written and not sink.present:
            notes.append("no example had anything to store: its regions are empty")
        resumed = self._skipped_first > 0
        if run is not None and self._skipped and sink is None and estimate is None:
            notes.append(f"everything is stored already (run {run.run_id})")
        if (part := self.source.part) is not None and self.source.total == 0:
            notes.append(
                f"rank {part.rank} of {part.world_size} has no examples, since there are fewer "
                f"pieces of {part.size} examples than ranks: smaller pieces (--piece) divide finer"
            )
        asked = None
        if not self.options.dry_run:
            asked = asked_of(
                self.store,
                model=self.identity.name,
                dataset=self.options.dataset,
                fingerprint=self.settings["fingerprint"],
                keys=self.source.keys,
                places=self.places,
                pools=self.options.pools,
            )
        return CaptureSummary(
            run_id=run.run_id if run is not None else "",
            model=self.identity.name,
            dataset=self.options.dataset,
            dry_run=self.options.dry_run,
            resumed=resumed,
            commit=sink.commit if sink is not None else None,
            examples=self._examples,
            skipped=self._skipped,
            refused=tuple(self._refused),
            rows=sink.written if sink is not None else 0,
            rows_present=sink.present if sink is not None else 0,
            empty=dict(self._empty),
            empty_responses=self._silent,
            labels=dict(sorted(self._labels.items())),
            layers=tuple(self.layers),
            sites=tuple(sorted({point.site for point in self.points})),
            pools=tuple(pool.text for pool in self.options.pools),
            batches=self._batches,
            batch_tokens=self._runner.budget,
            tokens=self._tokens,
            bytes=sink.bytes if sink is not None else 0,
            seconds=round(time.monotonic() - began, 3),
            self_check=checked,
            estimate=estimate,
            notes=tuple(dict.fromkeys(notes)),
            asked=asked,
        )
