"""Puts what the hooks kept of prompt and response together, on the CPU, into rows and vectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from actstore.capturing.forward.pooling import Pool, PooledBatch, PoolRows, SiteLayer
from actstore.capturing.forward.prompt_pooling import PromptPlan, PromptStates
from actstore.capturing.forward.response_pooling import Responses
from actstore.models.blocks import HookPoint


class Fed(NamedTuple):
    """Which generated tokens count; boolean ``[steps, B]``."""

    real: np.ndarray
    averaged: np.ndarray
    """Those that means and maxima take in."""


class _Kept(NamedTuple):
    """What was kept of one hook."""

    picked: np.ndarray
    sums: np.ndarray | None
    maxima: np.ndarray | None
    response_sums: np.ndarray | None
    response_maxima: np.ndarray | None
    tail: np.ndarray | None
    heads: np.ndarray | None
    every: np.ndarray | None
    """``[steps, B, width]``."""


def assemble(
    *,
    plan: PromptPlan,
    points: Sequence[HookPoint],
    pools: Sequence[Pool],
    prompt: Sequence[PromptStates],
    groups: Sequence[tuple[Responses, int]],
    fed: Fed,
    answer: torch.Tensor | None,
) -> PooledBatch:
    """Return rows and vectors of a batch; ``groups`` has each point's accumulators, if any."""
    for device in plan.left | {group.device for group, _ in groups}:
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # single tokens are still on their way
    texts = _BatchTexts(plan, fed, answer)
    rows = {pool: texts.rows(pool) for pool in pools}
    vectors: dict[SiteLayer, dict[Pool, np.ndarray]] = {}
    for point, kept in zip(points, _off_device(prompt, groups), strict=True):
        vectors[point.site, point.layer] = {
            pool: texts.vectors(pool, rows[pool], kept, groups) for pool in pools
        }
    return PooledBatch(
        rows=rows,
        vectors=vectors,
        response_tokens=fed.real.sum(axis=0, dtype=np.int64),
        steps=len(fed.real),
    )


class _BatchTexts:
    """Prompts and responses of a batch as one row of tokens each: ``[B, T + steps]``."""

    def __init__(self, plan: PromptPlan, fed: Fed, answer: torch.Tensor | None) -> None:
        self.plan = plan
        steps = len(fed.real)
        empty = np.zeros((plan.batch, steps), np.bool_)
        self.masks = {name: np.hstack([mask, empty]) for name, mask in plan.masks.items()}
        self.masks["all"] = np.hstack([plan.real, fed.real.T])
        self.excluded = np.hstack([plan.excluded, (fed.real & ~fed.averaged).T])
        before = np.zeros((plan.batch, plan.width), np.bool_)
        self.masks.setdefault("response", np.hstack([before, fed.real.T]))
        if "answer" not in self.masks:
            found = empty.copy()
            if answer is not None:
                given = answer.detach().cpu().numpy()[:, :steps]
                found[:, : given.shape[1]] = given
            self.masks["answer"] = np.hstack([before, found & fed.real.T])
        self.positions = np.cumsum(self.masks["all"], axis=1) - 1

    def rows(self, pool: Pool) -> PoolRows:
        mask = self.masks.get(pool.region, np.zeros_like(self.masks["all"]))
        if not pool.picks:
            counts = (mask & ~self.excluded).sum(axis=1, dtype=np.int32)
            (examples,) = np.nonzero(counts)
            return PoolRows(examples, None, None, counts[examples])
        offset = pool.offset
        lengths = mask.sum(axis=1, dtype=np.int32)
        if offset is not None:
            ranks = np.cumsum(mask, axis=1) - 1
            mask = mask & (ranks == (lengths[:, None] + offset if offset < 0 else offset))
        examples, columns = np.nonzero(mask)
        positions = self.positions[examples, columns].astype(np.int32)
        counts = lengths[examples] if pool.stored != "none" else np.ones(len(examples), np.int32)
        return PoolRows(examples, positions, columns, counts)

    def vectors(
        self, pool: Pool, rows: PoolRows, kept: _Kept, groups: Sequence[tuple[Responses, int]]
    ) -> np.ndarray:
        if rows.column is None:
            return self._averages(pool, rows, kept)
        found = np.empty((len(rows.example), kept.picked.shape[1]), kept.picked.dtype)
        prompt = rows.column < self.plan.width
        found[prompt] = kept.picked[self.plan.locate(rows.example[prompt], rows.column[prompt])]
        if not prompt.all():
            examples, steps = rows.example[~prompt], rows.column[~prompt] - self.plan.width
            found[~prompt] = self._generated(pool, examples, steps, kept, groups)
        return found

    def _generated(
        self,
        pool: Pool,
        examples: np.ndarray,
        steps: np.ndarray,
        kept: _Kept,
        groups: Sequence[tuple[Responses, int]],
    ) -> np.ndarray:
        offset = pool.offset
        if kept.every is not None:
            found: np.ndarray = kept.every[steps, examples]
        elif offset is not None and offset < 0:
            assert kept.tail is not None
            found = kept.tail[examples, steps % (kept.tail.shape[1] - 1)]
        else:
            assert kept.heads is not None
            assert offset is not None
            found = kept.heads[groups[0][0].wanted.heads.index((pool.region, offset)), examples]
        return found

    def _averages(self, pool: Pool, rows: PoolRows, kept: _Kept) -> np.ndarray:
        """Put the prompt's part and the response's together; either may be missing."""
        mean = pool.pool == "mean"
        parts: list[np.ndarray] = []
        regions = self.plan.sum_regions if mean else self.plan.max_regions
        if pool.region in regions:
            stacked = kept.sums if mean else kept.maxima
            assert stacked is not None
            parts.append(stacked[regions.index(pool.region)])
        if pool.region == "all" or pool.region not in self.plan.masks:
            part = self._response_part(pool, kept)
            if part is not None:
                parts.append(part)
        if not parts:
            return np.zeros((0, kept.picked.shape[1]), np.float32)
        combined = parts[0].astype(np.float32)
        for part in parts[1:]:
            combined = combined + part if mean else np.maximum(combined, part)
        chosen: np.ndarray = combined[rows.example]
        return chosen / rows.token_count[:, None].astype(np.float32) if mean else chosen

    def _response_part(self, pool: Pool, kept: _Kept) -> np.ndarray | None:
        mean = pool.pool == "mean"
        if pool.region != "answer":
            return kept.response_sums if mean else kept.response_maxima
        if kept.every is None:
            return None
        mask = (self.masks["answer"] & ~self.excluded)[:, self.plan.width :].T[..., None]
        if mean:
            summed = np.where(mask, kept.every, 0).sum(axis=0, dtype=np.float64)
            return np.asarray(summed, np.float32)
        highest: np.ndarray = np.where(mask, kept.every, -np.inf).max(axis=0).astype(np.float32)
        return highest


