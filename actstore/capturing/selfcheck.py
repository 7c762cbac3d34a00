"""Checks, before a run, that hooks see what the model computes, alone as in a batch.

=================  ========================================================================
``hidden_states``  what hooks kept against ``hidden_states`` of the same pass
``last_block``     final norm (and head) of the last block against what the model returned
``alone``          each vector of a batch against the example alone, without padding
``response``       states of generated tokens against one pass over prompt and response
``adds_up``        measured, never failed: block in + attention out + MLP out = block out
=================  ========================================================================

Errors are L2 norms of the difference relative to the reference. Within one pass values
are copies, so next to nothing is tolerated; between batches kernels differ, and as much is
tolerated as the model's type gives cause for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from actstore.capturing.blocks import Anatomy, HookPoint, points
from actstore.capturing.engine import Captured, Engine, excluded, out_of_memory, position_ids, takes
from actstore.capturing.example import Example
from actstore.capturing.generation import Generation
from actstore.capturing.hooks import Tap
from actstore.capturing.pooling import Pool
from actstore.capturing.prompts import Batch, Prompter
from actstore.capturing.reference import (
    Pair,
    States,
    advice,
    as_numpy,
    at_columns,
    pooled_plainly,
    same_values,
    scaled_logits,
)
from actstore.errors import HookError, ModelError, SelfCheckError

SAME_PASS = 1e-6
"""Tolerated between two copies of one value."""
TOLERANCES: Mapping[str, float] = {
    "float64": 1e-6, "float32": 1e-3, "float16": 2e-2, "bfloat16": 6e-2,
}  # fmt: skip
"""Tolerated between an example alone and in a batch, by the model's type. Float32 is measured at
1e-6, and at 1e-3 where a GPU rounds products to TF32; bfloat16 at 1e-2 and more with depth."""
_FLIPPED = 1 / 3
"""Share of vectors that may be further off in a mixture of experts: a rounding error can send a
token to another expert, and all later layers differ."""
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_EXAMPLES = 4
_TOKENS = 1024
_NEW_TOKENS = 12
_LAST, _FIRST = Pool("prompt", "last"), Pool("prompt", "first")
Place = tuple[str, int | None]


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
        self.engine = engine
        self.anatomy: Anatomy = engine.anatomy
        self.prompter: Prompter = engine.prompter
        self.examples = list(examples)
        self.count = len(self.anatomy.blocks)
        dtype = str(getattr(self.anatomy.model, "dtype", torch.float32)).removeprefix("torch.")
        self.dtype = dtype
        self.tolerance = TOLERANCES.get(dtype, TOLERANCES["bfloat16"])
        config: Any = getattr(self.anatomy.model, "config", None)
        self.text = config.get_text_config(decoder=True) if config is not None else None
        self.experts = any((getattr(self.text, name, None) or 0) > 1 for name in _EXPERTS)
        self.shift: int | None = None
        self.notes: list[str] = []

    def run(self) -> dict[str, Any]:
        self._check_places()
        was_training = bool(self.anatomy.model.training)
        self.anatomy.model.eval()
        try:
            with torch.no_grad():
                found = self._same_pass()
                found |= self._batched()
        finally:
            self.anatomy.model.train(was_training)
        record: dict[str, Any] = {
            "passed": True,
            "examples": len(self.examples),
            "dtype": self.dtype,
            "tolerance": {"same pass": SAME_PASS, "between batches": self.tolerance},
            **found,
        }
        if self.notes:
            record["notes"] = self.notes
        return record

    def _check_places(self) -> None:
        """Every module hooked must be part of the block that it is said to be of."""
        for point in self.engine.points:
            if point.layer is None:
                continue
            block = self.anatomy.blocks[max(point.layer, 0)]
            if not any(module is point.module for module in block.modules()):
                raise SelfCheckError(
                    f"the self-check failed before the run: the hook for {point.site} of layer "
                    f"{point.layer} is at {point.path}, which is not in block {point.layer} of "
                    f"{self.anatomy.blocks_path}"
                )

    def _same_pass(self) -> dict[str, Any]:
        """Compare hooks with hidden states, norm and logits of one and the same pass."""
        wanted = list(self.engine.points)
        there: set[Place] = {(point.site, point.layer) for point in wanted}
        last: Place = ("resid_post", self.count - 1)
        extra = [] if last in there else points(self.anatomy, ["resid_post"], [self.count - 1])
        parts = self._addends(there | {last})
        batch = self.prompter.batch(self.examples, "left")
        with Tap([*wanted, *extra, *parts], (_LAST, _FIRST), anatomy=self.anatomy) as tap:
            tap.begin(batch.regions)
            states = self._reported(batch, tap)
            vectors = tap.end().vectors
        self.shift = states.shift
        real: torch.Tensor = batch.inputs["attention_mask"].bool()
        columns = {
            _LAST: real.shape[1] - 1 - real.flip(1).int().argmax(1),
            _FIRST: real.int().argmax(1),
        }
        pairs = []
        for place in there:
            self._refuse_zeros(place, vectors[place][_LAST])
            entry = self._entry(place)
            if entry is None:
                continue
            for pool, column in columns.items():
                expected = at_columns(states.states[entry], column)
                for row, name in enumerate(self._names()):
                    pairs.append(
                        Pair(
                            f"{_place(place)}, {pool.text} of {name}",
                            vectors[place][pool][row],
                            expected[row],
                        )
                    )
        if self.shift is None and len(states.states) == self.count + 1:
            self._refuse_misplaced(vectors, states, columns[_LAST])
        if not pairs:
            self.notes.append(
                "the model does not report hidden states in a known order: hooks were not held "
                "against them"
            )
        worst = max((pair.error for pair in pairs), default=None)
        if worst is not None and worst > SAME_PASS:
            self._fail("hidden_states", pairs, SAME_PASS)
        found: dict[str, Any] = {"hidden_states": _rounded(worst)}
        found["last_block"] = self._last_block(vectors[last][_LAST], states, columns[_LAST])
        found["adds_up"] = self._adds_up(vectors)
        return found

    def _reported(self, batch: Batch, tap: Tap | None) -> States:
        """Run the whole model without cache and return what it reports of itself."""
        model = self.anatomy.model
        inputs = self.engine.inputs(batch)
        if not self.prompter.sees and takes(model, "position_ids"):
            inputs["position_ids"] = position_ids(inputs["attention_mask"])
        options: dict[str, Any] = {"output_hidden_states": True, "use_cache": False}
        if takes(model, "logits_to_keep"):
            options["logits_to_keep"] = 1
        seen: dict[str, torch.Tensor] = {}
        block = self.anatomy.blocks[0]

        def before(module: Any, args: Any, kwargs: Any) -> None:
            given = args[0] if args else kwargs.get("hidden_states")
            if isinstance(given, torch.Tensor):
                seen["in"] = given.detach()

        def after(module: Any, args: Any, output: Any) -> None:
            given = output if isinstance(output, torch.Tensor) else output[0]
            seen["out"] = given.detach()

        handles = [
            block.register_forward_pre_hook(before, with_kwargs=True),
            block.register_forward_hook(after),
        ]
        try:
            output = tap.call(model, **inputs, **options) if tap else model(**inputs, **options)
        finally:
            for handle in handles:
                handle.remove()
        states: tuple[torch.Tensor, ...] = tuple(getattr(output, "hidden_states", None) or ())
        shift = None
        if len(states) == self.count + 1 and isinstance(states[0], torch.Tensor):
            if same_values(seen.get("in"), states[0]):
                shift = 1
            elif same_values(seen.get("out"), states[0]):
                shift = 0
        return States(states, getattr(output, "logits", None), shift)

    def _entry(self, place: Place) -> int | None:
        """Return which of ``hidden_states`` a place is; None where none is."""
        site, layer = place
        if self.shift is None:
            return None
        if site == "resid_post" and layer is not None:
            entry = layer + self.shift
            return entry if entry < self.count else None  # the last one is after the final norm
        if site == "resid_pre" and layer is not None:
            entry = layer + self.shift - 1
            return entry if entry >= 0 else None
        if site == "embeddings":
            return 0 if self.shift == 1 else None
        return self.count if site == "final_norm" else None

    def _last_block(
        self, vectors: np.ndarray, states: States, column: torch.Tensor
    ) -> dict[str, Any]:
        """Compare the last block with what comes after it: one of two ways must agree."""
        norm, head = self.anatomy.final_norm, self.anatomy.head
        found: dict[str, Any] = {"final_norm": None, "logits": None}
        model: Any = self.anatomy.model
        hooked = torch.from_numpy(vectors).to(self.engine.device, model.dtype)
        errors: list[float] = []
        names = self._names()
        if states.states:
            end = at_columns(states.states[-1], column)
            ways = [vectors]
            if norm is not None:
                ways.append(as_numpy(norm(hooked)))
            # Where config.tie_last_hidden_states is off, the last entry is before the norm.
            worst = min(
                max(Pair(name, way[row], end[row]).error for row, name in enumerate(names))
                for way in ways
            )
            found["final_norm"] = _rounded(worst)
            errors.append(worst)
        if states.logits is not None and head is not None and norm is not None:
            # The batch is padded on the left: its last column is every example's last token.
            expected = as_numpy(states.logits[:, -1])
            made = as_numpy(scaled_logits(self.text, head(norm(hooked))))
            if made.shape == expected.shape:
                worst = max(
                    Pair(name, made[row], expected[row]).error for row, name in enumerate(names)
                )
                found["logits"] = _rounded(worst)
                errors.append(worst)
        if errors and min(errors) > self.tolerance:
            raise SelfCheckError(
                f"the self-check failed before the run: the last block ({self.anatomy.blocks_path}."
                f"{self.count - 1}) is not what the model goes on with: after the final norm "
                f"(off by {found['final_norm']}) and the head (off by {found['logits']}) it "
                f"differs from what the model returned by more than {self.tolerance:g}; check "
                "--blocks, and report the model if it is right"
            )
        if not errors:
            self.notes.append("the model has no final norm and head to hold the last block against")
        return found

    def _addends(self, there: set[Place]) -> list[HookPoint]:
        """Return further points at three layers, for measuring whether modules add up."""
        layers = sorted({0, self.count // 2, self.count - 1})
        try:
            found = points(self.anatomy, ["resid_pre", "attn_out", "mlp_out", "resid_post"], layers)
        except ModelError:
            return []
        return [point for point in found if (point.site, point.layer) not in there]

    def _adds_up(self, vectors: Mapping[Place, Mapping[Pool, np.ndarray]]) -> dict[str, Any] | None:
        errors = []
        for layer in range(self.count):
            sites = ("resid_pre", "attn_out", "mlp_out", "resid_post")
            if not all((site, layer) in vectors for site in sites):
                continue
            parts = [vectors[site, layer][_LAST].astype(np.float64) for site in sites]
            if len({part.shape for part in parts}) > 1:
                return None
            errors.append(Pair("", sum(parts[:3], np.zeros_like(parts[0])), parts[3]).error)
        if not errors:
            return None
        limit = max(1e-5, self.tolerance / 3) if self.dtype != "float32" else 1e-5
        return {"error": _rounded(max(errors)), "holds": max(errors) <= limit}

    def _batched(self) -> dict[str, Any]:
        """Compare what a batch of the run gives with every example alone."""
        engine = self._engine()
        with engine:
            batch = engine.run(self.examples, list(range(len(self.examples))))
            singles = [engine.run([example], [row]) for row, example in enumerate(self.examples)]
        pairs: list[Pair] = []
        for row, name in enumerate(self._names()):
            single = self.prompter.batch([self.examples[row]], "right")
            states = self._reported(single, None).states
            pairs += self._prompt_pairs(row, name, batch, singles[row], single, states)
        worst = max((pair.error for pair in pairs), default=None)
        share = sum(pair.error > self.tolerance for pair in pairs) / max(1, len(pairs))
        if share > (_FLIPPED if self.experts else 0.0):
            self._fail("alone", pairs, self.tolerance)
        found: dict[str, Any] = {"alone": _rounded(worst)}
        response = self._response_pairs(batch) if engine.generation else []
        if response:
            worst = max(pair.error for pair in response)
            share = sum(pair.error > self.tolerance for pair in response) / len(response)
            if share > (_FLIPPED if self.experts else 0.0):
                self._fail("response", response, self.tolerance)
            found["response"] = _rounded(worst)
        return found

    def _engine(self) -> Engine:
        """Return an engine like the run's that generates a few tokens only."""
        given = self.engine
        generation: Generation | None = given.generation
        if generation is not None:
            few = min(generation.max_new_tokens, _NEW_TOKENS)
            config = generation.config.__class__.from_dict(generation.config.to_dict())
            config.max_new_tokens = few
            generation = dataclasses.replace(generation, config=config, max_new_tokens=few)
        return Engine(
            given.anatomy,
            given.prompter,
            given.points,
            given.pools,
            exclude=given.exclude,
            generation=generation,
            padding_side=given.padding_side,
            seed=given.seed,
        )

    def _prompt_pairs(
        self,
        row: int,
        name: str,
        batch: Captured,
        alone: Captured,
        single: Batch,
        states: tuple[torch.Tensor, ...],
    ) -> list[Pair]:
        left_out = excluded(single, self.engine.exclude)
        pairs = []
        for place, kept in batch.pooled.vectors.items():
            entry = self._entry(place)
            for pool, vectors in kept.items():
                known = pool.region in single.regions and pool.region != "all"
                if not known and not (pool.region == "all" and self.engine.generation is None):
                    continue
                found = vectors[batch.pooled.rows[pool].example == row]
                if entry is not None:
                    mask = single.regions[pool.region][0]
                    expected = pooled_plainly(pool, states[entry][0], mask, left_out)
                else:
                    expected = alone.pooled.vectors[place][pool]
                if len(found) != len(expected):
                    raise SelfCheckError(
                        f"the self-check failed before the run: {pool.text} of {name} has "
                        f"{len(found)} rows in a batch and {len(expected)} alone"
                    )
                what = f"{_place(place)}, {pool.text} of {name}"
                pairs += [Pair(what, f, e) for f, e in zip(found, expected, strict=True)]
        return pairs

    def _response_pairs(self, batch: Captured) -> list[Pair]:
        """Compare generated tokens' states with one pass over prompt and response."""
        pools = [pool for pool in self.engine.pools if pool.region in ("response", "all")]
        if self.prompter.sees or not pools:
            return []
        pairs = []
        device = self.engine.device
        special = (
            self.prompter.tokenizer.all_special_ids if "special" in self.engine.exclude else []
        )
        for row, name in enumerate(self._names()):
            fed = int(batch.pooled.response_tokens[row])
            single = self.prompter.batch([self.examples[row]], "right")
            prompt = single.inputs["input_ids"]
            more = torch.tensor([batch.responses[row][:fed]], dtype=prompt.dtype)
            ids = torch.cat([prompt, more.reshape(1, -1)], dim=1)
            output = self.anatomy.model(
                input_ids=ids.to(device),
                attention_mask=torch.ones_like(ids).to(device),
                output_hidden_states=True,
                use_cache=False,
            )
            mask = {"all": torch.ones(ids.shape[1], dtype=torch.bool)}
            mask["response"] = torch.arange(ids.shape[1]) >= prompt.shape[1]
            left_out = torch.zeros_like(ids, dtype=torch.bool)
            before = excluded(single, self.engine.exclude)
            if before is not None:
                left_out[:, : prompt.shape[1]] = before
            left_out[:, prompt.shape[1] :] = torch.isin(
                more, torch.tensor(special, dtype=more.dtype)
            )
            for place, kept in batch.pooled.vectors.items():
                entry = self._entry(place)
                for pool in pools if entry is not None else ():
                    found = kept[pool][batch.pooled.rows[pool].example == row]
                    expected = pooled_plainly(
                        pool, output.hidden_states[entry][0], mask[pool.region], left_out
                    )
                    if len(found) != len(expected):
                        raise SelfCheckError(
                            f"the self-check failed before the run: {pool.text} of {name} has "
                            f"{len(found)} rows in generation and {len(expected)} in one pass"
                        )
                    what = f"{_place(place)}, {pool.text} of {name}"
                    pairs += [Pair(what, f, e) for f, e in zip(found, expected, strict=True)]
        return pairs

    def _refuse_misplaced(
        self,
        vectors: Mapping[Place, Mapping[Pool, np.ndarray]],
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
                        f"the self-check failed before the run (hidden_states): {_place(place)} is "
                        f"what the model reports as hidden_states[{number}], and the first of them "
                        f"does not belong to {self.anatomy.blocks_path}.0: the blocks are not the "
                        "model's, or not in its order; check --blocks"
                    )

    def _refuse_zeros(self, place: Place, vectors: np.ndarray) -> None:
        if not np.isfinite(vectors).all():
            raise SelfCheckError(
                f"the self-check failed before the run: {_place(place)} holds NaN or infinity"
                + advice(self.dtype)
            )
        if len(vectors) and not vectors.any():
            raise SelfCheckError(
                f"the self-check failed before the run: {_place(place)} is zero in all "
                f"{len(vectors)} examples: the hook does not see what the model computes, or the "
                "weights are not loaded"
            )

    def _names(self) -> list[str]:
        return [f"example {example.id!r}" for example in self.examples]

    def _fail(self, what: str, pairs: Sequence[Pair], tolerance: float) -> None:
        worst = max(pairs, key=lambda pair: pair.error)
        off = [pair for pair in pairs if pair.error > tolerance]
        reason = {
            "hidden_states": "hooks do not see what the model reports as its hidden states",
            "alone": "examples get other vectors in a batch than alone (positions, padding, inputs "
            "that are not passed on)",
            "response": "generated tokens get other vectors than in one pass over the whole text",
        }[what]
        raise SelfCheckError(
            f"the self-check failed before the run ({what}): {reason}; {len(off)} of {len(pairs)} "
            f"vectors are off by more than {tolerance:g} ({self.dtype}), the worst by "
            f"{worst.error:.2g}: {worst.name}"
        )


def _place(place: Place) -> str:
    site, layer = place
    return site if layer is None else f"{site} of layer {layer}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")
