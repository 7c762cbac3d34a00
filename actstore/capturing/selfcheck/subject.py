"""What the self-check examines: an engine, a few examples, and the passes made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from actstore.capturing.forward.engine import Engine, position_ids, takes
from actstore.capturing.forward.hooks import Tap
from actstore.capturing.forward.pooling import Pool, SiteLayer
from actstore.capturing.prompts.encode import PromptBatch, Prompter
from actstore.capturing.prompts.example import Example
from actstore.capturing.selfcheck.reference import (
    Pair,
    States,
    Watch,
    advice,
    expected_module,
    plain_pattern,
    pooled_plainly,
    same_values,
    shaped,
    watching,
)
from actstore.errors import SelfCheckError
from actstore.models.attention import attention_path
from actstore.models.blocks import PATTERN, Anatomy, HookPoint

SAME_PASS = 1e-6
"""Tolerated between two copies of one value."""
SUMMED = 1e-4
"""Tolerated between two means of the same values: sums of float32 in another order."""
TOLERANCES: Mapping[str, float] = {
    "float64": 1e-6, "float32": 1e-3, "float16": 2e-2, "bfloat16": 6e-2,
}  # fmt: skip
"""Tolerated between an example alone and in a batch, by the model's type. Float32 is measured at
1e-6, and at 1e-3 where a GPU rounds products to TF32; bfloat16 at 1e-2 and more with depth."""
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_INPUTS = ("resid_pre", "embeddings", "mlp_in", "head_out")
_OUTPUTS = ("resid_post", "attn_out", "mlp_out", "final_norm")
SeenVectors = dict[tuple[SiteLayer, Pool, int], np.ndarray]
"""By place, pool and row of the batch: vectors ``[n, width]``."""


class Subject:
    """An engine under examination, and how it is told what is wrong with it."""

    def __init__(self, engine: Engine, examples: Sequence[Example]) -> None:
        self.engine = engine
        self.anatomy: Anatomy = engine.anatomy
        self.prompter: Prompter = engine.prompter
        self.examples = list(examples)
        self.count = len(self.anatomy.blocks)
        self.dtype = str(getattr(self.anatomy.model, "dtype", torch.float32))[6:]
        self.tolerance = TOLERANCES.get(self.dtype, TOLERANCES["bfloat16"])
        config: Any = getattr(self.anatomy.model, "config", None)
        self.text = config.get_text_config(decoder=True) if config is not None else None
        self.experts = any((getattr(self.text, name, None) or 0) > 1 for name in _EXPERTS)
        self.shift: int | None = None
        self.unreported: set[str] = set()
        """Sites that ``hidden_states`` do not show: features of images are added between blocks,
        or what follows the final norm is reported in its place."""
        self.notes: list[str] = []

    @property
    def names(self) -> list[str]:
        """The examples, for messages."""
        return [f"example {example.id!r}" for example in self.examples]

    def entry(self, place: SiteLayer) -> int | None:
        """Return which of ``hidden_states`` a place is; None where none is."""
        site, layer = place
        if self.shift is None or site in self.unreported:
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

    def weights_of(self, states: States, layer: int | None) -> torch.Tensor | None:
        """Return the attention weights that the model reports of a block, if it does."""
        having = [at for at, block in enumerate(self.anatomy.blocks) if attention_path(block)]
        if layer not in having or len(states.attentions) != len(having):
            return None
        return states.attentions[having.index(layer)]

    def reported(
        self,
        batch: PromptBatch,
        tap: Tap | None = None,
        watches: Iterable[Watch] = (),
        *,
        counted: bool = True,
    ) -> States:
        """Run the whole model without cache and return what it reports of itself.

        Without ``counted`` it counts positions for itself, as in a pass of which no token is a pad.
        """
        inputs = self.engine.inputs(batch)
        if not counted:
            inputs.pop("position_ids", None)
        elif not self.prompter.sees and takes(self.anatomy.model, "position_ids"):
            inputs["position_ids"] = position_ids(inputs["attention_mask"])
        return self.run(inputs, tap, watches)

    def run(
        self, inputs: Mapping[str, Any], tap: Tap | None = None, watches: Iterable[Watch] = ()
    ) -> States:
        """Do the same with inputs that are ready."""
        model = self.anatomy.model
        options: dict[str, Any] = {"output_hidden_states": True, "use_cache": False}
        if takes(model, "logits_to_keep"):
            options["logits_to_keep"] = 1
        if any(point.site == PATTERN for point in self.engine.points):
            options["output_attentions"] = True
        seen: dict[str, torch.Tensor] = {}
        block = self.anatomy.blocks[0]
        own: list[Watch] = [
            (block, "input", lambda given: seen.update({"in": given[0].detach()})),
            (block, "output", lambda given: seen.update({"out": given[0].detach()})),
        ]
        with watching([*own, *watches]):
            output = tap.call(model, **inputs, **options) if tap else model(**inputs, **options)
        states: tuple[torch.Tensor, ...] = tuple(getattr(output, "hidden_states", None) or ())
        shift = None
        if len(states) == self.count + 1 and isinstance(states[0], torch.Tensor):
            if same_values(seen.get("in"), states[0]):
                shift = 1
            elif same_values(seen.get("out"), states[0]):
                shift = 0
        weights = [each for each in getattr(output, "attentions", None) or () if each is not None]
        return States(states, getattr(output, "logits", None), shift, tuple(weights))

    def pooling(
        self,
        regions: Mapping[str, torch.Tensor],
        left_out: torch.Tensor | None,
        pools: Sequence[Pool],
        found: SeenVectors,
    ) -> list[Watch]:
        """Return watches that pool every place in the plainest way, while a pass runs.

        Args:
            regions: masks ``[B, T]``; passes over other shapes (decode steps) are left alone.
            left_out: tokens that means and maxima leave out, ``[B, T]``.
            pools: of these regions.
            found: where the vectors go.
        """
        batch, width = next(iter(regions.values())).shape
        real = torch.stack(list(regions.values())).any(0)

        def watch(point: HookPoint) -> Watch:
            place = point.site, point.layer

            def keep(tensors: list[torch.Tensor]) -> None:
                states: torch.Tensor | None = None
                if point.site == PATTERN and point.shape is not None:
                    states = plain_pattern(tensors, real, point.shape.width)
                elif tensors:
                    states = shaped(tensors[0], batch, width)
                if states is None:
                    return
                for row in range(batch):
                    for pool in pools:
                        found[place, pool, row] = pooled_plainly(
                            pool,
                            states[row],
                            regions[pool.region][row],
                            None if left_out is None else left_out[row : row + 1],
                        )

            return expected_module(self.anatomy, point), side_of(point), keep

        return [watch(point) for point in self.engine.points]

    def refuse_zeros(self, place: SiteLayer, vectors: np.ndarray) -> None:
        """Refuse what no model computes: NaN, infinity, nothing but zeros."""
        if not np.isfinite(vectors).all():
            raise SelfCheckError(
                f"the self-check failed before the run: {named(place)} holds NaN or infinity"
                + advice(self.dtype)
            )
        if len(vectors) and not vectors.any():
            raise SelfCheckError(
                f"the self-check failed before the run: {named(place)} is zero in all "
                f"{len(vectors)} examples: the hook does not see what the model computes, or the "
                "weights are not loaded"
            )

    def worst(
        self, what: str, pairs: Sequence[Pair], tolerance: float, allowed: float = 0.0
    ) -> float | None:
        """Return the largest error of some pairs.

        Raises:
            SelfCheckError: a larger share of them than ``allowed`` is off by more than tolerated.
        """
        off = [pair for pair in pairs if not pair.error <= tolerance]
        if len(off) > allowed * len(pairs):
            worst = max(pairs, key=lambda pair: pair.error)
            raise SelfCheckError(
                f"the self-check failed before the run ({what}): {_REASONS[what]}; {len(off)} of "
                f"{len(pairs)} vectors are off by more than {tolerance:g} ({self.dtype}), the "
                f"worst by {worst.error:.2g}: {worst.name}"
            )
        return max((pair.error for pair in pairs), default=None)

    def fail(self, what: str) -> SelfCheckError:
        """Return the error that says ``what``."""
        return SelfCheckError(f"the self-check failed before the run: {what}")


_REASONS = {
    "hidden_states": "hooks do not see what the model reports as its hidden states",
    "hooks": "what was kept is not what plain hooks on the same modules see in the same pass "
    "(another layer, row, token or value than its name says)",
    "alone": "examples get other vectors in a batch than alone (positions, padding, inputs that "
    "are not passed on)",
    "served": "what was captured while serving is not what transformers computes of the example "
    "alone (another sum of the residual stream, another layer or text, or the engine computes the "
    "model otherwise); leave the site out, or use --engine local",
    "attentions": "hooks do not see what the model reports as its attentions",
    "head_out": "what is taken for the heads' outputs is not what attention makes its own output "
    "of, so they are other heads, or something follows the projection; capture the module's input "
    "by its path",
    "response": "generated tokens get other vectors than in one pass over the whole text",
}


def side_of(point: HookPoint) -> Any:
    """Return which side of a module a site is, whatever side the point takes."""
    if point.site in _INPUTS:
        return "input"
    if point.site == PATTERN:
        return "weights"
    return "output" if point.site in _OUTPUTS else point.take


def named(place: SiteLayer) -> str:
    """Return a place in words."""
    site, layer = place
    return site if layer is None else f"{site} of layer {layer}"


def rounded(value: float | None) -> float | None:
    """Return a number as the run's record keeps it."""
    return None if value is None else float(f"{value:.3g}")
