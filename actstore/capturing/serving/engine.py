"""Runs batches through vLLM: all examples at once, scheduled as vLLM likes, pooled in hooks."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from actstore.capturing.forward.engine import Captured, answers_of, excluded, grades_of
from actstore.capturing.forward.generation import Generation
from actstore.capturing.forward.grading import Grader
from actstore.capturing.forward.pooling import Pool
from actstore.capturing.forward.stopping import response_of
from actstore.capturing.prompts.encode import PromptBatch, Prompter, Side
from actstore.capturing.prompts.example import Example
from actstore.capturing.serving.loading import ServedModel
from actstore.capturing.serving.sampling import sampling_options
from actstore.capturing.serving.tap import ServingTap
from actstore.errors import HookError
from actstore.models.blocks import HookPoint


class ServingEngine:
    """A model in vLLM with hooks at ``points``; a context manager, like the tap inside it."""

    pads = False
    """Texts lie behind one another; none is filled up."""

    def __init__(
        self,
        served: ServedModel,
        prompter: Prompter,
        points: Sequence[HookPoint],
        pools: Sequence[Pool],
        *,
        exclude: frozenset[str] = frozenset({"bos"}),
        generation: Generation | None = None,
        grader: Grader | None = None,
        seed: int = 0,
    ) -> None:
        """Attach nothing yet; the arguments are those of the local engine."""
        self.served = served
        self.prompter = prompter
        self.points = tuple(points)
        self.pools = tuple(pools)
        self.exclude = exclude
        self.generation = generation
        self.grader = grader
        self.seed = seed
        self.padding_side: Side = "left"
        """Of the batch as it is written down: prompts end where responses begin."""
        self.device = next(served.model.parameters()).device
        self._tap = ServingTap(served.model, self.points, self.pools, served.schedule)
        self.steps = 0
        """Steps that the engine took."""
        self.repeated = 0
        """Tokens that were computed again, after a preemption."""
        self.pieces = 0
        """Pieces that prompts came in."""

    def __enter__(self) -> Self:
        self._tap.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tap.__exit__(kind, error, trace)

    def run(self, examples: Sequence[Example], positions: Sequence[int]) -> Captured:
        """Capture one batch.

        Raises:
            ExampleError: a prompt cannot be made.
            HookError: the hooks saw something else than states of these tokens.
        """
        batch = self.prompter.batch(examples, self.padding_side)
        real = batch.inputs["attention_mask"].numpy().astype(bool)
        ids = batch.inputs["input_ids"].numpy()
        prompts = [row[mask].tolist() for row, mask in zip(ids, real, strict=True)]
        self._tap.begin(
            batch.regions,
            excluded(batch, self.exclude),
            prompts,
            special_ids=frozenset(
                self.prompter.known_ids["special_ids"] if "special" in self.exclude else ()
            ),
        )
        try:
            generated = self._served(prompts, positions)
            return self._captured(batch, positions, generated)
        finally:
            self._tap.drop()

    def _served(
        self, prompts: Sequence[Sequence[int]], positions: Sequence[int]
    ) -> list[list[int]]:
        """Let vLLM answer all prompts; return what it wrote, end tokens included."""
        import vllm

        engine: Any = self.served.llm.llm_engine
        schedule = self.served.schedule
        schedule.begin()
        names = [schedule.request(row) for row in range(len(prompts))]
        found: dict[int, list[int]] = {}
        try:
            for name, prompt, position in zip(names, prompts, positions, strict=True):
                options = sampling_options(self.generation, self.seed, position)
                engine.add_request(
                    name,
                    {"prompt_token_ids": list(prompt)},
                    vllm.SamplingParams(**options),
                )
            while engine.has_unfinished_requests():
                self.steps += 1
                for output in engine.step():
                    if output.finished:
                        row = schedule.row(output.request_id)
                        found[row] = list(output.outputs[0].token_ids)
        except BaseException:
            engine.abort_request(names)
            raise
        finally:
            self.repeated += self._tap.ledger.repeated
            self.pieces += self._tap.ledger.pieces
        missing = len(prompts) - len(found)
        if missing:
            raise HookError(f"vLLM left {missing} of {len(prompts)} requests unanswered")
        return [found[row] for row in range(len(prompts))]

    def _captured(
        self, batch: PromptBatch, positions: Sequence[int], generated: Sequence[Sequence[int]]
    ) -> Captured:
        generation = self.generation
        ids: np.ndarray = batch.inputs["input_ids"].numpy()
        responses: list[list[int]] = [[] for _ in batch.examples]
        predictions: list[str | None] = [None] * len(batch.examples)
        if generation is not None:
            longest = max(map(len, generated))
            rows = np.full((len(generated), longest), self.prompter.pad_id, ids.dtype)
            for row, tokens in zip(rows, generated, strict=True):
                row[: len(tokens)] = tokens
            ids = np.hstack([ids, rows])
            responses = [
                response_of(tokens, len(tokens), generation.eos_ids) for tokens in generated
            ]
            predictions = [self.prompter.decode(response) for response in responses]
        grades = grades_of(self.grader, predictions, batch.examples)
        answer = answers_of(self.prompter, self.pools, responses, grades)
        with torch.inference_mode():
            pooled = self._tap.end(generated, answer)
        return Captured.of(batch, positions, pooled, ids, predictions, responses, grades)
