"""`actstore.record`: capture inside somebody's own loop, around any call of the model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack

import numpy as np
import torch

from actstore.capturing.calls import Listener, ModelCall, check_rows
from actstore.capturing.forward import grading
from actstore.capturing.forward.engine import Captured
from actstore.capturing.forward.pooling import parse_exclude, parse_pools
from actstore.capturing.prompts.encode import Prompter
from actstore.capturing.recorded_example import RecordedExample, numbered, recorded_as
from actstore.capturing.run import provenance
from actstore.capturing.run.background_writer import Sink, WindowRows
from actstore.capturing.run.tables import StorageType, settle_values, tabulate
from actstore.errors import StoreError, UsageError
from actstore.models import blocks as anatomy_of
from actstore.models.interventions import hooks_around
from actstore.models.wrappers import uncompiled
from actstore.remote.working import working
from actstore.storage import manifest as manifests
from actstore.storage.manifest import Run
from actstore.storage.narrowing import narrow_of
from actstore.storage.rows import RowBatch
from actstore.storage.writer import StoreWriter

_NEEDS_TEXT = ("question", "answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSettings:
    """What the caller of :func:`record` chose."""

    layers: str | int | Sequence[int] = "all"
    sites: str | Sequence[str] = ("resid_post",)
    pool: str | Sequence[str] = ("prompt.last",)
    exclude: str | Sequence[str] = ("bos",)
    processor: Any = None
    grade: str | None = None
    model_name: str | None = None
    dataset: str | None = None
    blocks: str | None = None
    storage_dtype: StorageType | None = None
    settings: Mapping[str, Any] | None = None


class RecordOptions(TypedDict, total=False):
    """The fields of :class:`RecordSettings` as keywords, for editors and type checkers."""

    layers: str | int | Sequence[int]
    sites: str | Sequence[str]
    pool: str | Sequence[str]
    exclude: str | Sequence[str]
    processor: Any
    grade: str | None
    model_name: str | None
    dataset: str | None
    blocks: str | None
    storage_dtype: StorageType | None
    settings: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSummary:
    """What a recording stored."""

    run_id: str
    commit: int | None
    """Number of the last commit; None if nothing new was stored."""
    examples: int
    """Examples recorded, each row of a batch counted."""
    rows_written: int
    rows_present: int
    empty: int
    """Blocks in which the model was not called."""
    dropped: int
    """Blocks that an exception ended, and examples with values that are not finite."""


class Recorder:
    """Stores what a model computes inside ``with rec.example(...)``; made by :func:`record`."""

    def __init__(
        self,
        model: Any,
        store: str | Path,
        chosen: RecordSettings,
    ) -> None:
        sites, processor, grade = chosen.sites, chosen.processor, chosen.grade
        self._model = model
        self._anatomy = anatomy_of.find(model, blocks=chosen.blocks)
        self._pools = parse_pools(chosen.pool)
        self._exclude = parse_exclude(chosen.exclude)
        numbers = anatomy_of.parse_layers(chosen.layers, len(self._anatomy.blocks))
        names = sites.split(",") if isinstance(sites, str) else list(sites)
        points = anatomy_of.points(self._anatomy, [name.strip() for name in names], numbers)
        self._storage = chosen.storage_dtype
        self._prompter = (
            None
            if processor is None
            else Prompter(self._anatomy.model, processor, chat_template=False)
        )
        needing = [each.text for each in self._pools if each.region in _NEEDS_TEXT]
        if self._prompter is None and (needing or grade):
            raise UsageError(
                f"{needing[0] if needing else 'grade'} needs the text of tokens: give record() "
                "the tokenizer, processor=tokenizer"
            )
        self._grader = None if grade is None else grading.parse(grade)
        identity = provenance.identify(self._anatomy.model, chosen.model_name, None)
        known = _known_ids(self._anatomy.model, self._prompter)
        self._constants: dict[str, Any] = {"model": identity.name, "dataset": chosen.dataset}
        self._store = store
        self._folder = contextlib.ExitStack()
        self._run = Run(
            run_id=provenance.new_run({}).run_id.replace(provenance.KIND, "record", 1),
            kind="record",
            started_at=manifests.now(),
            settings={
                name: value
                for name, value in {
                    **provenance.describe_model(self._anatomy),
                    "hooks_around": hooks_around(model, self._anatomy.model) or None,
                    **provenance.describe_device(self._anatomy.model),
                    **provenance.corrected_sites(self._anatomy, points),
                    "model": identity.name,
                    "revision": identity.revision,
                    "dataset": chosen.dataset,
                    "layers": numbers,
                    "sites": list(dict.fromkeys(point.site for point in points)),
                    "hooks": provenance.hook_paths(points),
                    **provenance.head_shapes(points),
                    "special_ids": known["special_ids"],
                    "pool": [each.text for each in self._pools],
                    "exclude": sorted(self._exclude),
                    "grade": grade,
                    "storage_dtype": chosen.storage_dtype,
                    **(chosen.settings or {}),
                }.items()
                if value is not None
            },
            versions=provenance.versions(),
        )
        self._constants["captured_at"] = self._run.started_at
        self._listener = Listener(
            self._anatomy,
            points,
            self._pools,
            exclude=self._exclude,
            **known,
        )
        self._sink: Sink | None = None
        self._writer: StoreWriter | None = None
        self._inside = False
        self._waiting: RecordedExample | None = None
        self._counts = {"examples": 0, "empty": 0, "dropped": 0}
        self._generated = False
        self.last: RecordedExample | None = None
        """The example of the block that runs, or of the last one."""
        self.summary: RecordSummary | None = None
        """What was stored; set when the recording is over."""

    def __enter__(self) -> Self:
        root = self._folder.enter_context(working(self._store))
        try:
            self._writer = StoreWriter(
                root, run=self._run, checkpoint_bytes=None, narrow=narrow_of(self._storage)
            )
        except BaseException:
            self._folder.close()
            raise
        try:
            self._sink = Sink(self._writer)
            self._sink.__enter__()
            self._folder.enter_context(uncompiled(self._model, lambda: self._inside))
            self._listener.__enter__()
        except BaseException:
            self._writer.close()
            self._folder.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._sink is not None
        assert self._writer is not None
        self._listener.close()
        try:
            # What was recorded before an error stands: it was paid for.
            self._flush()
            self._sink.__exit__(None, None, None)
        except BaseException:
            self._sink.__exit__(RuntimeError, None, None)
            with contextlib.suppress(StoreError):  # of the examples before the one that failed
                self._writer.commit(operation="capture", message="record (broken off)")
            raise
        finally:
            self._writer.close()
            self._folder.close()
        self.summary = RecordSummary(
            run_id=self._run.run_id,
            commit=self._sink.commit,
            rows_written=self._sink.written,
            rows_present=self._sink.present,
            **self._counts,
        )

    @contextlib.contextmanager
    def example(
        self, id: Any = None, /, **fields: Any
    ) -> Iterator[RecordedExample]:  # the id may be given as id=... too
        """Record the calls of the model inside the block as this example.

        Args:
            id: of the example; a list of one per row for a batch.
            fields: ``question``, ``oracle``, ``task``, ``label``, ``split``, ``mode``,
                ``variant``, ``index``, ``image``, …; for a batch each may be a list. What is
                no column goes to ``extra``.

        Several calls in one block have 0, 1, … in the column ``example_index`` (or, where the
        index is given, ``call-0``, … in ``variant``). A block without a call stores nothing; an
        exception drops the block's rows and goes on its way.

        Raises:
            UsageError: the recording has not begun or another block is open.
            ExampleError: no id, or a value of the wrong kind.
            HookError: the call has another number of rows than there are ids, hooks could
                not follow it (beams, chunked prefill, assisted decoding, compiled code), or the
                first call shows that a site is not what its block adds to the residual stream.
            ConflictError: an earlier example is stored already with another vector.
        """
        if self._sink is None:
            raise UsageError("the recording has not begun: use `with actstore.record(...) as rec`")
        if self._inside:
            raise UsageError("a block of rec.example() is open already: they do not nest")
        given = dict(fields)
        if id is not None:
            given["id"] = id
        recorded = recorded_as(given)
        self._flush()
        self.last = recorded
        self._inside = True
        self._listener.listen(
            None
            if self._prompter is None
            else lambda ids, real: self._regions(recorded, ids, real),
            None if self._prompter is None else lambda call: self._answers(recorded, call),
        )
        try:
            yield recorded
            recorded.calls = self._listener.finish()
            for call in recorded.calls:
                check_rows(call, len(recorded.examples))
        except BaseException:
            recorded.calls = []
            self._counts["dropped"] += 1
            raise
        finally:
            self._inside = False
            self._listener.drop()
        if recorded.calls:
            self._waiting = recorded
        else:
            self._counts["empty"] += 1

    def _flush(self) -> None:
        """Hand the last example to the writer; it may not change any more."""
        recorded, self._waiting = self._waiting, None
        if recorded is None:
            return
        assert self._sink is not None
        captured = self._captured(recorded)
        self._generated |= any(call.ids.shape != call.prompt.shape for call in recorded.calls)
        self._counts["examples"] += len(recorded.examples)

        # NaN and infinity are not stored; the others of a batch are.
        refused = [frozenset(settle_values(each, self._storage)) for each in captured]
        self._counts["dropped"] += sum(map(len, refused))

        def rows() -> Iterator[RowBatch]:
            for each, bad in zip(captured, refused, strict=True):
                yield from tabulate([each], self._pools, self._constants, refused=bad)

        done = {"examples": self._counts["examples"], "generated": self._generated}
        self._sink.put(WindowRows(rows, done))

    def _captured(self, recorded: RecordedExample) -> list[Captured]:
        set_predictions, set_labels = recorded.each("prediction"), recorded.each("label")
        found = []
        for number, call in enumerate(recorded.calls):
            assert call.pooled is not None
            responses = call.responses
            decoded = self._predictions(call)
            predictions = [
                told if told is not None else own
                for told, own in zip(set_predictions, decoded, strict=True)
            ]
            examples = recorded.examples
            if len(recorded.calls) > 1:
                examples = [numbered(example, number) for example in examples]
            graded: list[str | None] = [example.label for example in examples]
            if self._grader is not None:
                graded = [grade.label for grade in self._grader.grade(predictions, examples)]
            labels = [
                told if told is not None else own
                for told, own in zip(set_labels, graded, strict=True)
            ]
            found.append(
                Captured(
                    examples=examples,
                    positions=list(range(len(examples))),
                    pooled=call.pooled,
                    ids=call.ids,
                    roles=call.roles,
                    predictions=predictions,
                    responses=responses,
                    labels=labels,
                    tokens=int(call.real.sum()) + sum(map(len, responses)),
                    rendered=[],
                )
            )
        return found

    def _predictions(self, call: ModelCall) -> list[str | None]:
        if self._prompter is None or not call.generates:
            return [None] * call.batch
        return [self._prompter.decode(response) for response in call.responses]

    def _regions(
        self, recorded: RecordedExample, ids: np.ndarray, real: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Find the questions among the tokens of the prompts."""
        assert self._prompter is not None
        if len(ids) != len(recorded.examples):
            return {}  # refused when the block ends
        found = np.zeros_like(real)
        for row, example in enumerate(recorded.examples):
            if example.question is not None:
                found[row] = self._prompter.find(example.question, ids[row], real[row])
        return {"question": found}

    def _answers(self, recorded: RecordedExample, call: ModelCall) -> torch.Tensor | None:
        """Return where the answers stand in the responses, as it was set or graded."""
        if not any(pool.region == "answer" for pool in self._pools):
            return None
        assert self._prompter is not None
        if call.batch != len(recorded.examples):
            return None
        predictions = [self._prompter.decode(response) for response in call.responses]
        spans: list[tuple[int, int] | None] = [None] * call.batch
        if self._grader is not None:
            graded = self._grader.grade(predictions, recorded.examples)
            spans = [grade.span for grade in graded]
        for row, answer in enumerate(recorded.each("answer")):
            start = -1 if answer is None else predictions[row].rfind(answer)
            if answer is not None and start >= 0:
                spans[row] = start, start + len(answer)
        masks = [
            self._prompter.answer_mask(response, span)
            for response, span in zip(call.responses, spans, strict=True)
        ]
        longest = max(map(len, masks))
        mask = torch.zeros((len(masks), longest), dtype=torch.bool)
        for row, each in enumerate(masks):
            mask[row, : len(each)] = torch.tensor(each, dtype=torch.bool)
        return mask


