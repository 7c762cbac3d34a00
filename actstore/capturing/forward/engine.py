"""Runs batches through the model with hooks in place: a bare pass, or one generation."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from actstore.capturing.forward.generation import Generation, seeded
from actstore.capturing.forward.grading import Grade, Grader
from actstore.capturing.forward.hooks import Tap
from actstore.capturing.forward.pooling import Pool, PooledBatch
from actstore.capturing.forward.stopping import Stops, response_of, watched
from actstore.capturing.prompts.encode import ROLES, PromptBatch, Prompter, Side
from actstore.capturing.prompts.example import Example
from actstore.models.blocks import Anatomy, HookPoint

_BOS, _SPECIAL = ROLES.index("bos"), ROLES.index("special")
_SEED_STEP = 1_000_003


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """What came of one batch of ``B`` examples, on the CPU."""

    examples: list[Example]
    positions: list[int]
    """Place of each example in the source."""
    pooled: PooledBatch
    ids: np.ndarray
    """Int64 ``[B, T + N]``: the padded prompts, then what was generated."""
    roles: np.ndarray
    """Int8 ``[B, T]``, as in :class:`PromptBatch`."""
    predictions: list[str | None]
    """The responses as text; None where nothing was to be generated."""
    responses: list[list[int]]
    """The responses' tokens, without the end token."""
    labels: list[str | None]
    tokens: int
    """Tokens read and written, padding not counted."""
    rendered: list[str]

    @classmethod
    def of(
        cls,
        batch: PromptBatch,
        positions: Sequence[int],
        pooled: PooledBatch,
        ids: np.ndarray,
        predictions: list[str | None],
        responses: list[list[int]],
        grades: Sequence[Grade],
    ) -> Captured:
        """Return what came of a batch."""
        return cls(
            examples=batch.examples,
            positions=list(positions),
            pooled=pooled,
            ids=ids,
            roles=batch.roles,
            predictions=predictions,
            responses=responses,
            labels=[grade.label for grade in grades],
            tokens=batch.tokens + sum(map(len, responses)),
            rendered=batch.rendered,
        )


