"""One capture from beginning to end: what is there, the check, window after window, the summary."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from actstore.capturing import estimate as estimates
from actstore.capturing import generation as generations
from actstore.capturing import grading, provenance, selfcheck
from actstore.capturing.batching import TOKENS, BatchSize, form
from actstore.capturing.blocks import find, parse_layers, points
from actstore.capturing.engine import Captured, Engine, out_of_memory
from actstore.capturing.estimate import Estimate
from actstore.capturing.example import Example, stream
from actstore.capturing.pooling import Pool
from actstore.capturing.prompts import Prompter
from actstore.capturing.provenance import Identity
from actstore.capturing.resume import Chain, Earlier, StoredRows, look
from actstore.capturing.sink import Part, Sink
from actstore.capturing.summary import CaptureSummary, Progress, Refused
from actstore.capturing.tables import StorageType, settle_values, tabulate
from actstore.capturing.windows import Window, window_size, windows
from actstore.errors import ExampleError, ModelError, UsageError
from actstore.storage.manifest import Run
from actstore.storage.rows import RowBatch
from actstore.storage.writer import StoreWriter

Side = Literal["auto", "left", "right"]
_NAMED = 100
"""Refused examples that the run's record names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the caller chose, parsed; as the arguments of :func:`actstore.capture`."""

    layers: str | int | Sequence[int]
    sites: tuple[str, ...]
    pools: tuple[Pool, ...]
    exclude: frozenset[str]
    batch_size: BatchSize
    max_new_tokens: int
    generation: Mapping[str, Any]
    seed: int
    chat_template: bool | str
    system: str | None
    template_options: Mapping[str, Any]
    grade: str | None
    dataset: str | None
    blocks: str | None
    padding_side: Side
    storage_dtype: StorageType | None
    resume: bool
    allow_mixed: bool
    self_check: bool
    strict: bool
    dry_run: bool
    settings: Mapping[str, Any]


class Source:
    """The examples, with their number where it is known."""

    def __init__(
        self, examples: Iterable[Example | Mapping[str, Any]], first_k: int | None = None
    ) -> None:
        self._given = examples
        self._first_k = first_k
        try:
            self._length: int | None = len(examples)  # type: ignore[arg-type]
        except TypeError:
            self._length = None

    @property
    def total(self) -> int | None:
        """How many there are, if the source says so."""
        if self._length is None:
            return None
        return self._length if self._first_k is None else min(self._length, self._first_k)

    @property
    def repeats(self) -> bool:
        """Whether it can be read a second time."""
        return iter(self._given) is not self._given

    def read(self) -> Iterator[Example]:
        """Yield the examples from the first on."""
        return stream(islice(self._given, self._first_k))


