"""Checks heads against their attention: what it returned, and the weights that it reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from actstore.capturing.forward.pooling import Pool, SiteLayer
from actstore.capturing.selfcheck.reference import (
    Pair,
    States,
    Watch,
    as_numpy,
    at_columns,
    plain_pattern,
    shaped,
)
from actstore.capturing.selfcheck.subject import SAME_PASS, Subject, named, rounded
from actstore.models.attention import attention_path
from actstore.models.blocks import PATTERN, HookPoint, own_part


class HeadCheck:
    """Watches what attentions return whose heads are captured, in one pass of the model."""

    def __init__(self, subject: Subject, column: torch.Tensor, shape: tuple[int, int]) -> None:
        """``column`` ``[B]`` are the tokens to look at, of a batch of this ``shape``."""
        self.subject, self.column, self.shape = subject, column, shape
        self.points = [point for point in subject.engine.points if point.site == "head_out"]
        self._returned: dict[int | None, np.ndarray] = {}

    def watches(self) -> list[Watch]:
        """Return what to watch."""
        return [self._watch(point) for point in self.points]

    def _watch(self, point: HookPoint) -> Watch:
        block = self.subject.anatomy.blocks[point.layer or 0]

        def keep(tensors: list[torch.Tensor]) -> None:
            states = shaped(tensors[0], *self.shape) if tensors else None
            if states is not None:
                self._returned[point.layer] = at_columns(states, self.column)

        path = attention_path(block)
        assert path is not None  # the point would not be there
        return block.get_submodule(own_part(block, path)), "output", keep

    def held(self, vectors: Mapping[SiteLayer, np.ndarray]) -> dict[str, Any]:
        """Compare them with the projection of what hooks kept; nothing where there are none.

        Raises:
            SelfCheckError: they differ.
        """
        if not self.points:
            return {}
        dtype = getattr(self.subject.anatomy.model, "dtype", torch.float32)
        pairs = []
        for point in self.points:
            kept = torch.from_numpy(vectors[point.site, point.layer])
            made = as_numpy(point.module(kept.to(_device_of(point, self.subject), dtype)))
            place = named((point.site, point.layer))
            pairs += [
                Pair(f"{place} of {name}", mine, expected)
                for name, mine, expected in zip(
                    self.subject.names, made, self._returned[point.layer], strict=True
                )
            ]
        worst = self.subject.worst("head_out", pairs, self.subject.tolerance)
        return {"head_out": rounded(worst)}


def hold_patterns(
    subject: Subject,
    vectors: Mapping[SiteLayer, Mapping[Pool, np.ndarray]],
    states: States,
    columns: Mapping[Pool, torch.Tensor],
    real: torch.Tensor,
) -> dict[str, Any]:
    """Compare patterns with what the model reports of a pass; nothing where there are none.

    Args:
        subject: what is checked.
        vectors: what hooks kept.
        states: what the model reports.
        columns: where each pool's tokens stand, ``[B]``; -1 where nowhere.
        real: which tokens are no pads, ``[B, T]``.

    Raises:
        SelfCheckError: they differ.
    """
    wanted = [point for point in subject.engine.points if point.site == PATTERN]
    pairs = []
    for point in wanted:
        weights = subject.weights_of(states, point.layer)
        if weights is None or point.shape is None:
            continue
        rows = plain_pattern([weights], real, point.shape.width)
        if rows is None:
            continue
        for pool, column in columns.items():
            chosen = [row for row, at in enumerate(column.tolist()) if at >= 0]
            expected = at_columns(rows, column.clamp(min=0))[chosen]
            mine = vectors[point.site, point.layer][pool]
            place = f"{named((point.site, point.layer))}, {pool.text}"
            pairs += [
                Pair(f"{place} of {subject.names[row]}", one, other)
                for row, one, other in zip(chosen, mine, expected, strict=True)
            ]
    if wanted and not pairs:
        subject.notes.append(
            "the model does not report attentions block by block: patterns were not held against "
            "them"
        )
    if not pairs:
        return {}
    return {"attentions": rounded(subject.worst("attentions", pairs, SAME_PASS))}


def _device_of(point: HookPoint, subject: Subject) -> torch.device:
    for weight in point.module.parameters():
        if weight.device.type != "meta":  # on disk, and loaded when it is called
            return weight.device
    return subject.engine.device