class Engine:
    """A model with hooks at ``points``; a context manager, like the tap inside it."""

    pads = True
    """Examples of a batch are filled up to one length."""

    def __init__(
        self,
        anatomy: Anatomy,
        prompter: Prompter,
        points: Sequence[HookPoint],
        pools: Sequence[Pool],
        *,
        exclude: frozenset[str] = frozenset({"bos"}),
        generation: Generation | None = None,
        grader: Grader | None = None,
        padding_side: Side | None = None,
        seed: int = 0,
    ) -> None:
        """Attach nothing yet.

        Args:
            anatomy: parts of the model.
            prompter: makes the batches.
            points: where to hook.
            pools: what to keep.
            exclude: kinds of token that means and maxima leave out.
            generation: how to generate; None runs the base model alone.
            grader: labels what was generated.
            padding_side: left for generation always; else right by default, where a causal
                model is exact without anything further.
            seed: for drawing tokens; each batch draws from a seed of its own.
        """
        self.anatomy = anatomy
        self.prompter = prompter
        self.points = tuple(points)
        self.pools = tuple(pools)
        self.exclude = exclude
        self.generation = generation
        self.grader = grader
        self.padding_side: Side = "left" if generation else padding_side or "right"
        self.seed = seed
        self.device = input_device(anatomy)
        self._dtype = getattr(anatomy.model, "dtype", None)
        self._options = {"use_cache": False} if _takes_cache(anatomy.base) else {}
        self._was_training = False
        self._tap = Tap(self.points, self.pools, anatomy=anatomy, stop_early=generation is None)

    def __enter__(self) -> Self:
        self._tap.__enter__()
        self._was_training = bool(self.anatomy.model.training)
        self.anatomy.model.eval()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.anatomy.model.train(self._was_training)
        self._tap.__exit__(kind, error, trace)

    def run(self, examples: Sequence[Example], positions: Sequence[int]) -> Captured:
        """Capture one batch.

        Raises:
            ExampleError: a prompt cannot be made.
            HookError: the hooks saw something else than states of these tokens.
        """
        return self.forward(self.prompter.batch(examples, self.padding_side), positions)

    def forward(self, batch: PromptBatch, positions: Sequence[int]) -> Captured:
        """Capture a batch that is ready."""
        generation = self.generation
        inputs = self.inputs(batch)
        stops = Stops()
        self._tap.begin(
            batch.regions,
            excluded(batch, self.exclude),
            eos_ids=generation.eos_ids if generation else frozenset(),
            stops=stops,
            special_ids=frozenset(
                self.prompter.known_ids["special_ids"] if "special" in self.exclude else ()
            ),
        )
        ids = batch.inputs["input_ids"].numpy()
        responses: list[list[int]] = [[] for _ in batch.examples]
        predictions: list[str | None] = [None] * len(batch.examples)
        with torch.no_grad():
            if generation is None:
                self._tap.call(self.anatomy.base, **inputs, **self._options)
            else:
                with watched(self.anatomy.model, stops):
                    ids = self._generate(inputs, generation, positions[0])
                new = ids[:, batch.inputs["input_ids"].shape[1] :].tolist()
                lengths: list[int] | list[None] = stops.lengths or [None] * len(new)
                responses = [
                    response_of(row, length, generation.eos_ids)
                    for row, length in zip(new, lengths, strict=True)
                ]
                predictions = [self.prompter.decode(response) for response in responses]
            grades = grades_of(self.grader, predictions, batch.examples)
            answer = answers_of(self.prompter, self.pools, responses, grades)
            pooled = self._tap.end(answer)
        return Captured.of(batch, positions, pooled, ids, predictions, responses, grades)

    def inputs(self, batch: PromptBatch) -> dict[str, Any]:
        """Return the batch's inputs on the model's device, with positions where they are due.

        Models of texts alone count positions from the first token that is no pad; in a bare
        pass nobody but the caller does that. Models that see images make their own.
        """
        inputs = {name: self._placed(value) for name, value in batch.inputs.items()}
        mask = inputs["attention_mask"]
        if self.generation is None and self.padding_side == "left" and self._counts_positions():
            inputs["position_ids"] = position_ids(mask)
        return inputs

    def _counts_positions(self) -> bool:
        if self.prompter.sees or not takes(self.anatomy.base, "position_ids"):
            return False
        config: Any = getattr(self.anatomy.model, "config", None)
        return config is None or config.get_text_config(decoder=True) is config

    def _placed(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if value.is_floating_point() and self._dtype is not None:
            return value.to(self.device, self._dtype)
        return value.to(self.device)

    def _generate(
        self, inputs: dict[str, Any], generation: Generation, position: int
    ) -> np.ndarray:
        options: dict[str, Any] = {"generation_config": generation.config}
        if generation.stops_at_text:
            options["tokenizer"] = self.prompter.tokenizer
        # Every batch has its own seed: a run that is taken up again draws the same tokens.
        with seeded(self.device, (self.seed * _SEED_STEP + position) % (1 << 63)):
            model: Any = self.anatomy.model
            found = model.generate(**inputs, **options)
        ids: np.ndarray = found.cpu().numpy()
        return ids


def grades_of(
    grader: Grader | None, predictions: Sequence[str | None], examples: Sequence[Example]
) -> list[Grade]:
    """Return each example's label: its own, or the grader's."""
    if grader is None:
        return [Grade(example.label) for example in examples]
    return grader.grade(predictions, examples)


def answers_of(
    prompter: Prompter,
    pools: Sequence[Pool],
    responses: Sequence[Sequence[int]],
    grades: Sequence[Grade],
) -> torch.Tensor | None:
    """Return where answers stand in responses, bool ``[B, N]``; None where nobody asks."""
    if not any(grade.span for grade in grades):
        return None
    if not any(pool.region == "answer" for pool in pools):
        return None
    masks = [
        prompter.answer_mask(response, grade.span)
        for response, grade in zip(responses, grades, strict=True)
    ]
    longest = max(map(len, masks))
    found = torch.zeros((len(masks), longest), dtype=torch.bool)
    for row, mask in enumerate(masks):
        found[row, : len(mask)] = torch.tensor(mask, dtype=torch.bool)
    return found


def position_ids(mask: torch.Tensor) -> torch.Tensor:
    """Return positions ``[B, T]`` that count real tokens only; pads have 0."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def excluded(batch: PromptBatch, exclude: frozenset[str]) -> torch.Tensor | None:
    """Return which tokens of a batch means and maxima leave out, bool ``[B, T]``."""
    kinds = [number for name, number in (("bos", _BOS), ("special", _SPECIAL)) if name in exclude]
    if not kinds:
        return None
    return torch.from_numpy(np.isin(batch.roles, kinds))


def input_device(anatomy: Anatomy) -> torch.device:
    """Return where inputs go: to the embeddings, wherever the other parts of the model are."""
    module = anatomy.embeddings if anatomy.embeddings is not None else anatomy.model
    hook = getattr(module, "_hf_hook", None)  # accelerate's, where weights are spread
    chosen = getattr(hook, "execution_device", None)
    if chosen is not None:
        return torch.device("cuda", chosen) if isinstance(chosen, int) else torch.device(chosen)
    for parameter in module.parameters():
        if parameter.device.type != "meta":
            return parameter.device
    return torch.device("cpu")


def takes(module: torch.nn.Module, name: str) -> bool:
    """Say whether the module's ``forward`` has an argument of that name."""
    return name in inspect.signature(module.forward).parameters


def _takes_cache(module: torch.nn.Module) -> bool:
    kinds = {each.kind for each in inspect.signature(module.forward).parameters.values()}
    # A base that merges images hands further arguments on to its text model.
    return takes(module, "use_cache") or inspect.Parameter.VAR_KEYWORD in kinds


def context_length(model: Any) -> int | None:
    """Return how many tokens the model takes, if its configuration says so."""
    config: Any = getattr(model, "config", None)
    if config is None:
        return None
    found = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return found if isinstance(found, int) else None


def state_width(model: Any) -> int:
    """Return about how wide a state is."""
    config: Any = getattr(model, "config", None)
    found = getattr(config.get_text_config(decoder=True), "hidden_size", None) if config else None
    return found if isinstance(found, int) else 4096


def out_of_memory(error: BaseException) -> bool:
    """Say whether it is the device's memory that ran out."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text
    )