class Session:
    """One capture."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        source: Source,
        *,
        store: Path,
        options: Options,
        identity: Identity,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.options = options
        self.store = store
        self.source = source
        self.identity = identity
        self.anatomy = find(model, blocks=options.blocks)
        self.prompter = Prompter(
            self.anatomy.model,
            processor,
            chat_template=options.chat_template,
            system=options.system,
            template_options=options.template_options,
        )
        self.generation = generations.settle(
            self.anatomy.model, self.prompter.pad_id, options.max_new_tokens, options.generation
        )
        self._check_options()
        self.layers = parse_layers(options.layers, len(self.anatomy.blocks))
        self.points = points(self.anatomy, options.sites, self.layers)
        self.engine = Engine(
            self.anatomy,
            self.prompter,
            self.points,
            options.pools,
            exclude=options.exclude,
            generation=self.generation,
            grader=grading.parse(options.grade) if options.grade else None,
            padding_side=None if options.padding_side == "auto" else options.padding_side,
            seed=options.seed,
        )
        self._progress = progress
        self._size = window_size(options.batch_size)
        self._budget: int | None = None
        """Tokens of a batch after memory ran out."""
        self._chain = Chain()
        self._context = _context(self.anatomy.model)
        self._width = _width(self.anatomy.model)
        self._complete: frozenset[Any] = frozenset()
        self._stored: StoredRows | None = None
        self._notes: list[str] = []
        self._refused: list[Refused] = []
        self._refused_earlier = 0
        self._empty: Counter[str] = Counter()
        self._labels: Counter[str] = Counter()
        self._examples = self._skipped = self._batches = self._tokens = self._silent = 0
        self._skipped_first = 0

    def run(self) -> CaptureSummary:
        """Do it."""
        began = time.monotonic()
        values = self._values()
        settings = self._settings(values)
        earlier = look(
            self.store, values=values, settings=settings, allow_mixed=self.options.allow_mixed
        )
        self._notes += earlier.notes
        earlier, rest = self._continued(earlier)
        upcoming = windows(
            rest,
            self._lengths,
            start=self._chain.count,
            size=self._size,
            bytes_of=self._bytes_of,
            refuse=not self.options.strict,
            skip=lambda example: example.key in self._complete,
        )
        first = next(upcoming, None)
        if first is None:
            if self._chain.count == 0:
                raise ExampleError("there are no examples to capture")
            return self._summary(earlier.run, None, None, began)
        checked = self._self_check(first)
        run = earlier.run or provenance.new_run(
            {**settings, "self_check": checked, "first_prompt": self._first_prompt(first)}
        )
        if self.options.dry_run:
            return self._dry(run, first, upcoming, checked, began)
        self._check_disk(first)
        with StoreWriter(self.store, run=run) as writer, Sink(writer) as sink:
            try:
                with self.engine:
                    for window in chain([first], upcoming):
                        self._window(window, run, sink)
            except BaseException as error:
                if sink.error is not None:  # nor is what waited for the disk stored
                    raise
                error.add_note(
                    f"{self._chain.count:,} examples are done and stored in {self.store}: run the "
                    "same capture again to go on"
                )
                raise
        return self._summary(run, sink, checked, began)

    def _check_options(self) -> None:
        options = self.options
        if self.generation is None:
            late = [pool.text for pool in options.pools if pool.region == "response"]
            if late:
                raise UsageError(
                    f"pool {', '.join(late)} needs a response: give max_new_tokens "
                    "(--max-new-tokens) more than 0"
                )
            if options.grade and not options.grade.startswith("sql:"):
                raise UsageError(
                    f"grade {options.grade!r} needs a response: give max_new_tokens "
                    "(--max-new-tokens) more than 0"
                )
        elif options.padding_side == "right":
            raise UsageError("generation pads on the left: leave padding_side on auto")

    def _values(self) -> dict[str, Any]:
        """Return everything that decides the values, for the fingerprint."""
        generation = self.generation
        found = provenance.describe_model(self.anatomy)
        found |= self.prompter.settings
        found["tokenizer_sha256"] = provenance.describe_tokenizer(self.prompter.tokenizer)
        found["exclude"] = sorted(self.options.exclude)
        found["generation"] = generation.settings if generation else None
        found["seed"] = self.options.seed if generation and generation.samples else None
        found["storage_dtype"] = self.options.storage_dtype
        if found["weights_sha256"] is None:  # weights on disk: nothing better than the commit
            found["revision"] = self.identity.revision
        return found

    def _settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        options = self.options
        device = provenance.describe_device(self.anatomy.model)
        settings: dict[str, Any] = {
            "model": self.identity.name,
            "revision": self.identity.revision,
            "dataset": options.dataset,
            "sites": sorted({point.site for point in self.points}),
            "layers": self.layers,
            "pool": [pool.text for pool in options.pools],
            "batch_size": options.batch_size,
            "window": self._size,
            "max_new_tokens": options.max_new_tokens,
            "exclude": sorted(options.exclude),
            "padding_side": self.engine.padding_side,
            "grade": options.grade,
            **device,
        }
        continues = {
            **settings,
            "seed": options.seed,
            "values": dict(values),
            "versions": {
                name: provenance.versions().get(name) for name in ("torch", "transformers")
            },
        }
        return {
            **settings,
            **options.settings,
            "hooks": provenance.hook_paths(self.points),
            # With these, means without special tokens can be made of stored tokens later.
            "special_ids": sorted(self.prompter.tokenizer.all_special_ids),
            "fingerprint": provenance.fingerprint(values),
            "continues": provenance.fingerprint(continues),
            "values": dict(values),
        }

    def _continued(self, earlier: Earlier) -> tuple[Earlier, Iterator[Example]]:
        """Return the examples that are left to do, and what is really continued."""
        rest = self.source.read()
        if not self.options.resume:
            return Earlier(), rest
        done = int(earlier.progress.get("examples", 0))
        for example in islice(rest, done):
            self._chain.add(example)
        if earlier.run is not None and self._chain.digest == earlier.progress["digest"]:
            self._skipped = self._skipped_first = done
            self._budget = earlier.progress.get("batch_tokens")
            self._refused_earlier = int(earlier.progress.get("refused_count", 0))
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
        stored = StoredRows(
            self.store, self.identity.name, self.options.dataset, earlier.equal_runs
        )
        places = [(point.site, point.layer) for point in self.points]
        self._complete = stored.complete(places, self.options.pools)
        self._stored = stored
        return Earlier(equal_runs=earlier.equal_runs), rest

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
        rows = 0
        for pool in self.options.pools:
            if pool.pool != "tokens":
                rows += 1
            elif pool.region == "response":
                rows += self.options.max_new_tokens
            else:
                rows += length + (self.options.max_new_tokens if pool.region == "all" else 0)
        return rows * len(self.points) * self._width * 4

    def _self_check(self, window: Window) -> dict[str, Any] | None:
        if not self.options.self_check:
            return None
        chosen = selfcheck.choose(window.examples, window.lengths)
        if not chosen:
            return None
        usable = self._usable(chosen)
        return selfcheck.check(self.engine, usable) if usable else None

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
        self._refused += window.refused
        self._skipped += window.skipped
        for captured in self._batched(window):
            bad = settle_values(captured, self.options.storage_dtype)
            for row, what in bad.items():
                dtype = str(getattr(self.anatomy.model, "dtype", "")).removeprefix("torch.")
                refusal = Refused(captured.examples[row].where, what + selfcheck.advice(dtype))
                if self.options.strict:
                    raise ModelError(f"{refusal.example}: {refusal.reason}")
                self._refused.append(refusal)
                left_out.add(captured.positions[row])
            self._count(captured, bad)
            done.append(captured)
        for example in window.taken:
            self._chain.add(example)
        sink.put(
            Part(
                partial(self._rows, done, run, frozenset(left_out)) if done else tuple,
                self._position(),
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
        return {
            "examples": self._chain.count,
            "digest": self._chain.digest,
            "refused_count": self._refused_earlier + len(self._refused),
            "refused": [list(each) for each in self._refused[:_NAMED]],
            "batch_tokens": self._budget,
        }

    def _batched(self, window: Window) -> Iterator[Captured]:
        """Run the window's batches; halve them where memory runs out."""
        waiting = deque(self._groups(window))
        while waiting:
            group = waiting.popleft()
            if len(group) > 1 and self._budget and self._padded(window, group) > self._budget:
                waiting.extendleft(reversed(_halves(group)))
                continue
            examples = [window.examples[at] for at in group]
            positions = [window.positions[at] for at in group]
            try:
                yield self.engine.run(examples, positions)
            except ExampleError as error:
                if self.options.strict:
                    raise
                waiting.extendleft(self._without_bad(window, group, error))
                continue
            except Exception as error:
                if not out_of_memory(error):
                    raise
                self._shrink(window, group, error)
                if len(group) > 1:
                    waiting.extendleft(reversed(_halves(group)))
                continue

    def _groups(self, window: Window) -> list[list[int]]:
        room = [length + self.options.max_new_tokens for length in window.lengths]
        return form(
            room,
            batch_size=self.options.batch_size,
            kinds=[self.prompter.kind(example) for example in window.examples],
            tokens=self._budget or TOKENS,
        )

    def _padded(self, window: Window, group: Sequence[int]) -> int:
        longest = max(window.lengths[at] for at in group) + self.options.max_new_tokens
        return longest * len(group)

    def _without_bad(
        self, window: Window, group: list[int], error: ExampleError
    ) -> list[list[int]]:
        """Refuse the examples whose input cannot be made, and return the others."""
        bad: dict[int, str] = {}
        for at in group:
            try:
                self.prompter.batch([window.examples[at]], self.engine.padding_side)
            except ExampleError as reason:
                bad[at] = str(reason)
        if not bad:  # only together: each goes alone
            if len(group) == 1:
                raise error
            return [[at] for at in reversed(group)]
        self._refused += [Refused(window.examples[at].where, bad[at]) for at in bad]
        good = [at for at in group if at not in bad]
        return [good] if good else []

    def _shrink(self, window: Window, group: Sequence[int], error: Exception) -> None:
        import torch

        padded = self._padded(window, group)
        if self.options.batch_size != "auto":
            raise ModelError(
                f"the device's memory does not hold a batch of {len(group)} examples of up to "
                f"{padded // len(group):,} tokens: use --batch-size auto, or a smaller one than "
                f"{self.options.batch_size}"
            ) from error
        if len(group) == 1:
            self._refused.append(
                Refused(
                    window.examples[group[0]].where,
                    f"the device's memory does not hold its {padded:,} tokens",
                )
            )
        else:
            self._budget = max(1, padded // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

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
        if self._progress is not None:
            total = self.source.total
            self._progress(
                Progress(
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
        if self.options.storage_dtype == "float16":
            each /= 2
        estimates.check_space(
            self.store,
            int(each * (total - self._chain.count)),
            estimates.free_bytes(self.store),
        )

    def _dry(
        self,
        run: Run,
        first: Window,
        upcoming: Iterator[Window],
        checked: dict[str, Any] | None,
        began: float,
    ) -> CaptureSummary:
        groups = self._groups(first)
        if not groups:
            reasons = "; ".join(each.reason for each in first.refused[:3])
            raise ExampleError(f"none of the first examples can be captured: {reasons}")
        with ExitStack() as stack:
            stack.enter_context(self.engine)
            watch = estimates.MemoryWatch(self.engine.device)
            first_batch = self._timed(first, groups[0])
            # Batches come longest first: the first one shows the memory, another one the pace.
            timed = self._timed(first, groups[len(groups) // 2])
        padded = sum(self._padded(first, group) for group in groups)
        captured, seconds, group = timed
        pace = seconds / self._padded(first, group)
        total = self.source.total
        if total is None:
            taken = len(first.taken) + sum(len(window.taken) for window in upcoming)
        else:
            taken = total - first.start
        share = taken / len(first.taken)
        batches = list(self._rows([first_batch[0], captured], run, frozenset()))
        examples = len(first_batch[0].examples) + len(captured.examples)
        rows = sum(map(len, batches)) / examples
        todo = round(len(first.examples) * share)
        needed = int(estimates.bytes_per_example(batches, examples) * todo)
        needed += estimates.shard_overhead(len(self.points))
        found = Estimate(
            examples=todo,
            rows=round(rows * todo),
            bytes=needed,
            free_bytes=estimates.free_bytes(self.store),
            peak_memory=watch.peak(),
            memory_of=str(self.engine.device),
            seconds=round(pace * padded * share, 3),
        )
        estimates.check_space(self.store, found.bytes, found.free_bytes)
        return self._summary(run, None, checked, began, found)

    def _timed(self, window: Window, group: list[int]) -> tuple[Captured, float, list[int]]:
        began = time.monotonic()
        try:
            captured = self.engine.run(
                [window.examples[at] for at in group], [window.positions[at] for at in group]
            )
        except Exception as error:
            if not out_of_memory(error):
                raise
            self._shrink(window, group, error)
            if len(group) == 1:
                raise ModelError(
                    f"the device's memory does not hold {window.examples[group[0]].where}"
                ) from error
            return self._timed(window, _halves(group)[0])
        settle_values(captured, self.options.storage_dtype)
        return captured, time.monotonic() - began, group

    def _summary(
        self,
        run: Run | None,
        sink: Sink | None,
        checked: Mapping[str, Any] | None,
        began: float,
        estimate: Estimate | None = None,
    ) -> CaptureSummary:
        notes = [*self._notes, *self.prompter.notes, *self._later_notes(sink)]
        resumed = self._skipped_first > 0
        if run is not None and self._skipped_first and sink is None and estimate is None:
            notes.append(f"everything is stored already (run {run.run_id})")
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
            batch_tokens=self._budget,
            tokens=self._tokens,
            bytes=sink.bytes if sink is not None else 0,
            seconds=round(time.monotonic() - began, 3),
            self_check=checked,
            estimate=estimate,
            notes=tuple(dict.fromkeys(notes)),
        )

    def _later_notes(self, sink: Sink | None) -> list[str]:
        notes = []
        if self._budget is not None:
            notes.append(f"memory ran out: batches were cut down to {self._budget:,} tokens")
        if self.prompter.unlocated:
            notes.append(
                f"the question was not found in {self.prompter.unlocated:,} prompts: they have no "
                "rows of the region question"
            )
        if sink is not None and self._examples and not sink.written and not sink.present:
            notes.append("no example had anything to store: its regions are empty")
        return notes


def _halves(group: list[int]) -> list[list[int]]:
    middle = (len(group) + 1) // 2
    return [group[:middle], group[middle:]]


def _context(model: Any) -> int | None:
    config: Any = getattr(model, "config", None)
    if config is None:
        return None
    found = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return found if isinstance(found, int) else None


def _width(model: Any) -> int:
    config: Any = getattr(model, "config", None)
    found = getattr(config.get_text_config(decoder=True), "hidden_size", None) if config else None
    return found if isinstance(found, int) else 4096