def _off_device(
    prompt: Sequence[PromptStates], groups: Sequence[tuple[Responses, int]]
) -> Iterable[_Kept]:
    tensors: list[torch.Tensor] = []

    def put(tensor: torch.Tensor | None) -> int | None:
        if tensor is None:
            return None
        tensors.append(tensor)
        return len(tensors) - 1

    places = [tuple(put(tensor) for tensor in states) for states in prompt]
    group_places: dict[int, tuple[int | None, ...]] = {}
    for group, _ in groups:
        if id(group) not in group_places:
            every = torch.stack(group.kept) if group.kept else None
            group_places[id(group)] = tuple(put(tensor) for tensor in (*group.states(), every))
    arrays = _copied(tensors)

    def get(place: int | None) -> np.ndarray | None:
        return None if place is None else arrays[place]

    for number, (picked, sums, maxima) in enumerate(places):
        sides: list[np.ndarray | None] = [None] * 5
        if groups:
            group, slot = groups[number]
            for index, place in enumerate(group_places[id(group)]):
                array = get(place)
                # heads and every have the hooks on their second axis
                if array is not None:
                    sides[index] = array[slot] if index < 3 else array[:, slot]
        first = get(picked)
        assert first is not None
        yield _Kept(first, get(sums), get(maxima), *sides)


def _copied(tensors: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """Copy tensors to NumPy, those of one device and type in one piece."""
    together: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for number, tensor in enumerate(tensors):
        together.setdefault((tensor.device, tensor.dtype), []).append(number)
    arrays: list[np.ndarray] = [np.empty(0)] * len(tensors)
    for (device, _), numbers in together.items():
        if device.type == "cpu":
            for number in numbers:
                arrays[number] = _numpy(tensors[number])
            continue
        flat = _numpy(torch.cat([tensors[number].reshape(-1) for number in numbers]).cpu())
        start = 0
        for number in numbers:
            size = tensors[number].numel()
            arrays[number] = flat[start : start + size].reshape(tuple(tensors[number].shape))
            start += size
    return arrays


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    """Return float16 as it is and everything else as float32 (exact for bfloat16)."""
    kept = tensor if tensor.dtype is torch.float16 else tensor.float()
    array: np.ndarray = kept.numpy()
    return array
