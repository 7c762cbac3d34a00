"""Checks, before a run, that hooks see what the model computes, alone as in a batch.

=================  ========================================================================
``hidden_states``  what hooks kept against ``hidden_states`` of the same pass
``last_block``     what follows the last block against what the model returned
``adds_up``        block in + attention out + MLP out against block out; see `residual_sum`
``attentions``     attention patterns against ``attentions`` of the same pass
``head_out``       what the output projection makes of the heads against what attention returned
``hooks``          what a batch kept against plain hooks of the check's own in the same pass
``alone``          each vector of a batch against the example alone, without padding
``response``       states of generated tokens against one pass over prompt and response, or
                   against steps over each text alone where those differ from a pass
=================  ========================================================================

Errors are L2 norms of the difference relative to the reference. Within one pass values
are copies, so next to nothing is tolerated; between batches kernels differ, and as much is
tolerated as the model's type gives cause for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from actstore.capturing.forward.engine import Engine, out_of_memory
from actstore.capturing.forward.hooks import Tap
from actstore.capturing.forward.pooling import Pool, SiteLayer
from actstore.capturing.prompts.encode import PromptBatch
from actstore.capturing.prompts.example import Example
from actstore.capturing.selfcheck import residual_sum
from actstore.capturing.selfcheck.batch_check import batched
from actstore.capturing.selfcheck.head_check import HeadCheck, hold_patterns
from actstore.capturing.selfcheck.reference import (
    Pair,
    States,
    Watch,
    as_numpy,
    at_columns,
    expected_module,
    scaled_logits,
    shaped,
)
from actstore.capturing.selfcheck.subject import (
    SAME_PASS,
    Subject,
    named,
    rounded,
    side_of,
)
from actstore.errors import HookError, ModelError, SelfCheckError
from actstore.models.blocks import points

_EXAMPLES = 4
_TOKENS = 1024
_LAST, _FIRST = Pool("prompt", "last"), Pool("prompt", "first")
_IMAGE = (Pool("image", "first"), Pool("image", "last"))


def choose(examples: Sequence[Example], lengths: Sequence[int]) -> list[Example]:
    """Return a few examples of lengths as different as can be, none very long."""
    order = sorted(range(len(examples)), key=lambda at: (lengths[at], at))
    short = [at for at in order if lengths[at] <= _TOKENS] or order[:1]
    count = min(_EXAMPLES, len(short))
    if count < 2:
        return [examples[at] for at in short]
    picked = {short[round(step * (len(short) - 1) / (count - 1))] for step in range(count)}
    return [examples[at] for at in sorted(picked)]


def check(engine: Engine, examples: Sequence[Example]) -> dict[str, Any]:
    """Check an engine, not yet entered, on a few examples; return the numbers.

    Raises:
        SelfCheckError: something is further off than tolerated; the message has the numbers.
        ModelError: the device's memory does not hold the check.
    """
    chosen = list(examples)
    while True:
        try:
            return _Check(engine, chosen).run()
        except HookError as error:
            raise SelfCheckError(f"the self-check failed before the run: {error}") from error
        except Exception as error:
            if not out_of_memory(error):
                raise
            if len(chosen) == 1:
                raise ModelError(
                    "the device's memory does not hold the self-check of a single example; use a "
                    "smaller --dtype, --device-map auto, or leave the check out (--no-self-check)"
                ) from error
        chosen = sorted(chosen, key=engine.prompter.length)[: len(chosen) // 2]


class _Check:
    def __init__(self, engine: Engine, examples: Sequence[Example]) -> None:
        self.subject = Subject(engine, examples)
        self.anatomy = engine.anatomy

    def run(self) -> dict[str, Any]:
        subject = self.subject
        self._check_places()
        was_training = bool(self.anatomy.model.training)
        self.anatomy.model.eval()
        try:
            with torch.no_grad():
                found = self._same_pass()
                found |= batched(subject)
        finally:
            self.anatomy.model.train(was_training)
        record: dict[str, Any] = {
            "passed": True,
            "examples": len(subject.examples),
            "dtype": subject.dtype,
            "tolerance": {"same pass": SAME_PASS, "between batches": subject.tolerance},
            **found,
        }
        if subject.notes:
            record["notes"] = subject.notes
        return record

    def _check_places(self) -> None:
        """Every module hooked must be the one that its site means, on the side that it means."""
        for point in self.subject.engine.points:
            expected_module(self.anatomy, point)
            if point.take != side_of(point):
                raise self.subject.fail(
                    f"the hook for {named((point.site, point.layer))} takes the {point.take} of "
                    f"{point.path}, not its {side_of(point)}"
                )

    def _same_pass(self) -> dict[str, Any]:
        """Compare hooks with hidden states, norm and logits of one and the same pass."""
        subject = self.subject
        wanted = list(subject.engine.points)
        there: set[SiteLayer] = {(point.site, point.layer) for point in wanted}
        last: SiteLayer = ("resid_post", subject.count - 1)
        extra = [] if last in there else points(self.anatomy, ["resid_post"], [subject.count - 1])
        batch = subject.prompter.batch(subject.examples, "left")
        columns = _columns(batch)
        shape = tuple(batch.inputs["input_ids"].shape)
        measured = residual_sum.blocks_of(self.anatomy, self._measured(there))
        ends = torch.stack([columns[_FIRST], columns[_LAST]], dim=1)
        watches = [
            watch
            for block in measured
            for watch in residual_sum.watches(self.anatomy, block, ends, (shape[0], shape[1]))
        ]
        after: list[tuple[str, torch.Tensor]] = []
        watches += self._what_follows(after, columns[_LAST], (shape[0], shape[1]))
        heads = HeadCheck(subject, columns[_LAST], (shape[0], shape[1]))
        watches += heads.watches()
        with Tap([*wanted, *extra], list(columns), anatomy=self.anatomy) as tap:
            tap.begin(batch.regions)
            states = subject.reported(batch, tap, watches)
            pooled = tap.end()
        subject.shift = states.shift
        vectors = pooled.vectors
        for place in there:
            subject.refuse_zeros(place, vectors[place][_LAST])
        norm: SiteLayer = ("final_norm", None)
        if norm in there and states.states:
            width = vectors[norm][_LAST].shape[-1]
            if states.states[-1].shape[-1] != width:  # projected further, as in OPT-350m
                subject.unreported.add("final_norm")
        self._note_features_between(vectors, states, columns)
        pairs = [
            Pair(f"{named(place)}, {pool.text} of {name}", mine, expected)
            for place in there
            for pool, column in columns.items()
            for name, mine, expected in self._reported_pairs(place, pool, column, vectors, states)
        ]
        if subject.shift is None and len(states.states) == subject.count + 1:
            self._refuse_misplaced(vectors, states, columns[_LAST])
        if not pairs:
            subject.notes.append(
                "the model does not report hidden states in a known order: hooks were not held "
                "against them"
            )
        found: dict[str, Any] = {
            "hidden_states": rounded(subject.worst("hidden_states", pairs, SAME_PASS))
        }
        found["last_block"] = self._last_block(vectors[last][_LAST], after, states, columns[_LAST])
        found["adds_up"] = self._adds_up(measured, there)
        found |= heads.held({place: kept[_LAST] for place, kept in vectors.items()})
        real = batch.inputs["attention_mask"].bool()
        return found | hold_patterns(subject, vectors, states, columns, real)

    def _reported_pairs(
        self,
        place: SiteLayer,
        pool: Pool,
        column: torch.Tensor,
        vectors: Mapping[SiteLayer, Mapping[Pool, np.ndarray]],
        states: States,
    ) -> list[tuple[str, np.ndarray, np.ndarray]]:
        entry = self.subject.entry(place)
        if entry is None:
            return []
        mine = vectors[place][pool]
        chosen = [row for row, at in enumerate(column.tolist()) if at >= 0]
        expected = at_columns(states.states[entry], column.clamp(min=0))[chosen]
        return [
            (self.subject.names[row], one, other)
            for row, one, other in zip(chosen, mine, expected, strict=True)
        ]

    def _note_features_between(
        self,
        vectors: Mapping[SiteLayer, Mapping[Pool, np.ndarray]],
        states: States,
        columns: Mapping[Pool, torch.Tensor],
    ) -> None:
        """See whether features of images are added between blocks, at their tokens alone."""
        between = set()
        for place in vectors:
            text, image = (
                [
                    Pair("", mine, expected).error <= SAME_PASS
                    for pool in set(_IMAGE if images else (_FIRST, _LAST)) & columns.keys()
                    for _, mine, expected in self._reported_pairs(
                        place, pool, columns[pool], vectors, states
                    )
                ]
                for images in (False, True)
            )
            if place[0] in ("resid_pre", "resid_post") and all(text) and not all(image):
                between.add(place[0])
        if between:
            self.subject.unreported |= between
            self.subject.notes.append(
                "the model adds features of images between its blocks: "
                f"{', '.join(sorted(between))} was held against the blocks themselves"
            )

    def _what_follows(
        self, after: list[tuple[str, torch.Tensor]], column: torch.Tensor, shape: tuple[int, int]
    ) -> list[Watch]:
        """Watch what the model does with its last block's states: a norm, a projection."""
        blocks = set(self.anatomy.blocks)

        def watch(module: torch.nn.Module, side: Any) -> Watch:
            def keep(tensors: list[torch.Tensor]) -> None:
                states = shaped(tensors[0], *shape) if tensors else None
                if states is not None:
                    rows = torch.arange(len(states), device=states.device)
                    after.append((side, states[rows, column.to(states.device)]))

            return module, side, keep

        modules = [
            child
            for child in self.anatomy.decoder.children()
            if not blocks & set(child.modules()) and child is not self.anatomy.embeddings
        ]
        return [watch(module, side) for module in modules for side in ("input", "output")]

    def _last_block(
        self,
        vectors: np.ndarray,
        after: Sequence[tuple[str, torch.Tensor]],
        states: States,
        column: torch.Tensor,
    ) -> dict[str, Any]:
        """Compare the last block with what comes after it: one of two ways must agree."""
        norm, head = self.anatomy.final_norm, self.anatomy.head
        found: dict[str, Any] = {"final_norm": None, "logits": None}
        model: Any = self.anatomy.model
        hooked = torch.from_numpy(vectors).to(self.subject.engine.device, model.dtype)
        ways = [hooked] if norm is None else [hooked, norm(hooked)]
        reached = [hooked]
        for number, (side, given) in enumerate(after):
            # A module's input is noted right before its output.
            output = after[number + 1 : number + 2]
            if side == "input" and output and any(_equal(given, each) for each in reached):
                reached += [made for other, made in output if other == "output"]
        ways += reached[1:]
        errors: list[float] = []
        if states.states:
            # Where config.tie_last_hidden_states is off, the last entry is before the norm.
            end = at_columns(states.states[-1], column)
            errors.append(min(self._off(way, end) for way in ways))
            found["final_norm"] = rounded(errors[-1])
        width = getattr(getattr(head, "weight", None), "shape", (0,))[-1]
        fitting = [way for way in ways[1:] or ways if way.shape[-1] == width]
        if states.logits is not None and head is not None and fitting:
            # The batch is padded on the left: its last column is every example's last token.
            expected = as_numpy(states.logits[:, -1])
            errors.append(
                min(
                    self._off(scaled_logits(self.subject.text, head(way.to(model.dtype))), expected)
                    for way in fitting
                )
            )
            found["logits"] = rounded(errors[-1])
        if errors and min(errors) > self.subject.tolerance:
            raise self.subject.fail(
                f"the last block ({self.anatomy.blocks_path}.{self.subject.count - 1}) is not what "
                f"the model goes on with: after the final norm (off by {found['final_norm']}) and "
                f"the head (off by {found['logits']}) it differs from what the model returned by "
                f"more than {self.subject.tolerance:g}; check --blocks, and report the model if it "
                "is right"
            )
        if not errors:
            self.subject.notes.append(
                "the model has no final norm and head to hold the last block against"
            )
        return found

    def _off(self, made: torch.Tensor, expected: np.ndarray) -> float:
        found = as_numpy(made)
        return max(Pair("", *pair).error for pair in zip(found, expected, strict=True))

    def _measured(self, there: set[SiteLayer]) -> list[int]:
        """Return the layers whose sums are measured: three, or all whose parts are captured."""
        asked = {layer for site, layer in there if site in residual_sum.SITES and layer is not None}
        count = self.subject.count
        return sorted(asked or {0, count // 2, count - 1})

    def _adds_up(
        self, measured: Sequence[residual_sum.SeenBlock], there: set[SiteLayer]
    ) -> dict[str, Any] | None:
        """Say how blocks add their parts up; refuse sites that are not what their name says."""
        verdicts = [residual_sum.judge(block, self.subject.dtype) for block in measured]
        seen = [verdict for verdict in verdicts if verdict is not None]
        for verdict in seen:
            for site, reason in verdict.refused.items():
                if (site, verdict.layer) in there:
                    raise self.subject.fail(
                        f"{site} of layer {verdict.layer} is not what this model adds to its "
                        f"residual stream there: {reason}. Leave {site} out, or name the module by "
                        "its path in the block, as a site of its own"
                    )
        errors = [verdict.error for verdict in seen if verdict.error is not None]
        if not seen:
            return None
        limit = residual_sum.LIMITS.get(self.subject.dtype, residual_sum.LIMITS["bfloat16"])
        found: dict[str, Any] = {
            "error": rounded(max(errors, default=None)),
            "holds": max(errors) <= limit if errors else None,
        }
        for name in ("how", "refused"):
            told: dict[str, dict[str, None]] = {}
            for verdict in seen:
                for site, text in getattr(verdict, name).items():
                    told.setdefault(site, {})[text] = None
            if told:
                found[name] = {site: "; ".join(texts) for site, texts in sorted(told.items())}
        return found

    def _refuse_misplaced(
        self,
        vectors: Mapping[SiteLayer, Mapping[Pool, np.ndarray]],
        states: States,
        column: torch.Tensor,
    ) -> None:
        """Where hidden states begin unlike any family's, none of them may be a hook's either."""
        for number, reported in enumerate(states.states):
            for place, kept in vectors.items():
                if place[0] == "resid_post" and np.array_equal(
                    kept[_LAST], at_columns(reported, column)
                ):
                    raise SelfCheckError(
                        f"the self-check failed before the run (hidden_states): {named(place)} is "
                        f"what the model reports as hidden_states[{number}], and the first of them "
                        f"does not belong to {self.anatomy.blocks_path}.0: the blocks are not the "
                        "model's, or not in its order; check --blocks"
                    )


def _columns(batch: PromptBatch) -> dict[Pool, torch.Tensor]:
    """Return where each pool of the check's first pass stands, ``[B]``; -1 where nowhere."""
    real: torch.Tensor = batch.inputs["attention_mask"].bool()
    masks = {_LAST: real, _FIRST: real}
    image = batch.regions.get("image")
    if image is not None and image.any():
        masks |= dict.fromkeys(_IMAGE, image.bool())
    found = {}
    for pool, mask in masks.items():
        first = mask.int().argmax(1)
        last = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
        column = first if pool.pool == "first" else last
        found[pool] = torch.where(mask.any(1), column, -1)
    return found


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and bool(torch.equal(one.to(other.device, other.dtype), other))