def record(model: Any, store: str | Path, **options: Unpack[RecordOptions]) -> Recorder:
    """Record activations inside a loop of your own.

    ::

        with actstore.record(model, "runs.store", layers="0.5", pool="prompt.last") as rec:
            for row in questions:
                with rec.example(id=row["id"], question=row["question"]) as ex:
                    output = model.generate(**tokenizer(row["question"], return_tensors="pt"))
                ex.prediction = tokenizer.decode(output[0])

    Any ``model(...)`` and ``model.generate(...)`` inside a block is captured, in one pass and
    by hooks: nothing is computed twice. Outside of blocks the model is left alone. Rows are
    written on another thread, and committed every minute and at the end; an error in the loop
    leaves a whole store with everything recorded before.

    Args:
        model: a loaded model, also one that accelerate spread over devices or PEFT wrapped.
        store: folder of the store, made when missing, or its address in a bucket.
        options: ``layers``, ``sites``, ``pool``, ``exclude``, ``dataset``, ``model_name``,
            ``blocks``, ``grade`` and ``storage_dtype`` as :func:`actstore.capture` has them;
            ``processor``: the tokenizer or processor, for predictions, special tokens,
            ``question.*`` and ``answer.*``; ``settings``: anything to write down about the run.

    Raises:
        ModelError: the model's blocks were not found, or it cannot be captured.
        UsageError: an option cannot work, or the model has no name (``model_name``).
    """
    return Recorder(model, store, RecordSettings(**options))


def _known_ids(model: Any, prompter: Prompter | None) -> dict[str, Any]:
    """Return the ids of special tokens, as far as the tokenizer or the configuration has them."""
    if prompter is not None:
        return prompter.known_ids
    config: Any = getattr(model, "config", None)
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    found: dict[str, list[int]] = {}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "image_token_id"):
        values = [getattr(each, name, None) for each in (config, text)]
        value = next((each for each in values if each is not None), None)
        numbers = value if isinstance(value, list | tuple) else [value]
        found[name] = [int(each) for each in numbers if each is not None]
    special = {number for name, numbers in found.items() if name[:3] != "ima" for number in numbers}
    return {
        "special_ids": sorted(special),
        "bos_id": found["bos_token_id"][0] if found["bos_token_id"] else None,
        "image_ids": found["image_token_id"],
    }
