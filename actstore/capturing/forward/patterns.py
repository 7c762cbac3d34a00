"""Attention patterns: from a module's weights to one vector per query token, without the pads."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from actstore.capturing.forward.prompt_pooling import PromptPlan
from actstore.errors import HookError
from actstore.models.blocks import HookPoint


class Patterns:
    """Lays out the patterns of one batch, whatever side its prompts are padded on.

    A query's vector is ``[heads, keys]`` in one row: the weight that each head gives to the
    prompt's first token, its second, and so on, with zeros after its last.
    """

    def __init__(self, plan: PromptPlan) -> None:
        self.plan = plan
        self._keys: dict[tuple[int, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}

    def rows(self, point: HookPoint, output: Any) -> torch.Tensor:
        """Return the vectors ``[B, T, heads * keys]`` of what an attention module returned.

        Raises:
            HookError: it returned no weights, or other heads than its configuration says.
        """
        assert point.shape is not None
        batch, width = self.plan.batch, self.plan.width
        expected = (batch, point.shape.heads, width, width)
        parts = output if isinstance(output, tuple | list) else ()
        tensors = [each for each in parts if isinstance(each, torch.Tensor)]
        weights = next((each for each in tensors if tuple(each.shape) == expected), None)
        if weights is None:
            got = ", ".join(str(list(each.shape)) for each in tensors) or "one tensor"
            raise HookError(
                f"{point.path} returned no attention weights {list(expected)} (got {got}): site "
                "attn_pattern needs attention that computes them, which is eager attention from "
                "the start (--attn eager; in Python, from_pretrained(…, "
                "attn_implementation='eager')); leave the layer out where that does not help"
            )
        columns, there = self._placed(point.shape.width, weights.device)
        picked = weights.detach().gather(3, columns.expand(*expected[:3], -1))
        kept = torch.where(there, picked, 0)
        return kept.transpose(1, 2).reshape(batch, width, -1)

    def _placed(self, keys: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the column of each key, and whether there is one: ``[B, 1, 1, keys]``."""
        if (keys, device) not in self._keys:
            real = self.plan.real
            most = int(real.sum(axis=1).max(initial=0))
            if most > keys:
                raise HookError(
                    f"a prompt of {most} tokens does not fit into an attention pattern of {keys} "
                    f"keys: give a --pattern-length of {most} or more"
                )
            columns = np.zeros((len(real), keys), np.int64)
            there = np.zeros((len(real), keys), np.bool_)
            for row, mask in enumerate(real):
                places = np.flatnonzero(mask)
                columns[row, : len(places)] = places
                there[row, : len(places)] = True
            self._keys[keys, device] = (
                torch.from_numpy(columns[:, None, None]).to(device),
                torch.from_numpy(there[:, None, None]).to(device),
            )
        return self._keys[keys, device]
