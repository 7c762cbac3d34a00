"""Checks, in the first pass of somebody's own loop, that sites are what their names say.

The caller's pass may be steered or ablated on purpose, so a site is refused only by a sum that
holds: the stream leaving the block is made of the site without what came in, or has another
MLP in it. What is merely not found in the stream is left to the self-check of a capture.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import torch

from actstore.capturing.selfcheck import residual_sum
from actstore.capturing.selfcheck.reference import watching
from actstore.errors import HookError
from actstore.models.blocks import Anatomy, HookPoint


class FirstCall:
    """Watches blocks whose ``attn_out`` or ``mlp_out`` is recorded, until one pass was judged."""

    def __init__(self, anatomy: Anatomy, points: Sequence[HookPoint]) -> None:
        self._anatomy = anatomy
        self._asked = {
            (point.site, point.layer)
            for point in points
            if point.site in residual_sum.SITES and point.layer is not None
        }
        self._blocks: list[residual_sum.SeenBlock] = []
        self._hooks = contextlib.ExitStack()

    def begin(self, real: np.ndarray) -> None:
        """Watch the pass that begins, over tokens of which ``real`` ``[B, T]`` are no padding."""
        self.drop()
        # Dropout between a part and the stream would be taken for something else.
        if not self._asked or self._anatomy.model.training or not real.any(1).all():
            return
        ends = np.stack([real.argmax(1), real.shape[1] - 1 - real[:, ::-1].argmax(1)], axis=1)
        layers = sorted({layer for _, layer in self._asked if layer is not None})
        self._blocks = residual_sum.blocks_of(self._anatomy, layers)
        columns, shape = torch.from_numpy(ends), (real.shape[0], real.shape[1])
        self._hooks.enter_context(
            watching(
                [
                    watch
                    for block in self._blocks
                    for watch in residual_sum.watches(self._anatomy, block, columns, shape)
                ]
            )
        )

    def end(self) -> None:
        """Judge the pass that is over.

        Raises:
            HookError: a recorded site is not what its block adds to the residual stream.
        """
        blocks = self._blocks
        self.drop()
        for block in blocks:
            verdict = residual_sum.judge(block, _coarsest(block))
            for site in sorted(verdict.certain) if verdict is not None else ():
                if verdict is not None and (site, verdict.layer) in self._asked:
                    raise HookError(
                        f"{site} of layer {verdict.layer} is not what this model adds to its "
                        f"residual stream there: {verdict.refused[site]}. Leave {site} out, or "
                        "name the module by its path in the block, as a site of its own"
                    )
        if blocks:
            self._asked.clear()

    def drop(self) -> None:
        """Take the hooks off again; a pass that was broken off says nothing."""
        self._hooks.close()
        self._blocks = []


def _coarsest(block: residual_sum.SeenBlock) -> str:
    """Return the type of the widest rounding in a block; under autocast there are several."""
    kinds = {str(each.dtype)[6:] for each in block.returned.values()}
    return max(kinds, key=lambda kind: residual_sum.LIMITS.get(kind, 1.0), default="bfloat16")
